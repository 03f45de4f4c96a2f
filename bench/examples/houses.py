"""Old houses with plaster or timber fronts and tiled roofs, lit from the left, their right sides in shade."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.parts import GLOW, PANE, SHADE, TIMBER, Face, pick, rectangle, tiles, times, vary
from bench.examples.raster import Colour, hex_colour

PLASTER = [
    hex_colour(code)
    for code in ("#f3dfb4", "#e9b978", "#e39a6a", "#f0cfa6", "#d9806a", "#e8d9c4", "#c9b98a", "#dd9f86")
]
ROOF = [hex_colour(code) for code in ("#b5492f", "#a33d2b", "#c25a35", "#8f3a30", "#b8663f", "#7d4038")]
SHUTTER = [hex_colour(code) for code in ("#2f5d50", "#39577d", "#7a2f2a", "#4f6b3a")]
BRICK = hex_colour("#a8573f")


@dataclass(frozen=True)
class House:
    """A house by its left front corner at the ground and its sizes, in units of the picture's height."""

    x: float
    ground: float
    width: float
    wall: float
    roof: float
    depth: float
    floors: int
    gable: bool
    timbered: bool

    @property
    def eaves(self) -> float:
        """The height on the picture where the wall ends."""
        return self.ground - self.wall

    @property
    def columns(self) -> int:
        """Windows side by side on the front."""
        return max(2, round(self.width / 0.027))

    def front(self, u: float, v: float) -> Point:
        """The front wall's face."""
        return self.x + u * self.width, self.ground - v * self.wall

    def side(self, u: float, v: float) -> Point:
        """The right wall's face, which recedes."""
        return (
            self.x + self.width + u * self.depth,
            self.ground - v * self.wall * (1 - 0.05 * u) - 0.06 * u * self.depth,
        )


def row_of_houses(
    rng: np.random.Generator, start: float, end: float, ground: Callable[[float], float], scale: float
) -> list[House]:
    """Houses of random build side by side from `start` to `end`, standing on the line `ground(x)`."""
    houses = []
    x = start
    while x < end:
        width = scale * rng.uniform(0.062, 0.1)
        floors = int(rng.integers(2, 5))
        house = House(
            x=x,
            ground=ground(x + width / 2),
            width=width,
            wall=scale * (0.012 + 0.026 * floors),
            roof=width * rng.uniform(0.6, 0.85),
            depth=scale * rng.uniform(0.03, 0.05),
            floors=floors,
            gable=bool(rng.random() < 0.62),
            timbered=bool(rng.random() < 0.5),
        )
        houses.append(house)
        x += width * rng.uniform(0.98, 1.12) + scale * float(rng.choice([0.0, 0.012, 0.05]))
    return houses


def draw_house(layer: Layer, house: House, rng: np.random.Generator) -> None:
    """A house in colours of its own, with windows, roof and chimney."""
    plaster, roof, shutter = vary(pick(PLASTER, rng), rng, 0.05), vary(pick(ROOF, rng), rng, 0.05), pick(SHUTTER, rng)
    layer.polygon(rectangle(house.side, 0, 0, 1, 1), times(plaster, SHADE))
    layer.polygon(rectangle(house.front, 0, 0, 1, 1), plaster)
    if house.gable:
        _gabled_roof(layer, house, plaster, roof)
        if house.roof > 0.045:
            _window(
                layer,
                lambda u, v: (house.front(u, 0)[0], house.eaves - v * house.roof),
                0.4,
                0.14,
                0.2,
                0.27,
                shutter,
                rng,
            )
    else:
        _long_roof(layer, house, plaster, roof, rng)
    layer.shade(rectangle(house.front, 0, 0.9, 1, 1.02), 0.55)
    if house.timbered:
        _timber(layer, house, rng)

    for floor in range(house.floors):
        low, tall = (floor + 0.26) / house.floors, 0.5 / house.floors
        for column in range(house.columns):
            left, width = (column + 0.3) / house.columns, 0.42 / house.columns
            if floor == 0 and column == house.columns // 2:
                layer.polygon(rectangle(house.front, left, 0, left + width, low + 0.8 * tall), TIMBER)
            else:
                _window(layer, house.front, left, low, width, tall, shutter, rng)
        _window(layer, house.side, 0.34, low, 0.34, tall, None, rng)
    _chimney(layer, house, rng)


def _gabled_roof(layer: Layer, house: House, plaster: Colour, roof: Colour) -> None:
    """The gable faces the viewer; of the roof only the right slope shows, in shade."""
    overhang = 0.06 * house.width
    foot = house.eaves + 1.2 * overhang
    apex = (house.x + house.width / 2, house.eaves - house.roof)
    left, right = (house.x - overhang, foot), (house.x + house.width + overhang, foot)
    layer.polygon([house.front(0, 1), house.front(1, 1), apex], plaster)
    slope = [
        apex,
        (apex[0] + house.depth, apex[1] + 0.04 * house.roof),
        (right[0] + house.depth, right[1] - 0.1 * house.depth),
        right,
    ]
    layer.polygon(slope, times(roof, (0.62, 0.55, 0.6)))
    tiles(layer, slope, times(roof, (0.45, 0.4, 0.46)), rows=max(5, round(house.roof / 0.0065)))
    layer.line([left, apex, right], 0.0042, times(roof, (1.12, 1.08, 1.0)))
    layer.line([(x, y + 0.0035) for x, y in (left, apex, right)], 0.0018, TIMBER)


def _long_roof(layer: Layer, house: House, plaster: Colour, roof: Colour, rng: np.random.Generator) -> None:
    """The ridge runs along the front, with dormers on wide houses."""
    overhang = 0.06 * house.width
    top, foot = house.eaves - 0.7 * house.roof, house.eaves + overhang
    ridge = [(house.x + 0.1 * house.width, top), (house.x + 0.98 * house.width + 0.4 * house.depth, top)]
    slope = [*ridge, (house.x + house.width + overhang, foot), (house.x - overhang, foot)]
    layer.polygon([house.side(0, 1), house.side(1, 1), ridge[1]], times(plaster, SHADE))
    layer.polygon(slope, roof)
    tiles(layer, slope, times(roof, (0.74, 0.7, 0.74)), rows=max(5, round(house.roof / 0.0065)))
    layer.line(ridge, 0.0035, times(roof, (1.2, 1.15, 1.1)))
    if house.width > 0.06:
        for share in (0.28, 0.64):
            _dormer(layer, house, share, plaster, roof, rng)


def _dormer(layer: Layer, house: House, share: float, plaster: Colour, roof: Colour, rng: np.random.Generator) -> None:
    width, tall = 0.16 * house.width, 0.26 * house.roof

    def at(u: float, v: float) -> Point:
        return house.x + share * house.width + u * width, house.eaves - 0.12 * house.roof - v * tall

    layer.polygon([at(1, 0), at(1, 1), at(1.7, 1), at(1.1, 0)], times(roof, SHADE))
    layer.polygon([at(0, 0), at(1, 0), at(1, 1), at(0.5, 1.7), at(0, 1)], plaster)
    layer.polygon(rectangle(at, 0.25, 0.15, 0.75, 0.9), GLOW if rng.random() < 0.25 else PANE)
    layer.line([at(-0.15, 0.9), at(0.5, 1.75), at(1.15, 0.9)], 0.0028, times(roof, (1.15, 1.1, 1.0)))


def _window(
    layer: Layer,
    face: Face,
    left: float,
    low: float,
    width: float,
    tall: float,
    shutter: Colour | None,
    rng: np.random.Generator,
) -> None:
    """A window with a cross bar and a sill, and shutters beside it; one without shutters lies in shade."""
    pane = GLOW if rng.random() < 0.2 else vary(PANE, rng, 0.08)
    frame = (0.97, 0.93, 0.85) if shutter else (0.58, 0.56, 0.51)
    layer.polygon(
        rectangle(face, left - 0.12 * width, low - 0.06 * tall, left + 1.12 * width, low + 1.08 * tall), frame
    )
    layer.polygon(rectangle(face, left, low, left + width, low + tall), pane)
    layer.line([face(left + width / 2, low), face(left + width / 2, low + tall)], 0.0011, frame)
    layer.line([face(left, low + 0.6 * tall), face(left + width, low + 0.6 * tall)], 0.0011, frame)
    sill = low - 0.08 * tall
    layer.line(
        [face(left - 0.2 * width, sill), face(left + 1.2 * width, sill)], 0.0016, times(frame, (0.72, 0.66, 0.66))
    )
    if shutter:
        for wing in (left - 0.5 * width, left + 1.14 * width):
            layer.polygon(rectangle(face, wing, low, wing + 0.36 * width, low + tall), vary(shutter, rng, 0.04))


def _timber(layer: Layer, house: House, rng: np.random.Generator) -> None:
    """Beams along each floor, posts between the windows, braces in the corners, and a frame in the gable."""
    thick, floors, columns = 0.0023, house.floors, house.columns
    for floor in range(1, floors + 1):
        layer.line([house.front(0, floor / floors), house.front(1, floor / floors)], 1.3 * thick, TIMBER)
    for column in range(columns + 1):
        layer.line([house.front(column / columns, 1 / floors), house.front(column / columns, 1)], thick, TIMBER)
    for floor in range(1, floors):
        for foot, head in ((0.96 / columns, 0.0), (1 - 1 / columns, 1 - 0.04 / columns)):
            brace = [house.front(foot, floor / floors), house.front(head, (floor + 1) / floors)]
            layer.line(brace, thick, vary(TIMBER, rng, 0.03))
    if house.gable:
        middle = house.x + house.width / 2
        for level in (0.42, 0.7):
            half, y = house.width / 2 * (1 - level), house.eaves - house.roof * level
            layer.line([(middle - half, y), (middle + half, y)], thick, TIMBER)
        for share in (0.25, 0.75):
            layer.line([house.front(share, 1), (middle, house.eaves - 0.9 * house.roof)], thick, TIMBER)


def _chimney(layer: Layer, house: House, rng: np.random.Generator) -> None:
    width, tall = 0.1 * house.width, 0.3 * house.roof
    left, foot = house.x + house.width * float(rng.uniform(0.55, 0.8)), house.eaves - 0.72 * house.roof

    def at(u: float, v: float) -> Point:
        return left + u * width, foot - v * tall

    layer.polygon(rectangle(at, 0, 0, 0.6, 1), BRICK)
    layer.polygon(rectangle(at, 0.6, 0, 1.3, 1), times(BRICK, SHADE))
    layer.line([at(-0.2, 1), at(1.5, 1)], 0.003, hex_colour("#d9b79a"))
