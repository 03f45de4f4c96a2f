"""The temporal term of a frame of a clip, and the objective with it (Ruder, Dosovitskiy and Brox 2016).

With `w` the results of earlier frames warped to where their points are now, and `c` in 0…1 how far that is known, at
`K` of the pixels at all::

    temporal = Σ c (x − w)² / (3 K)        over pixels and channels, x and w in 0…1
    total    = α · content + β · style + γ · tv + δ L · temporal

L is the total that the first frame of the scene ended with: so δ means the same with any weights and any objective.

It looks at the image alone, at no feature: one pass over the image, whatever tiles the other terms are seen in.

Where δ c is large the term is steeper than the others by far, and an optimiser whose steps fit there goes nowhere in
what is not held. So what it moves is z, of which the image is x = w + d (z − w), with d = 1 / √(1 + δ c / STEEPNESS):
in z all are about as steep as without the term.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fastnst.loss.objective import Evaluation
from fastnst.loss.terms import Loss

STEEPNESS = 200.0
"""The δ with which the temporal term is about as steep as the others are."""


@dataclass(frozen=True, eq=False)
class Coherence:
    """The earlier results that a frame is held to.

    Attributes:
        target: the warped results, (1, 3, H, W) float32.
        valid: how far they are known, (1, 1, H, W) float32 in 0…1.
        weight: δ.
        level: L.
        frozen: where the image may not change, (1, 1, H, W) bool; None for nowhere.
    """

    target: Tensor
    valid: Tensor
    weight: float
    level: float = 1.0
    frozen: Tensor | None = None

    def on(self, device: torch.device) -> "Coherence":
        frozen = None if self.frozen is None else self.frozen.to(device)
        return replace(self, target=self.target.to(device), valid=self.valid.to(device), frozen=frozen)

    @cached_property
    def factor(self) -> Tensor:
        """The weight of each (x − w)² in the total: δ L c / (3 K), (1, 1, H, W)."""
        return self.weight * self.level / (3 * (self.valid > 0).sum().clamp_min(1)) * self.valid

    @cached_property
    def give(self) -> Tensor:
        """How far the image follows what is moved, (1, 1, H, W) in 0…1: d, and 0 where it is frozen."""
        give = (1 + self.weight * self.valid / STEEPNESS).rsqrt()
        return give if self.frozen is None else give.masked_fill(self.frozen, 0)

    def image(self, moved: Tensor) -> Tensor:
        """The image x that z, `moved`, stands for: (1, 3, H, W)."""
        return torch.lerp(self.target, moved, self.give)


class Coherent:
    """An objective with the temporal term of `coherence`, which lies on its device."""

    def __init__(self, objective: Evaluation, coherence: Coherence) -> None:
        self._objective, self._coherence = objective, coherence
        self.loss_scale = objective.loss_scale

    @property
    def is_tiled(self) -> bool:
        return self._objective.is_tiled

    def loss(self, moved: Tensor) -> Loss:
        """The loss of the image of `moved`: see `Objective.loss`."""
        image = self._coherence.image(moved)
        return self._with_term(self._objective.loss(image), image - self._coherence.target)

    def loss_and_gradient(self, moved: Tensor, out: Tensor | None = None) -> tuple[Loss, Tensor]:
        """The loss of the image of `moved`, and its gradient by `moved`: see `Objective.loss_and_gradient`."""
        image = self._coherence.image(moved)
        loss, gradient = self._objective.loss_and_gradient(image, out)
        difference = image - self._coherence.target
        gradient.addcmul_(self._coherence.factor, difference, value=2).mul_(self._coherence.give)
        return self._with_term(loss, difference), gradient

    def _with_term(self, loss: Loss, difference: Tensor) -> Loss:
        return replace(loss, total=loss.total + (self._coherence.factor * difference.square()).sum())
