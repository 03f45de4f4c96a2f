"""Every kind of source becomes the same upright float32 sRGB picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_samples import noise, planes, saved
from PIL import Image

from fastnst.image.read import load_image


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    array = noise()
    path = saved(Image.fromarray(array), tmp_path / "a.png")
    sources = {
        "str": str(path),
        "path": path,
        "pil": Image.fromarray(array),
        "array": array,
        "strided": np.asfortranarray(array),
        "float32": array.astype(np.float32) / np.float32(255),
        "float64": array / 255,
        "tensor": planes(array),
        "batch": planes(array)[None],
        "uint8": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }
    pictures = {kind: load_image(source) for kind, source in sources.items()}
    for kind, picture in pictures.items():
        assert (picture.rgb.dtype, picture.rgb.is_contiguous()) == (torch.float32, True), kind
        assert picture.alpha is None, kind
        assert torch.equal(picture.rgb, planes(array)), kind
    assert len({picture.sha256 for picture in pictures.values()}) == 1
    assert pictures["path"].name == pictures["str"].name == str(path)
    assert (pictures["pil"].name, pictures["array"].name, pictures["tensor"].name) == ("PIL image", "array", "tensor")
    assert (pictures["pil"].height, pictures["pil"].width) == (5, 7)


def test_picture_shares_no_memory_with_its_source() -> None:
    array, tensor = noise().astype(np.float32) / 255, torch.rand(3, 4, 4)
    pictures = [load_image(array), load_image(tensor)]
    before = [picture.rgb.clone() for picture in pictures]
    array[:] = 0
    tensor.zero_()
    for picture, rgb in zip(pictures, before, strict=True):
        assert torch.equal(picture.rgb, rgb)


def test_sha256_sees_pixels_shape_and_alpha() -> None:
    grey = torch.full((1, 4, 6), 0.5)
    digests = {
        load_image(grey).sha256,
        load_image(grey.reshape(1, 6, 4)).sha256,
        load_image(grey * 0.99).sha256,
        load_image(grey.expand(4, 4, 6)).sha256,
    }
    assert len(digests) == 4


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2", ">f4"])
def test_arrays(channels: int, dtype: str) -> None:
    if np.dtype(dtype).kind == "f":
        array, peak = (noise(channels=channels) / 255).astype(dtype), 1
    else:
        array = noise(channels=channels, dtype=np.dtype(dtype).newbyteorder("=").type).astype(dtype)
        peak = np.iinfo(dtype).max
    picture = load_image(array)
    expected = planes(array.astype(np.float64), peak)
    assert torch.equal(picture.rgb, expected[:3].expand(3, -1, -1))
    assert (picture.alpha is not None) == (channels == 4)
    assert picture.alpha is None or torch.equal(picture.alpha, expected[3:])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(channels: int, dtype: torch.dtype) -> None:
    peak = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    tensor = (planes(noise(channels=4))[:channels] * peak).to(dtype)
    picture = load_image(tensor.requires_grad_(dtype.is_floating_point))
    expected = tensor.detach().float() / peak
    assert torch.equal(picture.rgb, expected[:3].expand(3, -1, -1))
    assert not picture.rgb.requires_grad
    assert (picture.alpha is not None) == (channels == 4)


def test_floats_a_little_outside_are_clamped() -> None:
    picture = load_image(torch.tensor([-9e-4, 0.5, 1 + 9e-4, 1]).reshape(1, 2, 2))
    assert picture.rgb[0].flatten().tolist() == [0, 0.5, 1, 1]


def test_pictures_are_float32_whatever_the_default(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise(8, 8, 4)), tmp_path / "a.png")
    expected = load_image(path)
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load_image(path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert loaded.rgb.dtype == torch.float32
    assert loaded.sha256 == expected.sha256
