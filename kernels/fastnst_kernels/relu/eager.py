"""The sign-bit epilogues in plain torch: the fast path on a CPU, and what runs where Triton does not.

Work goes in chunks whose temporaries stay in the cache. On a CPU, numpy compares, packs and unpacks: its loops over
bytes are vectorised, where torch's are not.
"""

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.launch.layout import packed_by_channels

# Elements of a chunk: 8 MiB in float32 stay in the last-level cache, and outweigh the waking of threads.
_CHUNK = 1 << 21
# As little-endian numbers, eight bytes of 0 or 1 times this are their eight bits in the highest byte.
_GATHER = 0x0102040810204080


@torch.no_grad()
def bias_relu(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None) -> None:
    """Write max(x + bias, 0) into `y`, which may be `x`, and its sign bits into `bits`.

    `x` and `y` are dense (B, C, H, W) tensors of one layout, `bits` of the shape that `layout.bits_shape` gives.
    The sum is in float32 (float64 for float64) and rounded once.
    """
    by_channels = packed_by_channels(x)
    source, target = _planes(x, by_channels), _planes(y, by_channels)
    shifts = _shifts(bias, x)
    sums, flags = _scratch(target, 1, accumulation_dtype(x.dtype)), _scratch(target, 1, torch.bool)
    for chunk in _chunks(source.shape, 1):
        place = target[chunk]
        room = place if place.dtype == sums.dtype else _part(sums, place.shape)
        value = _activations(source[chunk], shifts, chunk[0], room)
        if bits is not None:
            _pack(_nonzero(value, _part(flags, place.shape)), _packed_planes(bits, x)[chunk], _run_length(x))
        if value.dtype != place.dtype:
            place.copy_(value)


@torch.no_grad()
def relu_backward(gradient: Tensor, bits: Tensor, result: Tensor) -> None:
    """Write the gradient where its bit is set and 0 elsewhere into `result`, which may be `gradient`; all are dense and
    of one layout."""
    by_channels = packed_by_channels(result)
    source, target = _planes(gradient, by_channels), _planes(result, by_channels)
    scratch = _scratch(target, 1, target.dtype)
    for chunk in _chunks(source.shape, 1):
        place = target[chunk]
        flags = _unpack(_packed_planes(bits, result)[chunk], place.shape, _run_length(result), scratch)
        _keep(source[chunk], flags, place)


@torch.no_grad()
def bias_relu_pool(x: Tensor, bias: Tensor | None, pool: str, pooled: Tensor, bits: Tensor | None) -> None:
    """Write the average or maximum of each 2×2 window of max(x + bias, 0) into `pooled`, and the bits of `x` into
    `bits`; layouts and rounding as in `bias_relu`."""
    by_channels = packed_by_channels(x)
    source, target = _planes(x, by_channels), _planes(pooled, by_channels)
    shifts = _shifts(bias, x)
    height, width = target.shape[1:3]
    sums, all_flags = _scratch(source, 2, accumulation_dtype(x.dtype)), _scratch(source, 2, torch.bool)
    means = _scratch(source, 2, accumulation_dtype(x.dtype))
    for chunk in _chunks(source.shape, 2):
        value = _activations(source[chunk], shifts, chunk[0], _part(sums, source[chunk].shape))
        place = target[chunk[0], chunk[1].start // 2 : min(height, chunk[1].stop // 2)]
        flags = None if bits is None else _part(all_flags, value.shape)
        if pool == "max":
            place.copy_(_maximum(_windows(value, place), None if flags is None else _windows(flags, place)))
        else:
            _average(value, place if place.dtype == means.dtype else _part(means, place.shape), place)
            if flags is not None:
                _nonzero(value, flags)
        if bits is not None and flags is not None:
            flags[:, 2 * place.shape[1] :] = False
            flags[:, :, 2 * width :] = False
            _pack(flags, _packed_planes(bits, x)[chunk], _run_length(x))


@torch.no_grad()
def unpool_backward(gradient: Tensor, bits: Tensor, pool: str, result: Tensor) -> None:
    """Write every element of `result`, (B, C, H, W): the gradient of `bias_relu_pool` for `gradient`, that of its
    output, dense and of the same layout."""
    by_channels = packed_by_channels(result)
    source, target = _planes(gradient, by_channels), _planes(result, by_channels)
    scratch = _scratch(target, 2, target.dtype)
    room = scratch.new_empty(scratch.numel() // 2)
    height, width = source.shape[1:3]
    for chunk in _chunks(target.shape, 2):
        place = target[chunk]
        above = source[chunk[0], chunk[1].start // 2 : min(height, chunk[1].stop // 2)]
        if pool == "avg":
            above = above * 0.25
        flags = _unpack(_packed_planes(bits, result)[chunk], place.shape, _run_length(result), scratch)
        _keep(_spread(above, room), _as_windows(flags, above.shape), _as_windows(place, above.shape))
        place[:, 2 * above.shape[1] :] = 0
        place[:, :, 2 * width :] = 0


def _planes(x: Tensor, by_channels: bool) -> Tensor:
    """A dense (B, C, H, W) tensor as it lies: (B, H, W, C) if its channels lie side by side, else (B·C, H, W, 1)."""
    if by_channels:
        return x.permute(0, 2, 3, 1)
    return x.view(-1, x.shape[2], x.shape[3], 1)


def _packed_planes(bits: Tensor, x: Tensor) -> Tensor:
    """The bits of `x` with the planes and rows of `_planes` as their first axes: a chunk of one fits the other."""
    return bits if packed_by_channels(x) else bits.view(-1, bits.shape[2], bits.shape[3], 1)


def _run_length(x: Tensor) -> int:
    return x.shape[1] if packed_by_channels(x) else x.shape[3]


def _chunks(shape: torch.Size, multiple: int) -> Iterator[tuple[slice, slice]]:
    """Slices of planes and rows: several whole planes, or some rows of one, whose number `multiple` divides but for the
    last."""
    planes, height, width, run = shape
    several = _CHUNK // (height * width * run)
    if several:
        for plane in range(0, planes, several):
            yield slice(plane, plane + several), slice(0, height)
        return
    rows = max(1, _CHUNK // (width * run * multiple)) * multiple
    for plane in range(planes):
        for row in range(0, height, rows):
            yield slice(plane, plane + 1), slice(row, min(height, row + rows))


def _shifts(bias: Tensor | None, x: Tensor) -> Tensor | None:
    """The bias in the dtype of the sum, (1, 1, 1, C) or (B·C, 1, 1, 1)."""
    if bias is None:
        return None
    bias = bias.to(accumulation_dtype(x.dtype))
    return bias.view(1, 1, 1, -1) if packed_by_channels(x) else bias.repeat(x.shape[0]).view(-1, 1, 1, 1)


def _activations(x: Tensor, shifts: Tensor | None, planes: slice, place: Tensor) -> Tensor:
    """max(x + shift, 0) of a chunk, in `place`, which has the dtype of the sum and may be `x`."""
    if shifts is None:
        place.copy_(x)
    else:
        shift = shifts[planes] if shifts.shape[3] == 1 else shifts
        torch.add(x, shift, out=place) if x.dtype == place.dtype else place.copy_(x).add_(shift)
    return place.relu_()


def _windows(x: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The activations of each 2×2 window in scan order: four views of (planes, H, W, run), each like `pooled`."""
    rows, columns = 2 * pooled.shape[1], 2 * pooled.shape[2]
    top, bottom = x[:, 0:rows:2], x[:, 1:rows:2]
    return top[:, :, 0:columns:2], top[:, :, 1:columns:2], bottom[:, :, 0:columns:2], bottom[:, :, 1:columns:2]


def _average(value: Tensor, room: Tensor, place: Tensor) -> None:
    """Write the mean of each window of a chunk into `place` by way of `room`, which has the dtype of the sum."""
    # A last odd row may be a chunk of its own, without a window.
    if not place.numel():
        return
    if value.shape[3] > 1:
        torch.ops.aten.avg_pool2d.out(value.permute(0, 3, 1, 2), [2, 2], out=room.permute(0, 3, 1, 2))
    else:
        # Four times as fast as torch's pool where rows lie side by side, and the same sum.
        first, second, third, fourth = _windows(value, place)
        torch.add(first, second, out=room).add_(third).add_(fourth).mul_(0.25)
    if room.dtype != place.dtype:
        place.copy_(room)


def _maximum(windows: tuple[Tensor, ...], flags: tuple[Tensor, ...] | None) -> Tensor:
    """The maximum of each window; its flag is at the first of equals, or at the last NaN, as in torch; none at zero."""
    best = torch.maximum(torch.maximum(windows[0], windows[1]), torch.maximum(windows[2], windows[3]))
    if flags is None:
        return best
    missing = best > 0
    for flag, value in zip(flags, windows, strict=True):
        flag.copy_((value == best).logical_and_(missing))
        missing.logical_and_(~flag)
    missing = best.isnan()
    if missing.any():
        for flag, value in zip(reversed(flags), reversed(windows), strict=True):
            last = missing & value.isnan()
            flag.logical_or_(last)
            missing.logical_and_(~last)
    return best


def _by_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu" and importlib.util.find_spec("numpy") is not None


def _nonzero(value: Tensor, flags: Tensor) -> Tensor:
    """value ≠ 0, which holds for NaN, in `flags`, bool."""
    if not _by_numpy(value):
        return torch.ne(value, 0, out=flags)
    import numpy

    numpy.not_equal(value.numpy(), 0, out=flags.numpy())
    return flags


def _pack(flags: Tensor, bits: Tensor, run_length: int) -> None:
    """Write contiguous flags, bool, as contiguous bits."""
    runs = flags.view(-1, run_length)
    ragged = run_length % 8 != 0
    if _by_numpy(flags):
        import numpy

        source = runs if ragged else runs.view(-1)
        packed = torch.from_numpy(numpy.packbits(source.numpy(), axis=-1, bitorder="little"))
    else:
        if ragged:
            runs = torch.nn.functional.pad(runs, (0, -run_length % 8))
        packed = runs.view(torch.int64).mul(_GATHER).bitwise_right_shift_(56)
    bits.copy_(packed.view(bits.shape))


def _scratch(x: Tensor, multiple: int, dtype: torch.dtype) -> Tensor:
    """Room for any chunk of `_planes`: allocated once, because fresh pages cost more than the work."""
    size = max(x[chunk].numel() for chunk in _chunks(x.shape, multiple))
    return torch.empty((size,), dtype=dtype, device=x.device)


def _part(scratch: Tensor, shape: torch.Size) -> Tensor:
    return scratch[: shape.numel()].view(shape)


def _unpack(bits: Tensor, shape: torch.Size, run_length: int, scratch: Tensor) -> Tensor:
    """Contiguous bits as flags 0 and 1 in the dtype of `scratch`, which holds them."""
    runs = bits.reshape(-1, (run_length + 7) // 8)
    ragged = run_length % 8 != 0
    if _by_numpy(bits):
        import numpy

        source = (runs if ragged else runs.view(-1)).numpy()
        flags = torch.from_numpy(
            numpy.unpackbits(source, axis=-1, count=run_length if ragged else None, bitorder="little")
        )
    else:
        places = torch.arange(8, dtype=torch.uint8, device=bits.device)
        flags = (runs[:, :, None].bitwise_right_shift(places) & 1).flatten(1)[:, :run_length]
    return _part(scratch, shape).copy_(flags.reshape(shape))


def _spread(above: Tensor, room: Tensor) -> Tensor:
    """Each element of a chunk (planes, h, w, run) four times: (planes, h, 2, w, 2, run), in `room` if need be."""
    doubled = above[:, :, :, None].expand(-1, -1, -1, 2, -1)
    if above.shape[3] == 1:
        doubled = _part(room, doubled.shape)
        doubled[:, :, :, 0] = above
        doubled[:, :, :, 1] = above
    return doubled[:, :, None].expand(-1, -1, 2, -1, -1, -1)


def _as_windows(x: Tensor, shape: torch.Size) -> Tensor:
    """The 2×2 windows of a chunk, (planes, h, 2, w, 2, run), for `shape`, (planes, h, w, run), of what is above it."""
    planes, height, width, run = shape
    return x[:, : 2 * height, : 2 * width].view(planes, height, 2, width, 2, run)


def _keep(gradient: Tensor, flags: Tensor, place: Tensor) -> None:
    """Write the gradient where its flag is 1, else 0: exact for infinities and NaN too, and vectorised."""
    torch.ops.aten.threshold_backward.grad_input(gradient, flags, 0.0, grad_input=place)
