"""Flat shapes with light and soft shadow: what is drawn with polygons before it becomes part of a painted scene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from bench.examples.raster import Array, Colour, blur, mix, to_array

Point = tuple[float, float]


@dataclass(frozen=True)
class Layer:
    """Pens for colour, coverage and shadow on one canvas; points are in units of the canvas height, y downwards."""

    unit: float
    colour: Image.Image
    cover: Image.Image
    shadow: Image.Image

    @classmethod
    def blank(cls, width: int, height: int) -> "Layer":
        """An empty canvas of `width`×`height` pixels."""
        size = (width, height)
        return cls(float(height), Image.new("RGB", size), Image.new("L", size), Image.new("L", size))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon and lifts the shadows that lay there."""
        path = [(x * self.unit, y * self.unit) for x, y in points]
        ImageDraw.Draw(self.colour).polygon(path, fill=_bytes(colour))
        ImageDraw.Draw(self.cover).polygon(path, fill=255)
        ImageDraw.Draw(self.shadow).polygon(path, fill=0)

    def cut(self, points: Sequence[Point]) -> None:
        """Opens a polygon, so that what lies behind the layer shows."""
        path = [(x * self.unit, y * self.unit) for x, y in points]
        ImageDraw.Draw(self.cover).polygon(path, fill=0)

    def dabs(self, outlines: Array, colours: Array) -> None:
        """Fills polygons `(dabs, corners, 2)` in their colours `(dabs, 3)`, in order; the shadows stay as they are."""
        paths = (outlines * self.unit).reshape(len(outlines), -1).tolist()
        fills = np.clip(colours * 255 + 0.5, 0, 255).astype(int).tolist()
        pen, mask = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.cover)
        for path, fill in zip(paths, fills, strict=True):
            pen.polygon(path, fill=tuple(fill))
            mask.polygon(path, fill=255)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line of the given width in units of the height, at least one pixel."""
        path = [(x * self.unit, y * self.unit) for x, y in points]
        pixels = max(1, round(width * self.unit))
        ImageDraw.Draw(self.colour).line(path, fill=_bytes(colour), width=pixels, joint="curve")
        ImageDraw.Draw(self.cover).line(path, fill=255, width=pixels, joint="curve")

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Fills an axis-aligned ellipse."""
        box = [(centre[0] - radii[0]) * self.unit, (centre[1] - radii[1]) * self.unit]
        box += [(centre[0] + radii[0]) * self.unit, (centre[1] + radii[1]) * self.unit]
        ImageDraw.Draw(self.colour).ellipse(box, fill=_bytes(colour))
        ImageDraw.Draw(self.cover).ellipse(box, fill=255)

    def shade(self, points: Sequence[Point], depth: float) -> None:
        """Shadow of `depth` 0…1 over a polygon; its edge turns soft when the layer is put on the scene."""
        path = [(x * self.unit, y * self.unit) for x, y in points]
        ImageDraw.Draw(self.shadow).polygon(path, fill=round(255 * depth))

    def onto(
        self, scene: Array, texture: Array, haze: Colour = (0, 0, 0), distance: float = 0.0, softness: float = 0.002
    ) -> Array:
        """The scene with this layer over it: colours times `texture`, soft violet shadows.

        `distance` 0…1 mixes the layer with `haze`; `softness` is the blur of the shadows in units of the height.
        """
        shadow = blur(to_array(self.shadow), softness * self.unit)[..., None]
        paint = to_array(self.colour) * texture[..., None]
        paint = paint * (1 - shadow * np.array([0.72, 0.64, 0.5], np.float32))
        return mix(scene, mix(paint, haze, distance), to_array(self.cover))


def _bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * channel))) for channel in colour)
    return red, green, blue
