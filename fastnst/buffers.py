"""Memory that is used again: on a CPU the pages of a fresh tensor cost more than what is written into it."""

from collections import defaultdict
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


class Buffers:
    """Uninitialised contiguous tensors, handed out and given back; what is given back is handed out again.

    It holds as much memory as was handed out at once, for each size and dtype. Not for several threads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: dict[tuple[int, torch.dtype], list[Tensor]] = defaultdict(list)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of `shape`, whose contents are what was last in it."""
        free = self._free[prod(shape), dtype]
        flat = free.pop() if free else torch.empty(prod(shape), dtype=dtype, device=self._device)
        return flat.view(tuple(shape))

    def give(self, tensor: Tensor) -> None:
        """Takes back a tensor that came from `take`, and that nobody reads any more."""
        self._free[tensor.numel(), tensor.dtype].append(tensor.view(-1))
