"""Trees, bushes and reeds: foliage of many leaf dabs, darker inside and below, lighter towards the sun on the left."""

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.raster import Array, Stops, gradient, hex_colour, ramp

BOUGH = gradient("#0b130f", "#14241a", "#24401f", "#47601f", "#87882f", "#d8b850")
LEAVES = gradient("#15261d", "#24401f", "#40601f", "#74862a", "#b9a83c", "#f0d069")
AUTUMN = gradient("#3a1d17", "#6b2f1a", "#a04e1e", "#cf7a28", "#eaa83c", "#ffdc7a")
FIR = gradient("#0d1c1e", "#152d28", "#1f4030", "#355838", "#66743f", "#a8984f")


def foliage(
    layer: Layer, centre: Point, radii: Point, dabs: int, size: float, palette: Stops, rng: np.random.Generator
) -> None:
    """A crown of `dabs` leaves of length `size` in clumps, inside the ellipse of the given centre and radii."""
    clumps = max(3, dabs // 90)
    angle, reach = rng.uniform(0, 2 * np.pi, clumps), np.sqrt(rng.uniform(0, 1, clumps)) * 0.78
    clump_x, clump_y = reach * np.cos(angle), reach * np.sin(angle)
    owner = rng.integers(0, clumps, dabs)
    inside_x, inside_y = rng.normal(0, 0.55, (2, dabs))
    # A clump is a ball within the ball of the crown; each dab is lit by where it sits on both.
    x = clump_x[owner] + 0.3 * inside_x
    y = clump_y[owner] + 0.26 * inside_y
    light = 0.47 - 0.27 * (0.75 * inside_x + 0.85 * inside_y) - 0.22 * (0.8 * x + 0.8 * y) + rng.normal(0, 0.08, dabs)
    order = np.argsort(clump_y[owner] * -0.5 + light * 0.9 + rng.uniform(0, 0.25, dabs))
    centres = np.stack([centre[0] + radii[0] * x, centre[1] + radii[1] * y], axis=-1)
    leaves = _leaves(centres, size * rng.uniform(0.6, 1.3, dabs), rng.uniform(0, np.pi, dabs))
    layer.dabs(leaves[order], ramp(light, palette)[order])


def broadleaf(layer: Layer, x: float, ground: float, tall: float, palette: Stops, rng: np.random.Generator) -> None:
    """A round tree of the given height."""
    layer.line([(x, ground), (x + 0.02 * tall, ground - 0.5 * tall)], 0.06 * tall, hex_colour("#3a2a22"))
    foliage(
        layer,
        (x, ground - 0.6 * tall),
        (0.36 * tall, 0.42 * tall),
        500 + round(9000 * tall),
        0.0045 + 0.02 * tall,
        palette,
        rng,
    )


def poplar(layer: Layer, x: float, ground: float, tall: float, rng: np.random.Generator) -> None:
    """A slender dark tree of the given height."""
    for level in np.linspace(0.1, 0.9, 9):
        half = 0.1 * tall * float(np.sin(np.pi * level**0.7)) + 0.006
        foliage(layer, (x, ground - level * tall), (half, 0.11 * tall), 130, 0.006, FIR, rng)


def branch(
    layer: Layer, start: Point, heading: float, length: float, width: float, palette: Stops, rng: np.random.Generator
) -> None:
    """A crooked branch that forks down to twigs, each of which carries a clump of leaves."""
    x, y = start
    points = [start]
    for _ in range(6):
        heading += float(rng.normal(0, 0.16))
        x, y = x + length / 6 * float(np.cos(heading)), y + length / 6 * float(np.sin(heading))
        points.append((x, y))
    layer.line(points, width, hex_colour("#2b1d1a"))
    layer.line([(px - 0.25 * width, py - 0.25 * width) for px, py in points], width * 0.3, hex_colour("#7c5338"))
    if length > 0.09:
        for turn in (-0.55, 0.1, 0.6):
            fork = points[int(rng.integers(2, 7))]
            branch(
                layer,
                fork,
                heading + turn + float(rng.normal(0, 0.15)),
                length * float(rng.uniform(0.55, 0.72)),
                width * 0.55,
                palette,
                rng,
            )
    if length < 0.26:
        foliage(layer, (x, y), (0.062, 0.042), 300, 0.0095, palette, rng)


def reeds(
    layer: Layer, start: float, end: float, ground: float, tall: float, blades: int, rng: np.random.Generator
) -> None:
    """Bent blades of grass along a bank, tall ones first, a few with brown heads."""
    for k in range(blades):
        x = float(rng.uniform(start, end))
        reach = tall * float(rng.uniform(0.35, 1.0)) * (1.1 - 0.5 * k / blades)
        lean = float(rng.normal(0.12, 0.22))
        foot = ground + float(rng.uniform(0, 0.03))
        t = np.linspace(0, 1, 7)
        points = [(x + lean * reach * float(s * s), foot - reach * float(s) * (1 - 0.12 * abs(lean))) for s in t]
        tone = float(rng.uniform(0, 1))
        colour = (0.07 + 0.72 * tone**2, 0.12 + 0.46 * tone**1.3, 0.07 + 0.12 * tone)
        layer.line(points, 0.0022 + 0.0016 * float(rng.random()), colour)
        if rng.random() < 0.05:
            layer.line(points[-2:], 0.007, hex_colour("#5a3520"))


def trunk(layer: Layer, rng: np.random.Generator) -> None:
    """A trunk along the right edge of the picture, its bark in long strokes, lit along its left side."""
    ys = np.linspace(-0.02, 1.02, 60)
    middle = np.interp(ys, [0.0, 0.28, 0.45, 0.62, 0.8, 1.0], [1.335, 1.31, 1.318, 1.3, 1.305, 1.285])
    half = 0.014 + 0.022 * ys.clip(0.1) + 0.03 * (ys - 0.85).clip(0)
    left, right = np.stack([middle - half, ys], axis=-1), np.stack([middle + half, ys], axis=-1)
    layer.polygon([(x, y) for x, y in np.concatenate([left, right[::-1]]).tolist()], hex_colour("#2a1c18"))
    for _ in range(900):
        k, across = int(rng.integers(0, 58)), float(rng.uniform(-1, 1))
        x, y = float(middle[k] + across * half[k]), float(ys[k])
        tone = 0.11 + 0.5 * max(0.0, -across) ** 1.4 + float(rng.uniform(-0.06, 0.06))
        end = (x + float(rng.normal(0, 0.003)), y + float(rng.uniform(0.01, 0.035)))
        layer.line([(x, y), end], 0.0018, (tone * 1.2, tone * 0.84, tone * 0.58))


def flowers(
    layer: Layer, start: float, end: float, ground: float, tall: float, count: int, rng: np.random.Generator
) -> None:
    """Small blossoms of five petals, scattered over a bank."""
    petals = [hex_colour(c) for c in ("#f4e9d0", "#e8584a", "#f2b53a", "#b98ad0")]
    for _ in range(count):
        x, y = float(rng.uniform(start, end)), ground - tall * float(rng.uniform(0.0, 1.0))
        colour = petals[int(rng.integers(len(petals)))]
        size = float(rng.uniform(0.002, 0.0042))
        for turn in np.linspace(0, 2 * np.pi, 5, endpoint=False):
            layer.ellipse(
                (x + size * float(np.cos(turn)), y + 0.8 * size * float(np.sin(turn))), (0.6 * size, 0.5 * size), colour
            )
        layer.ellipse((x, y), (0.4 * size, 0.4 * size), hex_colour("#f7d774"))


def _leaves(centres: Array, sizes: Array, angles: Array) -> Array:
    """Lozenges `(leaves, 4, 2)` of the given lengths along the given angles."""
    along = 0.5 * sizes[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    across = 0.48 * np.stack([-along[:, 1], along[:, 0]], axis=-1)
    return np.stack([centres + along, centres + across, centres - along, centres - across], axis=1)
