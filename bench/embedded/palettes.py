"""Palettes: a few colours in order, which a tone in 0…1 runs through."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from bench.embedded.canvas import Field

Palette = NDArray[np.float32]


def palette(rng: np.random.Generator) -> Palette:
    """3 to 7 RGB colours in 0…1, (count, 3), by a scheme: neighbouring, opposite, three-way or free hues, or earths."""
    count = int(rng.integers(3, 8))
    scheme = rng.choice([0, 1, 1, 2, 2, 3, 3, 3, 4, 5])
    base = rng.random()
    strength = rng.uniform(0.25, 1)
    hues = {
        0: base + rng.uniform(-0.06, 0.06, count),
        1: base + 0.5 * rng.integers(2, size=count) + rng.uniform(-0.05, 0.05, count),
        2: base + rng.integers(3, size=count) / 3 + rng.uniform(-0.04, 0.04, count),
        3: rng.random(count),
        4: rng.uniform(0.02, 0.15, count),
        5: base + rng.uniform(-0.15, 0.15, count),
    }[int(scheme)]
    low, high = rng.uniform(0.02, 0.35), rng.uniform(0.65, 1)
    values = np.linspace(low, high, count) + rng.uniform(-0.06, 0.06, count)
    saturations = np.clip(strength * rng.uniform(0.5, 1.2, count), 0, 1)
    # Half the palettes go from dark to light; the others jump, so that tone and brightness are not the same thing.
    if rng.random() < 0.5:
        rng.shuffle(values)
    colours = [
        colorsys.hsv_to_rgb(float(hue) % 1, float(saturation), float(np.clip(value, 0, 1)))
        for hue, saturation, value in zip(hues, saturations, values, strict=True)
    ]
    return np.array(colours, np.float32)


def coloured(tone: Field, colours: Palette, *, flat: bool) -> NDArray[np.float32]:
    """The palette at each tone (0…1), (H, W) to (H, W, 3): between two colours, or `flat` with soft edges."""
    place = np.clip(tone, 0, 1) * (len(colours) - 1)
    index = np.minimum(place.astype(np.int32), len(colours) - 2)
    part = place - index
    if flat:
        part = np.clip((part - 0.5) * 4 + 0.5, 0, 1)
    result: NDArray[np.float32] = (
        colours[index] * (1 - part[..., None]) + colours[index + 1] * part[..., None]
    ).astype(np.float32)
    return result
