"""Damaged pictures: each is read as one, or refused in one line; nothing else is raised, and nothing hangs."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import damaged, fuzz, soon
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from fastnst.errors import ImageError
from fastnst.image import read
from fastnst.image.decode import srgb_profile
from fastnst.image.read import load_image, open_picture
from fastnst.image.write import save_image

KINDS = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "deflate": "TIFF", "cmyk": "JPEG", "alpha": "PNG"}
MODES = {"cmyk": "CMYK", "alpha": "RGBA", "gif": "P"}
DEEP = np.random.default_rng(1).integers(0, 65535, (20, 24, 3), dtype=np.uint16)


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    if name in ("deep png", "deep tif"):
        planes = torch.from_numpy(DEEP.astype(np.float32) / 65535).permute(2, 0, 1)
        save_image(file, planes, format="png" if name == "deep png" else "tiff", bit_depth=16, parameters={"a": 1})
    elif name == "npy":
        np.save(file, DEEP)
    elif name == "float npy":
        np.save(file, (DEEP / 65535).astype(np.float16))
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        options: dict[str, object] = {"icc_profile": srgb_profile(), "exif": exif}
        if name == "deflate":
            options["compression"] = "tiff_adobe_deflate"
        picture = Image.fromarray((DEEP // 257).astype(np.uint8)).convert(MODES.get(name, "RGB"))
        picture.save(file, KINDS.get(name, name), **options)
    return file.getvalue()


NAMES = ["png", "jpg", "webp", "tif", "deflate", "cmyk", "alpha", "gif", "bmp", "jp2", "ppm", "avif"]
NAMES += ["deep png", "deep tif", "npy", "float npy"]
SEEDS = {name: encoded(name) for name in NAMES}


def read_or_refuse(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        with soon():
            picture = load_image(path, max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert picture.rgb.dtype == torch.float32
        assert 0 <= float(picture.rgb.min()) <= float(picture.rgb.max()) <= 1


@fuzz(800)
@given(data=st.sampled_from(NAMES).flatmap(lambda name: damaged(SEEDS[name])))
def test_damaged_pictures(tmp_path: Path, data: bytes) -> None:
    read_or_refuse(tmp_path / "fuzz", data)


BY_ROWS = st.sampled_from(["png", "alpha", "tif", "deflate", "deep png", "deep tif", "npy"])


@fuzz(300)
@given(data=BY_ROWS.flatmap(lambda name: damaged(SEEDS[name])))
def test_damaged_pictures_by_rows(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "STREAMED_PIXELS", 1)
        patch.setattr(read, "PART_PIXELS", 100)
        try:
            with soon():
                parts = list(open_picture(io.BytesIO(data), max_pixels=1_000_000).parts())
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(part.rgb.dtype == torch.float32 for part in parts)


@fuzz(300)
@given(
    prefix=st.sampled_from([b"", *(data[:16] for data in SEEDS.values()), b"P5 ", b"8BPS", b"qoif", b"\x93NUMPY\1\0"]),
    rest=st.binary(max_size=400),
)
def test_random_bytes(tmp_path: Path, prefix: bytes, rest: bytes) -> None:
    read_or_refuse(tmp_path / "fuzz", prefix + rest)
