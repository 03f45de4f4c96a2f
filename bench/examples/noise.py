"""Gradient noise (Perlin 2002) of real coordinates: the same field at any resolution."""

import numpy as np

from bench.examples.raster import Array

_PERIOD = 256


def gradient_noise(x: Array, y: Array, seed: int) -> Array:
    """Smooth noise in about −1…1 with features of size 1; repeats after 256."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, (_PERIOD, _PERIOD)).astype(np.float32)
    slope_x, slope_y = np.cos(angle), np.sin(angle)
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    u, v = (x - column).astype(np.float32), (y - row).astype(np.float32)

    def corner(right: int, down: int) -> Array:
        j, i = (column + right) % _PERIOD, (row + down) % _PERIOD
        return np.asarray(slope_x[i, j] * (u - right) + slope_y[i, j] * (v - down), dtype=np.float32)

    ease_u, ease_v = (t * t * t * (t * (t * 6 - 15) + 10) for t in (u, v))
    top = corner(0, 0) * (1 - ease_u) + corner(1, 0) * ease_u
    bottom = corner(0, 1) * (1 - ease_u) + corner(1, 1) * ease_u
    return np.asarray((top * (1 - ease_v) + bottom * ease_v) * 1.5, dtype=np.float32)


def fractal_noise(x: Array, y: Array, seed: int, octaves: int = 5, gain: float = 0.5) -> Array:
    """Octaves of gradient noise, each of half the size and `gain` times the height of the last; about −1…1."""
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    weight = 1.0
    for octave in range(octaves):
        # An odd offset for each octave keeps the lattices from lining up at the origin.
        total += weight * gradient_noise(x * 2**octave + 17.3 * octave, y * 2**octave + 9.7 * octave, seed + octave)
        weight *= gain
    return np.asarray(total * (1 - gain) / (1 - gain**octaves) * 1.6, dtype=np.float32)


def ridged_noise(x: Array, y: Array, seed: int, octaves: int = 6, gain: float = 0.5) -> Array:
    """Ridged multifractal (Musgrave 1994) in about 0…1: sharp crests, rough only near them."""
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    weight, carried, norm = 1.0, np.ones_like(total), 0.0
    for octave in range(octaves):
        crest = 1 - np.abs(gradient_noise(x * 2**octave + 31.7 * octave, y * 2**octave + 5.3 * octave, seed + octave))
        crest = np.clip(crest, 0, 1) ** 2 * carried
        total += weight * crest
        norm += weight
        carried = np.clip(crest * 1.6, 0, 1)
        weight *= gain
    return np.asarray(total / norm, dtype=np.float32)
