"""Pictures that the tests of reading have in common, and how a refusal looks."""

import re
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


def planes(array: np.ndarray, peak: float = 255) -> torch.Tensor:
    """(H, W[, C]) as (C, H, W) float32."""
    return torch.from_numpy((np.atleast_3d(array).transpose(2, 0, 1) / peak).astype(np.float32))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(source: object, *patterns: str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message
    return message
