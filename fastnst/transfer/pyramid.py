"""Coarse to fine: the sizes that a run goes through, and the steps at each of them."""

from fastnst.options.parse import Iterations, Scales, StyleWeight, scale_count

SMALLEST_EDGE = 64
"""Scales that are only counted, not named, go no lower than this short edge: below it there is nothing left to see."""


def scale_edges(
    scales: Scales, size: int, height: int, width: int, *, edge: str = "long", factor: float = 2.0
) -> tuple[int, ...]:
    """The scales' edges in pixels, long or short ones, coarse first, the last one `size`.

    `scales` is None for `size` alone, a count (each scale `factor` times the last one's size), the edges themselves, or
    "auto": twice the last one's size each, from `LEAST_AUTOMATIC_EDGE` or a little more. A counted pyramid leaves out
    the scales whose short edge would be under `SMALLEST_EDGE`.
    """
    if isinstance(scales, tuple):
        return scales
    if scales == "auto":
        factor = 2.0
    levels = range(scale_count(scales, size) - 1, 0, -1)
    pixels = dict.fromkeys(round(size / factor**level) for level in levels)
    aspect = 1.0 if edge == "short" else min(height, width) / max(height, width)
    return (*(each for each in pixels if each * aspect >= SMALLEST_EDGE and each < size), size)


def scale_iterations(iterations: Iterations, scales: int) -> tuple[int, ...]:
    """Steps at each of `scales` scales, coarse first.

    `iterations` is one count for all of them, or a list whose last count is for the last scale, the one before for the
    scale before, and so on; its first count also goes for the scales before that. Counts of scales that a picture is
    too small for are not used.
    """
    counts = (iterations,) if isinstance(iterations, int) else iterations
    return (counts[0],) * (scales - len(counts)) + counts[-scales:]


def scale_style_weights(weight: StyleWeight, scales: int) -> tuple[float, ...]:
    """β at each of `scales` scales, coarse first: one for all, or a list that ends as that of `scale_iterations`."""
    weights = weight if isinstance(weight, tuple) else (weight,)
    return (weights[0],) * (scales - len(weights)) + weights[-scales:]
