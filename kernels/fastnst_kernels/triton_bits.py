# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""What the Triton kernels of the sign bits share.

Activations are handled in groups of 32 (8 where runs are not multiples of 32) whose bits are one word: a thread holds
16 bytes of a group, and the threads of a group add up its word by shuffles. Where a program starts is in 64 bits, what
lies inside it in 32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch import Plan, run, stored


@triton.jit
def packed_word(off, mask, place, dtype: tl.constexpr):
    """The words (G,) of the groups' bits: `place` where an activation (G, GROUP) is neither `off` nor masked."""
    # Each activation has a bit of its own: the sum is the bitwise or.
    return tl.sum(tl.where(off, 0, tl.where(mask, place, 0)), axis=1).to(dtype)


@triton.jit
def relu(value):
    # NaN is not at most zero: it comes through, and so does its gradient, as in torch.
    return tl.where(value <= 0.0, 0.0, value)


def groups_per_program(elements: int, group: int) -> int:
    """Groups of one program: so few that the thread that holds a group also reads and writes its bits."""
    return min(elements, 1024 if group == 8 else 2048) // group


def as_words(bits: Tensor, group: int) -> Tensor:
    """Packed bits, uint8, as the words of groups of this size: int32 for 32 activations, uint8 for 8."""
    return bits.view(-1).view(torch.int32) if group == 32 else bits


def group_size(run_length: int, bits: Tensor | None) -> int:
    """Activations whose bits are one word, 32 or 8, in runs of this length."""
    words = bits is None or bits.storage_offset() % 4 == 0
    return 32 if run_length % 32 == 0 and words else 8


def run_into(plan: Plan, written: Tensor, buffer: Tensor) -> None:
    """Runs a plan that writes `buffer`, the `buffer_of` what is to be `written`."""
    run(plan, written.device)
    if buffer is not written:
        written.copy_(buffer)


def buffer_of(written: Tensor) -> Tensor:
    """What the kernel writes in place of `written`: itself, except where the interpreter cannot round to its dtype."""
    return written if stored(written.dtype) == written.dtype else torch.empty_like(written, dtype=torch.float32)
