# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of a step's small matrices, all of them in float64 in one program."""

import triton
import triton.language as tl

_MEMORY: tl.constexpr = tl.constexpr(0.97)
_MOST_CONTRAST: tl.constexpr = tl.constexpr(10.0)
_TINY: tl.constexpr = tl.constexpr(2.2250738585072014e-308)


@triton.jit
def _sum(x):
    """All elements of (a, b), a scalar."""
    return tl.sum(tl.sum(x, axis=1), axis=0)


@triton.jit(do_not_specialize=["bands"])
def algebra_kernel(
    products,  # (bands, ROWS, 16) float64, and so are the others but `slot` and `weights`
    lengths,  # (HISTORY,)
    sy,  # (HISTORY, HISTORY)
    yy,  # (bands, 3, HISTORY, HISTORY)
    curved,  # (HISTORY,)
    h0,  # (bands, 3)
    steps,  # (bands, 3)
    changes,  # (bands, 3)
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

    b = tl.arange(0, BANDS)[:, None]
    c = tl.arange(0, 4)[None, :]
    entry = b * 3 + c
    filled = (b < bands) & (c < 3)
    own_length = tl.load(lengths + newest)
    ss = tl.load(products + (b * ROWS + newest * 3 + c) * 16 + 4 + c, mask=filled, other=0.0)
    ss *= own_length * own_length
    own = tl.load(products + (b * ROWS + ROWS - 16 + c) * 16 + c, mask=filled, other=0.0)
    own_sy = tl.sum(tl.where(i == newest, new_sy, 0.0), axis=0)
    own_yy = _sum(own)
    is_curved = (own_sy > 1e-10 * tl.sqrt(_sum(ss) * own_yy)) & (own_yy > 0)
    flag = tl.load(curved + i, mask=inside, other=0.0)
    flag = tl.where(i == newest, tl.where(is_curved, 1.0, 0.0), flag)
    size_of_y = tl.where(is_curved, own_yy, 1.0)
    diagonal = tl.where(i == newest, own_sy, tl.load(sy + i * (HISTORY + 1), mask=inside, other=0.0))

    if SCALAR:
        guess = tl.zeros((BANDS, 4), dtype=tl.float64) + own_sy / size_of_y
    else:
        # Each pair divided by its y·y, and by _MEMORY to the power of its age.
        keep, add = tl.where(is_curved, _MEMORY, 1.0), tl.where(is_curved, 1.0 / size_of_y, 0.0)
        all_steps = keep * tl.load(steps + entry, mask=filled, other=0.0) + tl.where(is_curved, add * ss, 0.0)
        all_changes = keep * tl.load(changes + entry, mask=filled, other=0.0) + tl.where(is_curved, add * own, 0.0)
        all_both = keep * tl.load(both) + tl.where(is_curved, add * own_sy, 0.0)
        whole = _sum(all_changes) / tl.maximum(all_both, _TINY)
        contrast = tl.sqrt(all_steps / tl.maximum(all_changes, _TINY)) * whole
        guess = tl.minimum(tl.maximum(contrast, 1.0 / _MOST_CONTRAST), _MOST_CONTRAST)
        size = tl.zeros((BANDS, SIZE), dtype=tl.float64)
        for colour in tl.static_range(3):
            place = (b * 3 + colour) * HISTORY * HISTORY + (i * (HISTORY + 1))[None, :]
            size += tl.load(yy + place, mask=(b < bands) & inside[None, :], other=0.0)
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
        for colour in tl.static_range(3):
            h = tl.load(h0 + band * 3 + colour)
            matrix += h * tl.load(yy + (band * 3 + colour) * square + place, mask=is_pair, other=0.0)
            own_row = tl.where(i == newest, ROWS - 16 + colour, (HISTORY + i) * 3 + colour)
            half = products + (band * ROWS + own_row) * 16 + 8 + colour
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
