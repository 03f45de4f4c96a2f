"""Adam on an image of pixels in 0…1."""

import torch
import torch.nn.functional as F
from fastnst_kernels import direct
from fastnst_kernels.image.eager import Best
from torch import Tensor

ADAM_RATE = 0.02
_BETAS, _EPSILON = (0.9, 0.99), 1e-8


class Adam:
    """Adam (Kingma and Ba 2015) with bias correction; after each step the image is clamped to 0…1."""

    def __init__(self, *, learning_rate: float = ADAM_RATE, backend: str = "torch") -> None:
        self.learning_rate, self.backend = learning_rate, backend
        self._steps = torch.zeros((), dtype=torch.int64)
        self._moments: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None, best: Best | None = None) -> None:
        """One step; `loss` is not looked at. See `fastnst.optim.Optimizer`."""
        if self._moments is None:
            self._moments = torch.zeros_like(image), torch.zeros_like(image)
            self._steps = torch.zeros((), dtype=torch.int64, device=image.device)
        self._steps.add_(1)
        direct.adam_step(
            self.backend,
            image,
            gradient,
            *self._moments,
            self._steps,
            learning_rate=self.learning_rate,
            betas=_BETAS,
            epsilon=_EPSILON,
            limits=(0.0, 1.0),
            best=best,
        )

    @torch.no_grad()
    def rescaled(self, size: tuple[int, int]) -> "Adam":
        """Adam for the image resized to `size`, (height, width): the step count and both moments, resized bilinearly.

        The loss is made of means over positions, so its gradient by a pixel is as much smaller as there are more
        pixels: the first moment is multiplied by that ratio, the second by its square.
        """
        other = Adam(learning_rate=self.learning_rate, backend=self.backend)
        if self._moments is None:
            return other
        first, second = self._moments
        ratio = first.shape[-2] * first.shape[-1] / (size[0] * size[1])
        other._moments = ratio * _resized(first, size), ratio**2 * _resized(second, size)
        other._steps = self._steps.clone()
        return other

    def live_state(self) -> dict[str, Tensor]:
        if self._moments is None:
            return {}
        return {"steps": self._steps, "first": self._moments[0], "second": self._moments[1]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over what `live_state` gave; an empty one makes the optimiser fresh."""
        self._moments = (state["first"].clone(), state["second"].clone()) if state else None
        self._steps = state["steps"].clone() if state else torch.zeros((), dtype=torch.int64)


def _resized(moment: Tensor, size: tuple[int, int]) -> Tensor:
    layout = torch.channels_last if not moment.is_contiguous() else torch.contiguous_format
    return F.interpolate(moment, size, mode="bilinear", align_corners=False).contiguous(memory_format=layout)
