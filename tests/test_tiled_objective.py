"""The loss and its gradient in tiles against those of the whole image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_samples import biased_network, noise

from fastnst.errors import FastnstError, OptionError
from fastnst.loss.content import PLACES
from fastnst.loss.objective import Objective, make_objective, style_targets
from fastnst.loss.side_copies import TileStore
from fastnst.loss.tile_style import tiled_style_targets
from fastnst.loss.tiled_objective import LEVELS, TiledObjective, make_tiled_objective
from fastnst.network import winograd
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.tiles import TileGrid, even_spans, make_grid, reach_of
from fastnst.network.weights import Weights
from fastnst.options.options import Options, resolve_options
from tests.late_copies import LateCopier

needs_nnpack = pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this CPU")
LAYERS = ["conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2", "conv3_1"]
SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1=2", "conv3_1"], "content_layers": "conv2_2"}


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    return {network: biased_network(network) for network in ("vgg19", "vgg16")}


class Case:
    """An image, and the untiled objective that the tiled ones are to equal."""

    def __init__(self, weights: dict[str, Weights], height: int, width: int, **given: Any) -> None:
        self.options: Options = resolve_options(**{"precision": "fp32", "tv_weight": 0.5} | given)
        options = self.options
        self.runtime: Runtime = resolve_runtime(options)
        self.backbone: Backbone = build_backbone(
            weights[options.network], options.taps, self.runtime, pooling=options.pooling, padding=options.padding
        )
        self.content, self.image = noise(1, height, width), noise(2, height, width)
        styles = [(noise(3, 45, 63), 1.0)]
        self.style = style_targets(self.backbone, styles, options, self.runtime)
        self.whole: Objective = make_objective(self.backbone, self.content, self.style, options, self.runtime)

    def grid(self, tile: int) -> TileGrid:
        return make_grid(*self.image.shape[2:], tile, reach_of(self.options.network, self.options.taps))

    def tiled(self, grid: TileGrid, **settings: Any) -> TiledObjective:
        return make_tiled_objective(
            self.backbone, self.content, self.style, self.options, self.runtime, grid, **settings
        )

    def check(self, objective: TiledObjective, tolerance: float = 1e-5) -> None:
        expected, exact = self.whole.loss_and_gradient(self.image)
        loss, gradient = objective.loss_and_gradient(self.image)
        for found in (loss, objective.loss(self.image)):
            for name in ("total", "content", "style", "tv"):
                assert getattr(found, name).item() == pytest.approx(getattr(expected, name).item(), rel=1e-5), name
        assert gradient.shape == self.image.shape
        assert gradient.is_contiguous()
        assert (gradient - exact).norm() <= tolerance * exact.norm()


CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "gatys": ((261, 57), {"preset": "gatys"}),
    "relative, max, replicate": ((53, 265), {"pooling": "max", "padding": "replicate"}),
    "vgg16, replicate": ((213, 41), {"network": "vgg16", "padding": "replicate", "preset": "gatys"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_network(case: str, weights: dict[str, Weights]) -> None:
    # Tiles with 16 owned pixels inside, and remainders to 16 of 5 and 9 pixels, along one side.
    size, given = CASES[case]
    example = Case(weights, *size, **given)
    grid = example.grid(32)
    assert len(grid) >= 3
    example.check(example.tiled(grid))


SHALLOW_CASES: dict[str, dict[str, Any]] = {
    "three layers": SHALLOW,
    "max": SHALLOW | {"pooling": "max"},
    "replicate, paper": SHALLOW | {"padding": "replicate", "objective": "paper"},
    "the first layer": {"style_layers": "conv1_1", "content_layers": "conv1_1"},
    "content deepest": {"style_layers": ["conv1_1", "conv1_2"], "content_layers": ["conv2_2", "conv3_1"]},
    "pools": {"style_layers": ["pool1", "conv2_1"], "content_layers": "pool2"},
    "maximum pools": {"style_layers": ["pool1", "conv2_1"], "content_layers": "pool2", "pooling": "max"},
    "without the first": {"style_layers": ["conv2_1", "conv2_2"], "content_layers": "conv3_1"},
    "style only": SHALLOW | {"content_weight": 0},
    "content only": SHALLOW | {"style_weight": 0},
    "shared layer": {"style_layers": "conv2_1", "content_layers": "conv2_1", "tv_weight": 0},
    "means": SHALLOW
    | {"content_reduction": "mean", "style_reduction": "mean", "tv_kind": "nine-point", "tv_reduction": "sum"},
    "root": SHALLOW | {"content_reduction": "root", "style_reduction": "channel-mean", "tv_kind": "absolute"},
}


# Every case at one level, the first at all of them; `test_any_size_and_layers` mixes levels and layers.
@pytest.mark.parametrize(
    ("case", "level"),
    [
        *((case, LEVELS[index % len(LEVELS)]) for index, case in enumerate(SHALLOW_CASES)),
        *(("three layers", level) for level in LEVELS[1:]),
    ],
)
def test_layer_sets(case: str, level: str, weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW_CASES[case])
    objective = example.tiled(example.grid(12), level=level)
    assert len(objective.tiles) >= 6
    example.check(objective)
    # Memory is used again.
    example.check(objective)


# The same examples each time: now and then rounding takes a unit across the kink of its ReLU.
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    height=st.integers(4, 45),
    width=st.integers(4, 45),
    tile=st.integers(1, 50),
    pooling=st.sampled_from(["avg", "max"]),
    padding=st.sampled_from(["zeros", "replicate"]),
    level=st.sampled_from(LEVELS),
    style=st.sets(st.sampled_from(LAYERS), min_size=1, max_size=3),
    content=st.sets(st.sampled_from(LAYERS), min_size=1, max_size=2),
)
def test_any_size_and_layers(
    height: int,
    width: int,
    tile: int,
    pooling: str,
    padding: str,
    level: str,
    style: set[str],
    content: set[str],
    weights: dict[str, Weights],
) -> None:
    layers = {"style_layers": sorted(style), "content_layers": sorted(content)}
    example = Case(weights, height, width, pooling=pooling, padding=padding, **layers)
    example.check(example.tiled(example.grid(tile), level=level))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("winograd", marks=needs_nnpack)])
def test_some_steps_are_computed_again(precision: str, weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW, precision=precision)
    expected, exact = example.tiled(example.grid(12), level="recompute").loss_and_gradient(example.image)
    for again, last in ((0, ""), (1, "conv1_1"), (3, "conv2_1"), (4, "conv2_2")):
        assert ["", *example.backbone.steps][again] == last
        for level in ("kept", "kept-host"):
            objective = example.tiled(example.grid(12), level=level, again=again)
            for _ in range(2):
                loss, gradient = objective.loss_and_gradient(example.image)
                assert loss.total == expected.total
                assert torch.equal(gradient, exact), (again, level)


def test_kept_state_that_comes_and_goes_late(weights: dict[str, Weights]) -> None:
    """Copies beside the computation, made as late as they may be: to the bit what is kept on the device."""
    example = Case(weights, 50, 61, **SHALLOW)
    grid = example.grid(12)
    _, exact = example.tiled(grid).loss_and_gradient(example.image)
    store = TileStore(example.runtime.device, LateCopier())
    objective = replace(example.tiled(grid), store=store)
    for _ in range(2):
        assert torch.equal(objective.loss_and_gradient(example.image)[1], exact)


def test_the_last_step_computed_again_is_tapped(weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW)
    with pytest.raises(OptionError, match="the last of 2 steps that are computed again is not tapped"):
        example.tiled(example.grid(12), again=2)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("objective", ["paper", "relative"])
def test_places_of_the_content(
    place: str, objective: str, weights: dict[str, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    example = Case(weights, 41, 50, **SHALLOW, objective=objective)
    tiled = example.tiled(example.grid(16), content_place=place)
    assert len(list(tmp_path.iterdir())) == (place == "disk")
    example.check(tiled)
    del tiled
    assert not list(tmp_path.iterdir())


def test_a_full_disk(weights: dict[str, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("fastnst.loss.content.Path.__truediv__", lambda self, name: Path("/dev/full"))
    example = Case(weights, 41, 50, **SHALLOW)
    with pytest.raises(FastnstError, match=r"cannot be written to .*No space left.*TMPDIR"):
        example.tiled(example.grid(16), content_place="disk")


def test_the_published_blocks(weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW)
    rows, columns = (even_spans(length, 16, 16, 4) for length in (50, 61))
    grid = TileGrid(50, 61, rows, columns)
    assert len(grid) == 12
    example.check(example.tiled(grid, level="recompute", content_place="recompute"))


def test_bfloat16(weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW, precision="bf16")
    objective = example.tiled(example.grid(12))
    _, exact = example.whole.loss_and_gradient(example.image)
    _, gradient = objective.loss_and_gradient(example.image)
    assert (gradient - exact).norm() < 0.02 * exact.norm()


def test_the_reference_losses(weights: dict[str, Weights]) -> None:
    example = Case(weights, 30, 41, **SHALLOW, backend="reference")
    example.check(example.tiled(example.grid(12)))


@needs_nnpack
def test_winograd_rounds_with_the_tile(weights: dict[str, Weights]) -> None:
    """Its rounding depends on where the 6×6 outputs lie, and takes some units across the kink of their ReLU: the
    gradient then differs in their fields, and nowhere else."""
    example = Case(weights, 101, 110, **SHALLOW, precision="winograd")
    _, exact = example.whole.loss_and_gradient(example.image)
    _, gradient = example.tiled(example.grid(32)).loss_and_gradient(example.image)
    error = (gradient - exact).unfold(2, 10, 10).unfold(3, 10, 10).square().sum((1, 4, 5)).sqrt()
    size = exact.unfold(2, 10, 10).unfold(3, 10, 10).square().sum((1, 4, 5)).sqrt()
    assert (error / size).median() < 5e-5
    assert (gradient - exact).norm() < 1e-2 * exact.norm()


@needs_nnpack
@pytest.mark.parametrize("level", LEVELS)
def test_memory_does_not_grow(level: str, weights: dict[str, Weights], monkeypatch: pytest.MonkeyPatch) -> None:
    example = Case(weights, 64, 70, **SHALLOW, precision="winograd")
    objective = example.tiled(example.grid(16), level=level)
    objective.loss_and_gradient(example.image)
    height, width = objective.tiles[0].shape
    fresh: list[object] = []
    empty = torch.empty

    def counted(*size: Any, **options: Any) -> torch.Tensor:
        fresh.append(size)
        return empty(*size, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr("fastnst.network.buffers.torch.empty", counted)
    for _ in range(2):
        objective.loss_and_gradient(example.image)
    monkeypatch.undo()
    assert (64 * height * width,) not in fresh


def test_sums_of_other_processes(weights: dict[str, Weights]) -> None:
    """Two halves of the tiles, each with the other's sums, add up to the whole."""
    example = Case(weights, 50, 61, **SHALLOW, tv_weight=0)
    expected, exact = example.whole.loss_and_gradient(example.image)
    grid = example.grid(12)
    sums: list[list[torch.Tensor]] = []

    def part(start: int, reduce: Any) -> TiledObjective:
        whole = example.tiled(grid)
        store = example.tiled(replace(grid)).content.store
        kept = replace(whole.content, store=Offset(store, start))
        return replace(whole, tiles=whole.tiles[start::2], content=kept, reduce=reduce)

    part(1, lambda found: sums.append([each.clone() for each in found])).loss(example.image)
    first = part(0, lambda found: [mine.add_(other) for mine, other in zip(found, sums[0], strict=True)])
    loss, gradient = first.loss_and_gradient(example.image)
    part(0, lambda found: sums.append([each.clone() for each in found])).loss(example.image)
    second = part(1, lambda found: [mine.add_(other) for mine, other in zip(found, sums[1], strict=True)])
    gradient = gradient + second.loss_and_gradient(example.image)[1]
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert (gradient - exact).norm() <= 1e-5 * exact.norm()


class Offset:
    """Every other tile of a store."""

    def __init__(self, store: Any, start: int) -> None:
        self.store, self.start = store, start

    def put(self, index: int, features: Any) -> None:
        raise NotImplementedError

    def get(self, index: int, following: int) -> dict[str, torch.Tensor]:
        return self.store.get(self.start + 2 * index, self.start + 2 * following)  # type: ignore[no-any-return]


def test_style_targets_in_tiles(weights: dict[str, Weights]) -> None:
    example = Case(weights, 30, 41, **SHALLOW, style_weights=[1, 3])
    styles = [(noise(3, 45, 63), 0.25), (noise(4, 70, 33), 0.75)]
    expected = style_targets(example.backbone, styles, example.options, example.runtime)
    found = tiled_style_targets(example.backbone, styles, example.options, example.runtime, 12)
    assert found.keys() == expected.keys()
    for name, target in found.items():
        assert target.weight == pytest.approx(expected[name].weight, rel=1e-5)
        assert (target.matrix - expected[name].matrix).norm() <= 1e-6 * expected[name].matrix.norm()
        torch.testing.assert_close(target.offset, expected[name].offset, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit(weights: dict[str, Weights]) -> None:
    example = Case(weights, 30, 41, **SHALLOW)
    with pytest.raises(OptionError, match="unknown level 'all'"):
        example.tiled(example.grid(12), level="all")
    with pytest.raises(OptionError, match="unknown place 'cloud'"):
        example.tiled(example.grid(12), content_place="cloud")
    other = make_grid(30, 40, 12, reach_of("vgg19", example.options.taps))
    with pytest.raises(OptionError, match="30×40 pixels do not fit"):
        example.tiled(other)
    with pytest.raises(FastnstError, match="is not the tiled one"):
        example.tiled(example.grid(12)).loss(noise(1, 30, 40))
