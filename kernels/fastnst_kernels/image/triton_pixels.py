# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Pixels of an image in registers: how the Triton kernels read, write and compare them with their neighbours.

Pixels are taken in groups of V neighbours of one row, a group to a thread: V = 8 where one side is in 16 bit, else 4.
The three channels of a group are either three vectors of V (planes) or 3·V elements side by side (channels-last), so
both layouts are read and written 16 bytes at a time, and going from one to the other moves nothing but registers.
"""

import triton
import triton.language as tl


@triton.jit
def _columns_of_4(x):
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    return c0, c1, c2, c3


@triton.jit
def _columns_of_8(x):
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2, 2)))
    c04, c26 = tl.split(even)
    c15, c37 = tl.split(odd)
    c0, c4 = tl.split(c04)
    c1, c5 = tl.split(c15)
    c2, c6 = tl.split(c26)
    c3, c7 = tl.split(c37)
    return c0, c1, c2, c3, c4, c5, c6, c7


@triton.jit
def _rows_of_4(c0, c1, c2, c3):
    return tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), (c0.shape[0], 4))


@triton.jit
def _rows_of_8(c0, c1, c2, c3, c4, c5, c6, c7):
    even = tl.join(tl.join(c0, c4), tl.join(c2, c6))
    odd = tl.join(tl.join(c1, c5), tl.join(c3, c7))
    return tl.reshape(tl.join(even, odd), (c0.shape[0], 8))


@triton.jit
def _interleaved(r, g, b):
    """Three planes (G, V) as the three vectors (G, V) that follow each other in channels-last memory."""
    if r.shape[1] == 4:
        r0, r1, r2, r3 = _columns_of_4(r)
        g0, g1, g2, g3 = _columns_of_4(g)
        b0, b1, b2, b3 = _columns_of_4(b)
        x = _rows_of_4(r0, g0, b0, r1)
        y = _rows_of_4(g1, b1, r2, g2)
        z = _rows_of_4(b2, r3, g3, b3)
    else:
        r0, r1, r2, r3, r4, r5, r6, r7 = _columns_of_8(r)
        g0, g1, g2, g3, g4, g5, g6, g7 = _columns_of_8(g)
        b0, b1, b2, b3, b4, b5, b6, b7 = _columns_of_8(b)
        x = _rows_of_8(r0, g0, b0, r1, g1, b1, r2, g2)
        y = _rows_of_8(b2, r3, g3, b3, r4, g4, b4, r5)
        z = _rows_of_8(g5, b5, r6, g6, b6, r7, g7, b7)
    return x, y, z


@triton.jit
def _planes(x, y, z):
    """The inverse of `_interleaved`."""
    if x.shape[1] == 4:
        r0, g0, b0, r1 = _columns_of_4(x)
        g1, b1, r2, g2 = _columns_of_4(y)
        b2, r3, g3, b3 = _columns_of_4(z)
        r = _rows_of_4(r0, r1, r2, r3)
        g = _rows_of_4(g0, g1, g2, g3)
        b = _rows_of_4(b0, b1, b2, b3)
    else:
        r0, g0, b0, r1, g1, b1, r2, g2 = _columns_of_8(x)
        b2, r3, g3, b3, r4, g4, b4, r5 = _columns_of_8(y)
        g5, b5, r6, g6, b6, r7, g7, b7 = _columns_of_8(z)
        r = _rows_of_8(r0, r1, r2, r3, r4, r5, r6, r7)
        g = _rows_of_8(g0, g1, g2, g3, g4, g5, g6, g7)
        b = _rows_of_8(b0, b1, b2, b3, b4, b5, b6, b7)
    return r, g, b


@triton.jit
def neighbours(x, before, after):
    """The pixels to the left and to the right of each of (G, V), given those beside the group, (G,) each."""
    if x.shape[1] == 4:
        c0, c1, c2, c3 = _columns_of_4(x)
        left = _rows_of_4(before, c0, c1, c2)
        right = _rows_of_4(c1, c2, c3, after)
    else:
        c0, c1, c2, c3, c4, c5, c6, c7 = _columns_of_8(x)
        left = _rows_of_8(before, c0, c1, c2, c3, c4, c5, c6)
        right = _rows_of_8(c1, c2, c3, c4, c5, c6, c7, after)
    return left, right


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
def load_pixels(base, pixel, valid, positions, LAST: tl.constexpr, V: tl.constexpr, ALIGNED: tl.constexpr):
    """The three channels (G, V) of the groups that start at `pixel` (G,), in float32; 0 where there is no pixel."""
    v = tl.arange(0, V)
    if LAST:
        offsets = (pixel * 3)[:, None] + v[None, :]
        x = tl.load(base + offsets, mask=_mask(valid, 0, 3, V, ALIGNED), other=0.0).to(tl.float32)
        y = tl.load(base + offsets + V, mask=_mask(valid, V, 3, V, ALIGNED), other=0.0).to(tl.float32)
        z = tl.load(base + offsets + 2 * V, mask=_mask(valid, 2 * V, 3, V, ALIGNED), other=0.0).to(tl.float32)
        r, g, b = _planes(x, y, z)
    else:
        offsets = pixel[:, None] + v[None, :]
        mask = _mask(valid, 0, 1, V, ALIGNED)
        r = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(base + positions + offsets, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(base + 2 * positions + offsets, mask=mask, other=0.0).to(tl.float32)
    return r, g, b


@triton.jit
def _store_vector(pointers, x, mask):
    # A store of more than 16 bytes a thread would be sent through shared memory: two stores of its halves are not.
    if x.shape[1] == 8 and mask.shape[1] == 1 and x.dtype == tl.float32:
        low, high = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, 4)), (0, 2, 1)))
        low_pointers, high_pointers = pointers
        tl.store(low_pointers, low, mask=mask)
        tl.store(high_pointers, high, mask=mask)
    else:
        whole_pointers, _ = pointers
        tl.store(whole_pointers, x, mask=mask)


@triton.jit
def _pointers(base, first, V: tl.constexpr, HALVES: tl.constexpr):
    low = base + (first[:, None] + tl.arange(0, 4 if HALVES else V)[None, :])
    return low, low + 4


@triton.jit
def store_pixels(base, pixel, valid, positions, r, g, b, LAST: tl.constexpr, ALIGNED: tl.constexpr):
    """Writes the three channels (G, V) of the groups that start at `pixel` (G,), in the dtype of `base`."""
    dtype = base.dtype.element_ty
    V: tl.constexpr = r.shape[1]
    HALVES: tl.constexpr = ALIGNED and V == 8 and dtype == tl.float32
    if LAST:
        x, y, z = _interleaved(r.to(dtype), g.to(dtype), b.to(dtype))
        first = pixel * 3
        _store_vector(_pointers(base, first, V, HALVES), x, _mask(valid, 0, 3, V, ALIGNED))
        _store_vector(_pointers(base + V, first, V, HALVES), y, _mask(valid, V, 3, V, ALIGNED))
        _store_vector(_pointers(base + 2 * V, first, V, HALVES), z, _mask(valid, 2 * V, 3, V, ALIGNED))
    else:
        mask = _mask(valid, 0, 1, V, ALIGNED)
        _store_vector(_pointers(base, pixel, V, HALVES), r.to(dtype), mask)
        _store_vector(_pointers(base + positions, pixel, V, HALVES), g.to(dtype), mask)
        _store_vector(_pointers(base + 2 * positions, pixel, V, HALVES), b.to(dtype), mask)


@triton.jit
def pixel_beside(image, pixel, mask, positions, channel, LAST: tl.constexpr):
    """One channel of the pixels at `pixel` (G,), 0 where the mask is off."""
    offsets = pixel * 3 + channel if LAST else pixel + positions * channel
    return tl.load(image + offsets, mask=mask, other=0.0)


@triton.jit
def variation(x, up, down, before, after, row, col, H, W, ABSOLUTE: tl.constexpr):
    """One channel's terms: Σ over right and down, (G, V), and their derivative without its factor."""
    left, right = neighbours(x, before, after)
    column = col[:, None] + tl.arange(0, x.shape[1])[None, :]
    # A neighbour beyond the border is the pixel itself, and differs by nothing.
    to_left = tl.where(column > 0, x - left, 0.0)
    to_right = tl.where(column + 1 < W, x - right, 0.0)
    to_up = tl.where((row > 0)[:, None], x - up, 0.0)
    to_down = tl.where((row + 1 < H)[:, None], x - down, 0.0)
    if ABSOLUTE:
        value = tl.abs(to_right) + tl.abs(to_down)
        slope = (sign(to_left) + sign(to_right)) + (sign(to_up) + sign(to_down))
    else:
        value = to_right * to_right + to_down * to_down
        slope = (to_left + to_right) + (to_up + to_down)
    return value, slope


@triton.jit
def sign(x):
    # x itself where it is neither above nor below zero: a NaN stays one.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
