"""The training pictures: each is a structure (a family with its parameters, warped, blended, lit) in a palette.

The same structure comes in several palettes, the same palette in many structures: neither colour nor form alone tells
the pictures apart. Everything follows from the seed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.embedded import fields, marks
from bench.embedded.canvas import SIZE, Pair, blurred, grid, lit, noise, step, warped
from bench.embedded.palettes import coloured, palette

Family = Callable[[np.random.Generator, np.random.Generator], Pair]

# A family named twice is drawn twice as often.
FAMILIES: tuple[Family, ...] = (
    fields.clouds,
    fields.contours,
    fields.spots,
    fields.cells,
    fields.waves,
    fields.rings,
    fields.streaks,
    fields.streaks,
    fields.relief,
    fields.weave,
    fields.bricks,
    fields.engraving,
    fields.halftone,
    fields.fractal,
    fields.petals,
    fields.grain,
    marks.strokes,
    marks.strokes,
    marks.strokes,
    marks.dabs,
    marks.leaves,
    marks.leaves,
    marks.letters,
    marks.branches,
    marks.houses,
    marks.balls,
    marks.drips,
    marks.pencil,
)


def family_of(structure: int) -> int:
    """The family's number; the same for all its structures."""
    return FAMILIES.index(FAMILIES[structure % len(FAMILIES)])


def picture(seed: int, structure: int, palette_index: int, take: int) -> NDArray[np.uint8]:
    """One picture, (SIZE, SIZE, 3): the `take`-th realisation of a structure in a palette. The same bits every time."""
    design = np.random.default_rng([seed, 1, structure])
    chance = np.random.default_rng([seed, 2, structure, take])
    family = FAMILIES[structure % len(FAMILIES)]
    tone, light = _finished(family, design, chance)
    flat = design.random() < 0.35
    colours = palette(np.random.default_rng([seed, 3, palette_index]))
    image = coloured(tone, colours, flat=flat) * light[..., None]
    rounded: NDArray[np.uint8] = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return rounded


def _finished(family: Family, design: np.random.Generator, chance: np.random.Generator) -> Pair:
    """The family's fields, and by the design a second family in places, a warp, relief, slow light, grain."""
    tone, light = family(design, chance)
    if design.random() < 0.25:
        other = FAMILIES[int(design.integers(len(FAMILIES)))]
        other_tone, other_light = other(design, chance)
        form = design.integers(3)
        if form == 0:
            mask = step(noise(chance, slope=2.2), design.uniform(-0.3, 0.3), design.uniform(0.05, 1))
        elif form == 1:
            mask = step((grid()[0] / SIZE + 0.1 * noise(chance, slope=2)).astype(np.float32), 0.5, 0.1)
        else:
            mask = np.full_like(tone, design.uniform(0.25, 0.5))
        tone = tone * (1 - mask) + other_tone * mask
        light = light * (1 - mask) + other_light * mask
    if design.random() < 0.3:
        amount, slope = design.uniform(1.5, 10), design.uniform(1.6, 2.6)
        state = chance.bit_generator.state
        tone = warped(tone, chance, amount, slope)
        # The light goes the same way as the tone.
        chance.bit_generator.state = state
        light = warped(light, chance, amount, slope)
    if design.random() < 0.2:
        light = light * lit(blurred(tone, 0.7) * 10, design.uniform(0, 6.28), design.uniform(0.1, 0.4))
    if design.random() < 0.4:
        light = light * (1 + design.uniform(0.1, 0.35) * noise(chance, slope=2.6)).astype(np.float32)
    if design.random() < 0.3:
        light = light * (1 + design.uniform(0.02, 0.12) * noise(chance, slope=0)).astype(np.float32)
    return tone, light
