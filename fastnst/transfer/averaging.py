"""The mean of the iterates, which is smoother than the last of them."""

from typing import Any

import torch
from torch import Tensor


class MeanImage:
    """The exponential moving average of the images that it sees, with bias correction, on their device.

        mean_t = Σ_k dᵗ⁻ᵏ x_k / Σ_k dᵗ⁻ᵏ

    `decay` d is in 0…1, without 1; 0 is the last image. Memory: one image.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._sum: Tensor | None = None
        self._weight = torch.zeros((), dtype=torch.float32)

    @torch.no_grad()
    def see(self, image: Tensor) -> None:
        """Takes in the next image, (1, 3, H, W); nothing is read back to the host."""
        if self._sum is None:
            self._sum = torch.zeros_like(image)
            self._weight = torch.zeros((), dtype=image.dtype, device=image.device)
        self._sum.lerp_(image, 1 - self.decay)
        self._weight.lerp_(torch.ones_like(self._weight), 1 - self.decay)

    def mean(self) -> Tensor:
        """The mean so far, a new (1, 3, H, W). Raises RuntimeError before the first image."""
        if self._sum is None:
            raise RuntimeError("no image was seen yet; show one to `see` first")
        return self._sum / self._weight

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state: `load_state_dict` goes on from it to the same bits."""
        return {} if self._sum is None else {"sum": self._sum.clone(), "weight": self._weight.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave; an empty one makes the mean fresh."""
        self._sum = state["sum"].clone() if state else None
        self._weight = state["weight"].clone() if state else torch.zeros((), dtype=torch.float32)
