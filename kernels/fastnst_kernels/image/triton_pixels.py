# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Pixels of an image in registers: how the Triton kernels read, write and compare them with their neighbours.

Pixels are taken in groups of V neighbours of one row, a group to a thread: V = 8 where one side is in 16 bit, else 4.
The three channels of a group are either three vectors of V (planes) or 3·V elements side by side (channels-last), so
both layouts are read and written 16 bytes at a time, and going from one to the other moves nothing but registers.
"""

from collections.abc import Sequence

import triton
import triton.language as tl


@triton.jit
def _columns_of_4(x):
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    return c0, c1, c2, c3


@triton.jit
def _columns(x):
    """The V columns (G,) of (G, V)."""
    if x.shape[1] == 4:
        columns = _columns_of_4(x)
    else:
        even, odd = tl.split(tl.reshape(x, (x.shape[0], 4, 2)))
        c0, c2, c4, c6 = _columns_of_4(even)
        c1, c3, c5, c7 = _columns_of_4(odd)
        columns = (c0, c1, c2, c3, c4, c5, c6, c7)
    return columns


@triton.jit
def _rows_of_4(c0, c1, c2, c3):
    return tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (c0.shape[0], 4))


@triton.jit
def _rows(c, V: tl.constexpr):
    """The inverse of `_columns`."""
    if V == 4:
        rows = _rows_of_4(c[0], c[1], c[2], c[3])
    else:
        even, odd = _rows_of_4(c[0], c[2], c[4], c[6]), _rows_of_4(c[1], c[3], c[5], c[7])
        rows = tl.reshape(tl.join(even, odd), (even.shape[0], 8))
    return rows


@triton.jit
def _interleaved(r, g, b):
    """Three planes (G, V) as the three vectors (G, V) that follow each other in channels-last memory."""
    V: tl.constexpr = r.shape[1]
    r, g, b = _columns(r), _columns(g), _columns(b)
    c = r[:0]  # none yet
    for v in tl.static_range(V):
        c += (r[v], g[v], b[v])
    return _rows(c[:V], V), _rows(c[V : 2 * V], V), _rows(c[2 * V :], V)


@triton.jit
def _planes(x, y, z):
    """The inverse of `_interleaved`."""
    V: tl.constexpr = x.shape[1]
    c = _columns(x) + _columns(y) + _columns(z)
    return _rows(c[0::3], V), _rows(c[1::3], V), _rows(c[2::3], V)


@triton.jit
def _neighbours(x, before, after):
    """The pixels to the left and to the right of each of (G, V), given those beside the group, (G,) each."""
    V: tl.constexpr = x.shape[1]
    columns = _columns(x)
    left, right = (before,), columns[1:]
    left += columns[: V - 1]
    right += (after,)
    return _rows(left, V), _rows(right, V)


@triton.jit
def _mask(valid, first, PER_PIXEL: tl.constexpr, V: tl.constexpr, ALIGNED: tl.constexpr):
    """True for those of V elements from `first` on that are of the `valid` (G,) pixels: all or none where ALIGNED."""
    # One expression would have to have one shape.
    if ALIGNED:  # noqa: SIM108
        mask = (valid > 0)[:, None]
    else:
        mask = (tl.arange(0, V) + first)[None, :] < valid[:, None] * PER_PIXEL
    return mask


@triton.jit
def _load(base, i, pixel, valid, positions, LAST: tl.constexpr, V: tl.constexpr, ALIGNED: tl.constexpr):
    """The i-th of the three vectors (G, V) of the groups that start at `pixel` (G,), as they lie."""
    PER_PIXEL: tl.constexpr = 3 if LAST else 1
    offsets = (pixel * PER_PIXEL)[:, None] + tl.arange(0, V)[None, :]
    mask = _mask(valid, i * V if LAST else 0, PER_PIXEL, V, ALIGNED)
    return tl.load(base + i * (V if LAST else positions) + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_pixels(base, pixel, valid, positions, LAST: tl.constexpr, V: tl.constexpr, ALIGNED: tl.constexpr):
    """The three channels (G, V) of the groups that start at `pixel` (G,), in float32; 0 where there is no pixel."""
    x = _load(base, 0, pixel, valid, positions, LAST, V, ALIGNED)
    y = _load(base, 1, pixel, valid, positions, LAST, V, ALIGNED)
    z = _load(base, 2, pixel, valid, positions, LAST, V, ALIGNED)
    return _planes(x, y, z) if LAST else (x, y, z)


@triton.jit
def _store(base, first, x, mask):
    """Writes (G, V) from `first` (G,) on."""
    # A store of more than 16 bytes a thread would be sent through shared memory: two stores of its halves are not.
    if x.shape[1] == 8 and mask.shape[1] == 1 and x.dtype == tl.float32:
        low, high = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, 4)), (0, 2, 1)))
        pointers = base + (first[:, None] + tl.arange(0, 4)[None, :])
        tl.store(pointers, low, mask=mask)
        tl.store(pointers + 4, high, mask=mask)
    else:
        tl.store(base + (first[:, None] + tl.arange(0, x.shape[1])[None, :]), x, mask=mask)


@triton.jit
def store_pixels(base, pixel, valid, positions, channels, LAST: tl.constexpr, ALIGNED: tl.constexpr):
    """Writes the three channels (G, V) of the groups that start at `pixel` (G,), in the dtype of `base`."""
    r, g, b = channels
    V: tl.constexpr = r.shape[1]
    PER_PIXEL: tl.constexpr = 3 if LAST else 1
    vectors = (r.to(base.dtype.element_ty), g.to(base.dtype.element_ty), b.to(base.dtype.element_ty))
    if LAST:
        vectors = _interleaved(vectors[0], vectors[1], vectors[2])
    for i in tl.static_range(3):
        mask = _mask(valid, i * V if LAST else 0, PER_PIXEL, V, ALIGNED)
        _store(base + i * (V if LAST else positions), pixel * PER_PIXEL, vectors[i], mask)


@triton.jit
def pixel_beside(image, pixel, mask, positions, channel, LAST: tl.constexpr):
    """One channel of the pixels at `pixel` (G,), 0 where the mask is off."""
    offsets = pixel * 3 + channel if LAST else pixel + positions * channel
    return tl.load(image + offsets, mask=mask, other=0.0)


@triton.jit
def variation(x, up, down, before, after, row, col, H, W, ABSOLUTE: tl.constexpr):
    """One channel's terms: Σ over right and down, (G, V), and their derivative without its factor."""
    left, right = _neighbours(x, before, after)
    column = col[:, None] + tl.arange(0, x.shape[1])[None, :]
    # A neighbour beyond the border is the pixel itself, and differs by nothing.
    to_left = tl.where(column > 0, x - left, 0.0)
    to_right = tl.where(column + 1 < W, x - right, 0.0)
    to_up = tl.where((row > 0)[:, None], x - up, 0.0)
    to_down = tl.where((row + 1 < H)[:, None], x - down, 0.0)
    return variation_terms(to_left, to_right, to_up, to_down, ABSOLUTE)


@triton.jit
def variation_terms(to_left, to_right, to_up, to_down, ABSOLUTE: tl.constexpr):
    """A pixel's terms, of its differences to its neighbours."""
    if ABSOLUTE:
        value = tl.abs(to_right) + tl.abs(to_down)
        slope = (_sign(to_left) + _sign(to_right)) + (_sign(to_up) + _sign(to_down))
    else:
        value = to_right * to_right + to_down * to_down
        slope = (to_left + to_right) + (to_up + to_down)
    return value, slope


@triton.jit
def _sign(x):
    # x itself where it is neither above nor below zero: a NaN stays one.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


def numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    """Numbers as arguments of a kernel: name_0, name_1, …"""
    return {f"{name}_{index}": float(value) for index, value in enumerate(values)}
