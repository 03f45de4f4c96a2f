"""Sizes that fit, resampling, and what shows through transparency."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastnst.errors import ImageError, OptionError
from fastnst.image.picture import Picture, opaque
from fastnst.image.resize import check_fits, fitted_size, resize, resize_picture


def test_check_fits() -> None:
    check_fits(16, 16, 16)
    with pytest.raises(ImageError) as caught:
        check_fits(1, 16, 2, scale=16, layers=("conv2_1", "conv1_1"))
    assert str(caught.value) == (
        "content image would be 16×1 pixels at scale 16, but each side must be at least 2 for the layers "
        "conv2_1, conv1_1; use a larger size, a less narrow picture or shallower layers"
    )
    with pytest.raises(ImageError, match=r"style image would be 20×15 pixels, but .* 16 for the layer c;"):
        check_fits(15, 20, 16, role="style", layers=["c"])
    with pytest.raises(ImageError, match="each side must be at least 16; use a larger size"):
        check_fits(20, 15, 16)


@pytest.mark.parametrize(
    ("height", "width", "long_edge", "expected"),
    [
        (600, 800, 512, (384, 512)),
        (800, 600, 512, (512, 384)),
        (100, 100, 7, (7, 7)),
        (1, 1000, 10, (1, 10)),
        (3, 2, 3, (3, 2)),
        (4, 1, 2, (2, 1)),
        (10, 4, 1, (1, 1)),
        (2, 3, 3000, (2000, 3000)),
    ],
)
def test_fitted_size(height: int, width: int, long_edge: int, expected: tuple[int, int]) -> None:
    assert fitted_size(height, width, long_edge) == expected


def test_resize_matches_pillows_filter() -> None:
    for bad in (0, (0, 4), -5):
        with pytest.raises(OptionError):
            resize(torch.rand(3, 8, 8), bad)
    array = np.random.default_rng(1).random((60, 80), np.float32)
    for size in ((23, 31), (120, 160)):
        expected = np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
        resized = resize(torch.from_numpy(array).expand(3, -1, -1), size=size)
        assert np.abs(resized.numpy() - expected).max() < 1e-4


def test_resize_keeps_range_constants_and_mean() -> None:
    step = torch.zeros(3, 40, 40)
    step[:, :, 20:] = 1
    for long_edge in (13, 97):
        resized = resize(step, long_edge)
        assert resized.shape == (3, long_edge, long_edge)
        assert 0 <= float(resized.min()) <= float(resized.max()) <= 1
    assert torch.allclose(resize(torch.full((3, 50, 30), 0.3), 17), torch.tensor(0.3), atol=1e-6)
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(3, -1, -1)
    assert (resize(checkerboard, 16) - 0.5).abs().max() < 0.02
    batch = torch.rand(2, 3, 12, 10)
    assert torch.equal(resize(batch, size=(6, 5))[1], resize(batch[1], size=(6, 5)))
    assert resize(batch, 12) is batch


def test_hidden_colour_does_not_bleed() -> None:
    rgb = torch.zeros(3, 32, 32)
    rgb[0, :, :17] = 1  # visible red, hidden black
    alpha = torch.zeros(1, 32, 32)
    alpha[:, :, :17] = 1
    resized = resize_picture(Picture(rgb, alpha, "test"), 12)
    assert resized.alpha is not None
    assert resized.alpha.shape == (1, 12, 12)
    visible = resized.alpha[0] > 1 / 255
    assert resized.rgb[0][visible].min() > 0.999
    assert resize(rgb, 12)[0][visible].min() < 0.9
    assert resized.name == "test"
    seen_through, plain = (resize_picture(Picture(rgb, each, "test"), 12) for each in (torch.ones(1, 32, 32), None))
    assert torch.equal(seen_through.rgb, plain.rgb)
    assert plain.alpha is None


def test_flattened_shows_the_mean_of_the_visible_colours() -> None:
    rgb = torch.rand(3, 6, 6)
    alpha = torch.zeros(1, 6, 6)
    alpha[:, :2], alpha[:, 2:3] = 1, 0.25
    flat = opaque(Picture(rgb, alpha, "test"))
    assert (flat.alpha, flat.name, flat.rgb.dtype) == (None, "test", torch.float32)
    mean = (rgb[:, :2].sum((1, 2)) + 0.25 * rgb[:, 2].sum(1)) / (12 + 0.25 * 6)
    assert torch.equal(flat.rgb[:, :2], rgb[:, :2])
    assert torch.allclose(flat.rgb[:, 2], 0.25 * rgb[:, 2] + 0.75 * mean[:, None])
    assert torch.allclose(flat.rgb[:, 3:], mean[:, None, None].expand(3, 3, 6))
    assert 0 <= float(flat.rgb.min()) <= float(flat.rgb.max()) <= 1
    # What is hidden has no part in it.
    other = torch.where(alpha > 0, rgb, 1 - rgb)
    assert torch.equal(opaque(Picture(other, alpha, "test")).rgb, flat.rgb)


def test_flattened_of_what_is_opaque_or_invisible() -> None:
    rgb = torch.rand(3, 6, 6)
    plain = Picture(rgb, None, "test")
    assert opaque(plain) is plain
    flat = opaque(Picture(rgb, torch.ones(1, 6, 6), "test"))
    assert flat.alpha is None
    assert torch.equal(flat.rgb, rgb)
    with pytest.raises(ImageError, match="image 'test' is transparent everywhere and shows no colour; give another"):
        opaque(Picture(rgb, torch.zeros(1, 6, 6), "test"))
