"""Runs on several processes against the same run on one."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from processes import PATIENCE, finish, run_together, start

import fastnst
from fastnst.app.cli import main
from fastnst.image.write import save_image
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.options.resolve import resolve_options
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import plan_run
from fastnst.plan.processes import Ranks, RanksError, joined
from fastnst.transfer.checkpoint import load_run
from fastnst.transfer.result import Iterate, Result
from fastnst.transfer.run import Pace

if os.name != "posix":
    pytest.skip("torchrun's processes and signals are POSIX's", allow_module_level=True)

SMALL: dict[str, Any] = {
    **{"weights": "random", "precision": "fp32", "tv_weight": 0.5},
    **{"style_layers": ["conv1_1", "conv2_1"], "content_layers": "conv2_2"},
}
RUN: dict[str, Any] = {"size": 96, "scales": [24, 48, 96], "iterations": 4, **SMALL}
TERMS = ("total", "content", "style", "tv")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "average": 0.5},
    "lbfgs": {"optimizer": "lbfgs"},
    "scalar": {"optimizer": "lbfgs", "hessian": "scalar", "history_precision": "fp16"},
    "line search": {"optimizer": "lbfgs", "line_search": "strong_wolfe"},
}
# L-BFGS makes more and more of what sums in another order differ by. Of each: how many evaluations are within 1e-4,
# and how far apart the losses of a whole run may be, four times what 30 runs from contents 1e-6 apart differed by. That
# evaluations are the same is tested closely, below.
CLOSE = {"adam": (15, 1e-4), "lbfgs": (8, 1e-3), "scalar": (7, 4e-2), "line search": (8, 0.12)}


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 3, 12, 8), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (96, 64), mode="bicubic").clamp(0, 1)
    return fine[0], fine[1]


def stylized(options: dict[str, Any], calls: dict[str, Any]) -> tuple[Result, list[Iterate]]:
    """This process's result, and what its callback saw."""
    content, style = pictures()
    iterates: list[Iterate] = []
    stop: int = calls.pop("stop", 1000)

    def callback(iterate: Iterate) -> bool:
        iterates.append(iterate)
        return len(iterates) < stop

    with joined() as ranks:
        return fastnst.Stylizer(style, ranks=ranks, **options)(content, callback=callback, **calls), iterates


def resumed(path: Path, options: dict[str, Any]) -> Result:
    content, style = pictures()
    with joined() as ranks:
        return fastnst.Stylizer(style, ranks=ranks, **options).resume(path, content)


def totals(result: Result) -> list[float]:
    return [record.total for record in result.losses]


def check_same_run(result: Result, expected: Result, name: str) -> None:
    """The losses and the image are those of `expected`, as far as rounding lets them."""
    count, apart = CLOSE[name]
    assert totals(result)[:count] == pytest.approx(totals(expected)[:count], rel=1e-4)
    assert totals(result) == pytest.approx(totals(expected), rel=apart)
    difference = (result.tensor - expected.tensor).abs()
    assert difference.mean() < 4e-3
    if name == "adam":
        assert difference.max() < 1e-2


def compared(tile: Any, padding: str = "zeros", evaluations: int = 1) -> float:
    """The greatest relative difference of this process's loss and gradient from those of the whole image, at the last
    of some evaluations."""
    options = resolve_options(padding=padding, **SMALL)
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    weights = load_weights("random", taps=options.taps)
    backbone = build_backbone(weights, options.taps, runtime, padding=padding)
    content, image = (picture[None].contiguous() for picture in pictures())
    style = style_targets(backbone, [(image.flip(3), 1.0)], options, runtime)
    expected, exact = Objective(backbone, content, style, options, runtime).loss_and_gradient(image)
    with joined() as ranks:
        plan = ranks.gathered(plan_run(replace(options, tile=tile), runtime, (96, 64), processes=ranks.size))[0]
        make = partial(Objective, backbone, content, style, options, runtime)
        objective = FittingObjective(make, options, runtime, plan=plan, ranks=ranks)
        for _ in range(evaluations):
            loss, gradient = objective.loss_and_gradient(image)
        without = objective.loss(image)
        assert torch.equal(ranks.alike(gradient.clone()), gradient)
    pairs = [(getattr(each, name), getattr(expected, name)) for each in (loss, without) for name in TERMS]
    return max(float((own - other).norm() / other.norm()) for own, other in [*pairs, (gradient, exact)])


@pytest.mark.parametrize("size", [2, 4])
def test_the_tiles_of_all_make_the_whole(size: int, tmp_path: Path) -> None:
    for tile, padding in (("none", "zeros"), (16, "zeros"), (16, "circular")):
        assert max(run_together(size, compared, tmp_path, tile, padding)) < 1e-5


def messages() -> tuple[list[int], int, int]:
    """The messages of each of three evaluations, those of a run, and its evaluations."""
    counts = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "broadcast"):
            send = getattr(dist, name)

            def counted(*given: Any, send: Any = send, **named: Any) -> Any:
                counts[-1] += 1
                return send(*given, **named)

            patch.setattr(dist, name, counted)
        evaluate = FittingObjective.loss_and_gradient

        def evaluated(self: FittingObjective, image: torch.Tensor, out: torch.Tensor | None = None) -> Any:
            counts.append(0)
            result = evaluate(self, image, out)
            counts.append(0)
            return result

        patch.setattr(FittingObjective, "loss_and_gradient", evaluated)
        # As seldom as on a GPU.
        patch.setattr(Pace, "next_due", lambda self, evaluation: evaluation + 100)
        content, style = pictures()
        with joined() as ranks:
            fastnst.Stylizer(style, ranks=ranks, **{**RUN, "scales": None, "iterations": 9})(content)
    return counts[1:-1:2], sum(counts[2:-1:2]), len(counts) // 2


def test_a_step_needs_two_messages(tmp_path: Path) -> None:
    """Of the sums and of the gradient, from the second evaluation on; and one where losses are read."""
    for evaluations, between, count in run_together(2, messages, tmp_path):
        assert count == 9
        assert evaluations[1:] == [2] * 8
        assert between == 1


def test_processes_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = [torch.device(name) for name in ("cpu", "cuda", "meta")]
    assert [Ranks(0, 5, 0, 5).sharers(device) for device in devices] == [5, 3, 1]
    assert Ranks(0, 2, 0, 2).sharers(devices[1]) == 1


def test_nccl_is_told_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", "1")
    for place, name, value in (
        (torch.cuda, "device_count", lambda: 2),
        (torch.cuda, "set_device", lambda index: None),
        (torch.cuda, "current_device", lambda: 1),
        (dist, "is_nccl_available", lambda: True),
        (dist, "init_process_group", lambda backend, **given: told.update(given)),
        (dist, "get_rank", lambda: 1),
        (dist, "get_world_size", lambda: 1),
        (dist, "destroy_process_group", lambda: None),
    ):
        monkeypatch.setattr(place, name, value)
    with joined("cuda") as ranks:
        assert ranks.nccl
    assert told["device_id"] == torch.device("cuda", 1)


def test_memory_that_runs_out_later(tmp_path: Path) -> None:
    """In the second evaluation, where the word goes with the sums."""
    for forward, backward in run_together(2, later_short_of_memory, tmp_path):
        assert max(forward, backward) < 1e-5


def later_short_of_memory() -> list[float]:
    return [short_of_memory(where, call, evaluations=2)[0] for where, call in (("forward", 10), ("backward", 4))]


def short_of_memory(where: str, call: int, evaluations: int = 1) -> tuple[float, list[str]]:
    """The difference from the whole, and the warnings, where the second process runs out of memory in one call."""
    method, calls = getattr(Backbone, where), iter(range(1000))

    def failing(self: Backbone, image: torch.Tensor, *given: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "1" and image.shape[2:] != (96, 64) and next(calls) == call:
            raise torch.OutOfMemoryError("not enough memory")
        return method(self, image, *given, **named)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(Backbone, where, failing)
        return compared(32, evaluations=evaluations), [str(each.message) for each in caught]


@pytest.mark.parametrize(("where", "call"), [("forward", 0), ("forward", 4), ("backward", 0)])
def test_memory_that_runs_out_for_one(where: str, call: int, tmp_path: Path) -> None:
    """While the content is looked at, in the first pass, and in the second: all go on with smaller tiles."""
    for difference, warned in run_together(2, short_of_memory, tmp_path, where, call):
        assert difference < 1e-5
        assert sum("memory ran out; the run continues with tiles of" in each for each in warned) == 1


@pytest.mark.parametrize(("size", "name"), [(2, "adam"), (2, "scalar"), (2, "line search"), (4, "lbfgs")])
def test_a_run_on_several_processes(size: int, name: str, tmp_path: Path) -> None:
    options = {**RUN, **OPTIMIZERS[name]}
    content, style = pictures()
    expected = fastnst.stylize(content, style, **options)
    results = run_together(size, stylized, tmp_path, options, {"checkpoint": tmp_path / "run.ckpt"})
    for rank, (result, iterates) in enumerate(results):
        check_same_run(result, expected, name)
        assert torch.equal(result.tensor, results[0][0].tensor)
        assert len(iterates) == (len(expected.losses) if rank == 0 else 0)
    first = results[0][1]
    assert [iterate.record.total for iterate in first] == totals(results[0][0])
    assert torch.equal(first[-1].image, results[0][0].tensor)


@pytest.mark.parametrize("name", ["lbfgs", "scalar", "adam"])
def test_a_checkpoint_is_that_of_one_process(name: str, tmp_path: Path) -> None:
    """Stopped on several processes it goes on in one, and the other way about."""
    options = {**RUN, **OPTIMIZERS[name]}
    content, style = pictures()
    expected = fastnst.stylize(content, style, **options)
    checkpoint = tmp_path / "run.ckpt"
    results = run_together(2, stylized, tmp_path, options, {"checkpoint": checkpoint, "stop": 12})
    assert [result.stopped for result, _ in results] == ["callback"] * 2
    result = fastnst.resume(checkpoint, content=content, style=style)
    check_same_run(result, expected, name)

    fastnst.stylize(
        content, style, checkpoint=checkpoint, callback=lambda iterate: iterate.record.iteration < 10, **options
    )
    for result in run_together(4, resumed, tmp_path, checkpoint, options):
        check_same_run(result, expected, name)


def troubled(path: Path, victim: int, trouble: int, timeout: float) -> str:
    """A run in which one process gets a signal; what the others hear."""
    content, style = pictures()
    sign = path.with_name("now")

    def callback(iterate: Iterate) -> None:
        if iterate.record.iteration == 9:
            sign.touch()

    try:
        with joined(timeout=timeout) as ranks:
            if ranks.rank == victim:
                threading.Thread(target=_signal_at, args=(sign, trouble), daemon=True).start()
            stylizer = fastnst.Stylizer(style, ranks=ranks, **{**RUN, "scales": None, "iterations": 100_000})
            stylizer(content, callback=callback, checkpoint=path, checkpoint_every=0)
    except RanksError as error:
        return str(error)
    return "nothing"


def _signal_at(sign: Path, trouble: int) -> None:
    while not sign.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), trouble)


@pytest.mark.parametrize(
    ("victim", "trouble", "timeout"),
    # They hear of a death at once, long before the timeout, which is longer than `finish` waits.
    [
        (0, signal.SIGKILL, 2 * PATIENCE),
        (2, signal.SIGKILL, 2 * PATIENCE),
        pytest.param(2, signal.SIGSTOP, 10, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_or_hangs_ends_the_others(
    victim: int, trouble: int, timeout: float, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.ckpt"
    processes = start(3, troubled, tmp_path, checkpoint, victim, trouble, timeout)
    others = [process for rank, process in enumerate(processes) if rank != victim]
    finish(others)
    processes[victim].kill()
    processes[victim].join()
    for rank in {0, 1, 2} - {victim}:
        heard = torch.load(tmp_path / f"{rank}.result", weights_only=False)
        assert heard.startswith(f"process {rank} of 3 lost another one while "), heard
        assert "\n" not in heard
    assert load_run(checkpoint).tensors["image"].shape == (1, 3, 96, 64)


def ended_early() -> list[Result]:
    """How runs end that diverge, that have no time, and that no longer improve."""
    content, style = pictures()

    def result(**options: Any) -> Result:
        try:
            return fastnst.Stylizer(style, ranks=ranks, **{**RUN, **options})(content)
        except fastnst.DivergedError as error:
            return error.result

    with joined() as ranks:
        return [
            result(learning_rate=1e30, hessian="scalar", scales=None),
            result(seconds=0.5, iterations=100_000, optimizer="adam"),
            result(tolerance=0.5, iterations=1000, optimizer="adam"),
        ]


def test_runs_end_together(tmp_path: Path) -> None:
    results = run_together(2, ended_early, tmp_path)
    for one, other in zip(*results, strict=True):
        assert one.tensor.shape == (3, 96, 64)
        assert torch.equal(one.tensor, other.tensor)
        assert totals(one) == totals(other)
    assert [result.stopped for result in results[1]] == ["diverged", "time", None]
    assert len(results[1][2].losses) < 500


def test_too_many_processes() -> None:
    content, style = pictures()
    with pytest.raises(fastnst.OptionError, match=r"64×96 pixels are too few for 99 processes .* start 24 at most"):
        fastnst.Stylizer(style, ranks=Ranks(0, 99), **RUN, hessian="scalar")(content)


def launched(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`fastnst` on two processes of torchrun, with one thread each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastnst"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    for name, picture in zip(("content.png", "style.png"), pictures(), strict=True):
        save_image(tmp_path / name, picture, None, parameters={})
    options = (
        "--weights random --precision fp32 --style-layers conv1_1 conv2_1 --content-layers conv2_2 --hessian scalar"
    )
    run = f"stylize content.png style.png -o out.png --size 96 --iterations 4 --checkpoint run.ckpt {options}"
    done = launched(tmp_path, *run.split())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("saved out.png (64×96) after 4 iterations") == 1
    assert load_run(tmp_path / "run.ckpt").done == 4
    expected = fastnst.stylize(
        *(tmp_path / name for name in ("content.png", "style.png")),
        **{**RUN, "scales": None, "iterations": 4, "hessian": "scalar", "tv_weight": 0.05},
    )
    with Image.open(tmp_path / "out.png") as image:
        difference = np.asarray(image, dtype=int) - np.asarray(expected.image, dtype=int)
    assert abs(difference).mean() < 1


@pytest.mark.slow
def test_sigterm_to_torchrun_leaves_image_and_checkpoint(tmp_path: Path) -> None:
    for name, picture in zip(("content.png", "style.png"), pictures(), strict=True):
        save_image(tmp_path / name, picture, None, parameters={})
    options = "--weights random --style-layers conv1_1 --content-layers conv2_2 --save-every 1 --preview now.png"
    run = f"stylize content.png style.png -o out.png --size 96 --iterations 100000 --checkpoint run.ckpt {options}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastnst"]
    process = subprocess.Popen([*torchrun, *run.split()], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "now.png").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    assert (tmp_path / "out.png").exists()
    assert load_run(tmp_path / "run.ckpt").done > 0


@pytest.mark.slow
def test_the_command_says_what_is_wrong_once(tmp_path: Path) -> None:
    failed = launched(tmp_path, "stylize", "missing.png", "style.png", "-o", "out.png")
    assert failed.returncode != 0
    lines = [line for line in failed.stderr.splitlines() if "fastnst: error: " in line]
    assert lines[0] == "fastnst: error: content image 'missing.png' does not exist; check the path"
    assert len(lines) == 2
    # torchrun's report ends with the same line.
    assert lines[1].endswith(lines[0])
    assert "NO_OTHER_FAILURES" in failed.stderr
    assert "process 1 of 2" not in failed.stderr


@pytest.mark.parametrize(
    ("words", "size", "said"),
    [
        (["stylize", "-", "style.png", "-o", "out.png"], "2", "several processes cannot all read the standard input"),
        (["env"], "2", "only stylize, texture, reconstruct and resume can be shared"),
        (["env"], "two", "start this command without torchrun"),
    ],
)
def test_what_several_processes_cannot_do(
    words: list[str], size: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("name", "said"), [("WORLD_SIZE", "did not find each other"), ("LOCAL_RANK", "be numbers")])
def test_an_environment_of_no_numbers(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(other, value)
    monkeypatch.setenv(name, "two")
    with pytest.raises(RanksError, match=said), joined():
        pass
