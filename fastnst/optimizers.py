"""The optimisers: one step from an image and its gradient, in place, without a host round trip."""

from typing import Protocol

import torch
from torch import Tensor

from fastnst.options import Options

LBFGS_HISTORY = 20
ADAM_RATE = 0.02
LBFGS_RATE = 1.0


class Optimizer(Protocol):
    def step(self, image: Tensor, gradient: Tensor) -> None:
        """Moves `image` in place. Both are (1, 3, H, W) in the same dtype and memory format."""


def make_optimizer(options: Options) -> Optimizer:
    """A fresh optimiser of the kind and learning rate that `options` name."""
    if options.optimizer == "adam":
        return Adam(learning_rate=options.learning_rate or ADAM_RATE)
    return LBFGS(learning_rate=options.learning_rate or LBFGS_RATE)


class LBFGS:
    """Limited-memory BFGS without a line search, as `torch.optim.LBFGS(max_iter=1)` does it, step by step.

    Direction `−H g` by the two-loop recursion over the last `history` pairs `s = Δx`, `y = Δg` (Nocedal 1980), with
    `H₀ = (s·y / y·y) I`. The first step is `learning_rate · min(1, 1/‖g‖₁)` along `−g`, later ones `learning_rate`.

    Unlike torch's, nothing is read back to the host, no threshold depends on the loss's scale, and the image may be
    channels-last. A pair without positive curvature (`s·y ≤ 10⁻¹⁰ ‖s‖ ‖y‖`) is kept with no influence.
    Memory: `2 · history + 3` images.
    """

    def __init__(self, *, learning_rate: float = LBFGS_RATE, history: int = LBFGS_HISTORY) -> None:
        self.learning_rate = learning_rate
        self.history = history
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._scale: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor) -> None:
        x, g = _flat(image), _flat(gradient)
        if self._last is None:
            direction = -g
            direction *= self.learning_rate * (1 / g.abs().sum().clamp_min(1.0))
        else:
            self._remember(*self._last, g)
            direction = self._direction(g)
            direction *= self.learning_rate
        self._last = direction, g.clone()
        x += direction

    def _remember(self, s: Tensor, previous_gradient: Tensor, g: Tensor) -> None:
        y = g - previous_gradient
        sy, yy, ss = s.dot(y), y.dot(y), s.dot(s)
        curved = sy > 1e-10 * ss.sqrt() * yy.sqrt()
        inverse = torch.where(curved, 1 / sy, 0.0)
        scale = torch.where(curved, sy / yy, torch.ones_like(sy) if self._scale is None else self._scale)
        self._scale = scale
        if len(self._pairs) == self.history:
            self._pairs.pop(0)
        self._pairs.append((s, y, inverse))

    def _direction(self, g: Tensor) -> Tensor:
        direction = -g
        projections = []
        for s, y, inverse in reversed(self._pairs):
            projection = inverse * s.dot(direction)
            projections.append(projection)
            direction.addcmul_(y, projection, value=-1)
        if self._scale is not None:
            direction *= self._scale
        for (s, y, inverse), projection in zip(self._pairs, reversed(projections), strict=True):
            direction.addcmul_(s, projection - inverse * y.dot(direction))
        return direction


class Adam:
    """Adam (Kingma and Ba 2015) with bias correction; after each step the image is clamped to 0…1."""

    def __init__(
        self, *, learning_rate: float = ADAM_RATE, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-8
    ) -> None:
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon
        self._steps = 0
        self._moments: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor) -> None:
        if self._moments is None:
            self._moments = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self._steps += 1
        first, second = self._moments
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = (second / (1 - beta2**self._steps)).sqrt_().add_(self.epsilon)
        image.addcdiv_(first, deviation, value=-self.learning_rate / (1 - beta1**self._steps))
        image.clamp_(0, 1)


def _flat(image: Tensor) -> Tensor:
    """All elements as one dimension in memory order, without a copy for either memory format."""
    if image.is_contiguous():
        return image.view(-1)
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        return image.permute(0, 2, 3, 1).view(-1)
    raise ValueError(f"image with strides {image.stride()} is neither contiguous nor channels-last; make it contiguous")
