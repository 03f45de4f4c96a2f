"""Noise, warps, light and supersampled drawing: what the families of procedural pictures are made of."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 256
# Marks are drawn this much larger and averaged down: smooth edges.
OVERSAMPLING = 2

Field = NDArray[np.float32]
# The place on the palette, 0…1, and the light, about 1.
Pair = tuple[Field, Field]
Draw = ImageDraw.ImageDraw


def grid() -> tuple[Field, Field]:
    """Row and column of each position, in pixels, two (SIZE, SIZE) fields."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return y, x


def noise(
    rng: np.random.Generator, *, slope: float, angle: float = 0.0, stretch: float = 1.0, scale: float = 0.0
) -> Field:
    """Gaussian noise of amplitude `frequency^-slope`, of mean 0 and deviation 1, (SIZE, SIZE), periodic.

    It is `stretch` times longer in the direction `angle` (radians) than across. With a `scale` in pixels, only
    frequencies near 1 / scale are kept: spots or, stretched, stripes of about that size.
    """
    fy = np.fft.fftfreq(SIZE)[:, None]
    fx = np.fft.rfftfreq(SIZE)[None, :]
    along = np.cos(angle) * fx + np.sin(angle) * fy
    across = -np.sin(angle) * fx + np.cos(angle) * fy
    frequency = np.hypot(along * np.sqrt(stretch), across / np.sqrt(stretch))
    amplitude = np.maximum(frequency, 1 / SIZE) ** -slope
    if scale:
        amplitude = amplitude * np.exp(-((np.log(np.maximum(frequency, 1e-6) * scale) / 0.35) ** 2))
    amplitude[0, 0] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * amplitude
    return standardised(np.fft.irfft2(spectrum, (SIZE, SIZE)).astype(np.float32))


def standardised(field: Field) -> Field:
    """The field with mean 0 and deviation 1."""
    result: Field = (field - field.mean()) / (field.std() + 1e-6)
    return result


def unlit(tone: Field) -> Pair:
    """The tone under a light of 1 everywhere."""
    return tone, np.ones_like(tone)


def squashed(field: Field) -> Field:
    """A field of deviation about 1 brought to 0…1, roughly evenly."""
    result: Field = 0.5 + 0.5 * np.tanh(0.9 * field)
    return result


def unit(field: Field) -> Field:
    """The field from its lowest to its highest value, as 0…1."""
    low, high = float(field.min()), float(field.max())
    result: Field = (field - low) / max(high - low, 1e-6)
    return result


def step(field: Field, threshold: float, width: float) -> Field:
    """0 below the threshold, 1 above, over a smooth edge of `width`."""
    ramp = np.clip((field - threshold) / max(width, 1e-6) + 0.5, 0, 1)
    result: Field = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return result


def sampled(field: Field, y: Field, x: Field) -> Field:
    """The field at the positions (y, x), in pixels, bilinear, periodic."""
    row, column = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    fy, fx = y - row, x - column
    row, column = row % SIZE, column % SIZE
    below, right = (row + 1) % SIZE, (column + 1) % SIZE
    upper = field[row, column] * (1 - fx) + field[row, right] * fx
    lower = field[below, column] * (1 - fx) + field[below, right] * fx
    result: Field = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return result


def warped(field: Field, rng: np.random.Generator, amount: float, slope: float = 2.5) -> Field:
    """The field seen through noise that moves its positions by about `amount` pixels."""
    y, x = grid()
    return sampled(field, y + amount * noise(rng, slope=slope), x + amount * noise(rng, slope=slope))


def lit(height: Field, angle: float, strength: float) -> Field:
    """The brightness, about 1, of a surface of that height (in pixels) under light from `angle`; 0.3…1.7."""
    gy = np.roll(height, -1, 0) - np.roll(height, 1, 0)
    gx = np.roll(height, -1, 1) - np.roll(height, 1, 1)
    slope = np.cos(angle) * gx + np.sin(angle) * gy
    result: Field = (1 + 0.7 * np.tanh(strength * slope)).astype(np.float32)
    return result


def flow(rng: np.random.Generator, *, vortices: int, swing: float, slope: float = 2.5) -> Field:
    """A direction for each position, in radians: a main direction, noise of `swing` radians, vortices turning about."""
    y, x = grid()
    angle = rng.uniform(0, np.pi) + swing * noise(rng, slope=slope)
    u, v = np.cos(angle), np.sin(angle)
    for _ in range(vortices):
        cy, cx = rng.uniform(0, SIZE, 2)
        radius = rng.uniform(0.1, 0.35) * SIZE
        distance = np.hypot(y - cy, x - cx)
        pull = 6 * np.exp(-((distance / radius) ** 2)) * rng.choice([-1, 1])
        u = u - pull * (y - cy) / (distance + 1)
        v = v + pull * (x - cx) / (distance + 1)
    result: Field = np.arctan2(v, u).astype(np.float32)
    return result


def drawn(background: float, draw: Callable[[Draw, float], None]) -> Field:
    """What `draw(canvas, factor)` draws on a ground of that value in 0…1, (SIZE, SIZE).

    The canvas takes positions in pixels times `factor`, and values 0…255.
    """
    side = SIZE * OVERSAMPLING
    image = Image.new("L", (side, side), round(255 * background))
    draw(ImageDraw.Draw(image), OVERSAMPLING)
    reduced = image.reduce(OVERSAMPLING)
    result: Field = np.asarray(reduced, np.float32) / np.float32(255)
    return result


def blurred(field: Field, radius: float) -> Field:
    """The field under a Gaussian of that deviation in pixels, periodic."""
    fy = np.fft.fftfreq(SIZE)[:, None]
    fx = np.fft.rfftfreq(SIZE)[None, :]
    response = np.exp(-2 * (np.pi * radius) ** 2 * (fy * fy + fx * fx))
    return np.fft.irfft2(np.fft.rfft2(field) * response, (SIZE, SIZE)).astype(np.float32)
