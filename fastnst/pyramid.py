"""Coarse to fine: the sizes that a run goes through, and the steps at each of them."""

from fastnst.options import Iterations, Scales

SMALLEST_EDGE = 64
"""Scales that are only counted, not named, go no lower than this short edge: below it there is nothing left to see."""


def scale_edges(scales: Scales, size: int, height: int, width: int) -> tuple[int, ...]:
    """Long edges of the scales in pixels, coarse first, the last one `size`.

    `scales` is None for `size` alone, a count (each scale twice the last one's size), or the long edges themselves.
    A counted pyramid leaves out the scales whose short edge would be under `SMALLEST_EDGE`.
    """
    if scales is None:
        return (size,)
    if isinstance(scales, tuple):
        return scales
    edges = [round(size / 2**level) for level in range(scales - 1, -1, -1)]
    aspect = min(height, width) / max(height, width)
    return (*(edge for edge in edges[:-1] if edge * aspect >= SMALLEST_EDGE), size)


def scale_iterations(iterations: Iterations, scales: int) -> tuple[int, ...]:
    """Steps at each of `scales` scales, coarse first.

    `iterations` is one count for all of them, or a list whose last count is for the last scale, the one before for the
    scale before, and so on; its first count also goes for the scales before that. Counts of scales that a picture is
    too small for are not used.
    """
    counts = (iterations,) if isinstance(iterations, int) else iterations
    return (counts[0],) * (scales - len(counts)) + counts[-scales:]
