"""Families of procedural pictures that are drawn mark by mark: strokes, leaves, letters, branches, houses, balls.

As in fields.py: `design` decides the kind, `chance` this picture; the result is the place on the palette, 0…1, and the
light, about 1, two (SIZE, SIZE) fields.
"""

import numpy as np
from numpy.typing import NDArray

from bench.embedded.canvas import SIZE, Draw, Pair, blurred, drawn, flow, grid, lit, noise, squashed, unlit

Design = np.random.Generator


def _ink(value: float) -> int:
    return int(np.clip(round(255 * value), 0, 255))


def strokes(design: Design, chance: Design) -> Pair:
    """Brush strokes of several bristles along a flow, thick paint catching the light."""
    angle = flow(chance, vortices=int(design.integers(0, 6)), swing=design.uniform(0.05, 1.0))
    scene = squashed(noise(chance, slope=design.uniform(1.6, 2.4)))
    length, width = design.uniform(10, 60), design.uniform(3, 14)
    bristles = max(1, int(width / design.uniform(1.5, 4)))
    wild, streak = design.uniform(0.05, 0.35), design.uniform(0.02, 0.2)
    count = int(min(2.5 * SIZE * SIZE / (length * width), 2600))
    y0, x0 = chance.uniform(-10, SIZE + 10, (2, count))
    jitter = design.uniform(0, 0.4)

    def draw(canvas: Draw, factor: float) -> None:
        for y, x in zip(y0, x0, strict=True):
            value = scene[int(y) % SIZE, int(x) % SIZE] + chance.normal() * wild
            turn = chance.normal() * jitter
            path = []
            steps = max(2, int(length / 6))
            for _ in range(steps):
                path.append((x, y))
                direction = angle[int(y) % SIZE, int(x) % SIZE] + turn
                x, y = x + length / steps * np.cos(direction), y + length / steps * np.sin(direction)
            direction = float(direction)
            normal = (-np.sin(direction), np.cos(direction))
            for bristle in range(bristles):
                aside = width * ((bristle + 0.5) / bristles - 0.5)
                moved = [((px + aside * normal[0]) * factor, (py + aside * normal[1]) * factor) for px, py in path]
                ink = _ink(value + chance.normal() * streak)
                canvas.line(moved, fill=ink, width=max(1, round(1.25 * width / bristles * factor)), joint="curve")

    tone = drawn(0.5, draw)
    if design.random() < 0.6:
        return tone, lit(blurred(tone, 0.6) * 12, design.uniform(0, 2 * np.pi), design.uniform(0.1, 0.5))
    return unlit(tone)


def dabs(design: Design, chance: Design) -> Pair:
    """Separate dabs and points over a ground, as the pointillists set them."""
    angle = flow(chance, vortices=int(design.integers(0, 4)), swing=design.uniform(0, 1.0))
    scene = squashed(noise(chance, slope=2))
    size, ratio = design.uniform(2, 10), design.uniform(1, 4)
    wild = design.uniform(0.05, 0.4)
    count = int(min(1.4 * SIZE * SIZE / (size * size * ratio), 5000))

    def draw(canvas: Draw, factor: float) -> None:
        for y, x in chance.uniform(-5, SIZE + 5, (count, 2)):
            direction = angle[int(y) % SIZE, int(x) % SIZE]
            dx, dy = 0.5 * size * ratio * np.cos(direction), 0.5 * size * ratio * np.sin(direction)
            ink = _ink(scene[int(y) % SIZE, int(x) % SIZE] + chance.normal() * wild)
            if ratio < 1.4:
                half = size / 2
                box = [(x - half) * factor, (y - half) * factor, (x + half) * factor, (y + half) * factor]
                canvas.ellipse(box, fill=ink)
            else:
                line = [((x - dx) * factor, (y - dy) * factor), ((x + dx) * factor, (y + dy) * factor)]
                canvas.line(line, fill=ink, width=max(1, round(size * factor)))

    return unlit(drawn(float(design.random()), draw))


def leaves(design: Design, chance: Design) -> Pair:
    """Dead leaves (Matheron 1968; Lee, Mumford, Huang 2001): shapes of all sizes covering each other."""
    form = int(design.integers(6))
    smallest, largest = design.uniform(3, 10), design.uniform(18, 70)
    power = design.uniform(1.5, 3)
    outlined, shaded = design.random() < 0.35, design.random() < 0.4
    vein = design.random() < 0.5
    ratio = design.uniform(0.3, 1)
    levels = int(design.integers(2, 12))

    def draw(canvas: Draw, factor: float) -> None:
        for _ in range(900):
            uniform = chance.random()
            radius = (smallest ** (1 - power) * (1 - uniform) + largest ** (1 - power) * uniform) ** (1 / (1 - power))
            y, x = chance.uniform(-10, SIZE + 10, 2)
            turn = chance.uniform(0, 2 * np.pi)
            value = float(chance.integers(levels)) / max(levels - 1, 1)
            layers = [(1.0, value)]
            if shaded:
                layers = [(1.0, 0.75 * value), (0.75, 0.9 * value), (0.45, value + 0.05)]
            for share, tone in layers:
                outline = _outline(form, radius * share, ratio, turn, chance if share == 1 else None)
                points = [((x + px) * factor, (y + py) * factor) for px, py in outline]
                canvas.polygon(points, fill=_ink(tone), outline=0 if outlined and share == 1 else None, width=2)
            if vein and form == 4 and radius > 6:
                ends = [
                    ((x + s * radius * np.cos(turn)) * factor, (y + s * radius * np.sin(turn)) * factor)
                    for s in (-1, 1)
                ]
                canvas.line(ends, fill=_ink(value - 0.25), width=2)

    return unlit(drawn(0.5, draw))


def _outline(form: int, radius: float, ratio: float, turn: float, chance: Design | None) -> NDArray[np.float64]:
    """A figure about the origin, (points, 2): disc, box, triangle, many corners, leaf, blob."""
    corners = (18, 4, 3, 6, 16, 14)[form]
    t = 2 * np.pi * np.arange(corners) / corners
    r = np.full(corners, radius)
    if form == 1:
        t = t + np.pi / 4
    if form == 3 and chance is not None:
        r = radius * chance.uniform(0.5, 1.2, corners)
    if form == 5:
        r = radius * (1 + 0.3 * np.sin(3 * t + radius))
    x, y = r * np.cos(t), r * np.sin(t) * (ratio if form != 4 else 0.5 * np.abs(np.sin(t)) ** 0.5)
    return np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], axis=1)


def letters(design: Design, chance: Design) -> Pair:
    """Lines of marks like writing: each a few strokes and arcs from a small alphabet."""
    height = design.uniform(8, 28)
    slant, gap = design.uniform(-0.4, 0.4), design.uniform(0.7, 1.4)
    pen = design.uniform(0.07, 0.22) * height
    alphabet = [
        [(design.integers(3), design.random((3, 2))) for _ in range(int(design.integers(2, 4)))] for _ in range(14)
    ]
    paper = float(design.choice([0.05, 0.95], 2)[0])
    ink = _ink(1 - paper)

    def draw(canvas: Draw, factor: float) -> None:
        y = -chance.uniform(0, height)
        while y < SIZE:
            x = -chance.uniform(0, height)
            while x < SIZE:
                if chance.random() > 0.14:
                    for kind, points in alphabet[int(chance.integers(len(alphabet)))]:
                        at = [
                            ((x + (px * 0.6 + slant * (1 - py)) * height) * factor, (y + py * height) * factor)
                            for px, py in points
                        ]
                        if kind == 0:
                            (ax, ay), (bx, by) = at[0], at[1]
                            box = [min(ax, bx), min(ay, by), max(ax, bx) + 4, max(ay, by) + 4]
                            canvas.arc(box, 360 * points[2][0], 360 * points[2][0] + 230, ink, round(pen * factor))
                        else:
                            canvas.line(at[: kind + 1], fill=ink, width=max(1, round(pen * factor)))
                x += 0.75 * height * gap
            y += 1.4 * height * gap

    tone = drawn(paper, draw)
    stain = 0.12 * noise(chance, slope=1.8)
    return unlit(np.clip(tone + stain, 0, 1).astype(np.float32))


def branches(design: Design, chance: Design) -> Pair:
    """Trees: branching strokes, bare or in leaf, against a sky."""
    spread, shrink = design.uniform(0.25, 0.8), design.uniform(0.62, 0.82)
    leaf, leaf_count = design.uniform(1.5, 6), int(design.choice([0, 2, 5]))
    trees, wood, green = int(design.integers(2, 7)), design.uniform(0, 0.3), design.uniform(0.35, 0.7)
    start = design.uniform(22, 50)

    def grow(canvas: Draw, factor: float, x: float, y: float, direction: float, length: float, depth: int) -> None:
        end_x, end_y = x + length * np.cos(direction), y + length * np.sin(direction)
        width = max(1, round(0.13 * length * factor))
        canvas.line([(x * factor, y * factor), (end_x * factor, end_y * factor)], fill=_ink(wood), width=width)
        if length < 5 or depth > 7:
            for _ in range(leaf_count):
                lx, ly = end_x + chance.normal() * 5, end_y + chance.normal() * 5
                box = [(lx - leaf) * factor, (ly - leaf) * factor, (lx + leaf) * factor, (ly + leaf) * factor]
                canvas.ellipse(box, fill=_ink(green + 0.15 * chance.normal()))
            return
        for turn in (-spread, spread):
            bent = direction + turn * chance.uniform(0.5, 1.4)
            grow(canvas, factor, end_x, end_y, bent, length * shrink * chance.uniform(0.85, 1.1), depth + 1)

    def draw(canvas: Draw, factor: float) -> None:
        for row in range(SIZE):
            canvas.rectangle([0, row * factor, SIZE * factor, (row + 1) * factor], fill=_ink(0.95 - 0.25 * row / SIZE))
        for _ in range(trees):
            x, y = chance.uniform(0, SIZE), chance.uniform(0.5, 1.05) * SIZE
            grow(canvas, factor, x, y, -np.pi / 2 + 0.2 * chance.normal(), start * chance.uniform(0.7, 1.2), 0)

    return unlit(drawn(0.9, draw))


def houses(design: Design, chance: Design) -> Pair:
    """Rows of houses: walls, gables, windows, one before the other, under a sky over a ground."""
    width, tall = design.uniform(18, 60), design.uniform(0.6, 2.2)
    gable, pane = design.random() < 0.7, design.uniform(4, 9)
    sky, wall_low, wall_high = design.uniform(0.75, 1), *np.sort(design.uniform(0.1, 0.9, 2))

    def draw(canvas: Draw, factor: float) -> None:
        for row in range(SIZE):
            canvas.rectangle([0, row * factor, SIZE * factor, (row + 1) * factor], fill=_ink(sky - 0.3 * row / SIZE))
        for base in np.linspace(0.35, 1.15, 5) * SIZE:
            x = -chance.uniform(0, width)
            while x < SIZE:
                w, h = width * chance.uniform(0.6, 1.3), width * tall * chance.uniform(0.5, 1.2)
                wall = chance.uniform(wall_low, wall_high)
                canvas.rectangle(
                    [x * factor, (base - h) * factor, (x + w) * factor, (base + 40) * factor], fill=_ink(wall)
                )
                side = [(x + 0.7 * w) * factor, (base - h) * factor, (x + w) * factor, (base + 40) * factor]
                canvas.rectangle(side, fill=_ink(0.75 * wall))
                if gable:
                    roof = [(x - 2, base - h), (x + w / 2, base - h - 0.5 * w), (x + w + 2, base - h)]
                    canvas.polygon([(px * factor, py * factor) for px, py in roof], fill=_ink(0.55 * wall))
                for wy in np.arange(base - h + pane, base - pane, 2 * pane):
                    for wx in np.arange(x + pane * 0.6, x + w - pane, 1.8 * pane):
                        light = 0.98 if chance.random() < 0.2 else 0.05
                        canvas.rectangle(
                            [wx * factor, wy * factor, (wx + 0.8 * pane) * factor, (wy + 1.2 * pane) * factor],
                            fill=_ink(light),
                        )
                x += w * chance.uniform(0.9, 1.2)

    return unlit(drawn(0.9, draw))


def balls(design: Design, chance: Design) -> Pair:
    """Round things in the light on a ground, with their shadows."""
    y, x = grid()
    ground = 0.3 * squashed(noise(chance, slope=design.uniform(0.8, 2.2)))
    tone = (ground + 0.2 * y / SIZE).astype(np.float32)
    light = np.ones_like(tone)
    angle, size, gloss = design.uniform(0, 2 * np.pi), design.uniform(8, 34), design.uniform(4, 40)
    squeeze = design.uniform(0.6, 1.6)
    towards = np.array([np.cos(angle), np.sin(angle), 1.0]) / np.sqrt(2)
    for _ in range(int(min(1.1 * SIZE * SIZE / (4 * size * size), 70))):
        cy, cx = chance.uniform(0, SIZE, 2)
        radius = size * chance.uniform(0.5, 1.2)
        shadow = np.hypot(y - cy + 0.5 * radius * towards[1], (x - cx + 0.5 * radius * towards[0]) * squeeze) / radius
        light = light * (1 - 0.5 * np.clip(1.25 - shadow, 0, 1))
        dy, dx = (y - cy) / radius, (x - cx) * squeeze / radius
        inside = dy * dy + dx * dx
        mask = np.clip((1 - inside) * radius / 3, 0, 1)
        lambert = np.maximum(dx * towards[0] + dy * towards[1] + np.sqrt(np.maximum(1 - inside, 0)) * towards[2], 0)
        tone = tone * (1 - mask) + mask * chance.uniform(0.35, 1)
        light = light * (1 - mask) + mask * (0.25 + 0.8 * lambert + 0.7 * lambert**gloss)
    return tone.astype(np.float32), light.astype(np.float32)


def drips(design: Design, chance: Design) -> Pair:
    """Thrown paint: long loops of changing breadth and drops."""
    breadth, bend = design.uniform(1, 5), design.uniform(0.05, 0.35)
    levels, drops = int(design.integers(2, 6)), int(design.integers(0, 300))
    count = int(design.integers(15, 70))

    def draw(canvas: Draw, factor: float) -> None:
        for _ in range(count):
            y, x = chance.uniform(0, SIZE, 2)
            direction, turn = chance.uniform(0, 2 * np.pi), 0.0
            ink = _ink(float(chance.integers(levels)) / (levels - 1))
            for _ in range(60):
                turn = 0.9 * turn + bend * chance.normal()
                direction += turn
                nx, ny = x + 4 * np.cos(direction), y + 4 * np.sin(direction)
                width = max(1, round(breadth * factor * (0.7 + 0.6 * abs(np.sin(0.3 * x)))))
                canvas.line([(x * factor, y * factor), (nx * factor, ny * factor)], fill=ink, width=width)
                x, y = nx, ny
        for _ in range(drops):
            y, x = chance.uniform(0, SIZE, 2)
            r = breadth * chance.uniform(0.3, 1.5)
            box = [(x - r) * factor, (y - r) * factor, (x + r) * factor, (y + r) * factor]
            canvas.ellipse(box, fill=_ink(float(chance.integers(levels)) / (levels - 1)))

    return unlit(drawn(float(design.choice([0.1, 0.9, 0.5])), draw))


def pencil(design: Design, chance: Design) -> Pair:
    """Thin lines in bundles: straw, hair, scribbles, hatching by hand."""
    length, spread = design.uniform(12, 70), design.uniform(0.02, 0.6)
    bundles, per_bundle = int(design.integers(30, 160)), int(design.integers(6, 24))
    curve, thick = design.uniform(0, 0.4), int(design.integers(1, 4))
    main = design.uniform(0, np.pi)
    aligned = design.random() < 0.5
    dark = design.random() < 0.6

    def draw(canvas: Draw, factor: float) -> None:
        for _ in range(bundles):
            cy, cx = chance.uniform(0, SIZE, 2)
            direction = main + 0.2 * chance.normal() if aligned else chance.uniform(0, np.pi)
            tone = chance.uniform(0, 0.5) if dark else chance.uniform(0.3, 1)
            for _ in range(per_bundle):
                y, x = cy + chance.normal() * length / 4, cx + chance.normal() * length / 4
                angle = direction + spread * chance.normal()
                points = []
                for _ in range(5):
                    points.append((x * factor, y * factor))
                    angle += curve * 0.5
                    x, y = x + length / 4 * np.cos(angle), y + length / 4 * np.sin(angle)
                canvas.line(points, fill=_ink(tone), width=thick)

    return unlit(drawn(0.95 if dark else 0.1, draw))
