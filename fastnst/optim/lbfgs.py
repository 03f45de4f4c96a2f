"""Limited-memory BFGS on device vectors, without a host round trip."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from fastnst_kernels.image.eager import Best, keep_best
from fastnst_kernels.launch.layout import flat
from fastnst_kernels.lbfgs import MOST_HISTORY, NEAR, FusedLBFGS, first_factor
from torch import Tensor

from fastnst.optim.bands import Basis, Pixels, RadialBands, radial_places
from fastnst.optim.history import History
from fastnst.optim.line_search import StrongWolfe

LBFGS_HISTORY = 20
LBFGS_RATE = 1.0
MOST_MOVE = 0.02
"""The longest step with bands: the root of the mean square over the pixels, in units of their 0…1 range."""


@dataclass(eq=False, repr=False, kw_only=True)
class LBFGS:
    """Limited-memory BFGS, one step for each evaluation.

    The direction is `−H g` over the last `history` pairs `s = Δx`, `y = Δg`, which take a first guess `H₀` further.
    Where the two-loop recursion (Nocedal 1980) goes over each pair twice, one after the other, here the pairs' inner
    products are kept as small matrices, and `H` is in its compact form (Byrd, Nocedal, Schnabel 1994, theorem 2.2)::

        H g = S R⁻ᵀ ((D + Yᵀ H₀ Y) p − Yᵀ H₀ g) + H₀ (g − Y p),    p = R⁻¹ Sᵀg,    R = triu(SᵀY),    D = diag(SᵀY)

    so that a step reads the history twice (vector-free L-BFGS, Chen, Wang, Zhou 2014) and its shape never changes:
    nothing is read back to the host. The small matrices are float64.

    `hessian="scalar"` is `H₀ = (s·y / y·y) I` of the latest pair: the iterates of `torch.optim.LBFGS(max_iter=1)`.
    `hessian="bands"` keeps the pairs in the Fourier transform of the picture's opponent colours, and `H₀` has a number
    for each of these and each band of radial frequencies (`fastnst.optim.bands`); no step is longer than `MOST_MOVE`.
    Coarse and fine structure, and brightness and colour, differ in curvature, which a scalar cannot tell.

    The first step goes along `−g`: by `1 / ‖g‖₁` (torch's by at most 1, which makes tiny losses stand still), or as far
    as `first_move`, the root of the mean square over the pixels, for less may be lost in the rounding of 16 bits. It is
    multiplied by `learning_rate`, as later ones are. No threshold depends on the loss's scale, and the image may be
    channels-last. A pair without positive curvature (`s·y ≤ 10⁻¹⁰ ‖s‖ ‖y‖`) has no influence; before the first one
    with it, steps are as the first.

    `history_dtype` is that of the pairs: the image's where None, or a 16-bit one, each vector then scaled by a power of
    two to fill its range. Memory: `2 · history` images of that dtype, and one of the image's.

    A `bounded` image stays in 0…1: a gradient that points to a limit nearer than `NEAR` counts for the part that is
    left of that, none at the limit (as in the affine scaling of Coleman and Li 1996), and the image is clamped after
    each step. An image that is clamped at the end alone loses there much of what it has won; with a gradient that is
    cut at the limit itself, rounding decides what counts.

    With `line_search="strong_wolfe"` (and else "none") each call gets the loss too, and either takes the image as the
    end of a line, from which it starts the next, or moves the image to another point of the same line; see
    `fastnst.optim.line_search`. It keeps two more images.

    With `backend="triton"` and no line search, a contiguous float32 image is moved by a few launches
    (`fastnst_kernels.lbfgs`) where the history is at most `MOST_HISTORY`; all else is plain torch.
    """

    learning_rate: float = LBFGS_RATE
    history: int = LBFGS_HISTORY
    history_dtype: torch.dtype | None = None
    hessian: str = "scalar"
    bounded: bool = False
    first_move: float | None = None
    line_search: str = "none"
    backend: str = "torch"
    _fused: FusedLBFGS | None = field(default=None, init=False)
    _basis: Basis | None = field(default=None, init=False)
    _pairs: History | None = field(default=None, init=False)
    _line: "_Line | None" = field(default=None, init=False)
    _saved: dict[str, Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None, best: Best | None = None) -> None:
        """See `fastnst.optim.Optimizer`. Raises ValueError for a line search without a loss, or a layout that is
        neither contiguous nor channels-last."""
        flat(image)
        if self.line_search != "none" and loss is None:
            raise ValueError("a line search needs the loss of the image; give step(image, gradient, loss)")
        if self._is_fused(image):
            self._step_fused(image, gradient, best)
            return
        keep_best(image, best)
        if self.bounded:
            # The part that is left to the limit that −g points to: where(g > 0, x, 1 − x) in a third of the time.
            room = (image - 0.5).mul_(gradient.sgn()).add_(0.5)
            self._move(image, room.div_(NEAR).clamp_(0, 1).mul_(gradient), loss)
            image.clamp_(0, 1)
        else:
            self._move(image, gradient, loss)

    def _move(self, image: Tensor, gradient: Tensor, loss: Tensor | None) -> None:
        if self._basis is None:
            self._basis = RadialBands(image) if self.hessian == "bands" else Pixels(image)
        basis = self._basis
        g = basis.to_blocks(gradient)
        if self._pairs is None:
            self._pairs = History(g, self.history, self.history_dtype or g.dtype, basis)
            self._line = None if self.line_search == "none" else _Line(image, g)
            if not self._take_over(self.live_state()):
                self._pairs.h0 *= first_factor(gradient, self.first_move)
                direction = self._descent(g, gradient)
                self._pairs.begin(direction, g)
                if self._line is not None and loss is not None:
                    always = torch.ones((), dtype=torch.bool, device=g.device)
                    self._line.follow(image, direction, loss=loss, g=g, taken=always)
                image += basis.to_picture(direction, image)
                return
        if self._line is None or loss is None:
            direction = self._step_along(self._pairs.inverse_times(g), image.numel())
            self._pairs.begin(direction, g)
            image += basis.to_picture(direction, image)
        else:
            self._search(self._pairs, self._line, basis, image=image, gradient=gradient, g=g, loss=loss)

    def _is_fused(self, image: Tensor) -> bool:
        fits = image.dtype == torch.float32 and image.is_contiguous() and image.shape[:2] == (1, 3)
        few = self.history <= MOST_HISTORY and self.line_search == "none"
        return self.backend == "triton" and fits and few

    def _step_fused(self, image: Tensor, gradient: Tensor, best: Best | None) -> None:
        if self._fused is None:
            self._fused = FusedLBFGS(
                image,
                learning_rate=self.learning_rate,
                history=self.history,
                dtype=self.history_dtype or image.dtype,
                places=radial_places(*image.shape[2:])[0] if self.hessian == "bands" else None,
                most=MOST_MOVE,
                bounded=self.bounded,
            )
            if not self._take_over(self._fused.tensors()):
                self._fused.begin(image, gradient, self.first_move)
        self._fused.step(image, gradient, best)

    def _search(
        self, pairs: History, line: "_Line", basis: Basis, *, image: Tensor, gradient: Tensor, g: Tensor, loss: Tensor
    ) -> None:
        taken = line.judge(loss, g)
        stuck = taken & (line.length == 0)
        direction = self._step_along(pairs.inverse_times(g, line.length, taken), image.numel())
        # Where no length was better than the start, the history has misled: it is forgotten.
        pairs.forget(stuck)
        torch.where(stuck, self._descent(g, gradient), direction, out=direction)
        line.follow(image, direction, loss=loss, g=g, taken=taken)
        pairs.begin(line.direction, g, taken)
        torch.addcmul(line.start, basis.to_picture(line.direction, image), line.length.to(image.dtype), out=image)

    def _descent(self, g: Tensor, gradient: Tensor) -> Tensor:
        return self._step_along(g * first_factor(gradient, self.first_move), gradient.numel())

    def _step_along(self, way: Tensor, elements: int) -> Tensor:
        """Turns `way`, H g of an image of so many elements, into the step against it, no longer than it may be."""
        factor = torch.full((), self.learning_rate, dtype=torch.float64, device=way.device)
        if self.hessian == "bands":
            factor = factor.minimum(MOST_MOVE * elements**0.5 / way.norm().double())
        return way.mul_(-factor.to(way.dtype))

    def rescaled(self, size: tuple[int, int]) -> "LBFGS":
        """One without pairs, for those of another scale are another function's, that begins with what is known of each
        band, as it is: by the ratio of the pixels, as for a mean, it would be larger, and runs end higher."""
        other, known = replace(self), self.curvature()
        if "memory_both" in known and float(known["memory_both"]) > 0:
            other.load_state_dict(known)
        return other

    def live_state(self) -> dict[str, Tensor]:
        if self._fused is not None:
            return self._fused.tensors()
        if self._pairs is None:
            return dict(self._saved)
        line = {} if self._line is None else self._line.tensors()
        return {**self._pairs.tensors(), **line}

    def curvature(self) -> dict[str, Tensor]:
        """A copy of what is known of each band, for another image of that size; nothing with a line search."""
        names = ("h0", "memory_steps", "memory_changes", "memory_both")
        state = self.live_state() if self.line_search == "none" else {}
        return {name: state[name].clone() for name in names if name in state}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over what `live_state` of one with the same options gave, and reads it at the next step; an empty one
        makes the optimiser fresh, so does that of another backend, and what `curvature` gave makes one that knows how
        long its first step is to be."""
        self._basis = self._pairs = self._line = self._fused = None
        self._saved = dict(state)

    def _take_over(self, tensors: Mapping[str, Tensor]) -> bool:
        """Copies what was saved, if there is something and it is of the same kind, into `tensors`."""
        saved, self._saved = self._saved, {}
        fits = saved.keys() <= tensors.keys() and all(x.shape == tensors[name].shape for name, x in saved.items())
        for name, value in saved.items() if fits else ():
            tensors[name].copy_(value)
        return fits and bool(saved)


class _Line:
    """The line that is searched: the picture at its start, its direction in blocks, and what is known of the loss."""

    def __init__(self, image: Tensor, blocks: Tensor) -> None:
        self.start, self.direction = torch.zeros_like(image), torch.zeros_like(blocks)
        self._search = StrongWolfe(image)

    @property
    def length(self) -> Tensor:
        return self._search.length

    def judge(self, loss: Tensor, g: Tensor) -> Tensor:
        return self._search.judge(loss, self._dot(self.direction, g))

    def follow(self, image: Tensor, direction: Tensor, *, loss: Tensor, g: Tensor, taken: Tensor) -> None:
        """Starts a new line at `image` where the last one's end was `taken`."""
        torch.where(taken, image, self.start, out=self.start)
        torch.where(taken, direction, self.direction, out=self.direction)
        self._search.begin(loss, self._dot(self.direction, g), taken)

    def tensors(self) -> dict[str, Tensor]:
        return {"line_start": self.start, "line_direction": self.direction, "line": self._search.state}

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner product of two tensors of blocks, a float64 scalar."""
        return (a * b).sum(dtype=torch.float64)
