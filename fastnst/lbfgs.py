"""Limited-memory BFGS on a flat vector, with the history's inner products as small matrices."""

from typing import Any

import torch
from torch import Tensor

from fastnst.line_search import StrongWolfe

LBFGS_HISTORY = 20
LBFGS_RATE = 1.0
_PARTS = 16
# Columns of the history that are widened at a time where it is kept in 16 bit.
_CHUNK = 1 << 18


class LBFGS:
    """Limited-memory BFGS with the steps of `torch.optim.LBFGS(max_iter=1)`, in another form.

    The direction is `−H g` over the last `history` pairs `s = Δx`, `y = Δg`, with `H₀ = γ I`, `γ = s·y / y·y` of the
    latest pair. Where the two-loop recursion (Nocedal 1980) goes over each pair twice, one after the other, here the
    inner products of the pairs are kept as small matrices, and `H` is in its compact form (Byrd, Nocedal, Schnabel
    1994, theorem 2.2)::

        H g = γ g + S R⁻ᵀ ((D + γ YᵀY) p − γ Yᵀg) − γ Y p,    p = R⁻¹ Sᵀg,    R = triu(SᵀY),    D = diag(SᵀY)

    so that a step reads the history twice (vector-free L-BFGS, Chen, Wang, Zhou 2014) and its shape never changes:
    nothing is read back to the host. The small matrices are float64.

    The first step is `learning_rate / ‖g‖₁` along `−g` (torch's at most `learning_rate`, which makes tiny losses stand
    still), later ones `learning_rate`. No threshold depends on the loss's scale, and the image may be channels-last. A
    pair without positive curvature (`s·y ≤ 10⁻¹⁰ ‖s‖ ‖y‖`) has no influence.

    `history_dtype` is that of the pairs: the image's where None, or a 16-bit one, each vector then scaled by a power of
    two to fill its range. Memory: `2 · history` images of that dtype, and one of the image's.

    With `line_search="strong_wolfe"` (and else "none") each call gets the loss too, and either takes the image as the
    end of a line, from which it starts the next, or moves the image to another point of the same line; see
    `fastnst.line_search`. It keeps two more images.
    """

    def __init__(
        self,
        *,
        learning_rate: float = LBFGS_RATE,
        history: int = LBFGS_HISTORY,
        history_dtype: torch.dtype | None = None,
        line_search: str = "none",
    ) -> None:
        self.learning_rate = learning_rate
        self.history = history
        self.history_dtype = history_dtype
        self.line_search = line_search
        self._pairs: _History | None = None
        self._line: _Line | None = None

    @torch.no_grad()
    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None) -> None:
        """See `fastnst.optimizers.Optimizer`. Raises ValueError for a line search without a loss, or a layout that is
        neither contiguous nor channels-last."""
        x, g = _flat(image), _flat(gradient)
        if self.line_search != "none" and loss is None:
            raise ValueError("a line search needs the loss of the image; give step(image, gradient, loss)")
        if self._pairs is None:
            self._pairs, self._line = self._fresh(g)
            direction = self._descent(g)
            self._pairs.begin(direction, g)
            if self._line is not None and loss is not None:
                self._line.begin(x, direction, loss, g)
            x += direction
        elif self._line is None or loss is None:
            direction = self._pairs.inverse_times(g)
            direction *= -self.learning_rate
            self._pairs.begin(direction, g)
            x += direction
        else:
            self._search(self._pairs, self._line, x, g, loss)

    def _search(self, pairs: "_History", line: "_Line", x: Tensor, g: Tensor, loss: Tensor) -> None:
        taken = line.judge(loss, g)
        stuck = taken & (line.length == 0)
        direction = pairs.inverse_times(g, line.length, taken)
        direction *= -self.learning_rate
        # Where no length was better than the start, the history has misled: it is forgotten.
        pairs.forget(stuck)
        torch.where(stuck, self._descent(g), direction, out=direction)
        line.follow(x, direction, loss, g, taken)
        pairs.begin(line.direction, g, taken)

    def _descent(self, g: Tensor) -> Tensor:
        return g * (-self.learning_rate / g.abs().sum().clamp_min(torch.finfo(g.dtype).tiny))

    def _fresh(self, like: Tensor) -> tuple["_History", "_Line | None"]:
        pairs = _History(like, self.history, self.history_dtype or like.dtype)
        return pairs, _Line(like) if self.line_search != "none" else None

    def rescaled(self, size: tuple[int, int]) -> "LBFGS":
        """A fresh one: pairs of another scale are those of another function."""
        return LBFGS(
            learning_rate=self.learning_rate,
            history=self.history,
            history_dtype=self.history_dtype,
            line_search=self.line_search,
        )

    def state_dict(self) -> dict[str, Any]:
        """A copy of the history and of the line: `load_state_dict` goes on from it to the same bits."""
        state = {} if self._pairs is None else {name: value.clone() for name, value in self._pairs.tensors().items()}
        return state if self._line is None else {**state, **self._line.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` of one with the same options gave; an empty one makes the optimiser fresh."""
        self._pairs = self._line = None
        if state:
            self._pairs, self._line = self._fresh(state["previous_gradient"])
            for name, value in self._pairs.tensors().items():
                value.copy_(state[name])
            if self._line is not None:
                self._line.load_state_dict(state)


class _Line:
    """The line that is searched: its start, its direction, and what is known of the loss along it."""

    def __init__(self, like: Tensor) -> None:
        self.start, self.direction = torch.empty_like(like), torch.empty_like(like)
        self._search = StrongWolfe(like)

    @property
    def length(self) -> Tensor:
        return self._search.length

    def begin(self, x: Tensor, direction: Tensor, loss: Tensor, g: Tensor) -> None:
        self.start.copy_(x)
        self.direction.copy_(direction)
        self._search.begin(loss, _dot(direction, g))

    def judge(self, loss: Tensor, g: Tensor) -> Tensor:
        return self._search.judge(loss, _dot(self.direction, g))

    def follow(self, x: Tensor, direction: Tensor, loss: Tensor, g: Tensor, taken: Tensor) -> None:
        """Moves `x` along a new line where the last one's end was `taken`, else to the next point of the same."""
        torch.where(taken, x, self.start, out=self.start)
        torch.where(taken, direction, self.direction, out=self.direction)
        self._search.begin(loss, _dot(self.direction, g), taken)
        torch.addcmul(self.start, self.direction, self.length.to(x.dtype), out=x)

    def state_dict(self) -> dict[str, Any]:
        return {
            "line_start": self.start.clone(),
            "line_direction": self.direction.clone(),
            **self._search.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start.copy_(state["line_start"])
        self.direction.copy_(state["line_direction"])
        self._search.load_state_dict(state)


class _History:
    """The pairs in a ring, and their inner products.

    `pairs[0]` holds the `s`, `pairs[1]` the `y`, (history, n) each, divided by `units` (2, history), powers of two;
    only those that are `curved` have influence. `sy[i, j] = s_i · y_j` (of use where i is not younger than j) and
    `yy[i, j] = y_i · y_j`.
    """

    def __init__(self, like: Tensor, length: int, dtype: torch.dtype) -> None:
        device = like.device
        self.length = length
        self.pairs = torch.zeros((2, length, like.numel()), dtype=dtype, device=device)
        self.units = torch.ones((2, length), dtype=torch.float64, device=device)
        self.previous_gradient = torch.zeros_like(like)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.sy = torch.zeros((length, length), dtype=torch.float64, device=device)
        self.yy = torch.zeros_like(self.sy)
        self.curved = torch.zeros(length, dtype=torch.bool, device=device)
        self.scale = torch.ones((), dtype=torch.float64, device=device)
        self._ring = torch.arange(length, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """All that a history is, by name."""
        names = ("pairs", "units", "previous_gradient", "slot", "sy", "yy", "curved", "scale")
        return {name: getattr(self, name) for name in names}

    def begin(self, s: Tensor, gradient: Tensor, wanted: Tensor | None = None) -> None:
        """Puts `s` in the place of the oldest pair; its `y` follows with the next gradient. Only where `wanted`."""
        if wanted is None:
            self.slot.add_(1).remainder_(self.length)
            self.previous_gradient.copy_(gradient)
        else:
            self.slot.add_(wanted.long()).remainder_(self.length)
            torch.where(wanted, gradient, self.previous_gradient, out=self.previous_gradient)
        self._keep(0, s)

    def forget(self, wanted: Tensor) -> None:
        """Takes all influence from the pairs, where `wanted`."""
        self.curved.logical_and_(~wanted)

    def inverse_times(self, gradient: Tensor, length: Tensor | None = None, taken: Tensor | None = None) -> Tensor:
        """H g, (n,), with the pair that `gradient` completes: its `s` is `length` times the one it began with. Where
        it is not `taken`, the pair is left open, and the result means nothing."""
        if length is not None:
            self.units[0].index_copy_(0, self.slot, (self.units[0][self.slot] * length))
        y = self._keep(1, gradient - self.previous_gradient)
        products = self._products(torch.stack((y, gradient)))
        self._complete_pair(products[: self.length, 0], products[self.length :, 0], taken)
        order = (self._ring + self.slot + 1) % self.length
        s_coefficients, y_coefficients = self._coefficients(order, products[order, 1], products[order + self.length, 1])
        coefficients = torch.empty((2, self.length), dtype=torch.float64, device=gradient.device)
        coefficients[0, order], coefficients[1, order] = s_coefficients, y_coefficients
        return self._combination(coefficients, gradient)

    def _keep(self, row: int, vector: Tensor) -> Tensor:
        """Keeps `vector` as the latest pair's `s` (row 0) or `y` (row 1); returns it as it is kept."""
        largest = vector.abs().amax().double()
        _, exponent = torch.frexp(torch.where(largest > 0, largest, 1.0))
        unit = torch.ldexp(torch.ones_like(largest), exponent)
        kept = (vector / unit.to(vector.dtype)).to(self.pairs.dtype)
        self.pairs[row].index_copy_(0, self.slot, kept[None])
        self.units[row].index_copy_(0, self.slot, unit[None])
        return kept.to(vector.dtype) * unit.to(vector.dtype)

    def _complete_pair(self, sy: Tensor, yy: Tensor, taken: Tensor | None) -> None:
        """The latest pair's inner products; those of a pair without positive curvature are as if it were zero."""
        s = self.pairs[0].index_select(0, self.slot)[0].to(self.previous_gradient.dtype)
        own_sy, own_yy = sy[self.slot], yy[self.slot]
        curved = own_sy > 1e-10 * self.units[0][self.slot] * s.dot(s).sqrt() * own_yy.sqrt()
        if taken is not None:
            curved &= taken
        self.scale.copy_(torch.where(curved, own_sy / own_yy, self.scale)[0])
        self.curved.index_copy_(0, self.slot, curved)
        self.sy.index_copy_(1, self.slot, sy[:, None])
        self.yy.index_copy_(1, self.slot, yy[:, None])
        self.yy.index_copy_(0, self.slot, yy[None])

    def _products(self, vectors: Tensor) -> Tensor:
        """The inner products of all `s`, then all `y`, with the rows of `vectors` (2, n): (2 · history, 2) float64.

        As a batch of partial sums: libraries do not share the long axis of so flat a product among threads.
        """
        pairs = self.pairs.flatten(0, 1)
        found = torch.zeros((len(pairs), 2), dtype=torch.float64, device=vectors.device)
        for columns in self._chunks():
            part, right = pairs[:, columns].to(vectors.dtype), vectors[:, columns]
            length = part.shape[1] // _PARTS
            whole = length * _PARTS
            batch = part[:, :whole].view(len(pairs), _PARTS, length).transpose(0, 1)
            found += torch.bmm(batch, right[:, :whole].view(2, _PARTS, length).permute(1, 2, 0)).double().sum(0)
            found += part[:, whole:] @ right[:, whole:].T
        return found * self.units.view(-1, 1)

    def _combination(self, coefficients: Tensor, gradient: Tensor) -> Tensor:
        """`γ g` and the pairs, each times its coefficient (2, history)."""
        weights = (coefficients * self.units).flatten().to(gradient.dtype)
        pairs = self.pairs.flatten(0, 1)
        chunks = [weights @ pairs[:, columns].to(gradient.dtype) for columns in self._chunks()]
        result = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
        return result.addcmul_(gradient, self.scale.to(gradient.dtype))

    def _chunks(self) -> list[slice]:
        """The columns: all at once, or by parts where they are widened."""
        n = self.pairs.shape[2]
        step = n if self.pairs.dtype == self.previous_gradient.dtype else _CHUNK
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]

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


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two flat vectors, a float64 scalar."""
    return (a * b).sum(dtype=torch.float64)


def _flat(image: Tensor) -> Tensor:
    """All elements as one dimension in memory order, without a copy for either memory format."""
    if image.is_contiguous():
        return image.view(-1)
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        return image.permute(0, 2, 3, 1).view(-1)
    raise ValueError(f"image with strides {image.stride()} is neither contiguous nor channels-last; make it contiguous")
