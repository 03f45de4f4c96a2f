"""What holds for every test: no network, a cache of its own, and nothing written beside tmp_path."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: threads that wait by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["FASTNST_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).parent.parent
IGNORED = {".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".benchmarks", "__pycache__", ".venv"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped where there is no GPU."""
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty cache, and torch's own cache is not looked into."""
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_written_beside_tmp_path() -> Iterator[None]:
    before = _files()
    yield
    new = _files() - before
    if new:
        raise RuntimeError(f"the tests wrote into the repository: {sorted(map(str, new))}; write under tmp_path")


def _files() -> set[Path]:
    found = set()
    for folder, names, files in os.walk(REPOSITORY):
        names[:] = [name for name in names if name not in IGNORED and not name.endswith(".egg-info")]
        found.update(Path(folder, file) for file in files)
    return found
