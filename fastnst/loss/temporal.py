"""The temporal term of a frame of a clip, and the objective with it (Ruder, Dosovitskiy and Brox 2016).

With `w` the results of earlier frames warped to where their points are now, and `c` in 0…1 how far that is known, at
`K` of the pixels at all::

    temporal = Σ c (x − w)² / (3 K)        over pixels and channels, x and w in 0…1
    total    = α · content + β · style + γ · tv + δ · temporal

It looks at the image alone, at no feature: one pass over the image, whatever tiles the other terms are seen in.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fastnst.loss.objective import Evaluation
from fastnst.loss.scale import LossScale
from fastnst.loss.terms import Loss
from fastnst.network.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Coherence:
    """The earlier results that a frame is held to.

    Attributes:
        target: the warped results, (1, 3, H, W) float32.
        valid: how far they are known, (1, 1, H, W) float32 in 0…1.
        weight: δ.
        free: where the image may change, (1, 1, H, W) bool; elsewhere it is the target. None for everywhere.
    """

    target: Tensor
    valid: Tensor
    weight: float
    free: Tensor | None = None

    def on(self, device: torch.device) -> "Coherence":
        free = None if self.free is None else self.free.to(device)
        return replace(self, target=self.target.to(device), valid=self.valid.to(device), free=free)

    @cached_property
    def factor(self) -> Tensor:
        """What each (x − w)² counts in the total: δ c / (3 K)."""
        return self.weight / (3 * (self.valid > 0).sum().clamp_min(1)) * self.valid

    def held(self, image: Tensor) -> Tensor:
        """The image with the target's pixels where it may not change."""
        return image if self.free is None else torch.where(self.free, image, self.target)


class Coherent:
    """An objective with the temporal term of `coherence`, which lies on its device."""

    def __init__(self, objective: Evaluation, coherence: Coherence) -> None:
        self._objective, self._coherence = objective, coherence

    @property
    def runtime(self) -> Runtime:
        return self._objective.runtime

    @property
    def loss_scale(self) -> LossScale:
        return self._objective.loss_scale

    @property
    def is_tiled(self) -> bool:
        return self._objective.is_tiled

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`: see `Objective.loss`."""
        held = self._coherence.held(image)
        return self._with_term(self._objective.loss(held), held - self._coherence.target)

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss and its gradient: see `Objective.loss_and_gradient`."""
        held = self._coherence.held(image)
        loss, gradient = self._objective.loss_and_gradient(held)
        difference = held - self._coherence.target
        gradient = torch.addcmul(gradient, self._coherence.factor, difference, value=2)
        if self._coherence.free is not None:
            gradient = gradient * self._coherence.free
        return self._with_term(loss, difference), gradient

    def _with_term(self, loss: Loss, difference: Tensor) -> Loss:
        return replace(loss, total=loss.total + (self._coherence.factor * difference.square()).sum())
