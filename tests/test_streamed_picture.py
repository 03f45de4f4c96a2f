"""Pictures that are read some rows at a time: the same pixels, digests and sizes as those that are read whole."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_samples import saved, write_tiff
from PIL import Image

from fastnst.errors import ImageError
from fastnst.image import read as reading
from fastnst.image.decode import libvips, srgb_profile
from fastnst.image.picture import Picture, StreamedPicture, opaque
from fastnst.image.read import load_image, open_picture
from fastnst.image.resize import resize_picture, resized

WIDTH, HEIGHT = 61, 47


@pytest.fixture(autouse=True)
def _few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STREAMED_PIXELS", 16)
    monkeypatch.setattr(reading, "PART_PIXELS", 5 * WIDTH)


def samples(*shape: int, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    """Smooth enough that every PNG filter is chosen somewhere."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = np.sin(rows / 5)[..., None] + np.cos(columns / 7)[..., None] + np.arange(shape[2] if len(shape) == 3 else 1)
    noise = generator.random((shape[0], shape[1], waves.shape[2])) * (rows % 9 == 0)[..., None]
    values = ((waves + noise - waves.min()) / (waves.max() - waves.min() + 1) * np.iinfo(dtype).max).astype(dtype)
    return values if len(shape) == 3 else values[:, :, 0]


def same(path: Path, expected: type = StreamedPicture) -> StreamedPicture:
    """Checks the picture that is read in parts against the one that is read whole."""
    whole, streamed = load_image(path), open_picture(path)
    assert type(streamed) is expected
    assert isinstance(streamed, StreamedPicture)
    parts = list(streamed.parts())
    assert len(parts) > 4
    assert (streamed.height, streamed.width, streamed.name) == (whole.height, whole.width, whole.name)
    assert torch.equal(torch.cat([part.rgb for part in parts], 1), whole.rgb)
    if whole.alpha is None:
        assert parts[0].alpha is None
    else:
        assert torch.equal(torch.cat([part.alpha for part in parts if part.alpha is not None], 1), whole.alpha)
    assert streamed.sha256 == whole.sha256
    return streamed


def images() -> dict[str, Image.Image]:
    colours = {mode: Image.fromarray(samples(HEIGHT, WIDTH, len(mode)), mode) for mode in ("RGB", "RGBA", "LA")}
    grey = Image.fromarray(samples(HEIGHT, WIDTH))
    deep = Image.fromarray(samples(HEIGHT, WIDTH, dtype=np.uint16))
    return {**colours, "L": grey, "1": grey.convert("1"), "P": colours["RGB"].quantize(13), "I;16": deep}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "I;16"])
def test_png_and_what_is_decoded_whole(tmp_path: Path, mode: str) -> None:
    same(saved(images()[mode], tmp_path / "a.png", icc_profile=srgb_profile()))
    if mode == "P":
        same(saved(images()["P"], tmp_path / "p.png", transparency=bytes([255, 0, 128])))
        same(saved(images()["P"], tmp_path / "a.gif"))
    if mode == "RGB":
        colour = tuple(int(x) for x in samples(HEIGHT, WIDTH, 3)[3, 4])
        same(saved(images()["RGB"], tmp_path / "rgb.png", transparency=colour))
        same(saved(images()["RGB"], tmp_path / "a.jpg", quality=80))


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *((mode, None) for mode in ("RGB", "RGBA", "L", "1", "P", "I;16")),
        *((mode, "tiff_lzw") for mode in ("RGB", "P", "I;16")),
        *((mode, "tiff_adobe_deflate") for mode in ("RGBA", "1")),
        *((mode, "packbits") for mode in ("L", "RGB")),
        *((mode, "jpeg") for mode in ("L", "RGB")),
    ],
)
def test_tiff(tmp_path: Path, mode: str, compression: str | None) -> None:
    tags = {278: 8 if compression == "jpeg" else 3}
    same(saved(images()[mode], tmp_path / "a.tif", compression=compression, tiffinfo=tags))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_of_another_writer(tmp_path: Path, order: str, planar: bool, dtype: type) -> None:
    data = samples(HEIGHT, WIDTH, 3, dtype=np.uint8 if dtype == np.uint8 else np.uint16)
    peak = np.iinfo(data.dtype).max
    stored = (data / peak).astype(dtype) if dtype == np.float32 else data
    picture = same(write_tiff(tmp_path / "a.tif", stored, order=order, planar=planar, strip_rows=4))
    expected = torch.from_numpy((data / peak).astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(picture.whole().rgb, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("options", [{"tile": True, "tile_width": 16, "tile_height": 32}, {"predictor": "horizontal"}])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_tiff_of_libvips(tmp_path: Path, bigtiff: bool, options: dict[str, Any]) -> None:
    image = libvips().Image.new_from_array(samples(HEIGHT, WIDTH, 3, dtype=np.uint16), interpretation="rgb16")
    image.tiffsave(str(tmp_path / "a.tif"), bigtiff=bigtiff, compression="deflate", **options)
    same(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("extension", ["jpg", "tif", "png", "webp"])
def test_turned(tmp_path: Path, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    same(saved(images()["RGB"], tmp_path / f"a.{extension}", exif=exif))


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<f4", ">f8"])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_npy(tmp_path: Path, dtype: str, channels: int | None) -> None:
    path, shape = tmp_path / "a.npy", (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    data = samples(*shape, dtype=np.uint16)
    data = data / 65535 if "f" in dtype else data >> (8 if dtype == "|u1" else 0)
    for order in (data, np.asfortranarray(data)):
        np.save(path, order.astype(dtype))
        same(path)


def test_streams_and_what_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(images()["RGBA"], tmp_path / "a.png")
    picture = open_picture(io.BytesIO(path.read_bytes()))
    assert isinstance(picture, StreamedPicture)
    assert picture.sha256 == load_image(path).sha256
    whole, streamed = opaque(load_image(path)), opaque(picture)
    assert isinstance(whole, Picture)
    assert isinstance(streamed, StreamedPicture)
    assert (torch.cat([part.rgb for part in streamed.parts()], 1) - whole.rgb).abs().max() < 1e-6
    # Arrays and what is small are whole.
    assert isinstance(open_picture(samples(HEIGHT, WIDTH, 3)), Picture)
    monkeypatch.setattr(reading, "STREAMED_PIXELS", HEIGHT * WIDTH)
    assert isinstance(open_picture(path), Picture)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(23, 30), (100, 130), (HEIGHT, WIDTH), (47, 20), (9, 61)])
def test_resized(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = saved(images()[mode], tmp_path / "a.png")
    picture = same(path)
    whole = resize_picture(load_image(path), size=size)
    other, streamed = resized(picture, [(31, 40), size])
    assert other.rgb.shape == (3, 31, 40)
    if whole.alpha is None or streamed.alpha is None:
        assert streamed.alpha is whole.alpha is None
        assert (streamed.rgb - whole.rgb).abs().max() < 5e-7
    else:
        assert (streamed.alpha - whole.alpha).abs().max() < 5e-7
        assert ((streamed.rgb - whole.rgb) * whole.alpha).abs().max() < 1e-6


def test_changed_meanwhile(tmp_path: Path) -> None:
    path = saved(images()["RGB"], tmp_path / "a.png")
    picture = open_picture(path)
    assert picture.sha256
    saved(Image.fromarray(255 - samples(HEIGHT, WIDTH, 3)), tmp_path / "a.png")
    with pytest.raises(ImageError, match="changed while fastnst used it"):
        list(picture.parts())
