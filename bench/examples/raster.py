"""Pictures as arrays `(height, width)` or `(height, width, 3)` in 0…1, and operations that the drawings share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]
Stops = Sequence[tuple[float, Colour]]


def grid(width: int, height: int) -> tuple[Array, Array]:
    """Coordinates of the pixel centres, x in 0…width/height and y in 0…1 downwards, each `(height, width)`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (x + np.float32(0.5)) / np.float32(height), (y + np.float32(0.5)) / np.float32(height)


def hex_colour(code: str) -> Colour:
    """`"#rrggbb"` as three floats in 0…1."""
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return red / 255, green / 255, blue / 255


def gradient(*codes: str) -> Stops:
    """Evenly spaced stops for `ramp`, from 0 to 1, by their `"#rrggbb"` codes."""
    return [(k / (len(codes) - 1), hex_colour(code)) for k, code in enumerate(codes)]


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth cubic between; `low > high` falls instead of rising."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def mix(first: ArrayLike, second: ArrayLike, weight: ArrayLike) -> Array:
    """`first` where `weight` is 0, `second` where it is 1. A weight has no channel axis: it spreads over colours."""
    a, b, t = (np.asarray(value, dtype=np.float32) for value in (first, second, weight))
    if t.ndim and (a.shape[-1:] == (3,) or b.shape[-1:] == (3,)):
        t = t[..., None]
    return a + (b - a) * t


def ramp(value: Array, stops: Stops) -> Array:
    """Colours `(…, 3)` along a piecewise linear gradient of `(position, colour)` stops."""
    positions = [position for position, _ in stops]
    channels = [np.interp(value, positions, [colour[c] for _, colour in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def blur(picture: Array, radius: float) -> Array:
    """Nearly Gaussian blur of about `radius` pixels: three running means along each axis, edges replicated."""
    reach = max(1, round(radius))
    blurred = picture
    for axis in (0, 1):
        for _ in range(3):
            pad = [(0, 0)] * picture.ndim
            pad[axis] = (reach + 1, reach)
            total = np.cumsum(np.pad(blurred, pad, mode="edge"), axis=axis, dtype=np.float64)
            length = picture.shape[axis]
            ahead = np.take(total, range(2 * reach + 1, 2 * reach + 1 + length), axis=axis)
            behind = np.take(total, range(length), axis=axis)
            blurred = ((ahead - behind) / (2 * reach + 1)).astype(np.float32)
    return blurred


def sample(picture: Array, x: Array, y: Array) -> Array:
    """Bilinear look-up at pixel positions `x`, `y` of one shape; beyond the border its value holds."""
    height, width = picture.shape[:2]
    x = np.clip(x, 0, width - 1.001)
    y = np.clip(y, 0, height - 1.001)
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    if picture.ndim == 3:
        right, down = right[..., None], down[..., None]
    top = picture[row, column] * (1 - right) + picture[row, column + 1] * right
    bottom = picture[row + 1, column] * (1 - right) + picture[row + 1, column + 1] * right
    return np.asarray(top * (1 - down) + bottom * down, dtype=np.float32)


def relief(height: Array, strength: float) -> Array:
    """Light from the upper left on a surface of `height` pixels: its slope away from the light, −1…1."""
    dy, dx = np.gradient(height)
    return np.asarray(np.tanh((dx + dy) * np.float32(strength)), dtype=np.float32)


def to_image(picture: Array, width: int, height: int) -> Image.Image:
    """The array as an RGB image reduced to `width`×`height`."""
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)


def to_array(image: Image.Image) -> Array:
    """An `L` or `RGB` image as float32 in 0…1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)
