"""Rules of every test: no network, a cache of its own, and nothing written beside tmp_path."""

import functools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: threads that wait by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["FASTNST_OFFLINE"] = "1"
# Workers of pytest-xdist share the cores.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(workers))))

import pytest
from drawn import drawn

# A shell's background jobs ignore Ctrl-C, and so would the processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent
IGNORED = {".hypothesis", ".pytest_cache", "__pycache__"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped where there is no GPU, those of signals, links and permissions where they mean others."""
    if os.name != "posix":
        for item in items:
            if "posix" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs POSIX's signals, links or permissions"))
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a machine whose quickest arithmetic is in float32, whatever this one's is, for the session."""
    from fastnst.network import trial

    names = ["winograd", "fp32", "bf16"]
    path = tmp_path_factory.mktemp("cache") / "trials.json"
    path.write_text(json.dumps({trial.machine(): {name: 1.0 + index / 10 for index, name in enumerate(names)}}))
    os.environ["FASTNST_CACHE"] = str(path.parent)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a cache with nothing but a trial, and torch's own cache is not looked into."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / trials.name).write_bytes(trials.read_bytes())
    monkeypatch.setenv("FASTNST_CACHE", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Contents a, b and styles x, y."""
    drawn(tmp_path, "contents/a.png", "contents/b.png", "styles/x.png", "styles/y.png")
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def _what_stays_the_same_is_made_once() -> Iterator[None]:
    """The random network, which takes half as long to draw as a small run does, and the command's parser."""
    from fastnst.app import cli
    from fastnst.network import builtin as random_network

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((random_network, "_he_weight"), (cli, "build_parser")):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_written_beside_tmp_path() -> Iterator[None]:
    """Fails the session if this process opens a file of the repository for writing."""
    written: set[Path] = set()
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITING:
            path = Path(os.path.abspath(arguments[0]))  # noqa: PTH100  # resolve() would open files itself
            # Of a folder only a file without a name is opened so.
            if path.is_relative_to(REPOSITORY) and not IGNORED & set(path.parts) and not path.is_dir():
                written.add(path)

    sys.addaudithook(watch)
    yield
    watching = False
    if written:
        raise RuntimeError(f"the tests wrote into the repository: {sorted(map(str, written))}; write under tmp_path")
