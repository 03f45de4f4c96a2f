"""What pairs of steps say about the inverse Hessian: one scale, or a matrix for each band."""

from functools import partial

import torch
from torch import Tensor

MEMORY = 0.97
"""How much each pair counts of what the next one does."""
MOST_CONTRAST = 10.0
"""How far a band may lie from the whole, as a factor either way."""
_OPPONENTS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))


def latest_scale(s_dot_y: Tensor, y_dot_y: Tensor) -> Tensor:
    """`s·y / y·y` of one pair, a scalar each, as (1, 1, 1)."""
    return (s_dot_y / y_dot_y).view(1, 1, 1)


class BandCurvature:
    """A symmetric positive definite 3×3 matrix over red, green and blue for each band, from what pairs have shown.

    In opponent colours `u` (brightness, red against blue, and green against both), in which the channels of pictures
    are nearly uncorrelated, and for each band by itself, `√(Σ s_u² / Σ y_u²)` is the scalar that takes gradient changes
    to steps of their size: `Σ s·y / Σ y·y` where the two are parallel, and larger where they are not. The sums are over
    all pairs, each divided by its `y·y` and by `MEMORY` to the power of its age: they look further back than the
    history, whose few pairs alone leave out what they did not move. The result is that scalar relative to the whole,
    limited by `MOST_CONTRAST`, times a scale that is given.
    """

    def __init__(self, bands: int, device: torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.steps, self.changes, self.both = zeros((bands, 3, 3)), zeros((bands, 3, 3)), zeros(1)
        opponents = torch.tensor(_OPPONENTS, dtype=torch.float64)
        self._opponents = torch.nn.functional.normalize(opponents, dim=1).to(device)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        return {"memory_steps": self.steps, "memory_changes": self.changes, "memory_both": self.both}

    def learn(self, ss: Tensor, yy: Tensor, s_dot_y: Tensor, y_dot_y: Tensor, wanted: Tensor) -> None:
        """Takes in a pair, where `wanted`: the channels' products of `s`, and of `y`, summed over each band
        (bands, 3, 3), and their inner products (1,); all float64."""
        for memory, value in ((self.steps, ss), (self.changes, yy), (self.both, s_dot_y)):
            memory.copy_(torch.where(wanted, MEMORY * memory + value / y_dot_y, memory))

    def matrices(self, scale: Tensor) -> Tensor:
        """(bands, 3, 3) float64, on the whole `scale`, a float64 scalar."""
        steps, changes = (
            (self._opponents @ x @ self._opponents.mT).diagonal(dim1=-2, dim2=-1).clamp_min(0)
            for x in (self.steps, self.changes)
        )
        tiny = torch.finfo(steps.dtype).tiny
        whole = self.both / changes.sum().clamp_min(tiny)
        contrast = (steps / changes.clamp_min(tiny)).sqrt() / whole.clamp_min(tiny)
        contrast = contrast.clamp(1 / MOST_CONTRAST, MOST_CONTRAST)
        return scale * (self._opponents.mT * contrast[:, None]) @ self._opponents
