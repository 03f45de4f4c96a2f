"""Pictures that the tests of reading and of runs have in common, and how a refusal looks."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastnst.errors import ImageError
from fastnst.image.read import load_image


def noise(height: int = 5, width: int = 7, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def blocks(
    seed: int = 0, height: int = 30, width: int = 44, resampling: Image.Resampling = Image.Resampling.NEAREST
) -> np.ndarray:
    """Blocks and noise, uint8 (height, width, 3)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (5, 5, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), resampling), dtype=np.int16)
    return np.clip(image + generator.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)


def photo(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    """Soft blocks and noise, uint8 (height, width, 3)."""
    return blocks(seed, height, width, Image.Resampling.BICUBIC)


def planes(array: np.ndarray, peak: float = 255) -> torch.Tensor:
    """(H, W[, C]) as (C, H, W) float32."""
    return torch.from_numpy((np.atleast_3d(array).transpose(2, 0, 1) / peak).astype(np.float32))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def write_tiff(path: Path, samples: np.ndarray, *, order: str = "<", planar: bool = False, strip_rows: int = 0) -> Path:
    """Writes (H, W, 3) uncompressed, in either byte order, as TIFF 6.0 has it and neither Pillow nor libvips does."""
    height, width, channels = samples.shape
    rows = strip_rows or height
    stored = samples.astype(samples.dtype.newbyteorder(order))
    images = list(stored.transpose(2, 0, 1)) if planar else [stored]
    strips = [image[top : top + rows].tobytes() for image in images for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    places = [8 + sum(sizes[:index]) for index in range(len(sizes))]
    bits, kind = 8 * samples.dtype.itemsize, 3 if samples.dtype.kind == "f" else 1
    tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [2], 273: places, 277: [channels]}
    tags |= {278: [rows], 279: sizes, 284: [1 + planar], 339: [kind] * channels}
    start = 8 + sum(sizes)
    behind, directory, extra = start + 6 + 12 * len(tags), struct.pack(order + "H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}I", *values)
        place = data if len(data) == 4 else struct.pack(order + "I", behind + len(extra))
        extra += b"" if len(data) == 4 else data
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + place
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    path.write_bytes(header + b"".join(strips) + directory + bytes(4) + extra)
    return path


def refused(source: object, *patterns: str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message
    return message
