"""What the loss of a float16 run is multiplied by, so that small gradients do not vanish nor large ones overflow."""

import torch
from torch import Tensor

from fastnst.runtime import Runtime

_FIRST, _LAST, _STEP = 24, -24, 4
# Powers of two kept free above the gradients of the first image.
_MARGIN = 4


class LossScale:
    """A power of two on the device. Only float16 needs one other than 1: bfloat16 has float32's range.

    `factor` is a tensor, (1,) float32, so that a captured graph sees it change. It begins at 2²⁴; `lower` divides it by
    2⁴, down to 2⁻²⁴.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.needed = runtime.dtype == torch.float16
        self._exponent = _FIRST if self.needed else 0
        self.factor: Tensor = torch.full((1,), 2.0**self._exponent, device=runtime.device)

    def lower(self) -> bool:
        """Divides the factor by 2⁴, and says whether that was still allowed."""
        if not self.needed or self._exponent <= _LAST:
            return False
        self._exponent -= _STEP
        self.factor.fill_(2.0**self._exponent)
        return True

    def leave_margin(self) -> None:
        """Keeps as much free above gradients that just fit as later ones may need."""
        if self.needed:
            self._exponent = max(self._exponent - _MARGIN, _LAST)
            self.factor.fill_(2.0**self._exponent)
