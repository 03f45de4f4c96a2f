"""A line search for the strong Wolfe conditions, one evaluation at a time, without a host round trip."""

import torch
from torch import Tensor

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
MOST_TRIALS = 16
_FIELDS = 12


class StrongWolfe:
    """Decides, evaluation by evaluation, how far to go along a line (Nocedal and Wright 2006, algorithms 3.5 and 3.6).

    A length `t` is taken where `f(t) ≤ f(0) + 10⁻⁴ t f'(0)` and `|f'(t)| ≤ 0.9 |f'(0)|`, the constants of
    `torch.optim.LBFGS(line_search_fn="strong_wolfe")`. Until lengths on both sides are known the next trial lies
    beyond, then between them: at the minimum of the cubic through both ends. After `MOST_TRIALS` the best length so
    far is taken, which is 0 where none was better than the start.

    All state is float64 scalars on the device of what it is shown: a captured CUDA graph searches on.
    """

    def __init__(self, like: Tensor) -> None:
        # The start's loss and slope; the trial length; loss, slope and length at the better end of the bracket, then at
        # the other; whether there is another; the number of trials; whether the next length is to be taken in any case.
        self.state = torch.zeros(_FIELDS, dtype=torch.float64, device=like.device)

    def begin(self, loss: Tensor, slope: Tensor, wanted: Tensor | None = None) -> None:
        """Starts a line at a point of this loss and slope, whose first trial length is 1; only where `wanted`."""
        loss, slope = loss.double(), slope.double()
        zero, unit = torch.zeros_like(loss), torch.ones_like(loss)
        fresh = torch.stack((loss, slope, unit, zero, loss, slope, zero, zero, zero, zero, zero, zero))
        self.state.copy_(fresh if wanted is None else torch.where(wanted, fresh, self.state))

    @property
    def length(self) -> Tensor:
        """The length to try next or, once `judge` has said so, the one that is taken: a float64 scalar."""
        return self.state[2]

    def judge(self, loss: Tensor, slope: Tensor) -> Tensor:
        """Takes the present length, where loss and slope are these (True, a scalar), or chooses the next."""
        f, g = loss.double(), slope.double()
        f0, g0, t, low, f_low, g_low, high, f_high, g_high, bracketed, trials, settled = self.state.clone().unbind()
        # A loss that overflowed is a bad one.
        finite = f.isfinite() & g.isfinite()
        f, g = torch.where(finite, f, torch.finfo(f.dtype).max / 1e9), torch.where(finite, g, 0.0)
        bad = ~finite | (f > f0 + SUFFICIENT_DECREASE * t * g0) | (f >= f_low)
        taken = (settled > 0) | (~bad & (g.abs() <= -CURVATURE * g0))
        turned = ~bad & torch.where(bracketed > 0, g * (high - low) >= 0, g >= 0)

        # The point itself becomes an end of the bracket: the other one where it is bad, else the better one.
        before, f_before, g_before = low, f_low, g_low
        high, f_high, g_high = _pick(bad, (t, f, g), _pick(turned, (low, f_low, g_low), (high, f_high, g_high)))
        low, f_low, g_low = _pick(bad, (low, f_low, g_low), (t, f, g))
        bracketed = ((bracketed > 0) | bad | turned).to(f.dtype)
        trials = trials + 1

        beyond = _cubic_minimum(
            (before, f_before, g_before), (t, f, g), t + 0.01 * (t - before), torch.maximum(10 * t, t + 1e-3)
        )
        near, far = torch.minimum(low, high), torch.maximum(low, high)
        margin = 0.1 * (far - near)
        between = _cubic_minimum((low, f_low, g_low), (high, f_high, g_high), near + margin, far - margin)
        exhausted = ~taken & (trials >= MOST_TRIALS)
        following = torch.where(exhausted, low, torch.where(bracketed > 0, between, beyond))
        t = torch.where(taken, t, following)
        settled = exhausted.to(f.dtype)
        self.state.copy_(torch.stack((f0, g0, t, low, f_low, g_low, high, f_high, g_high, bracketed, trials, settled)))
        return taken


Point = tuple[Tensor, Tensor, Tensor]


def _pick(condition: Tensor, chosen: Point, other: Point) -> Point:
    a, b, c = (torch.where(condition, x, y) for x, y in zip(chosen, other, strict=True))
    return a, b, c


def _cubic_minimum(p: Point, q: Point, least: Tensor, most: Tensor) -> Tensor:
    """The minimum within `least` … `most` of the cubic through two points (length, loss, slope), else the middle."""
    in_order = p[0] <= q[0]
    (x1, f1, g1), (x2, f2, g2) = _pick(in_order, p, q), _pick(in_order, q, p)
    mean = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = mean.square() - g1 * g2
    root = square.clamp_min(0).sqrt()
    minimum = x2 - (x2 - x1) * (g2 + root - mean) / (g2 - g1 + 2 * root)
    return torch.where((square >= 0) & minimum.isfinite(), minimum, (least + most) / 2).clamp(least, most)
