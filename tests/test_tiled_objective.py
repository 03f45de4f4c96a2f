"""The loss and its gradient in tiles against those of the whole image."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_samples import biased_network, noise, patches, prepared, relative_error

from bench.bench_highres import even_spans
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import LEVELS, Objective, Share
from fastnst.loss.targets import style_targets
from fastnst.loss.terms import Loss
from fastnst.network.tiles import TileGrid, make_grid, reach_of
from fastnst.network.weights import Weights

LAYERS = ["conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2", "conv3_1"]
SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1=2", "conv3_1"], "content_layers": "conv2_2"}


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    return {network: biased_network(network) for network in ("vgg19", "vgg16")}


class Case:
    """An image, and the untiled objective that the tiled ones are to equal."""

    def __init__(self, weights: dict[str, Weights], height: int, width: int, **given: Any) -> None:
        network, masked = given.get("network", "vgg19"), given.pop("masked", False)
        self.options, self.runtime, self.backbone = prepared(weights[network], **{"tv_weight": 0.5} | given)
        # Of noise, the covariances would be small differences of large numbers.
        picture = patches if "style_loss" in given else noise
        self.content, self.image = picture(1, height, width), picture(2, height, width)
        self.guidance, regions = Guidance(height, width), None
        if masked:
            left = torch.linspace(0, 1, width).expand(1, 1, height, width).contiguous()
            self.guidance = Guidance(height, width, (left, 1 - left), opaque=left.sqrt())
            regions = [{0: noise(4, 45, 63)[:, :1]}, {0: None}]
        styles = [(picture(3, 45, 63), 1.0)]
        if self.options.style_weights is not None:
            styles = [(picture(3, 45, 63), 0.25), (picture(5, 70, 33), 0.75)]
        self.style, self.tiled_style = (
            style_targets(self.backbone, styles, self.options, self.runtime, regions, tile=tile) for tile in (None, 12)
        )
        self.whole = self.objective()

    def objective(self, **settings: Any) -> Objective:
        style = self.tiled_style if "grid" in settings else self.style
        settings["guidance"] = self.guidance
        return Objective(self.backbone, self.content, style, self.options, self.runtime, **settings)

    def grid(self, tile: int) -> TileGrid:
        return make_grid(*self.image.shape[2:], tile, reach_of(self.options.network, self.options.taps))

    def tiled(self, tile: int, **settings: Any) -> Objective:
        return self.objective(grid=self.grid(tile), **settings)

    def check(self, objective: Objective) -> None:
        expected, exact = self.whole.loss_and_gradient(self.image)
        loss, gradient = objective.loss_and_gradient(self.image)
        for result in (loss, objective.loss(self.image)):
            same_terms(result, expected)
        assert gradient.shape == self.image.shape
        assert gradient.is_contiguous()
        assert relative_error(gradient, exact) <= 1e-5


def same_terms(result: Loss, expected: Loss) -> None:
    for name in ("total", "content", "style", "tv"):
        assert getattr(result, name).item() == pytest.approx(getattr(expected, name).item(), rel=1e-5), name


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
    objective = example.tiled(32)
    assert len(objective.content.tiles) >= 3
    example.check(objective)


SHALLOW_CASES: dict[str, dict[str, Any]] = {
    "three layers": SHALLOW,
    "max": SHALLOW | {"pooling": "max"},
    "replicate, paper": SHALLOW | {"padding": "replicate", "objective": "paper"},
    "the first layer": {"style_layers": "conv1_1", "content_layers": "conv1_1"},
    "content deepest": {"style_layers": ["conv1_1", "conv1_2"], "content_layers": ["conv2_2", "conv3_1"]},
    "pools": {"style_layers": ["pool1", "conv2_1"], "content_layers": "pool2"},
    "maximum pools": {"style_layers": ["pool1", "conv2_1"], "content_layers": "pool2", "pooling": "max"},
    "without the first": {"style_layers": ["conv2_1", "conv2_2"], "content_layers": "conv3_1"},
    "two styles": SHALLOW | {"style_weights": [1, 3]},
    "style only": SHALLOW | {"content_weight": 0},
    "content only": SHALLOW | {"style_weight": 0},
    "shared layer": {"style_layers": "conv2_1", "content_layers": "conv2_1", "tv_weight": 0},
    "means": SHALLOW
    | {"content_reduction": "mean", "style_reduction": "mean", "tv_kind": "nine-point", "tv_reduction": "sum"},
    "covariance": SHALLOW | {"style_loss": "covariance"},
    "mean-std": SHALLOW | {"style_loss": "mean-std"},
    "wasserstein": SHALLOW | {"style_loss": "wasserstein"},
    "masks": SHALLOW | {"masked": True},
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
    objective = example.tiled(12, level=level)
    assert len(objective.content.tiles) >= 6
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
    example.check(example.tiled(tile, level=level))


@pytest.mark.parametrize("precision", ["fp32", "winograd"])
def test_some_steps_are_computed_again(precision: str, weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW, precision=precision)
    expected, exact = example.tiled(12, level="recompute").loss_and_gradient(example.image)
    for redone_steps, last in ((0, ""), (1, "conv1_1"), (3, "conv2_1"), (4, "conv2_2")):
        assert ["", *example.backbone.steps][redone_steps] == last
        objective = example.tiled(12, redone_steps=redone_steps)
        for _ in range(2):
            loss, gradient = objective.loss_and_gradient(example.image)
            assert loss.total == expected.total
            assert torch.equal(gradient, exact), redone_steps


@pytest.mark.parametrize("given", [{"objective": "paper"}, {"objective": "relative"}, {"masked": True}], ids=str)
def test_content_is_computed_anew(given: dict[str, Any], weights: dict[str, Weights]) -> None:
    example = Case(weights, 41, 50, **SHALLOW, **given)
    example.check(example.tiled(16, content_is_kept=False))


def test_the_published_blocks(weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW)
    grid = TileGrid(50, 61, even_spans(50, 16, 16, 4), even_spans(61, 16, 16, 4))
    example.check(example.objective(grid=grid, level="recompute", content_is_kept=False))


def test_bfloat16(weights: dict[str, Weights]) -> None:
    example = Case(weights, 50, 61, **SHALLOW, precision="bf16")
    _, exact = example.whole.loss_and_gradient(example.image)
    assert relative_error(example.tiled(12).loss_and_gradient(example.image)[1], exact) < 0.02


def test_winograd_rounds_with_the_tile(weights: dict[str, Weights]) -> None:
    """Its rounding depends on where the 4×4 outputs lie, and takes some units across the kink of their ReLU: the
    gradient then differs in their fields, and nowhere else."""
    example = Case(weights, 101, 110, **SHALLOW, precision="winograd")
    _, exact = example.whole.loss_and_gradient(example.image)
    _, gradient = example.tiled(32).loss_and_gradient(example.image)
    error = (gradient - exact).unfold(2, 10, 10).unfold(3, 10, 10).square().sum((1, 4, 5)).sqrt()
    size = exact.unfold(2, 10, 10).unfold(3, 10, 10).square().sum((1, 4, 5)).sqrt()
    assert (error / size).median() < 5e-5
    assert (gradient - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.parametrize("level", ["kept", "recompute"])
def test_tiles_in_16_bit_are_no_worse_than_the_whole(level: str, weights: dict[str, Weights]) -> None:
    exact = Case(weights, 101, 110, **SHALLOW).whole.loss_and_gradient
    example = Case(weights, 101, 110, **SHALLOW, precision="bf16")
    (loss, gradient), (expected, right) = (of(example.image) for of in (example.whole.loss_and_gradient, exact))
    tiled, tiled_gradient = example.tiled(32, level=level).loss_and_gradient(example.image)
    assert tiled.total.item() == pytest.approx(expected.total.item(), rel=5e-3)
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=5e-3)
    assert (tiled_gradient - right).norm() <= 1.2 * (gradient - right).norm()
    assert (gradient - right).norm() <= 0.1 * right.norm()


@pytest.mark.parametrize(("height", "tile"), [(50, 12), (50, 100), (9, 4)])
def test_the_shares_of_two_processes(height: int, tile: int, weights: dict[str, Weights]) -> None:
    """Two halves of the tiles, each with the other's sums, add up to the whole; one tile is the first's alone."""
    example = Case(weights, height, 61, **SHALLOW)
    expected, exact = example.whole.loss_and_gradient(example.image)
    barrier, parts = threading.Barrier(2), [[], []]  # type: ignore[var-annotated]

    def add_up(rank: int, tensors: Sequence[torch.Tensor]) -> None:
        parts[rank] = [tensor.clone() for tensor in tensors]
        barrier.wait(60)
        for tensor, other in zip(tensors, parts[1 - rank], strict=True):
            tensor += other
        barrier.wait(60)

    def evaluated(rank: int) -> tuple[Loss, torch.Tensor]:
        own = Case(weights, height, 61, **SHALLOW)
        objective = own.tiled(tile, share=Share(rank, 2, partial(add_up, rank)))
        objective.loss(own.image)
        return objective.loss_and_gradient(own.image)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(evaluated, range(2))
    for loss, gradient in (first, second):
        same_terms(loss, expected)
        assert relative_error(gradient, exact) <= 1e-5
    assert torch.equal(first[1], second[1])
