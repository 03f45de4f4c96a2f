"""The images that a run may start from; the sizes of its scales and the steps at each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import drawn

import fastnst
from fastnst.errors import FastnstWarning, OptionError
from fastnst.image.picture import Picture
from fastnst.image.resize import fitted_size
from fastnst.network.architecture import CAFFE, IMAGENET
from fastnst.transfer.checkpoint import load_run
from fastnst.transfer.inputs import even_colour, mean_colour, network_grey, recoloured
from fastnst.transfer.scales import by_scale, scale_edges

SMALL: dict[str, Any] = {
    "scales": None,
    "iterations": 1,
    "style_layers": "conv1_1",
    "content_layers": "conv2_1",
    "weights": "random",
}


def photo(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def test_even_colours() -> None:
    image = even_colour(torch.tensor([0.2, 0.5, 0.7]), (40, 50), 0)
    assert image.shape == (3, 40, 50)
    torch.testing.assert_close(image.mean((1, 2)), torch.tensor([0.2, 0.5, 0.7]), rtol=0, atol=1e-6)
    # A trace of noise.
    assert 3e-6 < image.std(dim=(1, 2)).max() < 5e-6
    torch.testing.assert_close(network_grey(IMAGENET), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(network_grey(CAFFE) * 255, torch.tensor([123.68, 116.779, 103.939]))
    pictures = [Picture(torch.full((3, 2, 2), value), None, "") for value in (0.0, 1.0)]
    torch.testing.assert_close(mean_colour(pictures, (0.25, 0.75)), torch.full((3,), 0.75))
    with pytest.raises(OptionError, match="no style image was given"):
        fastnst.Stylizer([], **SMALL, style_weight=0, init="style-mean")


@pytest.mark.parametrize("word", ["grey", "style-mean", "recoloured"])
def test_a_run_from_what_the_pictures_give_goes_on_from_its_checkpoint(word: str, tmp_path: Path) -> None:
    sources, run = drawn(tmp_path, "content.png", "style.png"), tmp_path / "run"
    options = {**SMALL, "size": 40, "init": word, "iterations": 3, "device": "cpu"}
    whole = fastnst.stylize(*sources, **options)
    fastnst.stylize(*sources, **options, checkpoint=run, callback=lambda at: at.record.iteration < 1)
    assert load_run(run).parameters["options"]["init"] == word
    assert torch.equal(fastnst.resume(run).tensor, whole.tensor)


@pytest.mark.parametrize(
    ("size", "words"), [((30, 40), "1.78 times in width"), ((80, 30), "2.00 times in height"), ((20, 15), None)]
)
def test_a_start_picture_of_other_proportions_is_named(size: tuple[int, int], words: str | None) -> None:
    init = photo(2, size[1], size[0])
    options = {**SMALL, "size": 40, "init": init}
    if words is None:
        fastnst.stylize(photo(), photo(1), **options)
        return
    with pytest.warns(
        FastnstWarning, match=f"init image 'array' is {size[0]}×{size[1]} pixels, and is stretched {words}"
    ):
        fastnst.stylize(photo(), photo(1), **options)


def test_a_style_far_smaller_than_the_result_is_named() -> None:
    small = photo(1, 3, 4)
    said = "style image 'array' is 4×3 pixels, and is enlarged 10.0 times"
    with pytest.warns(FastnstWarning, match=said):
        fastnst.stylize(photo(), small, **SMALL, size=40)
    with pytest.warns(FastnstWarning, match=said):
        fastnst.synthesize_texture(small, size=40, iterations=1, style_layers="conv1_1", weights="random", scales=None)
    with pytest.warns(FastnstWarning, match=said):
        fastnst.PerceptualLoss(small, size=40, style_weight=1, weights="random", style_layers="conv1_1")
    fastnst.stylize(photo(), photo(1, 15, 20), **SMALL, size=40)


@pytest.mark.parametrize(
    ("optimizer", "rate", "said"),
    [
        ({"optimizer": "lbfgs"}, 1e-12, "too short; raise --learning-rate 1e-12"),
        ({"optimizer": "lbfgs", "hessian": "scalar"}, 1000, "too long; lower --learning-rate 1000"),
        ({"optimizer": "adam"}, 1e-12, "too short; raise"),
        ({"optimizer": "adam"}, 5, "too long; lower --learning-rate 5"),
    ],
    ids=str,
)
def test_a_run_that_never_moves_says_so(optimizer: dict[str, str], rate: float, said: str) -> None:
    options = {**SMALL, "iterations": 3, "size": 40, **optimizer, "learning_rate": rate, "device": "cpu"}
    with pytest.warns(FastnstWarning, match=f"no step lowered the loss .* began with: the steps are {said}"):
        fastnst.stylize(photo(), photo(1), **options)


def test_recoloured_content_has_the_styles_moments_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Picture(torch.from_numpy(0.4 + 0.2 * rng.random((3, *size)).astype(np.float32)) * gain, None, "")
        for size, gain in (((9, 12), 1.0), ((7, 8), 0.9), ((20, 5), 0.8))
    ]
    content, *styles = pictures
    found = recoloured(content, styles, (0.25, 0.75))
    assert found.shape == content.rgb.shape
    assert found.dtype == torch.float32
    first, second = (style.rgb.double().flatten(1) for style in styles)
    mean = 0.25 * first.mean(1) + 0.75 * second.mean(1)
    spread = 0.25 * (first @ first.T) / first.shape[1] + 0.75 * (second @ second.T) / second.shape[1]
    pixels = found.double().flatten(1)
    torch.testing.assert_close(pixels.mean(1), mean, rtol=0, atol=1e-5)
    centred = pixels - pixels.mean(1, keepdim=True)
    covariance = centred @ centred.T / pixels.shape[1]
    # As far as the 1e-5 on both diagonals lets it.
    torch.testing.assert_close(covariance, spread - torch.outer(mean, mean), rtol=0.02, atol=3e-5)


def test_without_a_style_the_recoloured_content_is_the_content() -> None:
    options = {**SMALL, "style_weight": 0, "tv_weight": 0, "size": 40}
    first = fastnst.stylize(photo(), [], **options, init="recoloured").losses[0]
    assert first.content == 0


def test_sizes_by_the_short_edge() -> None:
    assert fitted_size(300, 400, 90, "short") == (90, 120)
    result = fastnst.stylize(
        photo(), photo(1, 60, 80), **{**SMALL, "scales": 2}, size=80, edge="short", scale_factor=1.25
    )
    assert [(each["height"], each["width"]) for each in result.parameters["sizes"]] == [(64, 85), (80, 107)]
    # An image without a content has no short edge.
    options = {name: value for name, value in SMALL.items() if name != "content_layers"}
    texture = fastnst.synthesize_texture(photo(), size=(20, 30), preset="gatys-notebook", **options)
    assert texture.tensor.shape[1:] == (20, 30)
    with pytest.raises(OptionError, match="edge short needs a content picture"):
        fastnst.synthesize_texture(photo(), size=(20, 30), edge="short", **options)


@pytest.mark.parametrize(
    ("scales", "size", "shape", "expected"),
    [
        (None, 512, (300, 400), (512,)),
        (1, 512, (300, 400), (512,)),
        (3, 512, (300, 400), (128, 256, 512)),
        (3, 500, (400, 300), (125, 250, 500)),
        ((100, 230), 230, (300, 400), (100, 230)),
        # Scales too small to see anything are left out.
        (6, 512, (400, 400), (64, 128, 256, 512)),
        (3, 512, (100, 400), (256, 512)),
        (5, 32, (100, 100), (32,)),
        (3, 256, (100, 400), (256,)),
    ],
)
def test_scales_grow_to_the_size(scales: Any, size: int, shape: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert scale_edges(scales, size, *shape) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64, (64,)), (256, (256,)), (511, (511,)), (512, (256, 512)), (4500, (281, 562, 1125, 2250, 4500))],
)
def test_automatic_scales_begin_at_256_pixels(size: int, expected: tuple[int, ...]) -> None:
    assert scale_edges("auto", size, 300, 400, factor=3.0) == expected


def test_the_factor_between_scales_and_short_edges() -> None:
    assert scale_edges(5, 512, 300, 400, factor=2**0.5) == (128, 181, 256, 362, 512)
    assert scale_edges(2, 800, 300, 400, factor=800 / 512) == (512, 800)
    assert scale_edges(12, 70, 80, 80, factor=1.1) == (64, 70)
    assert scale_edges(3, 256, 100, 400, edge="short") == (64, 128, 256)


@pytest.mark.parametrize(
    ("iterations", "scales", "expected"),
    [
        (100, 3, (100, 100, 100)),
        ((50, 300), 2, (50, 300)),
        ((50, 300), 4, (50, 50, 50, 300)),
        ((10, 20, 30), 2, (20, 30)),
        ((10, 20, 30), 1, (30,)),
    ],
)
def test_counts_of_iterations_end_with_the_last_scale(iterations: Any, scales: int, expected: tuple[int, ...]) -> None:
    assert by_scale(iterations, scales) == expected
