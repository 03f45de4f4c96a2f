"""What is planned: by memory that is foreseen from shapes, and by time that is modelled."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastnst_kernels.profiling.measure import peak_extra_bytes, proc_bytes
from network_samples import noise, prepared

from bench.bench_highres import even_spans, plan_tiles
from fastnst.app.cli import main
from fastnst.app.cli import plan as command
from fastnst.errors import OptionError
from fastnst.examples import example
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.tiles import TileGrid, make_grid, reach_of
from fastnst.optim.bands import RadialBands
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options
from fastnst.plan import machine as plan_limit
from fastnst.plan.machine import Room
from fastnst.plan.memory import network_of, optimizer_bytes_per_pixel, tiled_bytes, untiled_bytes
from fastnst.plan.planner import most_tiles, plan_run
from fastnst.plan.speed import Speed, forward_flops, measure_speed

SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
HELD = 400_000_000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds 400 MB and has 100 GB free."""
    monkeypatch.setattr(plan_limit, "held_bytes", lambda device: HELD)
    monkeypatch.setattr(plan_limit, "free_bytes", lambda device: 100_000_000_000)


def setting(**given: Any) -> tuple[Options, Runtime]:
    options = resolve_options(**{"precision": "fp32", "optimizer": "adam", "weights": "random"} | given)
    return options, resolve_runtime(options.device, options.precision, options.backend)


@pytest.mark.usefixtures("machine")
def test_the_whole_image_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_run(*setting(), (512, 700))
    assert (plan.tile, plan.level, plan.content_is_kept, len(plan.grid)) == (None, "whole", True, 1)
    assert plan.style_tile is None
    assert plan.grid.overhead == 1
    assert plan.fits
    assert (plan.held_bytes, plan.limit_bytes) == (HELD, HELD + 90_000_000_000)
    assert plan.flops == pytest.approx(512 * 700 * 1.44e6, rel=0.05)
    # A tile that holds the image is the image.
    plan = plan_run(*setting(tile=512), (200, 300))
    assert (plan.tile, plan.level, len(plan.grid)) == (None, "whole", 1)
    # What is not known is no limit.
    monkeypatch.setattr(plan_limit, "free_bytes", lambda device: None)
    plan = plan_run(*setting(), (20_000, 20_000))
    assert (plan.tile, plan.limit_bytes, plan.fits) == (None, None, True)
    # The least is planned where nothing fits.
    monkeypatch.setattr(plan_limit, "free_bytes", lambda device: 1_000_000_000)
    plan = plan_run(*setting(optimizer="lbfgs"), (4096, 4096))
    assert not plan.fits
    assert plan.tile is not None
    assert plan.peak_bytes > 8e9


@pytest.mark.usefixtures("machine")
def test_less_memory_means_smaller_tiles_and_then_what_is_kept() -> None:
    plans = [plan_run(*setting(max_memory=memory), (4096, 4096)) for memory in ("40GB", "16GB", "8GB", "2.4GB")]
    assert [plan.level for plan in plans] == ["whole", "kept", "kept", "recompute"]
    assert [plan.redone_steps for plan in plans[1:]] == [3, 9, 0]
    assert all(plan.fits for plan in plans)
    assert [plan.flops for plan in plans] == sorted(plan.flops for plan in plans)
    assert plans[-1].style_tile == plans[-1].tile
    assert plan_run(*setting(max_memory="3GB"), (4096, 4096)).grid.overhead < 2


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("tile", "expected"), [(64, 64), ("256", 256), (100, 96), (3, 16)])
def test_a_tile_that_is_asked_for(tile: Any, expected: int) -> None:
    plan = plan_run(*setting(tile=tile), (1000, 900))
    assert plan.tile == expected
    assert plan.grid == make_grid(1000, 900, int(tile), reach_of("vgg19", setting()[0].taps))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_memory": "1GB"}, r"any tile of 4096×4096 pixels needs at least .* GB, and you allow 1 GB; raise "),
        ({"max_memory": "4GB", "tile": "none"}, "the whole image at once .* choose --tile auto"),
        ({"max_memory": "3GB", "tile": 2048}, "tiles of 2048 pixels of 4096×4096"),
        ({"max_memory": "much"}, "max memory 'much' is not an amount"),
        ({"tile": "half"}, "tile 'half' is not possible; give auto"),
    ],
)
def test_what_cannot_be_planned(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        plan_run(*setting(**given), (4096, 4096))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("level", ["kept", "recompute"])
def test_a_plan_of_given_tiles(level: str) -> None:
    options, runtime = setting()
    grid = make_grid(1000, 900, 256, reach_of("vgg19", options.taps))
    plan = plan_tiles(options, runtime, grid, tile=256, level=level, redone_steps=int(level == "kept"))
    assert (plan.level, plan.grid, plan.tile, plan.style_tile) == (level, grid, 256, 256)
    quickest = plan_run(replace(options, tile=256), runtime, (1000, 900))
    assert (plan.flops > quickest.flops, plan.peak_bytes < quickest.peak_bytes) == ((level == "recompute"),) * 2


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("processes", [2, 3, 6])
def test_several_processes_share_the_tiles(processes: int) -> None:
    """Each has some, in less time and memory than alone, and none waits for a much longer one."""
    options, runtime = setting()
    alone, shared = (plan_run(options, runtime, (1024, 1536), processes=count) for count in (1, processes))
    assert len(shared.grid) >= processes
    assert shared.flops < alone.flops
    assert shared.peak_bytes < alone.peak_bytes
    assert len(shared.grid) % processes == 0
    assert most_tiles(options, (1024, 1024)) > 16
    tiles = plan_run(replace(options, tile=512), runtime, (1024, 1024), processes=8)
    assert tiles.tile is not None
    assert tiles.tile < 512
    # A small image is not cut for more processes.
    assert len(plan_run(options, runtime, (48, 64), processes=processes).grid) == 1
    assert most_tiles(options, (48, 64)) == 1


def test_crops_of_several_sizes_are_counted() -> None:
    options, runtime = setting()
    spans = even_spans(1000, 512, 256, 16)
    grid = TileGrid(1000, 1000, spans, spans)
    assert sum(grid.crops.values()) == len(grid) == 4
    plan = plan_tiles(options, runtime, grid, tile=512, level="recompute", room=Room(0, None))
    crops = [tile.shape for tile in grid]
    network = network_of(options, runtime)
    assert forward_flops(network, 1024, 1024) == pytest.approx(1024**2 * 722e3, rel=0.01)
    assert forward_flops(network, 1024, 1024, ("conv1_1",)) == 1024**2 * 2 * 9 * 3 * 64
    convolutions = sum(3 * forward_flops(network, *crop) for crop in crops)
    assert plan.flops == pytest.approx(convolutions, rel=0.05)


@pytest.mark.usefixtures("machine")
def test_large_styles_are_seen_in_tiles() -> None:
    options, runtime = setting(max_memory="1GB")
    small = plan_run(options, runtime, (256, 256), style_sizes=[(256, 256)])
    assert (small.tile, small.style_tile) == (None, None)
    large = plan_run(options, runtime, (256, 256), style_sizes=[(256, 256), (3000, 3000)])
    assert (large.tile, large.style_tile) == (None, 256)


@pytest.mark.parametrize("size", [(96, 96), (130, 77), (256, 384)])
def test_the_optimisers_memory(size: tuple[int, int]) -> None:
    assert optimizer_bytes_per_pixel(setting()[0]) == 24
    scalar = {"optimizer": "lbfgs", "hessian": "scalar", "history": 5}
    assert optimizer_bytes_per_pixel(setting(**scalar)[0]) == 19 * 12
    assert optimizer_bytes_per_pixel(setting(**scalar, history_precision="bf16")[0]) == 5 * 12 + 9 * 12
    assert optimizer_bytes_per_pixel(setting(**scalar)[0], is_fused=True) == 5 * 12 + 9 * 12
    basis = RadialBands(torch.rand(1, 3, *size))
    pairs = 2 * 5 * 3 * 4 * len(basis.band) * basis.length
    planned = optimizer_bytes_per_pixel(setting(optimizer="lbfgs", history=5)[0]) - 16 - 9 * 12
    assert planned * size[0] * size[1] == pytest.approx(pairs, rel=0.04)


def test_a_gpu_keeps_nothing_of_the_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "kernels", property(lambda self: "triton"))
    place = Runtime(torch.device("cuda"), "fp16", torch.float16, tf32=False, winograd=False, backend="auto")
    side, features = 512, 2 * 64 * 512 * 512
    gram, covariance = (network_of(resolve_options(style_loss=loss), place) for loss in ("gram", "covariance"))
    assert untiled_bytes(covariance, side, side) - untiled_bytes(gram, side, side) == features
    assert untiled_bytes(gram, side, side, is_tile=True) == untiled_bytes(covariance, side, side)


@pytest.mark.parametrize(
    ("given", "redone_steps"),
    [
        ({}, 1),
        ({"padding": "circular"}, 1),
        ({"pooling": "max"}, 1),
        ({"precision": "winograd"}, 1),
        ({"precision": "winograd", "padding": "circular"}, 1),
        # The record of the pool behind conv1_2 are the features of that.
        ({"style_layers": "conv1_2,conv2_1"}, 2),
    ],
    ids=["zeros", "circular", "max", "winograd", "circular winograd", "pool of its own"],
)
def test_the_rehearsal_allocates_what_a_pass_does(given: dict[str, Any], redone_steps: int) -> None:
    """The peak of what torch allocates in float32, where nothing is taken out of its sight."""
    options, runtime, backbone = prepared(**{**SHALLOW, **given}, optimizer="adam")
    network, side = network_of(options, runtime), 400
    image, content = noise(1, side, side), noise(2, side, side)
    style = style_targets(backbone, [(content, 1.0)], options, runtime)
    whole = Objective(backbone, content, style, options, runtime)
    measured = peak_extra_bytes(lambda: lambda: whole.loss_and_gradient(image)[1], runtime.device)
    foreseen = untiled_bytes(network, side, side) - network.scratch_bytes
    assert foreseen == pytest.approx(measured, rel=0.05)
    grid = make_grid(side, side, 120, reach_of("vgg19", options.taps, options.padding))
    crop = next(iter(grid)).shape
    for level in ("kept", "recompute"):
        tiled = Objective(backbone, content, style, options, runtime, grid=grid, level=level, redone_steps=redone_steps)
        measured = peak_extra_bytes(lambda tiled=tiled: lambda: tiled.loss_and_gradient(image)[1], runtime.device)  # type: ignore[misc]
        foreseen = tiled_bytes(network, *crop, tiles=len(grid), level=level, redone_steps=redone_steps)
        # The taps' chunks are part of the scratch.
        assert foreseen - network.scratch_bytes == pytest.approx(measured, rel=0.05, abs=1e6), level


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "winograd", "bf16"])
@pytest.mark.parametrize(
    ("tile", "size", "loss", "regions"),
    [
        ("none", 320, "gram", 0),
        ("96", 320, "gram", 0),
        ("none", 512, "gram", 0),
        ("none", 400, "covariance", 2),
        ("96", 400, "gram", 2),
        ("none", 400, "sliced", 0),
    ],
)
def test_the_planned_peak_is_the_measured_one(precision: str, tile: str, size: int, loss: str, regions: int) -> None:
    words = [sys.executable, "-W", "ignore", "-c", _PEAK, precision, str(size), tile, loss, str(regions)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    planned, measured = map(int, done.stdout.split())
    assert planned == pytest.approx(measured, rel=0.2)


_PEAK = """
import sys, torch
from dataclasses import replace
from functools import partial
sys.path.insert(0, "tests")
from fastnst_kernels.profiling.measure import peak_resident_bytes
from network_samples import prepared
from fastnst.network.weights import load_weights
from fastnst.options.resolve import resolve_options
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.optim import make_optimizer
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import plan_run
from fastnst.transfer.descent import Descent
precision, size, tile, loss, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
masks = [("mask.png", None)] * count or None
weights = load_weights("random", taps=resolve_options().taps)
options, runtime, backbone = prepared(weights, precision=precision, optimizer="adam", style_loss=loss, masks=masks)
regions = [{0: None}] * count or None
plan = plan_run(replace(options, tile=tile), runtime, (size, size))
style = style_targets(backbone, [(torch.rand(1, 3, 64, 64), 1.0)], options, runtime, regions)
content = torch.rand(1, 3, size, size)
guidance = Guidance(size, size, tuple(torch.rand(1, 1, size, size) for _ in range(count)) or (None,))
make = partial(Objective, backbone, content, style, options, runtime, guidance=guidance)
objective = FittingObjective(make, options, runtime, plan=plan)
descent = Descent(content, objective, lambda: make_optimizer(options, runtime))
descent.begin()
descent.advance()
descent.advance()
print(plan.peak_bytes, peak_resident_bytes())
"""


@pytest.fixture
def report(machine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `fastnst plan` prints of the example, on a machine of 100 GFLOP/s that copies 10¹⁰ numbers a second."""
    monkeypatch.setattr("fastnst.app.cli.plan.measure_speed", lambda runtime: Speed(1e11, 1e10))

    def printed(*words: str) -> str:
        assert main(["plan", str(example("content")), "--weights", "random", "--precision", "fp32", *words]) == 0
        return capsys.readouterr().out

    return printed


def test_the_command_prints_what_it_would_do(report: Callable[..., str]) -> None:
    text = report("--size", "2048", "--scales", "2", "--optimizer", "adam", "--max-memory", "2GB")
    for words in ("1024×768 px: the whole image at once", "2048×1536 px: ", "tiles of", "of 2 GB", "s an iteration"):
        assert words in text
    # The sizes are those of the run.
    assert "480×352 px: " in report("--size", "480", "--scales", "none", "--padding", "circular")


def test_the_command_prints_the_whole_first(report: Callable[..., str]) -> None:
    whole, _, scales, *lines = report("--size", "512", "--scales", "256", "512", "--iterations", "2").splitlines()
    assert re.fullmatch(r"in all about \d+ s for 4 iterations, peak memory .*B", whole)
    assert scales == "2 scales of one run:"
    assert whole.rpartition(", ")[2] in "".join(lines)


def test_the_command_prints_json(report: Callable[..., str]) -> None:
    facts = json.loads(report("--size", "512", "--scales", "none", "--tile", "128", "--json"))
    (scale,) = facts["scales"]
    assert facts["total_iterations"] == facts["iterations"]
    assert facts["total_seconds"] == pytest.approx(scale["seconds"] * facts["iterations"])
    assert (scale["width"], scale["height"], scale["tile"], scale["tiles"]) == (512, 384, 128, 6)
    assert scale["fits"] is True
    assert scale["crop"]["width"] <= 128 + 80 + 80
    beside = scale["seconds"] - scale["flops"] / 1e11
    assert beside == pytest.approx((125e6 + 4250 * 512 * 384 * scale["halo_overhead"]) / 1e10)
    assert facts["copies_per_second"] == 1e10


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("level", ["kept", "recompute"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_every_plan_has_words(level: str, is_kept: bool) -> None:
    plan = plan_run(*setting(tile=256), (1024, 1024))
    lines = command.plan_lines(replace(plan, level=level, content_is_kept=is_kept, limit_bytes=10))
    assert "TOO MUCH" in "\n".join(lines)
    assert ("computed again each time" in "\n".join(lines)) is not is_kept


def test_the_machines_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Speed(1e12, math.inf).seconds(2e12, 1e6) == 2
    speed = measure_speed(setting()[1])
    assert 1e8 < speed.flops < 1e14
    assert 1e7 < speed.elements < 1e13
    assert plan_limit.held_bytes(torch.device("cpu")) >= 0
    # The limit of a container.
    monkeypatch.setattr(plan_limit, "_CGROUP", tmp_path)
    assert plan_limit._cgroup_left() is None
    for limit, statistics, left in (
        ("max\n", None, None),
        ("5000\n", None, 4000),
        ("5000\n", "anon 10\ninactive_file 300\nactive_file 5\n", 4300),
        ("200\n", "", 0),
    ):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1000\n")
        if statistics is not None:
            (tmp_path / "memory.stat").write_text(statistics)
        assert plan_limit._cgroup_left() == left


def test_the_limits_of_nested_control_groups_and_of_the_address_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_limit, "_CGROUP", tmp_path)
    monkeypatch.setattr(plan_limit, "_OWN_GROUPS", tmp_path / "own")
    for kind, names, line in (
        ("", ("memory.max", "memory.current"), "0::/outer/inner"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "4:memory:/outer/inner"),
    ):
        (tmp_path / "own").write_text(f"1:cpu:/elsewhere\n{line}\n")
        for folder, limit in (("outer/inner", 5000), ("outer", 3000), ("", 9000)):
            place = tmp_path / kind / folder
            place.mkdir(parents=True, exist_ok=True)
            for name, value in zip(names, (limit, 1000), strict=True):
                (place / name).write_text(f"{value}\n")
        assert plan_limit._cgroup_left() == 2000
        shutil.rmtree(tmp_path / kind / "outer")
        assert plan_limit._cgroup_left() == 8000
        for name in names:
            (tmp_path / kind / name).unlink()
    resource, taken = pytest.importorskip("resource"), proc_bytes("/proc/self/status", "VmSize")
    if taken is None:
        pytest.skip("the system does not tell how much address space is taken")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 2_000_000_000, -1))
    reserved = 270_000_000 + 76_000_000 * (torch.get_num_threads() - 1)
    assert abs(plan_limit.free_bytes(torch.device("cpu")) - 2_000_000_000 + reserved) < 200_000_000
