"""Small smooth pictures on disk, the same in each run, for tests that need a content and a style."""

from pathlib import Path

import numpy as np
from PIL import Image


def drawn(folder: Path, *names: str, size: tuple[int, int] = (64, 48)) -> list[str]:
    """A picture of `size` (width, height) of each of the names, each another; returns their paths."""
    generator, found = np.random.default_rng(0), []
    for path in (folder / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
        found.append(str(path))
    return found
