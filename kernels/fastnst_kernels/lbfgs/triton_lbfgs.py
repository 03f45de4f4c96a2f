# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of a step of L-BFGS that move the image's data: the pairs are read twice, and all else once.

Blocks are taken one at a time, as (colours, BLOCK) tiles of four rows, of which the last is zero.
"""

import triton
import triton.language as tl

_ROOT_2: tl.constexpr = tl.constexpr(2**0.5)
_ROOT_1_2: tl.constexpr = tl.constexpr(2**-0.5)
_ROOT_1_3: tl.constexpr = tl.constexpr(3**-0.5)
_ROOT_1_6: tl.constexpr = tl.constexpr(6**-0.5)


@triton.jit
def _unit(largest):
    """The power of two that brings `largest` to 2¹³ … 2¹⁴; not so small that float32 lost it."""
    exponent = tl.maximum(largest, 1e-30).to(tl.int32, bitcast=True) & 0x7F800000
    power = exponent.to(tl.float32, bitcast=True)
    return tl.where(largest > 0, power * 0.0001220703125, 1.0)


@triton.jit
def _opponents(red, green, blue):
    """Brightness, red against blue, and green against both, in which inner products are the same."""
    ends = red + blue
    return (ends + green) * _ROOT_1_3, (red - blue) * _ROOT_1_2, (ends - 2 * green) * _ROOT_1_6


@triton.jit
def _primaries(brightness, red_blue, green_both):
    """Red, green and blue of opponent colours."""
    grey, ends, side = brightness * _ROOT_1_3, green_both * _ROOT_1_6, red_blue * _ROOT_1_2
    return grey + side + ends, grey - 2 * ends, grey - side + ends


@triton.jit
def _place(place, block, elements, height, lone, BLOCK: tl.constexpr):
    """The complex numbers that elements of a block belong to, the columns these are in, whether there are any, and how
    each is weighted: one that stands for two by √2."""
    number = tl.load(place + block * (BLOCK // 2) + elements // 2).to(tl.int64)
    column = number // height
    weight = tl.where((column == 0) | (column == lone), 1.0, _ROOT_2)
    return number, column, number >= 0, weight


@triton.jit
def free_kernel(
    image,  # (N,) float32
    gradient,  # (N,) float32
    result,  # (N,) float32
    N,
    near,
    BLOCK: tl.constexpr,
):
    """Copies the gradient, but for what points to a limit of 0…1 that is nearer than `near`: that counts in part."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x, g = tl.load(image + offsets, mask=mask), tl.load(gradient + offsets, mask=mask)
    room = tl.where(g > 0, x, 1 - x)
    share = tl.clamp(room / near, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(result + offsets, g * share, mask=mask)


@triton.jit(do_not_specialize=["height", "lone"])
def products_kernel(
    red,  # a channel of the gradient: its spectrum (W // 2 + 1, H) complex as float32, or a third of its elements
    green,
    blue,
    place,  # (blocks, BLOCK // 2) int32: a complex number of the spectrum, or -1; None without a transform
    previous,  # (blocks, 3, BLOCK) float32: the last gradient, replaced by this one
    pairs,  # (blocks, 2, HISTORY, 3, BLOCK)
    units,  # (blocks, 2, HISTORY) float32
    slot,  # (1,) int64
    chunks,  # (programs, 2) int32: the first block and how many, all of one band
    partial,  # (programs, TILES · ROWS + 16, 16) float32
    elements,  # of a channel
    height,
    lone,  # the column, beside the first, of numbers that stand for themselves alone, or -1
    norm,
    HISTORY: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,  # elements that are multiplied at once: BLOCK where the pairs have units
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Forms y, and sums over a chunk the products of all pairs' colours with those of y, s and both halves of g."""
    dtype = pairs.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    first = tl.load(chunks + 2 * program).to(tl.int64)
    count = tl.load(chunks + 2 * program + 1)
    newest = tl.load(slot)
    j = tl.arange(0, 16)
    kind = tl.arange(0, 4)[:, None, None]
    c = tl.arange(0, 4)[:, None]
    PARTS: tl.constexpr = BLOCK // DEPTH
    for tile in range(TILES):
        row = tile * ROWS + tl.arange(0, ROWS)
        # The place of the newest y is still empty.
        written = (row < 6 * HISTORY) & (row // 3 != HISTORY + newest)
        sums = tl.zeros((ROWS, 16), dtype=tl.float32)
        own = tl.zeros((16, 16), dtype=tl.float32)
        for part in range(0, count * PARTS):
            block = first + part // PARTS
            e = (part % PARTS) * DEPTH + tl.arange(0, DEPTH)[None, :]
            if place is not None:
                number, _, filled, weight = _place(place, block, e, height, lone, BLOCK)
                offset, weight = 2 * number + e % 2, weight * norm
            else:
                offset = block * BLOCK + e
                filled, weight = offset < elements, 1.0
            u = tl.load(red + offset, mask=filled, other=0.0)
            v = tl.load(green + offset, mask=filled, other=0.0)
            w = tl.load(blue + offset, mask=filled, other=0.0)
            if place is not None:
                u, v, w = _opponents(u, v, w)
            g = tl.where(c == 0, u, tl.where(c == 1, v, tl.where(c == 2, w, 0.0))) * weight
            kept = previous + (block * 3 + c) * BLOCK + e
            y = g - tl.load(kept, mask=c < 3, other=0.0)
            own_s = pairs + ((block * 2 * HISTORY + newest) * 3 + c) * BLOCK + e
            s = tl.load(own_s, mask=c < 3, other=0.0)
            s_unit = tl.load(units + block * 2 * HISTORY + newest)
            y_unit, g_unit = 1.0, 1.0
            if DEPTH == BLOCK:
                y_unit = _unit(tl.max(tl.max(tl.abs(y), axis=1), axis=0))
                g_unit = _unit(tl.max(tl.max(tl.abs(g), axis=1), axis=0))
            y = (y * (1.0 / y_unit)).to(dtype)
            high = (g * (1.0 / g_unit)).to(dtype)
            low = (g * (1.0 / g_unit) - high.to(tl.float32)).to(dtype)
            right = tl.where(kind == 2, high[None, :, :], low[None, :, :])
            right = tl.where(kind == 1, s[None, :, :], right)
            right = tl.reshape(tl.where(kind == 0, y[None, :, :], right), (16, DEPTH))
            scale = tl.where(j < 4, y_unit, tl.where(j < 8, s_unit, g_unit))

            left = tl.load(pairs + (block * 6 * HISTORY + row)[:, None] * BLOCK + e, mask=written[:, None], other=0.0)
            row_unit = tl.load(units + block * 2 * HISTORY + row // 3, mask=written, other=0.0)
            turned = tl.trans(right)
            sums += tl.dot(left, turned, input_precision="ieee") * (row_unit[:, None] * scale[None, :])
            own += tl.dot(right, turned, input_precision="ieee") * (scale[:, None] * scale[None, :])
            if tile == TILES - 1:
                tl.store(own_s + HISTORY * 3 * BLOCK, y, mask=c < 3)
                tl.store(units + (block * 2 + 1) * HISTORY + newest, y_unit)
                tl.store(kept, g, mask=c < 3)
        to = partial + program * ((TILES * ROWS + 16) * 16)
        tl.store(to + row[:, None] * 16 + j[None, :], sums)
        if tile == TILES - 1:
            tl.store(to + (TILES * ROWS + j[:, None]) * 16 + j[None, :], own)


@triton.jit
def reduce_kernel(
    partial,  # (programs, ROWS, 16) float32
    products,  # (bands, ROWS, 16) float64
    yy,  # (bands, 3, HISTORY, HISTORY) float64: the newest pair's row and column are written
    slot,  # (1,) int64
    band_chunks,  # (bands + 1,) int32: the first chunk of each band
    HISTORY: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums the chunks of a band, sixteen rows a program."""
    band = tl.program_id(0) // (ROWS // 16)
    entry = tl.program_id(0) % (ROWS // 16) * 256 + tl.arange(0, 256)
    start, end = tl.load(band_chunks + band), tl.load(band_chunks + band + 1)
    total = tl.zeros((256,), dtype=tl.float64)
    for chunk in range(start, end, BLOCK):
        chunks = (chunk + tl.arange(0, BLOCK))[:, None]
        part = tl.load(partial + chunks.to(tl.int64) * (ROWS * 16) + entry[None, :], mask=chunks < end, other=0.0)
        total += tl.sum(part.to(tl.float64), axis=0)
    tl.store(products + band * (ROWS * 16) + entry, total)

    newest = tl.load(slot)
    row, d = entry // 16, entry % 16
    # The last sixteen rows are those of the newest pair, y before s.
    own = row >= ROWS - 16
    pair = tl.where(own, newest, row // 3 - HISTORY)
    c = tl.where(own, row - (ROWS - 16), row % 3)
    is_y = (c == d) & (c < 3) & (pair >= 0) & (pair < HISTORY) & (own | (pair != newest))
    own_yy = yy + (band * 3 + c) * (HISTORY * HISTORY)
    tl.store(own_yy + pair * HISTORY + newest, total, mask=is_y)
    tl.store(own_yy + newest * HISTORY + pair, total, mask=is_y & (pair != newest))


@triton.jit(do_not_specialize=["blocks", "height", "lone"])
def direction_kernel(
    gradient,  # (blocks, 3, BLOCK) float32
    pairs,  # (blocks, 2, HISTORY, 3, BLOCK): the new s takes the oldest one's place
    units,  # (blocks, 2, HISTORY) float32
    weights,  # (2, SIZE) float32: of the s, and of the y that are taken from the gradient
    h0,  # (bands, 3) float64
    band,  # (blocks,) int32
    place,  # (blocks, BLOCK // 2) int32, or None
    slot,  # (1,) int64
    lengths,  # (HISTORY,) float64
    result,  # the spectrum (W // 2 + 1, 3, H) complex as float32, or the image, to which the direction is added
    squares,  # (programs,) float32: the direction's sum of squares
    blocks,
    elements,
    height,
    lone,
    norm,
    rate,
    HISTORY: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """−rate · (Σ a s + H₀ (g − Σ p y)), which is kept as the newest s."""
    dtype = pairs.dtype.element_ty
    block = (tl.program_id(0).to(tl.int64) * GROUP + tl.arange(0, GROUP))[:, None]
    e = tl.arange(0, BLOCK)[None, :]
    inside = block < blocks
    mask = inside & (e < BLOCK)
    newest = tl.load(slot)
    base = pairs + block * (6 * HISTORY * BLOCK) + e
    s0 = tl.zeros((GROUP, BLOCK), dtype=tl.float32)
    s1, s2 = s0, s0
    own = gradient + block * (3 * BLOCK) + e
    r0 = tl.load(own, mask=mask, other=0.0)
    r1 = tl.load(own + BLOCK, mask=mask, other=0.0)
    r2 = tl.load(own + 2 * BLOCK, mask=mask, other=0.0)
    for pair in range(HISTORY):
        unit = units + block * (2 * HISTORY) + pair
        a = tl.load(weights + pair) * tl.load(unit, mask=inside, other=0.0)
        p = tl.load(weights + SIZE + pair) * tl.load(unit + HISTORY, mask=inside, other=0.0)
        s = base + pair * (3 * BLOCK)
        y = s + HISTORY * 3 * BLOCK
        s0 += a * tl.load(s, mask=mask, other=0.0).to(tl.float32)
        s1 += a * tl.load(s + BLOCK, mask=mask, other=0.0).to(tl.float32)
        s2 += a * tl.load(s + 2 * BLOCK, mask=mask, other=0.0).to(tl.float32)
        r0 -= p * tl.load(y, mask=mask, other=0.0).to(tl.float32)
        r1 -= p * tl.load(y + BLOCK, mask=mask, other=0.0).to(tl.float32)
        r2 -= p * tl.load(y + 2 * BLOCK, mask=mask, other=0.0).to(tl.float32)
    guess = h0 + tl.load(band + block, mask=inside, other=0) * 3
    s0 = -rate * (s0 + tl.load(guess, mask=inside, other=0.0).to(tl.float32) * r0)
    s1 = -rate * (s1 + tl.load(guess + 1, mask=inside, other=0.0).to(tl.float32) * r1)
    s2 = -rate * (s2 + tl.load(guess + 2, mask=inside, other=0.0).to(tl.float32) * r2)

    tl.store(squares + tl.program_id(0), tl.sum(tl.sum(s0 * s0 + s1 * s1 + s2 * s2, axis=1), axis=0))
    unit = tl.full((GROUP, 1), 1.0, dtype=tl.float32)
    if dtype != tl.float32:
        unit = _unit(tl.max(tl.maximum(tl.maximum(tl.abs(s0), tl.abs(s1)), tl.abs(s2)), axis=1))[:, None]
    to = base + newest * (3 * BLOCK)
    tl.store(to, (s0 * (1.0 / unit)).to(dtype), mask=mask)
    tl.store(to + BLOCK, (s1 * (1.0 / unit)).to(dtype), mask=mask)
    tl.store(to + 2 * BLOCK, (s2 * (1.0 / unit)).to(dtype), mask=mask)
    tl.store(units + block * (2 * HISTORY) + newest, unit, mask=inside)
    tl.store(lengths + newest, tl.full((), 1.0, dtype=tl.float64), mask=tl.program_id(0) == 0)
    if place is not None:
        red, green, blue = _primaries(s0, s1, s2)
        number, column, filled, weight = _place(place, block, e, height, lone, BLOCK)
        filled = filled & mask
        to = result + 2 * (number + column * (2 * height)) + e % 2
        factor = norm / weight
        tl.store(to, red * factor, mask=filled)
        tl.store(to + 2 * height, green * factor, mask=filled)
        tl.store(to + 4 * height, blue * factor, mask=filled)
    else:
        offset = block * BLOCK + e
        mask = offset < elements
        _add(result + offset, s0, mask)
        _add(result + elements + offset, s1, mask)
        # Twice the elements may need more than 31 bits.
        _add(result + elements + (elements + offset), s2, mask)


@triton.jit
def _add(pointers, x, mask):
    tl.store(pointers, tl.load(pointers, mask=mask, other=0.0) + x, mask=mask)


@triton.jit(do_not_specialize=["parts"])
def move_kernel(
    image,  # (N,) float32
    direction,  # (N,) float32
    squares,  # (parts,) float32
    lengths,  # (HISTORY,) float64: the newest pair's is written
    slot,  # (1,) int64
    best,  # (N,) float32: gets the image of before if it is `better`, or None
    better,  # () uint8
    N,
    parts,
    most,  # the longest step, as the root of the mean square
    BLOCK: tl.constexpr,
    SUMS: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Adds the direction, shortened to the longest step, and clamps the image to 0…1 where it is bounded."""
    i = tl.arange(0, SUMS)
    sums = tl.zeros((SUMS,), dtype=tl.float64)
    for offset in range(0, parts, SUMS):
        sums += tl.load(squares + offset + i, mask=offset + i < parts, other=0.0).to(tl.float64)
    mean = tl.sqrt(tl.sum(sums, axis=0) / N)
    length = most / tl.maximum(mean, most)
    tl.store(lengths + tl.load(slot), length, mask=tl.program_id(0) == 0)
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    step = length.to(tl.float32) * tl.load(direction + offsets, mask=mask)
    x = tl.load(image + offsets, mask=mask)
    if best is not None:
        tl.store(best + offsets, x, mask=offsets < tl.where(tl.load(better) != 0, N, 0))
    x += step
    if BOUNDED:
        x = tl.clamp(x, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(image + offsets, x, mask=mask)
