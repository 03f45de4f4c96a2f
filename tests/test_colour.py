"""Colour preservation against float64 and the papers' own numbers."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastnst
from fastnst.errors import OptionError
from fastnst.examples import example
from fastnst.image import colour
from fastnst.image.colour import (
    finished,
    grey_of,
    lightness,
    moved_colours,
    moved_lightness,
    oklab_to_srgb,
    prepared,
    srgb_to_oklab,
    with_colours_of,
)
from fastnst.image.picture import Picture
from fastnst.image.read import load_image
from fastnst.transfer.inputs import recoloured


def picture(height: int = 30, width: int = 40, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Correlated channels, as photographs have them."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.rand(1, height, width, generator=generator)
    colour = torch.rand(3, height, width, generator=generator)
    return low + (high - low) * (0.7 * light + 0.3 * colour)


def matched_lightness(style: Tensor, content: Tensor, weights: Tensor | None = None) -> Tensor:
    own = lightness(style)
    return moved_lightness(own, colour.moments([(own, None)]), colour.moments([(lightness(content), weights)]))


def matched_colours(style: Tensor, content: Tensor, weights: Tensor | None = None) -> Tensor:
    return moved_colours(style, colour.moments([(style, None)]), colour.moments([(content, weights)]))


def moments(planes: Tensor, weights: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    pixels = planes.double().flatten(1).numpy()
    share = None if weights is None else weights.double().flatten().numpy()
    return np.average(pixels, axis=1, weights=share), np.cov(pixels, ddof=0, aweights=share)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # of Ottosson's own implementation
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.627955, 0.224863, 0.125846)),
        ((0.0, 1.0, 0.0), (0.866440, -0.233888, 0.179498)),
        ((0.0, 0.0, 1.0), (0.452014, -0.032457, -0.311528)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_oklab(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    result = srgb_to_oklab(torch.tensor(rgb, dtype=torch.float64)[:, None, None]).flatten()
    assert np.abs(result.numpy() - lab).max() < 2e-6


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 2e-6), (torch.float32, 2e-5)])
def test_oklab_there_and_back(dtype: torch.dtype, error: float) -> None:
    axis = torch.linspace(0, 1, 17, dtype=dtype)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, 17, -1)
    apart = (oklab_to_srgb(srgb_to_oklab(cube)) - cube).abs()
    assert apart.dtype == dtype
    assert apart.max() < error * 30  # the encoding is steep at black
    assert apart.mean() < error
    assert (lightness(grey_of(cube[:1])) - cube[:1]).abs().max() < error


def test_what_srgb_cannot_show_keeps_lightness_and_hue() -> None:
    level = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    angle = torch.linspace(0, 6.2, 24, dtype=torch.float64)
    levels, angles = torch.meshgrid(level, angle, indexing="ij")
    lab = torch.stack([levels, 0.35 * angles.cos(), 0.35 * angles.sin()])
    rgb = oklab_to_srgb(lab)
    assert 0 <= float(rgb.min()) <= float(rgb.max()) <= 1
    result = srgb_to_oklab(rgb)
    assert (result[0] - levels).abs().max() < 2e-3
    chroma = result[1:].norm(dim=0)
    assert chroma.max() < 0.34
    turned = torch.atan2(result[2], result[1]) - angles
    turned = torch.remainder(turned + torch.pi, 2 * torch.pi) - torch.pi
    assert turned[chroma > 0.02].abs().max() < 0.02
    clipped = srgb_to_oklab(oklab_to_srgb(torch.stack([levels * 0 + 3, angles * 0, angles * 0])))
    assert (clipped[0] - 1).abs().max() < 1e-6


def test_luminance_transfer_keeps_lightness_of_one_and_colour_of_the_other() -> None:
    image, content = picture(seed=1, low=0.3, high=0.7), picture(seed=2, low=0.35, high=0.65)
    result = with_colours_of(image, content)
    assert result.shape == image.shape
    assert (lightness(result) - lightness(image)).abs().max() < 1e-4
    assert (srgb_to_oklab(result)[1:] - srgb_to_oklab(content)[1:]).abs().max() < 1e-3
    assert (with_colours_of(content, content) - content).abs().max() < 1e-4
    grey = grey_of(lightness(image))
    torch.testing.assert_close(with_colours_of(grey, content), result, atol=1e-4, rtol=0)
    with pytest.raises(OptionError, match="resize one"):
        with_colours_of(image, content[:, 1:])


def test_matched_lightness() -> None:
    style, content = picture(20, 50, seed=3, high=0.5), picture(seed=4, low=0.3, high=0.8)
    matched = matched_lightness(style, content)
    assert matched.shape == (1, 20, 50)
    (mean,), variance = moments(lightness(content))
    assert abs(float(matched.double().mean()) - mean) < 2e-3
    assert abs(float(matched.double().std(correction=0)) - float(variance) ** 0.5) < 2e-3
    flat = matched_lightness(torch.full((3, 4, 4), 0.2), content)
    assert (flat - mean).abs().max() < 1e-6
    weights = torch.zeros(1, 30, 40)
    weights[:, :7] = 1
    weighted = matched_lightness(style, content, weights)
    assert abs(float(weighted.double().mean()) - moments(lightness(content), weights)[0][0]) < 5e-3


def least_map(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A Σ_S A = Σ_C with the symmetric A: Σ_C^½ (Σ_C^½ Σ_S Σ_C^½)^−½ Σ_C^½."""

    def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(values**exponent) @ vectors.T

    half = power(wanted, 0.5)
    return half @ power(half @ own @ half, -0.5) @ half


@pytest.mark.parametrize("weighted", [False, True])
def test_matched_colours(weighted: bool) -> None:
    style, content = picture(20, 50, seed=5), picture(seed=6, low=0.35, high=0.6)
    content[0] += 0.1
    weights = torch.zeros(1, 30, 40) if weighted else None
    if weights is not None:
        weights[:, :15], weights[:, 15:20] = 1, 0.5
    before = style.clone()
    matched = matched_colours(style, content, weights)
    assert torch.equal(style, before)
    assert matched.shape == style.shape
    (mean, covariance), (wanted_mean, wanted) = moments(matched), moments(content, weights)
    assert 0 < float(matched.min()) < float(matched.max()) < 1  # nothing was clamped
    assert np.abs(mean - wanted_mean).max() < 1e-6
    assert np.abs(covariance - wanted).max() < 2e-5  # the regularisation

    own_mean, own = moments(style)
    identity = 1e-5 * np.eye(3)
    matrix = least_map(own + identity, wanted + identity)
    assert np.allclose(matrix, matrix.T)
    expected = matrix @ (style.double().flatten(1).numpy() - own_mean[:, None]) + wanted_mean[:, None]
    assert np.abs(matched.flatten(1).numpy() - expected).max() < 1e-6


def test_pictures_without_variance() -> None:
    grey, flat = torch.rand(1, 8, 8).expand(3, -1, -1), torch.full((3, 4, 4), 0.4)
    colours = picture()
    for style, content in ((grey, colours), (colours, grey), (flat, colours), (grey, grey)):
        matched = matched_colours(style, content)
        assert matched.isfinite().all()
        assert 0 <= float(matched.min()) <= float(matched.max()) <= 1
    flat = matched_colours(flat, colours)
    assert np.abs(flat.flatten(1).mean(1).numpy() - moments(colours)[0]).max() < 1e-6
    torch.testing.assert_close(matched_colours(colours, colours), colours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spread", [0.002, 0.01])
def test_the_noise_of_a_sepia_style_is_not_raised_to_colours(spread: float) -> None:
    light = 0.5 * torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.25
    grain = spread * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sepia = torch.cat([light, 0.9 * light, 0.7 * light]) + grain
    content = picture(seed=2, low=0.2, high=0.8).double()
    content[2] = 1 - content[0]
    present, wanted = colour.moments([(sepia, None)]), colour.moments([(content, None)])
    middle = sepia.mean((1, 2))[:, None, None]
    steps = 1e-3 * torch.eye(3, dtype=torch.float64)[:, None]
    gains = (moved_colours(middle + steps, present, wanted) - moved_colours(middle, present, wanted)) / 1e-3
    _, axes = torch.linalg.eigh(present[1])
    assert float(torch.linalg.vector_norm(gains[:, 0] @ axes[:, :2], dim=0).max()) == pytest.approx(1)


@pytest.mark.parametrize("tint", [(1, 0.85, 0.65), (0.3, 0.9, 0.95), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["histogram", "recoloured"])
def test_jpeg_noise_of_a_tinted_photograph_stays_noise(tint: tuple[float, float, float], kind: str) -> None:
    light = np.asarray(Image.open(example("style_woodcut")).resize((256, 192)).convert("L"))
    encoded = io.BytesIO()
    Image.fromarray((light[..., None] * np.array(tint)).astype(np.uint8)).save(encoded, "JPEG", quality=80)
    tinted = load_image(io.BytesIO(encoded.getvalue()))
    colourful = load_image(Image.open(example("style_mosaic")).resize((128, 96)))
    if kind == "histogram":
        _, (moved,) = prepared(colourful, [tinted], "histogram")
        rgb = moved.rgb  # type: ignore[union-attr]
    else:
        rgb = recoloured(tinted, [colourful], (1.0,))

    def noise(pixels: torch.Tensor) -> float:
        """The deviation, in levels, beside the axis along which they vary most."""
        variances = torch.linalg.eigvalsh(colour.moments([(pixels, None)])[1])
        return float(variances[:2].clamp(min=0).sum().sqrt() * 255)

    assert noise(rgb) < 1.5 * noise(tinted.rgb) + 1


@pytest.mark.parametrize("mode", ["none", "histogram"])
def test_grey_pictures_make_a_grey_one_from_noise(mode: str) -> None:
    content, style = (Image.open(example(name)).convert("L").resize((64, 48)) for name in ("content", "style_swirls"))
    result = fastnst.stylize(content, style, size=64, init="noise", preserve_color=mode, iterations=20)
    colours = result.tensor - result.tensor.mean(0, keepdim=True)
    assert float(colours.square().mean().sqrt()) < 8 / 255


@pytest.mark.parametrize("alpha", [None, torch.cat([torch.ones(1, 15, 40), torch.zeros(1, 15, 40)], 1)])
def test_what_a_run_is_given(alpha: Tensor | None) -> None:
    content = Picture(picture(seed=1, low=0.3, high=0.6), alpha, "c")
    styles = [Picture(picture(20, 20, seed=2), None, "s"), Picture(picture(9, 9, seed=3, high=0.4), None, "t")]
    assert prepared(content, styles, "none") == (content, styles)

    same, matched = prepared(content, styles, "histogram")
    assert same is content
    for before, after in zip(styles, matched, strict=True):
        assert torch.equal(after.rgb, matched_colours(before.rgb, content.rgb, alpha))
        assert (after.name, after.alpha) == (before.name, None)

    grey, greys = prepared(content, styles, "luminance")
    assert (grey.alpha, grey.name) == (alpha, "c")
    for before, after in zip([content, *styles], [grey, *greys], strict=True):
        assert torch.equal(after.rgb[0], after.rgb[1])
        assert after.rgb.shape == before.rgb.shape
    assert (lightness(grey.rgb) - lightness(content.rgb)).abs().max() < 1e-4
    weights = torch.ones(1, 30, 40) if alpha is None else alpha
    for after in greys:
        wanted = (lightness(content.rgb) * weights).sum() / weights.sum()
        assert abs(float(lightness(after.rgb).mean() - wanted)) < 1e-2


def test_what_a_run_gives_back() -> None:
    image, alpha = picture(seed=1, low=0.3, high=0.7), torch.ones(1, 30, 40)
    alpha[:, :9] = 0
    content = Picture(picture(seed=2, low=0.3, high=0.6), alpha, "c")
    assert finished(image, content, "none") is image
    assert torch.equal(finished(image, content, "luminance"), with_colours_of(image, content.rgb))
    moved = finished(image, content, "histogram")
    for part, wanted in zip(moments(moved, alpha), moments(content.rgb, alpha), strict=True):
        assert np.abs(part - wanted).max() < 2e-5


@pytest.mark.parametrize(
    "call",
    [matched_colours, matched_lightness, with_colours_of],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pictures_in_parts_are_as_whole_ones(
    call: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    style, content = picture(seed=1).to(dtype), picture(seed=2, low=0.3, high=0.6).to(dtype)
    whole = call(style, content)
    assert whole.dtype == dtype
    monkeypatch.setattr("fastnst.image.colour._PIXELS", 37)
    monkeypatch.setattr("fastnst.image.colour._ROWS", 7)
    torch.testing.assert_close(call(style, content), whole, rtol=0, atol=1e-6)
