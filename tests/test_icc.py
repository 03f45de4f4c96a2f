"""Colour profiles: what has one is converted to sRGB, a broken one is ignored."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from icc_samples import adobe_rgb_profile, adobe_rgb_to_srgb, cmyk_profile, encoded_srgb, grey_profile
from picture_samples import noise, planes, saved
from PIL import Image, ImageCms

from fastnst.image.decode import srgb_profile
from fastnst.image.read import load_image


def test_rgb_profile_becomes_srgb(tmp_path: Path) -> None:
    array = (noise(32, 32, channels=4) // 4 + 96).astype(np.uint8)  # muted, so inside both gamuts
    path = saved(Image.fromarray(array), tmp_path / "a.png", icc_profile=adobe_rgb_profile())
    expected = adobe_rgb_to_srgb(array[:, :, :3] / 255)
    picture = load_image(path)
    rgb = picture.rgb.permute(1, 2, 0).numpy()
    assert np.abs(rgb - expected).max() <= 1.5 / 255
    assert np.abs(rgb - array[:, :, :3] / 255).max() > 5 / 255
    assert picture.alpha is not None
    assert torch.equal(picture.alpha, planes(array)[3:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_profile_becomes_srgb(tmp_path: Path, dtype: type) -> None:
    peak = np.iinfo(dtype).max
    grey = np.linspace(0, peak, 2000).reshape(40, 50).astype(dtype)
    path = saved(Image.fromarray(grey), tmp_path / "a.tif", icc_profile=grey_profile(1.0))
    rgb = load_image(path).rgb
    bright = grey > peak / 16  # a linear grey in 8 bits is coarse in the shadows
    error = np.abs(rgb.numpy() - encoded_srgb(grey / peak))[:, bright]
    assert error.max() <= 2 / 255
    if dtype == np.uint16:
        assert rgb.unique().numel() > 1000


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 128), (0, 0, 0, 255)])
def test_cmyk_profile_becomes_srgb(tmp_path: Path, inks: tuple[int, int, int, int]) -> None:
    path = saved(Image.new("CMYK", (4, 4), inks), tmp_path / "a.tif", icc_profile=cmyk_profile())
    cyan, magenta, yellow, black = (ink / 255 for ink in inks)
    lightness = 100 * (1 - black) * (1 - (cyan + magenta + yellow) / 3)
    luminance = ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3
    assert np.abs(load_image(path).rgb.numpy() - encoded_srgb(np.array(luminance))).max() <= 2 / 255


def test_the_profile_of_other_channels_is_ignored(tmp_path: Path) -> None:
    for image in (Image.new("CMYK", (4, 4), (0, 200, 200, 30)), Image.fromarray(noise(channels=1))):
        plain = load_image(saved(image, tmp_path / "a.tif")).rgb
        profiled = load_image(saved(image, tmp_path / "b.tif", icc_profile=adobe_rgb_profile())).rgb
        assert torch.allclose(profiled, plain, atol=1e-4)


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    array = noise(64, 64)
    for profile in (srgb_profile(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        rgb = load_image(saved(Image.fromarray(array), tmp_path / "a.png", icc_profile=profile)).rgb
        assert (rgb - planes(array)).abs().max() <= (0 if profile == srgb_profile() else 1.5 / 255)


@pytest.mark.parametrize(
    "profile", [b"not a profile", srgb_profile()[:200], grey_profile(1.8), b"\0" * 128, adobe_rgb_profile()[:140]]
)
def test_broken_or_foreign_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png", icc_profile=profile)
    assert torch.equal(load_image(path).rgb, planes(noise()))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_converted_in_full(tmp_path: Path, extension: str) -> None:
    deep = (noise(32, 32, dtype=np.uint16) // 4 + 96 * 257).astype(np.uint16)  # muted, so inside both gamuts
    path = tmp_path / f"a.{extension}"
    image = pyvips.Image.new_from_array(deep, interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", adobe_rgb_profile())
    image.write_to_file(str(path))
    rgb = load_image(path).rgb.permute(1, 2, 0).numpy()
    error = np.abs(rgb - adobe_rgb_to_srgb(deep / 65535))
    assert (error.mean() < 2e-4, error.max() < 6e-3) == (True, True)  # LittleCMS, in 16 bits
    assert np.unique(rgb).size > 2500
