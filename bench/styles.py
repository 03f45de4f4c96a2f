"""Draws the styles that the network of the package is trained on, so that they are nobody else's.

python -m bench.styles fastnst/examples          writes style_NAME.jpg of each

All are made of smooth noise, strokes along a field of directions, and cells around random points.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

Array = np.ndarray[Any, Any]
Colours = Sequence[str]


class Sheet:
    """A square sheet of `size` pixels, and what is drawn on it: all lengths are in parts of its side."""

    def __init__(self, size: int, seed: int, paper: str) -> None:
        self.size, self.random = size, np.random.default_rng(seed)
        self.image = Image.new("RGB", (size, size), paper)

    def noise(self, cells: int, octaves: int = 3) -> Array:
        """Smooth noise (size, size) in 0…1, of so many `cells` a side, and finer ones over it."""
        total = np.zeros((self.size, self.size))
        for octave in range(octaves):
            count = cells * 2**octave + 2
            coarse = Image.fromarray(self.random.random((count, count)).astype(np.float32))
            total += np.asarray(coarse.resize((self.size, self.size), Image.Resampling.BICUBIC)) / 2**octave
        low, high = np.quantile(total, (0.01, 0.99))
        result: Array = np.clip((total - low) / (high - low), 0, 1)
        return result

    def wash(self, field: Array, colours: Colours) -> None:
        """Colours the sheet by a field in 0…1, from the first colour to the last."""
        stops = np.array([ImageColor.getrgb(colour) for colour in colours], dtype=float)
        place = field * (len(stops) - 1)
        below = np.minimum(place.astype(int), len(stops) - 2)
        part = (place - below)[..., None]
        self.image = Image.fromarray((stops[below] * (1 - part) + stops[below + 1] * part).astype(np.uint8))

    def strokes(
        self,
        angles: Array,
        tones: Array,
        colours: Colours,
        *,
        count: int,
        length: float,
        width: float,
        opacity: float = 1.0,
        shaded: bool = False,
    ) -> None:
        """Strokes that follow `angles` (size, size) in radians, each coloured by `tones` in 0…1 where it begins."""
        steps = max(2, round(length * 40))
        for _ in range(count):
            place = self.random.random(2) * self.size
            row, column = place.astype(int)
            tone = np.clip(tones[row, column] + 0.08 * self.random.standard_normal(), 0, 0.999)
            points = []
            for _ in range(steps):
                points.append((place[1], place[0]))
                row, column = np.clip(place, 0, self.size - 1).astype(int)
                angle = angles[row, column]
                place = place + self.size * length / steps * np.array([np.sin(angle), np.cos(angle)])
            thickness = max(1, round(width * self.size * self.random.uniform(0.6, 1.3)))
            colour = colours[int(tone * len(colours))]
            layer = ImageDraw.Draw(self.image, "RGBA")
            if shaded:
                shift = max(1, thickness // 3)
                layer.line([(x + shift, y + shift) for x, y in points], fill=(0, 0, 0, 90), width=thickness)
            rgb = ImageColor.getrgb(colour)
            layer.line(points, fill=(*rgb, round(255 * opacity)), width=thickness, joint="curve")
            if shaded:
                light = tuple(min(255, value + 50) for value in rgb)
                layer.line(points, fill=(*light, 110), width=max(1, thickness // 4))

    def cells(self, count: int, tones: Array, colours: Colours, *, seam: float, line: str) -> None:
        """Cells around random points, each of one colour by `tones`, with seams between them."""
        points = self.random.random((count, 2)) * self.size
        rows, columns = np.mgrid[: self.size, : self.size]
        nearest = np.full((self.size, self.size), np.inf)
        second, owner = nearest.copy(), np.zeros((self.size, self.size), dtype=int)
        for index, (y, x) in enumerate(points):
            distance = np.hypot(rows - y, columns - x)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            owner, nearest = np.where(closer, index, owner), np.where(closer, distance, nearest)
        chosen = np.clip(tones[points[:, 0].astype(int), points[:, 1].astype(int)] * len(colours), 0, len(colours) - 1)
        palette = np.array([ImageColor.getrgb(colour) for colour in colours])
        picture = palette[chosen.astype(int)][owner] * (0.8 + 0.4 * self.random.random(count))[owner][..., None]
        seams = (second - nearest < seam * self.size)[..., None]
        picture = np.where(seams, ImageColor.getrgb(line), np.clip(picture, 0, 255))
        self.image = Image.fromarray(picture.astype(np.uint8))

    def grain(self, strength: float) -> None:
        pixels = (
            np.asarray(self.image, dtype=float)
            + 255 * strength * self.random.standard_normal((self.size,) * 2)[..., None]
        )
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def curls(sheet: Sheet, cells: int) -> Array:
    """Angles along the level lines of noise."""
    rows, columns = np.gradient(sheet.noise(cells, 2))
    angles: Array = np.arctan2(columns, -rows)
    return angles


def impasto(sheet: Sheet) -> None:
    tones = sheet.noise(3)
    sheet.wash(tones, ("#14213d", "#1d4e89", "#f6c85f"))
    blues = ("#0b1d3a", "#153e75", "#1f6fb2", "#58a4d8", "#a8d5e2", "#f9e79f", "#f4b942", "#e07a1f")
    sheet.strokes(curls(sheet, 3), tones, blues, count=6000, length=0.07, width=0.012, shaded=True)


def fauve(sheet: Sheet) -> None:
    tones = sheet.noise(4)
    reds = ("#5a0f2e", "#c1121f", "#f25c05", "#f7b32b", "#2a9d8f", "#1d3557", "#e9c46a")
    sheet.strokes(curls(sheet, 2), tones, reds, count=3500, length=0.09, width=0.03, opacity=0.9, shaded=True)


def dots(sheet: Sheet) -> None:
    sheet.wash(sheet.noise(3), ("#f3e9d2", "#d9e4dd"))
    tones = sheet.noise(4)
    colours = ("#22577a", "#38a3a5", "#57cc99", "#ffd166", "#ef476f", "#7b2cbf", "#f78c6b")
    sheet.strokes(curls(sheet, 3), tones, colours, count=16000, length=0.006, width=0.011)


def hatching(sheet: Sheet) -> None:
    tones, ink = sheet.noise(4), ("#1b1b1e", "#2c2c34", "#3d3a4b")
    for angle, limit in ((0.8, 1.0), (-0.7, 0.6), (0.1, 0.35)):
        field = np.full_like(tones, angle) + 0.25 * sheet.noise(2)
        dark = np.where(tones < limit, tones, 1.0)
        rows = sheet.random.permutation(np.argwhere(dark < 1.0))[: round(9000 * limit)]
        brush = ImageDraw.Draw(sheet.image)
        for row, column in rows:
            a, reach = field[row, column], 0.02 * sheet.size * sheet.random.uniform(0.5, 1.5)
            ends = [
                (column - reach * np.cos(a), row - reach * np.sin(a)),
                (column + reach * np.cos(a), row + reach * np.sin(a)),
            ]
            brush.line(ends, fill=ink[sheet.random.integers(3)], width=1)
    sheet.grain(0.02)


def watercolour(sheet: Sheet) -> None:
    tones = sheet.noise(3)
    sheet.wash(tones, ("#5fa8d3", "#cae9ff", "#fefae0", "#f7cad0", "#9b5de5"))
    for cells in (3, 5, 8):
        edge = np.abs(sheet.noise(cells) - 0.5) < 0.03
        shade = Image.fromarray((255 * edge).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sheet.size / 300))
        wet = Image.new("RGB", sheet.image.size, ("#2b6f9e", "#b5517a", "#4a7c59")[cells % 3])
        sheet.image.paste(wet, mask=shade.point(lambda value: value // 2))
    sheet.grain(0.025)


def glass(sheet: Sheet) -> None:
    colours = ("#0d3b66", "#1a759f", "#34a0a4", "#d9ed92", "#f4d35e", "#ee964b", "#c1121f", "#6a040f", "#5e2b97")
    sheet.cells(220, sheet.noise(4), colours, seam=0.012, line="#101010")
    sheet.grain(0.03)


def waves(sheet: Sheet) -> None:
    height = sheet.noise(3, 2) * 9
    lines = np.abs((height % 1) - 0.5) * 2
    sheet.wash(
        np.clip(lines * 1.2, 0, 1) * 0.7 + 0.3 * sheet.noise(6), ("#0b2545", "#13315c", "#3e7cb1", "#a9cbe0", "#f5f0e1")
    )
    foam = ("#f5f0e1", "#e3d5b8")
    sheet.strokes(curls(sheet, 3), sheet.noise(2), foam, count=700, length=0.05, width=0.004)


def facets(sheet: Sheet) -> None:
    sheet.wash(sheet.noise(2), ("#6b4f3a", "#b08968", "#a3b18a", "#4a5759"))
    browns = ("#3a2e27", "#6b4f3a", "#9c7a5b", "#c9ada7", "#8a9a8b", "#4f6d7a", "#e0c9a6", "#22333b")
    for _ in range(420):
        centre, reach = sheet.random.random(2) * sheet.size, sheet.random.uniform(0.04, 0.16) * sheet.size
        turns = np.sort(sheet.random.random(sheet.random.integers(3, 5)) * 2 * np.pi)
        corners = [(centre[0] + reach * np.cos(turn), centre[1] + reach * np.sin(turn)) for turn in turns]
        rgb = ImageColor.getrgb(browns[sheet.random.integers(len(browns))])
        brush = ImageDraw.Draw(sheet.image, "RGBA")
        brush.polygon(corners, fill=(*rgb, 150))
        brush.line([*corners[:2]], fill=(20, 15, 12, 200), width=max(1, sheet.size // 200))


def charcoal(sheet: Sheet) -> None:
    tones = sheet.noise(3)
    greys = ("#111111", "#2a2a2a", "#4d4d4d", "#7a7a7a", "#b8b4ac", "#e5e1d8")
    sheet.strokes(curls(sheet, 2), tones, greys, count=4500, length=0.06, width=0.008, opacity=0.35)
    sheet.grain(0.07)


STYLES: dict[str, tuple[str, Callable[[Sheet], None]]] = {
    "impasto": ("#14213d", impasto),
    "fauve": ("#5a0f2e", fauve),
    "dots": ("#f3e9d2", dots),
    "hatching": ("#f1ead8", hatching),
    "watercolour": ("#ffffff", watercolour),
    "glass": ("#101010", glass),
    "waves": ("#0b2545", waves),
    "facets": ("#6b4f3a", facets),
    "charcoal": ("#e9e4d8", charcoal),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (paper, draw)) in enumerate(STYLES.items()):
        sheet = Sheet(given.size, seed, paper)
        draw(sheet)
        sheet.image.save(given.folder / f"style_{name}.jpg", quality=82, optimize=True, progressive=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
