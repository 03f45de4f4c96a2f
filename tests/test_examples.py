"""The example pictures: that they are shipped and clean, and that the script draws them the same each time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.examples import draw, landscape, mosaic, noise, raster, swirls, woodcut
from fastnst.errors import OptionError
from fastnst.examples import NAMES, example

SIZES = {
    "content": (768, 576),
    "style_mosaic": (640, 512),
    "style_swirls": (640, 512),
    "style_woodcut": (640, 512),
}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_picture(name: str) -> None:
    with Image.open(example(name)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == SIZES[name]
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp", "comment"} & image.info.keys()
        pixels = np.asarray(image, dtype=np.float64)
    assert pixels.std() > 40
    assert np.abs(np.diff(pixels, axis=1)).mean() > 5


def test_together_they_are_small() -> None:
    assert sum(example(name).stat().st_size for name in NAMES) < 900_000


def test_names_are_those_that_the_script_draws() -> None:
    assert set(NAMES) == set(draw.PICTURES)


def test_example_takes_the_file_name_too() -> None:
    assert example("content.jpg") == example("content")


@pytest.mark.parametrize("name", ["", "style", "../errors", "content.png"])
def test_unknown_example_lists_the_names(name: str) -> None:
    with pytest.raises(OptionError, match="choose one of content, style_mosaic, style_swirls, style_woodcut"):
        example(name)


@pytest.mark.parametrize(
    ("draw_picture", "size"),
    [(landscape.draw, (32, 24)), (mosaic.draw, (32, 25)), (swirls.draw, (32, 25)), (woodcut.draw, (32, 25))],
    ids=["landscape", "mosaic", "swirls", "woodcut"],
)
def test_drawing_is_deterministic(draw_picture: Callable[..., Image.Image], size: tuple[int, int]) -> None:
    first, second = draw_picture(width=32), draw_picture(width=32)
    assert first.size == size
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", ["style_mosaic", "style_woodcut"])
def test_shipped_picture_is_the_one_drawn(name: str) -> None:
    small = draw.PICTURES[name](width=160)
    with Image.open(example(name)) as image:
        shipped = image.resize(small.size, Image.Resampling.LANCZOS)
    difference = np.asarray(small, dtype=np.float64) - np.asarray(shipped, dtype=np.float64)
    assert np.abs(difference).mean() < 20


def test_script_writes_clean_jpegs(tmp_path: Path) -> None:
    path = tmp_path / "small.jpg"
    draw.save(mosaic.draw(width=64), path)
    with Image.open(path) as image:
        assert image.size == (64, 51)
        assert not image.getexif()


def test_noise_is_the_same_field_at_any_resolution() -> None:
    x, y = raster.grid(40, 30)
    whole = noise.fractal_noise(x * 5, y * 5, seed=1)
    np.testing.assert_array_equal(noise.fractal_noise(x[::2, ::2] * 5, y[::2, ::2] * 5, seed=1), whole[::2, ::2])
    assert np.abs(whole).max() < 1.6


def test_blur_keeps_the_mean_of_a_constant_and_spreads_a_point() -> None:
    np.testing.assert_allclose(raster.blur(np.full((9, 11, 3), 0.25), 2.0), 0.25, rtol=1e-6)
    point = np.zeros((31, 31))
    point[15, 15] = 1.0
    spread = raster.blur(point, 2.0)
    np.testing.assert_allclose(spread.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(spread, spread[::-1, ::-1], atol=1e-7)


def test_sample_at_pixel_positions_returns_the_pixels() -> None:
    picture = np.random.default_rng(0).random((6, 8, 3)).astype(np.float32)
    y, x = np.mgrid[0:5, 0:7].astype(np.float32)
    np.testing.assert_allclose(raster.sample(picture, x, y), picture[:5, :7], rtol=1e-6)
