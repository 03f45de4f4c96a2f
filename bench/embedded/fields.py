"""Families of procedural textures that are computed position by position: noise, cells, waves, weaves, fractals.

A family takes two random streams: `design` decides what kind of texture it is (the same for all pictures of a
structure), `chance` where things lie in this picture. It gives two (SIZE, SIZE) fields: the place on the palette, 0…1,
and the light, about 1.
"""

import numpy as np

from bench.embedded.canvas import (
    SIZE,
    Pair,
    blurred,
    flow,
    grid,
    lit,
    noise,
    sampled,
    squashed,
    step,
    unit,
    unlit,
    warped,
)

Design = np.random.Generator


def clouds(design: Design, chance: Design) -> Pair:
    """Power-law noise, plain, ridged or billowing, stretched."""
    slope = design.uniform(0.5, 2.2)
    field = noise(chance, slope=slope, angle=design.uniform(0, np.pi), stretch=design.uniform(1, 8))
    form = design.integers(3)
    if form:
        field = (2 * np.abs(field) - 1.4).astype(np.float32) * np.float32(1 if form == 1 else -1)
    return unlit(squashed(field * np.float32(design.uniform(0.6, 1.6))))


def contours(design: Design, chance: Design) -> Pair:
    """Noise cut into flat levels, or into lines along its levels."""
    field = squashed(noise(chance, slope=design.uniform(1.4, 2.6), stretch=design.uniform(1, 3)))
    levels = int(design.integers(2, 9))
    part = field * levels
    if design.random() < 0.5:
        return unlit((np.clip(np.floor(part), 0, levels - 1) / max(levels - 1, 1)).astype(np.float32))
    width = design.uniform(0.15, 0.5)
    line = step(np.abs(part - np.round(part)).astype(np.float32), width / 2, 0.15)
    return unlit((line * (0.4 + 0.6 * field)).astype(np.float32))


def spots(design: Design, chance: Design) -> Pair:
    """Spots, mazes and stripes: noise of one size, thresholded, as reaction and diffusion make them."""
    stretch = design.choice([1.0, 1.0, 3.0, 8.0])
    scale = design.uniform(5, 28)
    field = noise(chance, slope=0, angle=design.uniform(0, np.pi), stretch=stretch, scale=scale)
    tone = step(field, design.uniform(-0.9, 0.9), design.uniform(0.1, 1.5))
    if design.random() < 0.4:
        tone = tone * np.float32(0.75) + np.float32(0.25) * squashed(noise(chance, slope=1.5))
    return unlit(tone)


def cells(design: Design, chance: Design) -> Pair:
    """Voronoi cells: flat, leaded, cracked, or pebbles in the light."""
    spacing = design.uniform(8, 40)
    across = max(3, round(SIZE / spacing))
    irregular = design.uniform(0.2, 1)
    stretch = np.float32(design.choice([1.0, 1.0, 2.2]))
    taxicab = design.random() < 0.2
    offset = chance.uniform(-0.5, 0.5, (across, across, 2)).astype(np.float32) * np.float32(irregular)
    value = chance.random((across, across)).astype(np.float32)
    y, x = grid()
    cell = SIZE / across
    row, column = np.floor(y / cell).astype(np.int32), np.floor(x / cell).astype(np.int32)
    nearest = np.full_like(y, np.inf)
    second = np.full_like(y, np.inf)
    tone = np.zeros_like(y)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = (row + dy) % across, (column + dx) % across
            away_y = np.abs(y - (row + dy + 0.5 + offset[r, c, 0]) * cell)
            away_x = np.abs(x - (column + dx + 0.5 + offset[r, c, 1]) * cell) * stretch
            distance = away_y + away_x if taxicab else np.hypot(away_y, away_x)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            tone = np.where(closer, value[r, c], tone)
            nearest = np.where(closer, distance, nearest)
    edge = (second - nearest).astype(np.float32)
    form = design.integers(5)
    width = design.uniform(1.5, 0.2 * cell + 2)
    lead = step(edge, width, 1.5)
    if form == 0:
        return unlit(tone)
    if form == 1:
        return unlit((0.15 + 0.85 * tone) * lead)
    if form == 2:
        return unlit(unit(nearest.astype(np.float32)))
    if form == 3:
        return unlit((1 - 0.85 * (1 - lead) - 0.15 * tone).astype(np.float32))
    height = np.sqrt(np.maximum(edge, 0)) * np.float32(2)
    return tone, lit(height.astype(np.float32), design.uniform(0, 2 * np.pi), 0.5)


def waves(design: Design, chance: Design) -> Pair:
    """One to three gratings of smooth, square, saw-tooth or narrow waves, added, warped."""
    y, x = grid()
    total = np.zeros_like(y)
    count = int(design.choice([1, 1, 2, 2, 3]))
    for _ in range(count):
        angle, period = design.uniform(0, np.pi), design.uniform(4, 36)
        phase = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + chance.uniform(0, 2 * np.pi)
        wave = np.sin(phase)
        form = design.integers(4)
        if form == 1:
            wave = np.tanh(4 * wave)
        elif form == 2:
            wave = 2 * (phase / (2 * np.pi) % 1) - 1
        elif form == 3:
            wave = 2 * np.abs(wave) ** 6 - 1
        total += wave
    field = (total / count).astype(np.float32)
    if design.random() < 0.6:
        field = warped(field, chance, design.uniform(2, 16))
    return unlit(np.clip(0.5 + 0.5 * field, 0, 1).astype(np.float32))


def rings(design: Design, chance: Design) -> Pair:
    """Rings, spirals and stars about a few centres."""
    y, x = grid()
    period, arms = design.uniform(5, 30), int(design.integers(0, 7))
    count = int(design.integers(1, 7))
    sharp, sway = design.uniform(0.8, 4), design.uniform(0, 6)
    nearest = np.full_like(y, np.inf)
    turn = np.zeros_like(y)
    for _ in range(count):
        cy, cx = chance.uniform(0, SIZE, 2)
        distance = np.hypot(y - cy, x - cx)
        closer = distance < nearest
        turn = np.where(closer, np.arctan2(y - cy, x - cx), turn)
        nearest = np.where(closer, distance, nearest)
    wave = np.sin(2 * np.pi * nearest / period + arms * turn + chance.uniform(0, 6))
    field = np.tanh(sharp * wave).astype(np.float32)
    return unlit((0.5 + 0.5 * warped(field, chance, sway)).astype(np.float32))


def streaks(design: Design, chance: Design) -> Pair:
    """Noise smeared along a flow (Cabral and Leedom 1993): combed paint, fur, running water, wood."""
    angle = flow(chance, vortices=int(design.integers(0, 5)), swing=design.uniform(0.1, 1.2))
    grain = noise(chance, slope=design.uniform(-0.2, 0.6), scale=design.choice([0.0, 6.0, 10.0]))
    u, v = np.cos(angle), np.sin(angle)
    length = int(design.integers(5, 14))
    total = grain.copy()
    for sign in (-1.5, 1.5):
        y, x = grid()
        for _ in range(length):
            dy, dx = sampled(v, y, x), sampled(u, y, x)
            y, x = y + np.float32(sign) * dy, x + np.float32(sign) * dx
            total += sampled(grain, y, x)
    field = (total - total.mean()) / total.std()
    tone = squashed(field * np.float32(design.uniform(0.5, 1.6)))
    ground = squashed(noise(chance, slope=2))
    mixed = (0.65 * tone + 0.35 * ground).astype(np.float32)
    if design.random() < 0.5:
        return mixed, lit(field, design.uniform(0, 2 * np.pi), design.uniform(0.2, 0.8))
    return unlit(mixed)


def relief(design: Design, chance: Design) -> Pair:
    """A rough surface in slanting light: stone, plaster, ripples, crumpled paper."""
    slope = design.uniform(1, 2.2)
    angle, stretch = design.uniform(0, np.pi), design.uniform(1, 6)
    height = noise(chance, slope=slope, angle=angle, stretch=stretch)
    if design.random() < 0.5:
        height = -np.abs(height)
    tone = squashed(noise(chance, slope=design.uniform(1.2, 2.5)))
    return tone, lit((6 * height).astype(np.float32), design.uniform(0, 2 * np.pi), design.uniform(0.3, 1.2))


def weave(design: Design, chance: Design) -> Pair:
    """Threads over and under each other, each with its own tone, in the light."""
    y, x = grid()
    pitch = design.uniform(6, 26)
    over = int(design.choice([1, 1, 2, 3]))
    shift = int(design.choice([1, 1, 0, 2]))
    if design.random() < 0.5:
        x, y = (x + y) / np.float32(np.sqrt(2)), (x - y) / np.float32(np.sqrt(2))
    sway = design.uniform(0, 0.15) * pitch
    y, x = y + sway * noise(chance, slope=2), x + sway * noise(chance, slope=2)
    row, column = np.floor(y / pitch).astype(np.int32), np.floor(x / pitch).astype(np.int32)
    across, down = y / pitch - row, x / pitch - column
    is_over = ((column + shift * row) // over + (row if shift == 0 else 0)) % 2 == 0
    values = chance.random((2, 97)).astype(np.float32)
    if design.random() < 0.5:
        values = np.stack([np.full(97, 0.2), np.full(97, 0.8)]).astype(np.float32)
    tone = np.where(is_over, values[0, row % 97], values[1, column % 97])
    profile = np.where(is_over, across, down)
    round_ = np.sqrt(np.maximum(1 - (2 * profile - 1) ** 2, 0))
    return tone.astype(np.float32), (0.35 + 0.8 * round_).astype(np.float32)


def bricks(design: Design, chance: Design) -> Pair:
    """Bricks, tiles, planks and checks with joints."""
    y, x = grid()
    height = design.uniform(8, 36)
    width = height * design.choice([1, 1, 2, 3, 6])
    shift = design.choice([0, 0.5, 0.5, 0.33])
    turn = design.choice([0, 0, np.pi / 2, np.pi / 4, design.uniform(0, np.pi)])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = cos * x - sin * y + 500, sin * x + cos * y + 500
    sway = design.uniform(0, 2.5)
    y, x = y + sway * noise(chance, slope=1.8), x + sway * noise(chance, slope=1.8)
    row = np.floor(y / height).astype(np.int32)
    x = x + shift * row * width
    column = np.floor(x / width).astype(np.int32)
    values = chance.random((61, 61)).astype(np.float32)
    if design.random() < 0.3:
        values = (np.indices((61, 61)).sum(0) % 2).astype(np.float32)
        tone = ((row + column) % 2).astype(np.float32)
    else:
        tone = values[row % 61, column % 61]
    joint = np.minimum(
        np.minimum(y - row * height, (row + 1) * height - y), np.minimum(x - column * width, (column + 1) * width - x)
    )
    thickness = design.uniform(0, 2.5)
    inside = step(joint.astype(np.float32), thickness, 1.2) if thickness > 0.6 else np.ones_like(tone)
    ground = np.float32(design.choice([0.0, 1.0]))
    tone = inside * (0.12 + 0.76 * tone) + (1 - inside) * ground
    return tone.astype(np.float32), (1 + design.uniform(0, 0.25) * noise(chance, slope=1)).astype(np.float32)


def engraving(design: Design, chance: Design) -> Pair:
    """A smooth scene in hatched lines whose breadth is its tone; crossed where it is dark."""
    scene = squashed(noise(chance, slope=design.uniform(1.8, 2.6)))
    y, x = grid()
    period = design.uniform(4, 11)
    first = design.uniform(0, np.pi)
    follow = design.uniform(0, 10)
    tone = np.ones_like(scene)
    for index in range(int(design.integers(1, 4))):
        angle = first + index * design.uniform(0.6, 1.6)
        phase = (np.cos(angle) * x + np.sin(angle) * y + follow * scene * 4) / period
        line = np.abs(2 * (phase % 1) - 1)
        tone = np.minimum(tone, step(line.astype(np.float32) + scene * np.float32(1.0) - 0.45 + 0.25 * index, 0.5, 0.3))
    return unlit(tone.astype(np.float32))


def halftone(design: Design, chance: Design) -> Pair:
    """Dots on a turned grid, as large as the scene is dark; or dots scattered at random."""
    scene = squashed(noise(chance, slope=2.2))
    y, x = grid()
    pitch, angle = design.uniform(5, 18), design.uniform(0, np.pi / 2)
    jitter = design.choice([0.0, 0.0, 0.35])
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / pitch, (-np.sin(angle) * x + np.cos(angle) * y) / pitch
    row, column = np.floor(v).astype(np.int32), np.floor(u).astype(np.int32)
    offset = chance.uniform(-1, 1, (2, 67, 67)) * jitter
    away = np.hypot(
        v - row - 0.5 - offset[0, row % 67, column % 67], u - column - 0.5 - offset[1, row % 67, column % 67]
    )
    radius = 0.12 + 0.45 * scene if design.random() < 0.7 else np.full_like(scene, design.uniform(0.2, 0.42))
    dot = 1 - step((away - radius).astype(np.float32), 0, 1.5 / pitch)
    ground = np.float32(design.uniform(0, 0.5)) * squashed(noise(chance, slope=2))
    return unlit((ground + (1 - ground) * dot * np.float32(design.uniform(0.6, 1))).astype(np.float32))


def fractal(design: Design, chance: Design) -> Pair:
    """The attractor of a few affine maps (Barnsley 1988), as log density, laid over the ground several times."""
    count = int(design.integers(2, 6))
    maps = design.uniform(-0.85, 0.85, (count, 2, 2)).astype(np.float32)
    norms = np.linalg.norm(maps, 2, axis=(1, 2), keepdims=True)
    maps *= np.minimum(1, 0.85 / norms)
    shifts = design.uniform(-1, 1, (count, 2)).astype(np.float32)
    points = chance.uniform(-1, 1, (4000, 2)).astype(np.float32)
    history = []
    for index in range(60):
        chosen = chance.integers(count, size=len(points))
        points = np.einsum("pij,pj->pi", maps[chosen], points) + shifts[chosen]
        if index >= 10:
            history.append(points.copy())
    cloud = np.concatenate(history)
    low, high = np.percentile(cloud, [2, 98], axis=0)
    cloud = (cloud - low) / np.maximum(high - low, 1e-3)
    density = np.zeros(SIZE * SIZE, np.float32)
    for _ in range(int(design.integers(1, 5))):
        turn, size = chance.uniform(0, 2 * np.pi), chance.uniform(0.6, 1.2) * SIZE
        turned = (cloud - 0.5) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        place = (turned * size + chance.uniform(0, SIZE, 2)).astype(np.int64) % SIZE
        density += np.bincount(place[:, 0] * SIZE + place[:, 1], minlength=SIZE * SIZE).astype(np.float32)
    field = np.log1p(density.reshape(SIZE, SIZE))
    return unlit(np.clip(field / np.percentile(field, 99.5), 0, 1).astype(np.float32))


def petals(design: Design, chance: Design) -> Pair:
    """Flowers and shells: repeated figures whose edge swings about their centre, in layers."""
    y, x = grid()
    tone = squashed(noise(chance, slope=2)) * np.float32(0.3)
    count, lobes = int(design.integers(12, 60)), int(design.integers(3, 9))
    size, depth = design.uniform(10, 40), design.uniform(0.1, 0.5)
    inner = design.uniform(0.15, 0.5)
    light = np.ones_like(tone)
    for _ in range(count):
        cy, cx = chance.uniform(0, SIZE, 2)
        away_y = (y - cy + SIZE / 2) % SIZE - SIZE / 2
        away_x = (x - cx + SIZE / 2) % SIZE - SIZE / 2
        own = size * chance.uniform(0.5, 1.1)
        distance = np.hypot(away_y, away_x)
        edge = own * (1 - depth + depth * np.cos(lobes * np.arctan2(away_y, away_x) + chance.uniform(0, 6)))
        mask = step((edge - distance).astype(np.float32), 0, 2)
        value = np.where(distance < inner * own, 1.0, 0.35 + 0.5 * chance.random())
        tone = tone * (1 - mask) + mask * value
        light = light * (1 - mask) + mask * (0.7 + 0.5 * distance / own)
    return tone.astype(np.float32), light.astype(np.float32)


def grain(design: Design, chance: Design) -> Pair:
    """Sand, canvas and felt: fine noise over slow tones."""
    fine = noise(chance, slope=design.uniform(-0.3, 0.5), angle=design.uniform(0, np.pi), stretch=design.uniform(1, 5))
    fine = blurred(fine, design.uniform(0.5, 1.4))
    slow = noise(chance, slope=design.uniform(1.5, 2.5))
    share = design.uniform(0.3, 0.9)
    return unlit(squashed((share * fine / fine.std() + (1 - share) * slow).astype(np.float32)))
