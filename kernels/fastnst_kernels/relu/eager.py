"""The sign-bit epilogues in plain torch: what runs where Triton does not."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.launch.layout import packed_by_channels

# As little-endian numbers: eight bytes of 0 or 1 times the first are their eight bits in the highest byte; a byte times
# the second is that byte eight times, of which the third keeps one bit each.
_GATHER, _SPREAD, _PLACES = 0x0102040810204080, 0x0101010101010101, 0x8040201008040201 - (1 << 64)


@torch.no_grad()
def bias_relu(x: Tensor, bias: Tensor | None, pool: str | None, y: Tensor, bits: Tensor | None) -> None:
    """Write max(x + bias, 0), or with a `pool` the average or maximum of each 2×2 window of it, into `y`, and the bits
    of `x` into `bits`.

    `x` and `y` are dense (B, C, H, W) tensors of one layout, which may be the same without a pool; `bits` as
    `layout.empty_bits` makes them. The sum is in float32 (float64 for float64) and rounded once.
    """
    activations = _activations(x, bias)
    result, places = activations, None
    if pool == "max":
        result, places = F.max_pool2d(activations, 2, return_indices=True)
    elif pool == "avg":
        result = F.avg_pool2d(activations, 2)
    y.copy_(result)
    if bits is None:
        return
    passed = activations != 0
    if places is not None:
        passed &= torch.zeros_like(passed).flatten(2).scatter_(2, places.flatten(2), True).view(x.shape)
    else:
        # A last odd row or column is in no window.
        passed[:, :, 2 * y.shape[2] :] = False
        passed[:, :, :, 2 * y.shape[3] :] = False
    _pack(passed, bits, packed_by_channels(x))


@torch.no_grad()
def relu_backward(gradient: Tensor, bits: Tensor, pool: str | None, result: Tensor) -> None:
    """Write the gradient of `bias_relu` into `result`, (B, C, H, W), dense and of the gradient's layout.

    Without a pool `result` may be `gradient`.
    """
    if pool is not None:
        spread = (gradient if pool == "max" else gradient * 0.25).repeat_interleave(2, 2).repeat_interleave(2, 3)
        # A last odd row or column is in no window.
        gradient = F.pad(spread, (0, result.shape[3] % 2, 0, result.shape[2] % 2))
    # Not a product with the bits, of which an infinite gradient would make NaN.
    result.copy_(torch.where(_unpack(bits, result), gradient, 0.0))


def zero_inactive(gradient: Tensor, features: Tensor, out: Tensor) -> None:
    """Write the gradient, or zero where features ≤ 0, into `out`, (B, C, H, W), which either of them may be."""
    if gradient.dtype == torch.bfloat16 and gradient.device.type == "cpu":
        # The floats would be widened one by one; the bits of what is positive are a positive integer.
        gradient, features, out = (x.view(torch.int16) for x in (gradient, features, out))
    torch.ops.aten.threshold_backward.grad_input(gradient, features, 0, grad_input=out)


def _activations(x: Tensor, bias: Tensor | None) -> Tensor:
    """max(x + bias, 0) in the dtype of the sum."""
    value = x.to(accumulation_dtype(x.dtype))
    return value.relu() if bias is None else (value + bias.to(value.dtype)[:, None, None]).relu_()


def _pack(flags: Tensor, bits: Tensor, by_channels: bool) -> None:
    """Write flags (B, C, H, W), bool, as `bits`."""
    runs = flags.permute(0, 2, 3, 1) if by_channels else flags
    eights = F.pad(runs, (0, -runs.shape[3] % 8)).flatten().view(torch.int64)
    bits.copy_((eights * _GATHER).bitwise_right_shift_(56).view(bits.shape))


def _unpack(bits: Tensor, like: Tensor) -> Tensor:
    """The flags of the bits of `like`, (B, C, H, W) bool."""
    eight = (bits.to(torch.int64) * _SPREAD).bitwise_and_(_PLACES)
    runs = eight.view(torch.uint8) != 0  # (B, H, W, C) or (B, C, H, W), and a rest
    if packed_by_channels(like):
        runs = runs.permute(0, 3, 1, 2)
    return runs[:, : like.shape[1], :, : like.shape[3]]
