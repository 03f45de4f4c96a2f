"""Drawn clips whose motion is known to the pixel."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Frame = npt.NDArray[np.uint8]


def texture(height: int, width: int, seed: int = 0) -> Frame:
    """Blots of three sizes in colour, (H, W, 3)."""
    generator, layers = np.random.default_rng(seed), []
    for cell in (4, 9, 23):
        coarse = generator.integers(0, 255, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        large = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        layers.append(np.asarray(large, np.float32))
    return np.clip(np.mean(layers, axis=0) * 1.6 - 75, 0, 255).astype(np.uint8)


def pan(count: int, size: tuple[int, int] = (48, 64), step: int = 4, seed: int = 0) -> list[Frame]:
    """The view of a texture that moves to the right by `step` pixels a frame: points move to the left."""
    height, width = size
    whole = texture(height, width + step * count, seed)
    return [whole[:, step * number : step * number + width].copy() for number in range(count)]


def passing(count: int, size: tuple[int, int] = (48, 64), step: int = 3, block: int = 16) -> list[Frame]:
    """A square that moves to the right by `step` pixels a frame before a ground that stands still."""
    ground, before = texture(*size, seed=1), texture(block, block, seed=2)
    frames = []
    for number in range(count):
        frame = ground.copy()
        frame[size[0] // 3 : size[0] // 3 + block, 8 + step * number : 8 + step * number + block] = before
        frames.append(frame)
    return frames


def folder_of(path: Path, frames: list[Frame]) -> Path:
    path.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{number:04d}.png")
    return path
