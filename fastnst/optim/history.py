"""The pairs of steps and gradient changes that L-BFGS remembers, and the inverse Hessian that they make."""

from functools import partial

import torch
from torch import Tensor

from fastnst.optim.bands import BandCurvature, Basis

# In how many parts the history is widened where it is kept in 16 bit.
_PARTS = 16
# The largest magnitude of a kept vector, so that float16 holds most of the small ones too.
_LARGEST = 2.0**14


class History:
    """The pairs in a ring, in blocks of a basis (see `fastnst.optim.bands`), and their inner products.

    `pairs[0]` holds the `s`, `pairs[1]` the `y`, (history, channels, blocks, length) each, divided by `units`
    (2, history): powers of two with which vectors fill the range of 16 bits. In float32 the `y` have them too, lest
    products leave its range where the loss is tiny or huge. Only pairs that are `curved` have influence.

    `sy[i, j] = s_i · y_j` (of use where i is not younger than j); `yy[i, j]`, (bands, channels), are the sums over each
    band of `y_i` times `y_j`. The diagonal of H₀ is `h0`, (bands, channels): the latest pair's scale where there is one
    channel, else that of `BandCurvature` on the scale of the pairs' mean `s·y / y·y`.
    """

    def __init__(self, like: Tensor, length: int, dtype: torch.dtype, basis: Basis) -> None:
        """`like` are blocks of the basis."""
        device, channels, bands = like.device, basis.channels, basis.bands
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.length = length
        self.pairs = torch.zeros((2, length, *like.shape), dtype=dtype, device=device)
        self.units = zeros((2, length)) + 1
        self.previous_gradient = torch.zeros_like(like)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.sy = zeros((length, length))
        self.yy = zeros((length, length, bands, channels))
        self.curved = torch.zeros(length, dtype=torch.bool, device=device)
        self.h0 = zeros((bands, channels)) + 1
        self._curvature = BandCurvature(bands, channels, device) if channels > 1 else None
        self._ring = torch.arange(length, device=device)
        self._band = basis.band
        self._members = (basis.band == torch.arange(bands, device=device)[:, None]).double()

    def tensors(self) -> dict[str, Tensor]:
        """All that a history is, by name."""
        names = ("pairs", "units", "previous_gradient", "slot", "sy", "yy", "curved", "h0")
        memory = {} if self._curvature is None else self._curvature.tensors()
        return {**{name: getattr(self, name) for name in names}, **memory}

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
        """H g in blocks, with the pair that `gradient` completes: its `s` is `length` times the one it began with.
        Where it is not `taken`, the pair is left open, and the result means nothing."""
        if length is not None:
            self.units[0].index_copy_(0, self.slot, self.units[0][self.slot] * length)
        vectors = gradient.new_empty((2, *gradient.shape))
        self._keep(1, torch.sub(gradient, self.previous_gradient, out=vectors[0]), out=vectors[0])
        vectors[1] = gradient
        with_s, with_y = self._products(vectors)
        self._complete_pair(with_s[:, 0], with_y[:, 0], taken)
        order = (self._ring + self.slot + 1) % self.length
        y_h0_g = with_y[:, 1].flatten(1) @ self.h0.flatten()
        ordered = self._coefficients(order, with_s[order, 1], y_h0_g[order])
        s_coefficients, y_coefficients = (torch.empty_like(x).index_copy_(0, order, x) for x in ordered)
        remainder = gradient - self._combination(1, y_coefficients)
        h0 = self.h0[self._band].T.to(gradient.dtype)[..., None]
        return self._combination(0, s_coefficients).addcmul_(h0, remainder)

    def _keep(self, row: int, vector: Tensor, out: Tensor | None = None) -> None:
        """Keeps `vector` as the latest pair's `s` (row 0) or `y` (row 1), and writes it into `out` as it is kept."""
        unit, kept, is_short = self.units.new_ones(1), vector, self.pairs.dtype != vector.dtype
        # The steps of an image of 0…1 fit float32 as they are.
        if row == 1 or is_short:
            # In a sixth of the time of an infinity norm.
            least, most = torch.aminmax(vector)
            largest = torch.maximum(-least, most).double()
            _, exponent = torch.frexp(torch.where(largest > 0, largest, 1.0))
            # Not so small that float32 lost it.
            unit = (torch.ldexp(torch.ones_like(largest), exponent.clamp_min(-100)) / _LARGEST)[None]
            kept = (vector / unit.to(vector.dtype)).to(self.pairs.dtype)
            if out is not None and is_short:
                torch.mul(kept.to(vector.dtype), unit.to(vector.dtype), out=out)
        self.pairs[row].index_copy_(0, self.slot, kept[None])
        self.units[row].index_copy_(0, self.slot, unit)

    def _complete_pair(self, sy: Tensor, yy: Tensor, taken: Tensor | None) -> None:
        """The latest pair's inner products; those of a pair without positive curvature are as if it were zero."""
        s = self.pairs[0].index_select(0, self.slot)[0].to(self.previous_gradient.dtype)
        ss = self._by_band(s.square().sum(-1)) * self.units[0][self.slot].square()
        self.sy.index_copy_(1, self.slot, sy[:, None])
        self.yy.index_copy_(1, self.slot, yy[:, None])
        self.yy.index_copy_(0, self.slot, yy[None])
        own = yy[self.slot][0]
        own_sy, own_yy = sy[self.slot], own.sum()
        curved = (own_sy > 1e-10 * (ss.sum() * own_yy).sqrt()) & (own_yy > 0)
        if taken is not None:
            curved &= taken
        self.curved.index_copy_(0, self.slot, curved)
        if self._curvature is None:
            h0 = own_sy / own_yy
        else:
            self._curvature.learn(ss, own, s_dot_y=own_sy, y_dot_y=own_yy, wanted=curved)
            ratios = self.sy.diagonal() / self.yy[self._ring, self._ring].sum((-2, -1))
            h0 = self._curvature.diagonal(torch.where(self.curved, ratios, 0.0).sum() / self.curved.sum())
        self.h0.copy_(torch.where(curved, h0, self.h0))

    def _products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The inner products of all `s` with the two `vectors`, (history, 2), and those with all `y` by band and
        channel, (history, 2, bands, channels): float64."""
        left = self.pairs.view(2 * self.length, -1, self.pairs.shape[-1]).transpose(0, 1)
        right = vectors.view(2, -1, self.pairs.shape[-1]).transpose(0, 1)
        # The few vectors are the rows: as columns they take twice as long.
        parts = [torch.bmm(right[part], left[part].to(vectors.dtype).mT) for part in self._parts()]
        products = self._by_band((parts[0] if len(parts) == 1 else torch.cat(parts)).view(*vectors.shape[1:3], -1))
        shaped = products.view(*self.h0.shape, 2, 2, self.length) * self.units
        # To (s or y, history, vector, band, channel).
        ordered = shaped.permute(3, 4, 2, 0, 1)
        return ordered[0].sum((-2, -1)), ordered[1]

    def _combination(self, row: int, coefficients: Tensor) -> Tensor:
        """The `s` (row 0) or `y` (row 1), each times its coefficient, (history,), in blocks."""
        weights = (coefficients * self.units[row]).to(self.previous_gradient.dtype)
        pairs = self.pairs[row].flatten(1, 2)
        parts = [torch.tensordot(weights, pairs[:, part].to(weights.dtype), 1) for part in self._parts()]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(self.previous_gradient)

    def _by_band(self, sums: Tensor) -> Tensor:
        """Adds up the blocks of each band: (channels, blocks, …) to (bands, channels, …), float64."""
        result: Tensor = torch.tensordot(self._members, sums.double(), dims=([1], [1]))
        return result

    def _parts(self) -> list[slice]:
        """The blocks of all channels: at once, or by parts where they are widened."""
        blocks = self.pairs[0, 0].flatten(0, 1).shape[0]
        step = blocks if self.pairs.dtype == self.previous_gradient.dtype else -(-blocks // _PARTS)
        return [slice(start, start + step) for start in range(0, blocks, step)]

    def _coefficients(self, order: Tensor, sg: Tensor, y_h0_g: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of the `s`, and of the `y` that are taken from g before H₀, oldest first."""
        curved = self.curved[order]
        both = curved[:, None] & curved
        y_h0_y = self.yy.flatten(2) @ self.h0.flatten()
        sy, yy = (torch.where(both, matrix[order][:, order], 0.0) for matrix in (self.sy, y_h0_y))
        sg, yg = (torch.where(curved, vector, 0.0)[:, None] for vector in (sg, y_h0_g))
        # A pair without influence is a row and a column of zeros: a one on the diagonal makes R regular.
        upper = sy.triu() + torch.diag((~curved).to(sy.dtype))
        p = torch.linalg.solve_triangular(upper, sg, upper=True)
        inner = sy.diagonal()[:, None] * p + (yy @ p - yg)
        return torch.linalg.solve_triangular(upper.T, inner, upper=False)[:, 0], p[:, 0]
