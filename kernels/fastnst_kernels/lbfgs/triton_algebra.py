# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of a step's small matrices, all of them in float64 in one program."""

import triton
import triton.language as tl

_MEMORY: tl.constexpr = tl.constexpr(0.97)
_MOST_CONTRAST: tl.constexpr = tl.constexpr(10.0)
_TINY: tl.constexpr = tl.constexpr(2.2250738585072014e-308)


@triton.jit
def _sum(x):
    """All elements of (a, b, c), a scalar."""
    return tl.sum(tl.sum(tl.sum(x, axis=2), axis=1), axis=0)


@triton.jit
def _opponent(channel, INDEX: tl.constexpr):
    """Brightness, red against blue, or green against both, as unit vectors over the channels."""
    # Whole numbers first, which float32 holds as they are.
    if INDEX == 0:
        x = tl.where(channel < 3, 1.0, 0.0).to(tl.float64) * 0.5773502691896258
    elif INDEX == 1:
        x = tl.where(channel < 3, 1.0 - channel, 0.0).to(tl.float64) * 0.7071067811865476
    else:
        x = tl.where(channel < 3, tl.where(channel == 1, -2.0, 1.0), 0.0).to(tl.float64) * 0.40824829046386307
    return x


@triton.jit
def _along(x, c, d, INDEX: tl.constexpr):
    """The sums (bands,) along an opponent colour of channels' products (bands, 4, 4)."""
    sums = tl.sum(tl.sum(x * (_opponent(c, INDEX) * _opponent(d, INDEX)), axis=2), axis=1)
    return tl.maximum(sums, 0.0)


@triton.jit(do_not_specialize=["bands"])
def algebra_kernel(
    products,  # (bands, ROWS, 16) float64, and so are the others but `slot` and `weights`
    lengths,  # (HISTORY,)
    sy,  # (HISTORY, HISTORY)
    yy,  # (bands, 3, 3, HISTORY, HISTORY)
    curved,  # (HISTORY,)
    h0,  # (bands, 3, 3)
    steps,  # (bands, 3, 3)
    changes,  # (bands, 3, 3)
    both,  # (1,)
    slot,  # (1,) int64: raised by one
    weights,  # (2, SIZE) float32
    bands,
    HISTORY: tl.constexpr,
    SIZE: tl.constexpr,
    BANDS: tl.constexpr,
    ROWS: tl.constexpr,
    SCALAR: tl.constexpr,
):
    """Completes the newest pair, learns H₀ from it, and solves for the weights of the pairs in H g."""
    newest = tl.load(slot)
    i = tl.arange(0, SIZE)
    inside = i < HISTORY
    length = tl.load(lengths + i, mask=inside, other=0.0)
    new_sy = tl.zeros((SIZE,), dtype=tl.float64)
    sg = tl.zeros((SIZE,), dtype=tl.float64)
    for band in range(bands):
        for c in tl.static_range(3):
            row = products + (band * ROWS + i * 3 + c) * 16 + c
            new_sy += tl.load(row, mask=inside, other=0.0)
            sg += tl.load(row + 8, mask=inside, other=0.0) + tl.load(row + 12, mask=inside, other=0.0)
    new_sy *= length
    sg *= length
    tl.store(sy + i * HISTORY + newest, new_sy, mask=inside)

    b = tl.arange(0, BANDS)[:, None, None]
    c = tl.arange(0, 4)[None, :, None]
    d = tl.arange(0, 4)[None, None, :]
    entry = (b * 3 + c) * 3 + d
    filled = (b < bands) & (c < 3) & (d < 3)
    own_length = tl.load(lengths + newest)
    ss = tl.load(products + (b * ROWS + newest * 3 + c) * 16 + 4 + d, mask=filled, other=0.0)
    ss *= own_length * own_length
    own = tl.load(products + (b * ROWS + ROWS - 16 + c) * 16 + d, mask=filled, other=0.0)
    own_sy = tl.sum(tl.where(i == newest, new_sy, 0.0), axis=0)
    own_yy = _sum(tl.where(c == d, own, 0.0))
    own_ss = _sum(tl.where(c == d, ss, 0.0))
    is_curved = (own_sy > 1e-10 * tl.sqrt(own_ss * own_yy)) & (own_yy > 0)
    flag = tl.load(curved + i, mask=inside, other=0.0)
    flag = tl.where(i == newest, tl.where(is_curved, 1.0, 0.0), flag)
    size_of_y = tl.where(is_curved, own_yy, 1.0)
    diagonal = tl.where(i == newest, own_sy, tl.load(sy + i * (HISTORY + 1), mask=inside, other=0.0))

    if SCALAR:
        guess = tl.where(c == d, own_sy / size_of_y, tl.zeros((BANDS, 4, 4), dtype=tl.float64))
    else:
        # Each pair divided by its y·y, and by _MEMORY to the power of its age.
        keep, add = tl.where(is_curved, _MEMORY, 1.0), tl.where(is_curved, 1.0 / size_of_y, 0.0)
        all_steps = keep * tl.load(steps + entry, mask=filled, other=0.0) + tl.where(is_curved, add * ss, 0.0)
        all_changes = keep * tl.load(changes + entry, mask=filled, other=0.0) + tl.where(is_curved, add * own, 0.0)
        all_both = keep * tl.load(both) + tl.where(is_curved, add * own_sy, 0.0)
        sums = tl.zeros((BANDS,), dtype=tl.float64)
        for index in tl.static_range(3):
            sums += _along(all_changes, c, d, index)
        whole = tl.sum(sums, axis=0) / tl.maximum(all_both, _TINY)
        guess = tl.zeros((BANDS, 4, 4), dtype=tl.float64)
        for index in tl.static_range(3):
            contrast = tl.sqrt(_along(all_steps, c, d, index) / tl.maximum(_along(all_changes, c, d, index), _TINY))
            contrast = tl.minimum(tl.maximum(contrast * whole, 1.0 / _MOST_CONTRAST), _MOST_CONTRAST)
            guess += contrast[:, None, None] * (_opponent(c, index) * _opponent(d, index))
        each = tl.arange(0, BANDS)[:, None]
        size = tl.zeros((BANDS, SIZE), dtype=tl.float64)
        for channel in tl.static_range(3):
            place = (each * 9 + channel * 4) * HISTORY * HISTORY + (i * (HISTORY + 1))[None, :]
            size += tl.load(yy + place, mask=(each < bands) & inside[None, :], other=0.0)
        ratio = tl.where(flag > 0, diagonal / tl.where(flag > 0, tl.sum(size, axis=0), 1.0), 0.0)
        guess *= tl.sum(ratio, axis=0) / tl.maximum(tl.sum(flag, axis=0), 1.0)
    guess = tl.where(is_curved, guess, tl.load(h0 + entry, mask=filled, other=0.0))
    # All have read what is written now, and will read it next.
    tl.debug_barrier()
    tl.store(h0 + entry, guess, mask=filled)
    tl.store(curved + i, flag, mask=inside)
    if not SCALAR:
        tl.store(steps + entry, all_steps, mask=filled)
        tl.store(changes + entry, all_changes, mask=filled)
        tl.store(both, all_both)
    tl.debug_barrier()

    # YᵀH₀Y and YᵀH₀g.
    square: tl.constexpr = HISTORY * HISTORY
    matrix = tl.zeros((SIZE, SIZE), dtype=tl.float64)
    yg = tl.zeros((SIZE,), dtype=tl.float64)
    place = i[:, None] * HISTORY + i[None, :]
    is_pair = inside[:, None] & inside[None, :]
    for band in range(bands):
        for cd in tl.static_range(9):
            h = tl.load(h0 + band * 9 + cd)
            matrix += h * tl.load(yy + (band * 9 + cd) * square + place, mask=is_pair, other=0.0)
            own_row = tl.where(i == newest, ROWS - 16 + cd // 3, (HISTORY + i) * 3 + cd // 3)
            half = products + (band * ROWS + own_row) * 16 + 8 + cd % 3
            yg += h * (tl.load(half, mask=inside, other=0.0) + tl.load(half + 4, mask=inside, other=0.0))
    flag = tl.load(curved + i, mask=inside, other=0.0)
    active = flag > 0
    yg = tl.where(active, yg, 0.0)
    inverse = tl.where(active, 1.0 / tl.where(active, diagonal, 1.0), 0.0)
    age = (newest - i + HISTORY) % HISTORY

    # p = R⁻¹ Sᵀg, from the newest pair to the oldest.
    left = tl.where(active, sg, 0.0)
    p = tl.zeros((SIZE,), dtype=tl.float64)
    for step in range(HISTORY):
        j = (newest - step + HISTORY) % HISTORY
        column = tl.load(sy + i * HISTORY + j, mask=active & (age > step), other=0.0)
        solved = tl.sum(tl.where(i == j, left * inverse, 0.0), axis=0)
        p = tl.where(i == j, solved, p)
        left -= solved * column
    # a = R⁻ᵀ ((D + YᵀH₀Y) p − YᵀH₀g), from the oldest to the newest.
    image = tl.sum(tl.where(active[:, None], matrix, 0.0) * p[None, :], axis=1)
    left = tl.where(active, diagonal * p, 0.0) + image - yg
    a = tl.zeros((SIZE,), dtype=tl.float64)
    for step in range(HISTORY):
        j = (newest + 1 + step) % HISTORY
        row = tl.load(sy + j * HISTORY + i, mask=active & (age < HISTORY - 1 - step), other=0.0)
        solved = tl.sum(tl.where(i == j, left * inverse, 0.0), axis=0)
        a = tl.where(i == j, solved, a)
        left -= solved * row
    tl.store(weights + i, (a * length).to(tl.float32))
    tl.store(weights + SIZE + i, p.to(tl.float32))
    tl.debug_barrier()
    tl.store(slot, (newest + 1) % HISTORY)
