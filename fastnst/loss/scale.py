"""The factor of the loss of a float16 run, so that small gradients do not vanish nor large ones overflow."""

import torch
from torch import Tensor

from fastnst.network.runtime import Runtime

_FIRST, _LAST, _STEP = 24, -24, 4
# Powers of two kept free above the gradients of the first image.
_MARGIN = 6
# The loss of a leap may be a million times the first one's.
_SMALLEST_RATIO = 2.0**-40


class LossScale:
    """A power of two on the device. Only float16 needs one other than 1: bfloat16 has float32's range.

    `factor` is a tensor, (1,) float32, so that a captured graph sees it change. It is 2 to the power of `exponent`,
    which begins at 24 and which `lower` brings down to −24; and less by as much as the loss is above that of the first
    image, for which see `anchor`: L-BFGS without a line search leaps, and gradients grow no faster than losses.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.needed = runtime.dtype == torch.float16
        self.exponent = _FIRST if self.needed else 0
        self.factor: Tensor = torch.full((1,), 2.0**self.exponent, dtype=torch.float32, device=runtime.device)
        self.reference: Tensor = torch.full((1,), torch.inf, dtype=torch.float32, device=runtime.device)
        self._base = self.factor.clone()

    def set_exponent(self, exponent: int) -> None:
        """Makes the factor 2 to the power of `exponent`, until the next `follow`."""
        self.exponent = exponent
        self._base.fill_(2.0**exponent)
        self.factor.copy_(self._base)

    def lower(self) -> bool:
        """Divides the factor by 2⁴; False where that is not allowed any more."""
        if not self.needed or self.exponent <= _LAST:
            return False
        self.set_exponent(self.exponent - _STEP)
        return True

    def anchor(self, loss: Tensor) -> None:
        """After the first image, whose gradients just fit: keeps a margin above them, and follows its `loss`."""
        if self.needed:
            self.reference.copy_(loss)
            self.set_exponent(max(self.exponent - _MARGIN, _LAST))

    def follow(self, loss: Tensor) -> None:
        """Fits the factor to the loss of the image whose gradient is next; nothing is read back to the host."""
        if self.needed:
            ratio = (self.reference / loss).clamp_(_SMALLEST_RATIO, 1)
            # Its exponent's bits alone: the power of two at or below it.
            power = ratio.view(torch.int32).bitwise_and_(0x7F800000).view(torch.float32)
            torch.mul(self._base, power, out=self.factor)
