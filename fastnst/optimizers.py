"""The optimisers: one step from an image and its gradient, in place, without a host round trip."""

from typing import Protocol

import torch
from fastnst_kernels.image import adam_step_
from torch import Tensor

from fastnst.options import Options
from fastnst.runtime import Runtime

LBFGS_HISTORY = 20
ADAM_RATE = 0.02
LBFGS_RATE = 1.0
_PARTS = 16


class Optimizer(Protocol):
    def step(self, image: Tensor, gradient: Tensor) -> None:
        """Moves `image` in place. Both are (1, 3, H, W) in the same dtype and memory format."""


def make_optimizer(options: Options, runtime: Runtime) -> Optimizer:
    """A fresh optimiser of the kind and learning rate that `options` name."""
    if options.optimizer == "adam":
        return Adam(learning_rate=options.learning_rate or ADAM_RATE, backend=runtime.kernels)
    return LBFGS(learning_rate=options.learning_rate or LBFGS_RATE)


class LBFGS:
    """Limited-memory BFGS without a line search, with the steps of `torch.optim.LBFGS(max_iter=1)`, in another form.

    The direction is `−H g` over the last `history` pairs `s = Δx`, `y = Δg`, with `H₀ = γ I`, `γ = s·y / y·y` of the
    latest pair. Where the two-loop recursion (Nocedal 1980) goes over each pair twice, one after the other, here the
    inner products of the pairs are kept as small matrices, and `H` is in its compact form (Byrd, Nocedal, Schnabel
    1994, theorem 2.2)::

        H g = γ g + S R⁻ᵀ ((D + γ YᵀY) p − γ Yᵀg) − γ Y p,    p = R⁻¹ Sᵀg,    R = triu(SᵀY),    D = diag(SᵀY)

    so that a step reads the history twice (vector-free L-BFGS, Chen, Wang, Zhou 2014) and its shape never changes:
    nothing is read back to the host. The small matrices are float64, the history is in the image's dtype.

    The first step is `learning_rate / ‖g‖₁` along `−g` (torch's at most `learning_rate`, which makes tiny losses stand
    still), later ones `learning_rate`. No threshold depends on the loss's scale, and the image may be channels-last. A
    pair without positive curvature (`s·y ≤ 10⁻¹⁰ ‖s‖ ‖y‖`) has no influence. Memory: `2 · history + 1` images.
    """

    def __init__(self, *, learning_rate: float = LBFGS_RATE, history: int = LBFGS_HISTORY) -> None:
        self.learning_rate = learning_rate
        self.history = history
        self._state: _History | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor) -> None:
        x, g = _flat(image), _flat(gradient)
        if self._state is None:
            self._state = _History(g, self.history)
            direction = g * (-self.learning_rate / g.abs().sum().clamp_min(torch.finfo(g.dtype).tiny))
        else:
            direction = self._state.inverse_times(g)
            direction *= -self.learning_rate
        self._state.begin_pair(direction, g)
        x += direction


class _History:
    """The pairs in a ring, and their inner products.

    `pairs[0]` holds the `s`, `pairs[1]` the `y`, (history, n) each; only those that are `curved` have influence.
    `sy[i, j] = s_i · y_j` (of use where i is not younger than j) and `yy[i, j] = y_i · y_j`.
    """

    def __init__(self, like: Tensor, length: int) -> None:
        device = like.device
        self.length = length
        self.pairs = like.new_zeros((2, length, like.numel()))
        self.previous_gradient = torch.empty_like(like)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.sy = torch.zeros((length, length), dtype=torch.float64, device=device)
        self.yy = torch.zeros_like(self.sy)
        self.curved = torch.zeros(length, dtype=torch.bool, device=device)
        self.scale = torch.ones((), dtype=torch.float64, device=device)
        self._ring = torch.arange(length, device=device)

    def begin_pair(self, s: Tensor, gradient: Tensor) -> None:
        """Puts `s` in the place of the oldest pair; its `y` follows with the next gradient."""
        self.slot.add_(1).remainder_(self.length)
        self.pairs[0].index_copy_(0, self.slot, s[None])
        self.previous_gradient.copy_(gradient)

    def inverse_times(self, gradient: Tensor) -> Tensor:
        """H g, (n,), with the pair that `gradient` completes."""
        y = torch.sub(gradient, self.previous_gradient, out=self.previous_gradient)
        self.pairs[1].index_copy_(0, self.slot, y[None])
        products = self._products(torch.stack((y, gradient)))
        self._complete_pair(products[: self.length, 0], products[self.length :, 0])
        order = (self._ring + self.slot + 1) % self.length
        s_coefficients, y_coefficients = self._coefficients(order, products[order, 1], products[order + self.length, 1])
        coefficients = torch.empty((2, self.length), dtype=torch.float64, device=gradient.device)
        coefficients[0, order], coefficients[1, order] = s_coefficients, y_coefficients
        result = coefficients.flatten().to(gradient.dtype) @ self.pairs.flatten(0, 1)
        return result.addcmul_(gradient, self.scale.to(gradient.dtype))

    def _complete_pair(self, sy: Tensor, yy: Tensor) -> None:
        """The latest pair's inner products; those of a pair without positive curvature are as if it were zero."""
        s = self.pairs[0].index_select(0, self.slot)[0]
        own_sy, own_yy = sy[self.slot], yy[self.slot]
        curved = own_sy > 1e-10 * s.dot(s).sqrt() * own_yy.sqrt()
        self.scale.copy_(torch.where(curved, own_sy / own_yy, self.scale)[0])
        self.curved.index_copy_(0, self.slot, curved)
        self.sy.index_copy_(1, self.slot, sy[:, None])
        self.yy.index_copy_(1, self.slot, yy[:, None])
        self.yy.index_copy_(0, self.slot, yy[None])

    def _products(self, vectors: Tensor) -> Tensor:
        """The inner products of all `s`, then all `y`, with the rows of `vectors` (2, n): (2 · history, 2) float64.

        As a batch of partial sums: libraries do not share the long axis of so flat a product among threads.
        """
        length = vectors.shape[1] // _PARTS
        pairs = self.pairs.flatten(0, 1)
        whole = length * _PARTS
        left = pairs[:, :whole].view(len(pairs), _PARTS, length).transpose(0, 1)
        right = vectors[:, :whole].view(2, _PARTS, length).permute(1, 2, 0)
        products = torch.bmm(left, right).double().sum(0)
        return products + (pairs[:, whole:] @ vectors[:, whole:].T)

    def _coefficients(self, order: Tensor, sg: Tensor, yg: Tensor) -> tuple[Tensor, Tensor]:
        """H g − γ g over the `s` and the `y`, from the oldest pair to the latest."""
        curved = self.curved[order]
        both = curved[:, None] & curved
        sy, yy = (torch.where(both, matrix[order][:, order], 0.0) for matrix in (self.sy, self.yy))
        sg, yg = (torch.where(curved, vector, 0.0)[:, None] for vector in (sg, yg))
        # A pair without influence is a row and a column of zeros: a one on the diagonal makes R regular.
        upper = sy.triu() + torch.diag((~curved).to(sy.dtype))
        p = torch.linalg.solve_triangular(upper, sg, upper=True)
        inner = sy.diagonal()[:, None] * p + self.scale * (yy @ p - yg)
        return torch.linalg.solve_triangular(upper.T, inner, upper=False)[:, 0], -self.scale * p[:, 0]


class Adam:
    """Adam (Kingma and Ba 2015) with bias correction; after each step the image is clamped to 0…1."""

    def __init__(
        self,
        *,
        learning_rate: float = ADAM_RATE,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-8,
        backend: str = "auto",
    ) -> None:
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon
        self.backend = backend
        self._steps = torch.zeros((), dtype=torch.int64)
        self._moments: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor) -> None:
        if self._moments is None:
            self._moments = torch.zeros_like(image), torch.zeros_like(image)
            self._steps = torch.zeros((), dtype=torch.int64, device=image.device)
        adam_step_(
            image,
            gradient,
            *self._moments,
            self._steps,
            learning_rate=self.learning_rate,
            betas=self.betas,
            epsilon=self.epsilon,
            increment=True,
            backend=self.backend,
        )


def _flat(image: Tensor) -> Tensor:
    """All elements as one dimension in memory order, without a copy for either memory format."""
    if image.is_contiguous():
        return image.view(-1)
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        return image.permute(0, 2, 3, 1).view(-1)
    raise ValueError(f"image with strides {image.stride()} is neither contiguous nor channels-last; make it contiguous")
