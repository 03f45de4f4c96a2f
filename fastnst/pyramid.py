"""Coarse to fine: the sizes that a run goes through."""

from fastnst.options import Scales

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
