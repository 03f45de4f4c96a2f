"""L-BFGS in a few launches, on a GPU: the mover of an image whose state stays on the device and in place."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.image.eager import Best, keep_best
from fastnst_kernels.lbfgs.state import MOST_HISTORY, NEAR, Blocks, Numbers, State

__all__ = ["MOST_HISTORY", "NEAR", "FusedLBFGS", "first_factor"]


def first_factor(gradient: Tensor, most: float | None) -> Tensor:
    """The factor of `−g` in L-BFGS's first step, at a learning rate of 1: a float64 scalar.

    The step of `gradient`, of any shape, float32 or float64, is as long as `most`, as the root of the mean square over
    its elements; without `most` the factor is `1 / ‖g‖₁`. That of a gradient of zero is 1.
    """
    order, length = (1, 1.0) if most is None else (2, most * gradient.numel() ** 0.5)
    size: Tensor = torch.linalg.vector_norm(gradient, order, dtype=torch.float64)
    return torch.where(size > torch.finfo(gradient.dtype).tiny, length / size, 1.0)


class FusedLBFGS:
    """Steps of `−learning_rate · H g` over the last `history` pairs, with `H` in its compact form.

    As `fastnst.optim.LBFGS` without a line search does them, which says how they are made, but with a power-of-two unit
    for each block of 16-bit pairs. With `places`, the band (H, W // 2 + 1) of each frequency of a real transform, pairs
    are kept as spectra, H₀ has a number for each band and opponent colour, and no step is longer than `most`, the root
    of the mean square over the elements; without, H₀ is the latest pair's scalar, and the length is not limited. A
    `bounded` image stays in 0…1: a gradient that points to a limit nearer than `NEAR` counts in part, and each step is
    clamped.

    `image` is (1, 3, H, W) float32, contiguous; `history` is at most `MOST_HISTORY`, `dtype` that of the pairs:
    float32, float16 or bfloat16. Needs triton.
    """

    def __init__(
        self,
        image: Tensor,
        *,
        learning_rate: float,
        history: int,
        dtype: torch.dtype,
        places: Numbers | None,
        most: float,
        bounded: bool = False,
    ) -> None:
        # Imports triton.
        self._launches: Any = import_module("fastnst_kernels.lbfgs.launches")
        self._rate, self._most, self._bounded = learning_rate, most, bounded
        height, width = self._size = image.shape[2], image.shape[3]
        self.blocks = Blocks.of(height * width, places, self._launches.programs(image.device), image.device)
        self.state = State.fresh(self.blocks, history, dtype)
        self._spectrum: Tensor | None = None
        if places is not None:
            # In the order in which the transform back reads and writes without a copy.
            spectrum = torch.empty((width // 2 + 1, 3, height), dtype=torch.complex64, device=image.device)
            self._spectrum = spectrum.permute(1, 2, 0)

    @torch.no_grad()
    def begin(self, image: Tensor, gradient: Tensor, most: float | None = None) -> None:
        """Before the first step: it is to be `learning_rate` times `first_factor` along `−g`, with `most`."""
        self.state.h0.copy_(first_factor(self._free(image, gradient), most))

    def _free(self, image: Tensor, gradient: Tensor) -> Tensor:
        if not self._bounded:
            return gradient
        free: Tensor = self._launches.free(image, gradient.contiguous())
        return free

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor, best: Best | None = None) -> None:
        """Moves `image` in place; nothing is read back to the host, and a CUDA graph can capture it. Before that
        the image is copied over the `best` one if it is better."""
        terms: dict[str, Any] = {"size": self._size, "rate": self._rate}
        gradient = self._free(image, gradient)
        if self._spectrum is None:
            keep_best(image, best)
            channels = gradient.contiguous().view(3, -1).unbind()
            self._launches.direction(self.state, self.blocks, channels, image, **terms)
            if self._bounded:
                image.clamp_(0, 1)
            return
        rows = torch.fft.rfft(gradient[0])
        # Channel by channel, for torch copies before it transforms columns of several.
        columns = [torch.view_as_real(torch.fft.fft(channel, dim=0).T.contiguous()) for channel in rows]
        spectrum = torch.view_as_real(self._spectrum.permute(2, 0, 1))
        squares = self._launches.direction(self.state, self.blocks, columns, spectrum, **terms)
        picture = torch.fft.irfft2(self._spectrum, s=self._size, norm="forward")
        limits: dict[str, Any] = {"most": self._most, "bounded": self._bounded}
        self._launches.move(self.state, image, picture.contiguous(), squares, **limits, best=best)

    def tensors(self) -> dict[str, Tensor]:
        """The state itself, until the next step."""
        return dict(vars(self.state))
