"""Runs beside others and in odd places: the same bits as alone, and the caller's own settings as they were."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from drawn import drawn
from network_samples import rounded_products
from PIL import Image
from processes import PATIENCE

import fastnst
from fastnst.app import cli
from fastnst.network.settings import SharedSetting

SMALL: Mapping[str, Any] = {
    "size": 32,
    "iterations": 4,
    "scales": 2,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": ["conv2_1"],
}
KINDS: dict[str, dict[str, Any]] = {
    "lbfgs": {},
    "scalar": {"hessian": "scalar", "history_precision": "bf16"},
    "wolfe": {"line_search": "strong_wolfe"},
    "adam": {"optimizer": "adam", "average": 0.9, "precision": "fp32"},
    "tiles": {"tile": 16, "size": 64, "scales": "none"},
    "sliced": {"style_loss": "sliced"},
    "moments": {"style_loss": "wasserstein", "padding": "circular", "tv_kind": "absolute"},
    "noise": {"init": "noise", "precision": "bf16", "preserve_color": "histogram"},
}


def picture(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((40, 48, 3), dtype=np.float32)


def made(kind: str, **more: Any) -> fastnst.Result:
    return fastnst.stylize(picture(0), picture(1), **{**SMALL, **KINDS[kind], **more})


def same(one: fastnst.Result, other: fastnst.Result) -> bool:
    losses = ([record.total for record in result.losses] for result in (one, other))
    return torch.equal(one.tensor, other.tensor) and next(losses) == next(losses)


@pytest.fixture(scope="module")
def alone() -> dict[str, fastnst.Result]:
    return {kind: made(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_is_the_same(kind: str, alone: dict[str, fastnst.Result]) -> None:
    assert same(made(kind), alone[kind])


@pytest.mark.parametrize("kinds", [("lbfgs", "lbfgs"), ("lbfgs", "adam"), ("tiles", "noise", "wolfe")], ids=" ".join)
def test_runs_in_threads_are_the_same_as_alone(kinds: Sequence[str], alone: dict[str, fastnst.Result]) -> None:
    barrier = threading.Barrier(len(kinds))

    def begin(kind: str) -> list[fastnst.Result]:
        stylizer = fastnst.Stylizer(picture(1), **{**SMALL, **KINDS[kind]})
        barrier.wait(60)
        return [stylizer(picture(0)), stylizer(picture(0))]

    with ThreadPoolExecutor(len(kinds)) as pool:
        for kind, results in zip(kinds, pool.map(begin, kinds), strict=True):
            assert all(same(result, alone[kind]) for result in results), kind


def test_asyncio_and_generators(alone: dict[str, fastnst.Result]) -> None:
    async def both() -> list[fastnst.Result]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, made, kind) for kind in ("lbfgs", "adam")))

    lbfgs, adam = asyncio.run(both())
    assert same(lbfgs, alone["lbfgs"])
    assert same(adam, alone["adam"])
    results = (made(kind) for kind in ("lbfgs", "adam"))
    with torch.no_grad():
        assert same(next(results), alone["lbfgs"])
        assert not torch.is_grad_enabled()
    assert same(next(results), alone["adam"])


def test_a_run_within_a_callback(alone: dict[str, fastnst.Result]) -> None:
    inner: list[fastnst.Result] = []

    def callback(iterate: fastnst.Iterate) -> None:
        if not inner:
            inner.append(made("adam"))

    assert same(made("lbfgs", callback=callback), alone["lbfgs"])
    assert same(inner[0], alone["adam"])


@contextmanager
def setting(change: Callable[[Any], object], value: object, before: object) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "meta": lambda: setting(torch.set_default_device, "meta", None),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "rounded products": rounded_products,
}


@pytest.mark.parametrize(
    ("mode", "kind"), [*((mode, "lbfgs") for mode in MODES), *(("float64", kind) for kind in KINDS), ("meta", "tiles")]
)
def test_the_callers_modes_do_not_reach_a_run(mode: str, kind: str, alone: dict[str, fastnst.Result]) -> None:
    with MODES[mode]():
        result = made(kind)
    assert same(result, alone[kind])
    assert result.tensor.dtype == torch.float32


def settings() -> dict[str, Any]:
    """All of the process's and the thread's own settings that a run could change."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "mkldnn": (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision),  # type: ignore[attr-defined]
        "benchmark": torch.backends.cudnn.benchmark,
        "threads": (torch.get_num_threads(), threading.active_count()),
        "generators": (torch.get_rng_state().sum().item(), random.getstate(), str(np.random.get_state())),
        "filters": list(warnings.filters),
        "shown by": warnings.showwarning,
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "folder": Path.cwd(),
        "pixels": Image.MAX_IMAGE_PIXELS,
    }


class Broken(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("mode", ["none", "no_grad", "float64", "meta", "rounded products"])
@pytest.mark.parametrize("end", ["well", "refused", "broken", "interrupted"])
def test_the_callers_settings_are_as_they_were(mode: str, end: str, tmp_path: Path) -> None:
    def callback(iterate: fastnst.Iterate) -> None:
        if end in ("broken", "interrupted"):
            raise Broken if end == "broken" else KeyboardInterrupt

    (style,) = drawn(tmp_path, "style.png")
    options = {**SMALL, "iterations": 2, "max_memory": "1MB" if end == "refused" else None}
    errors = pytest.raises((fastnst.FastnstError, Broken, KeyboardInterrupt))
    with {"none": nullcontext, **MODES}[mode]():
        before = settings()
        with nullcontext() if end == "well" else errors:
            fastnst.stylize(picture(0), style, callback=callback, checkpoint=tmp_path / "run.st", **options)
        assert settings() == before


def test_the_number_of_threads_is_the_callers() -> None:
    with setting(torch.set_num_threads, 1, torch.get_num_threads()):
        assert same(made("lbfgs"), made("lbfgs"))
        assert torch.get_num_threads() == 1


def test_the_command_in_another_thread(tmp_path: Path) -> None:
    out = str(tmp_path / "out.png")
    words = ["stylize", *drawn(tmp_path, "content.png", "style.png"), "-o", out, "--size", "32", "--iterations", "2"]
    words += ["--weights", "random", "--scales", "none", "--quiet", "--style-layers", "conv1_1"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.main, [*words, "--content-layers", "conv1_1"]).result() == 0
    assert Path(out).is_file()


FORKED = """
import os, signal, sys, numpy as np, torch, fastnst
from fastnst.image.read import load_image
from test_threads import made

def one_step():
    # The number of threads may change the rounding, which more steps of L-BFGS would blow up.
    return made("lbfgs", iterations=1, scales="none")

def forked(threads, call=None):
    sys.stdout.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(60)
    torch.set_num_threads(threads)
    try:
        if call is not None:
            call()
            os._exit(0)
        os._exit(0 if torch.allclose(one_step().tensor, expected.tensor, rtol=0, atol=1e-5) else 1)
    except fastnst.FastnstError as error:
        print(error, flush=True)
        os._exit(2)

torch.set_num_threads(2)
expected = one_step()
print(forked(2), forked(1))
large = np.random.default_rng(0).random((160, 160, 3), dtype=np.float32)
options = dict(size=32, weights="random", iterations=1, scales="none")
kept = fastnst.Stylizer(large, **options)
module = fastnst.PerceptualLoss(large, size=32, style_weight=5, weights="random")
features, images = torch.rand(1, 8, 80, 80), torch.rand(1, 3, 160, 160)
entries = dict(
    stylize=lambda: fastnst.stylize(large, large, **options),
    stylizer=lambda: fastnst.Stylizer(large, **options),
    kept=lambda: kept(large),
    perceptual=lambda: fastnst.PerceptualLoss(large, size=32, style_weight=5, weights="random"),
    module=lambda: module(images, images),
    gram=lambda: fastnst.GramLoss(features),
    gram_call=lambda: fastnst.GramLoss()(features, features),
    content=lambda: fastnst.ContentLoss()(features, features),
    tv=lambda: fastnst.TVLoss()(images),
    extractor=lambda: fastnst.FeatureExtractor("random", layers=["conv1_1"]),
    image=lambda: load_image(large),
    tensor=lambda: load_image(torch.from_numpy(large).permute(2, 0, 1)),
    texture=lambda: fastnst.synthesize_texture(large, **{**options, "size": 32}),
)
for name, call in entries.items():
    print(name, forked(2, call))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_says_what_it_lacks() -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    words = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    refused, codes, *entries = done.stdout.splitlines()
    line = "start processes with spawn, or call torch.set_num_threads(1) in this one first"
    assert line in refused
    assert codes == "2 0", done.stderr
    assert len(entries) == 2 * 13
    for said, code in zip(entries[::2], entries[1::2], strict=True):
        assert line in said
        assert code.endswith(" 2")


def test_a_setting_is_held_by_those_who_want_the_same() -> None:
    place = SimpleNamespace(first="before", second="other")
    held = SharedSetting((place, "first"), (place, "second")).held

    def want() -> object:
        with held("b"):
            return place.first

    first, second = held("a"), held("a")
    with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(1) as third:
        first.__enter__()
        other.submit(second.__enter__).result(10)
        waiting = third.submit(want)
        # Another value is refused within a run, rather than awaited.
        with pytest.raises(fastnst.FastnstError, match="start it after that run"):
            held("b").__enter__()
        first.__exit__(None, None, None)
        time.sleep(0.05)
        assert (place.first, place.second, waiting.done()) == ("a", "a", False)
        other.submit(second.__exit__, None, None, None).result(10)
        assert waiting.result(10) == "b"
    with pytest.raises(Broken), held("a"), held("a"):
        raise Broken
    assert place == SimpleNamespace(first="before", second="other")


MAPS = """
import resource, torch
from fastnst.network.settings import kept_heap

def faults(count: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_heap(torch.device("cpu")):
    with kept_heap(torch.device("cpu")):
        faults(16)  # until the places are found
    # The last to let go gives back.
    print(faults(8))
print(faults(8))
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc"
)
def test_an_iteration_takes_the_memory_of_the_last_one() -> None:
    done = subprocess.run([sys.executable, "-c", MAPS], capture_output=True, text=True, check=True, timeout=PATIENCE)
    within, after = map(int, done.stdout.split())
    assert within < 100
    # Eight maps of 64 MiB, in pages of 4 KiB or, where the system makes them huge, of 2 MiB.
    assert after > 8 * 32
