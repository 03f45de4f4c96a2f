"""Circular padding: what tiles is exact, layer by layer, in tiles, between scales and at the seams."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from network_samples import biased_network, noise, prepared, relative_error
from style_references import exact_terms
from torch import Tensor

import fastnst
from fastnst.app.cli import main
from fastnst.errors import OptionError
from fastnst.image.resize import resize, resize_wrapped
from fastnst.image.write import save_image
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.tiles import Reach, make_grid, reach_of
from fastnst.network.weights import Weights
from fastnst.options.options import Options
from fastnst.transfer.stylizer import Stylizer

SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
# Of a gradient, where rounding decides the sign of an activation or two; a wrong border costs a hundred times as much.
SIGNS = 2e-3


@pytest.fixture(scope="module")
def weights() -> Weights:
    return biased_network()


def objective(weights: Weights, content: Tensor, **given: Any) -> tuple[Objective, Options]:
    options, runtime, backbone = prepared(weights, **{"padding": "circular", "tv_weight": 0.5} | given)
    style = style_targets(backbone, [(noise(3, 48, 64).to(runtime.device), 1.0)], options, runtime)
    return Objective(backbone, content.to(runtime.device), style, options, runtime), options


@pytest.mark.parametrize(
    ("given", "tolerance"),
    [
        ({**SHALLOW, "precision": "fp32"}, SIGNS),
        ({**SHALLOW, "pooling": "max"}, SIGNS),
        ({}, SIGNS),
        ({**SHALLOW, "precision": "winograd"}, SIGNS),
        ({**SHALLOW, "precision": "bf16"}, 2e-2),
    ],
    ids=str,
)
def test_the_gradient_of_a_rolled_image_is_rolled(weights: Weights, given: dict[str, Any], tolerance: float) -> None:
    image = noise(2, 48, 32)
    whole, options = objective(weights, image, content_weight=0, **given)
    loss, gradient = whole.loss_and_gradient(image)
    grid = reach_of("vgg19", options.taps).grid
    assert grid == (4 if "style_layers" in given else 16)
    for shifts in ((grid, 0), (0, -grid), (2 * grid, grid)):
        rolled_loss, rolled = whole.loss_and_gradient(image.roll(shifts, (2, 3)).contiguous())
        assert rolled_loss.total.item() == pytest.approx(loss.total.item(), rel=tolerance)
        assert relative_error(rolled, gradient.roll(shifts, (2, 3))) < tolerance
    # Elsewhere the pools see other pairs.
    shifted = whole.loss_and_gradient(image.roll(1, 2).contiguous())[1]
    assert relative_error(shifted, gradient.roll(1, 2)) > 10 * SIGNS


@pytest.mark.parametrize("kind", ["squared", "absolute"])
@pytest.mark.parametrize("precision", ["fp32", "winograd"])
def test_loss_and_gradient_are_those_of_circular_padding_in_float64(
    weights: Weights, precision: str, kind: str
) -> None:
    content, image, style = noise(1, 24, 32), noise(2, 24, 32), noise(3, 21, 32)
    options, runtime, backbone = prepared(
        weights, padding="circular", objective="paper", tv_weight=0.5, tv_kind=kind, precision=precision, **SHALLOW
    )
    exact = image.double().requires_grad_()
    guidance = Guidance(24, 32)
    content_term, style_term = exact_terms(weights, options, content, exact, [(style, 1.0)], None, guidance)
    power = 2 if kind == "squared" else 1
    steps = [((exact - exact.roll(1, axis)).abs() ** power).sum() for axis in (2, 3)]
    total = options.content_weight * content_term + options.style_weight * style_term
    total = total + 0.5 * (steps[0] + steps[1]) / (24 * 32)
    (expected,) = torch.autograd.grad(total, exact)
    for tile in (None, 8):
        targets = style_targets(backbone, [(style, 1.0)], options, runtime, tile=tile)
        whole = Objective(backbone, content, targets, options, runtime)
        loss, gradient = whole.loss_and_gradient(image)
        assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)
        assert whole.loss(image).total.item() == pytest.approx(total.item(), rel=1e-5)
        assert relative_error(gradient, expected) < SIGNS


@pytest.mark.parametrize(
    ("height", "width", "tile", "level"),
    [(64, 96, 16, "kept"), (40, 40, 8, "recompute"), (72, 28, 8, "recompute")],
)
def test_tiles_wrap_around(weights: Weights, height: int, width: int, tile: int, level: str) -> None:
    content, image = noise(1, height, width), noise(2, height, width)
    whole, options = objective(weights, content, **SHALLOW)
    grid = make_grid(height, width, tile, reach_of("vgg19", options.taps, options.padding))
    assert len(grid) > 1
    style = {name: layer.target for name, layer in whole.layers.items() if layer.target is not None}
    tiled = Objective(whole.backbone, content, style, options, whole.runtime, grid=grid, level=level)
    expected, exact = whole.loss_and_gradient(image)
    loss, gradient = tiled.loss_and_gradient(image)
    for found in (loss, tiled.loss(image)):
        for name in ("total", "content", "style", "tv"):
            assert getattr(found, name).item() == pytest.approx(getattr(expected, name).item(), rel=1e-5), name
    assert relative_error(gradient, exact) < SIGNS


@given(cells=st.integers(1, 60), tile=st.integers(1, 300), grid=st.sampled_from([1, 4, 16]), pixels=st.integers(1, 80))
@settings(max_examples=100, deadline=None)
def test_wrapped_spans_own_each_pixel_once_and_see_enough(cells: int, tile: int, grid: int, pixels: int) -> None:
    length = cells * grid
    spans = make_grid(length, length, tile, Reach(grid, pixels, wraps=True)).rows
    assert spans[0].first == 0
    assert spans[-1].last == length
    assert all(one.last == other.first for one, other in pairwise(spans))
    assert len({span.size for span in spans}) == 1
    for span in spans:
        assert span.first < span.last
        assert span.first % grid == span.start % grid == span.size % grid == 0
        places = [place for window, _ in span.pieces(length) for place in range(length)[window]]
        assert places == [place % length for place in range(span.start, span.stop)]
        if len(spans) > 1:
            assert span.last - span.first <= max(tile, grid)
            assert span.first - span.start >= pixels
            assert span.stop - span.last >= pixels
            assert span.size < length


@pytest.mark.parametrize(
    ("old", "new", "shift"),
    [
        ((16, 32), (32, 64), (3, 5)),
        ((48, 64), (24, 32), (6, 14)),
        ((48, 32), (80, 48), (6, 4)),
        ((8, 8), (8, 8), (1, 1)),
    ],
)
def test_what_is_resized_tiles(old: tuple[int, int], new: tuple[int, int], shift: tuple[int, int]) -> None:
    image = noise(4, *old)
    found = resize_wrapped(image, new)
    assert found.shape == (1, 3, *new)
    moved = tuple(step * after // before for step, before, after in zip(shift, old, new, strict=True))
    torch.testing.assert_close(
        resize_wrapped(image.roll(shift, (2, 3)), new), found.roll(moved, (2, 3)), rtol=0, atol=1e-5
    )
    # Far from the borders it is what `resize` gives.
    inner = tuple(slice(side // 2 - 1, side // 2 + 1) for side in new)
    torch.testing.assert_close(found[..., *inner], resize(image, size=new)[..., *inner], rtol=0, atol=1e-5)


def test_a_texture_that_tiles_has_no_seam() -> None:
    style = F.interpolate(noise(6, 12, 12), scale_factor=4, mode="bilinear")
    options: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1"], "weights": "random", "tv_weight": 1.0}
    result = fastnst.synthesize_texture(style, size=64, tileable=True, scales=[36, 64], iterations=20, **options)
    assert result.parameters["options"]["padding"] == "circular"
    assert [size["width"] for size in result.parameters["sizes"]] == [36, 64]
    for axis in (1, 2):
        steps = (result.tensor - result.tensor.roll(1, axis)).abs().mean(dim=(0, 3 - axis))
        assert steps[0] < 1.5 * steps.mean()


@pytest.mark.parametrize(
    ("size", "problem"), [("60x64", "an image of 60×64 pixels does not tile"), ("20", "multiples of 16; give 16×16")]
)
def test_a_size_off_the_grid_is_refused(
    size: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = str(tmp_path / "style.png")
    save_image(style, noise(1, 32, 32))
    arguments = ["texture", style, "-o", str(tmp_path / "out.png"), "--size", size, "--tileable"]
    assert main([*arguments, "--weights", "random"]) == 1
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1


def test_what_cannot_tile_is_refused_and_sizes_lie_on_the_grid() -> None:
    tall = Stylizer(noise(1, 40, 60), size=64, weights="random", padding="circular", scales=[36, 64], **SHALLOW)
    scales = tall.prepare(noise(2, 50, 39)).scales
    assert [(scale.edge, scale.size) for scale in scales] == [(36, (36, 28)), (64, (64, 48))]
    with pytest.raises(OptionError, match="padding 'zeros' does not make a texture that tiles"):
        fastnst.synthesize_texture(noise(1, 32, 32), size=32, tileable=True, padding="zeros")
    with pytest.raises(OptionError, match=r"an image of 60×48 pixels does not tile.* give 64×48"):
        fastnst.stylize(noise(1, 44, 60), noise(1, 32, 32), size=60, padding="circular", weights="random")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", SIGNS), ("tf32", 1e-2), ("bf16", 2e-2), ("fp16", 1e-2)])
def test_a_gpu_rolls_too(weights: Weights, precision: str, tolerance: float) -> None:
    image = noise(2, 64, 96).cuda()
    whole, _ = objective(weights, image, precision=precision, device="cuda", content_weight=0)
    gradient = whole.loss_and_gradient(image)[1]
    rolled = whole.loss_and_gradient(image.roll((16, 32), (2, 3)).contiguous())[1]
    assert relative_error(rolled, gradient.roll((16, 32), (2, 3))) < tolerance
