"""Style losses of the first and second moments of a layer's features: how far they are from the style's.

`F` (N filters × M positions) are the features, `m` a mask in 0…1 (or 1 everywhere), and the moments are

    G = Σ m² F Fᵀ / Σ m²      μ = Σ m² F / Σ m²      Σ = G − μ μᵀ      σ = √(diag Σ + ε)

those of the style image `A`, `μ_A`, `Σ_A`, `σ_A`. G with a mask is the guided Gram matrix of Gatys et al. (2017). The
distances, which are functions of the moments alone, so that they can be summed over tiles and processes:

    gram          ‖G − A‖²                   Gatys, Ecker, Bethge (2016)
    covariance    ‖Σ − Σ_A‖²                 the Gram matrix of centred features: Li, Fang, Yang et al. (2017)
    mean-std      |μ − μ_A|² + |σ − σ_A|²    Li, Wang, Liu, Hou (2017); Huang and Belongie (2017)
    wasserstein   |μ − μ_A|² + tr(Σ' + Σ'_A − 2 (Σ'_A^½ Σ' Σ'_A^½)^½)   with Σ' = Σ + ε 1: the squared 2-Wasserstein
                  distance of Gaussians (Olkin, Pukelsheim 1982), as style-transfer-pytorch has it

A layer's style term is its weight times the distance times a constant:

- `objective="paper"`: 1/(4 N²) for gram and covariance, 1/N for mean-std and wasserstein; ε is 1e-5 for mean-std and
  1e-4 for wasserstein, as their authors have them.
- `objective="relative"`: one over the distance of no features at all, ‖A‖², ‖Σ_A‖², |μ_A|² + |σ_A|² and
  |μ_A|² + tr Σ'_A, times `RELATIVE_FACTORS`, so that a style weight is as strong with each; ε is in units of the mean
  variance of the style's features there. ‖Σ_A‖² counts as at least 1e-6 ‖A‖².
- `style_reduction` "mean" and "channel-mean" have their own constants for gram and covariance (see `terms`); for
  mean-std and wasserstein "mean" is what "paper" is.

Several styles make the sum of their terms by their shares, except that the Wasserstein distance, which costs more, is
that to the moments of their mixture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.loss.terms import check_weights, style_factor

_EPSILON = {"gram": 0.0, "covariance": 0.0, "mean-std": 1e-5, "wasserstein": 1e-4}
_LEAST_COVARIANCE = 1e-6
# The polynomials x (a + b x² + c x⁴) whose composition is within 1e-3 of 1 on 1e-3 … 1: Amsel, Persson, Musco, Gower
# (2025), "The Polar Express". The last is the quintic Newton–Schulz step, which the others lead to in few steps.
_STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
RELATIVE_FACTORS = {"gram": 1.0, "covariance": 0.35, "mean-std": 3.5, "wasserstein": 0.55, "sliced": 4.5}
"""The factor of each relative style term: with it a style weight takes the result about as far from the
content as with gram, which `python -m bench.loss_strength` measures.

A Gram matrix is of the second degree in the features and its distance of the fourth: near the style it is about four
times the squared distance between features, of which means, deviations and sorted projections are. A covariance has a
tenth of the Gram matrix's energy or less, and is divided by that. The Wasserstein distance counts all directions alike,
and so has a gradient in those that a Gram matrix, whose largest eigenvalues are nearly all of it, does not see.
"""


@dataclass(frozen=True)
class Moments:
    """`gram` G, (1, N, N), and `mean` μ, (1, N), of the same floating dtype and on the same device."""

    gram: Tensor
    mean: Tensor

    @property
    def covariance(self) -> Tensor:
        """G − μ μᵀ, (1, N, N)."""
        return self.gram - self.mean[:, :, None] * self.mean[:, None, :]


@dataclass(frozen=True)
class MomentTarget:
    """A style's moments as a distance needs them, times `weight`. Make them with `moment_targets`.

    `matrix` is (1, N, N): A, Σ_A, nothing that counts, or Σ'_A^½ in float64. `spread` is (1, N): σ_A for mean-std, the
    diagonal of Σ'_A for wasserstein.
    """

    loss: str
    weight: float
    epsilon: float
    mean: Tensor
    matrix: Tensor
    spread: Tensor


RegionTargets = tuple[tuple[MomentTarget, ...], ...]
"""A layer's targets, those of each region."""


def moment_targets(
    loss: str, styles: Sequence[tuple[Moments, float]], weight: float, form: str
) -> tuple[MomentTarget, ...]:
    """The targets of a layer's region: of its styles' moments, by their shares among themselves, and the layer's
    weight, with the constants of `form`, one of `STYLE_FORMS`.

    Raises RangeError where a constant is out of range.
    """
    whole = sum(share for _, share in styles)
    pairs = [(style, share / whole) for style, share in styles if share > 0]
    if loss == "wasserstein" and pairs:
        gram = sum((style.gram * share for style, share in pairs), torch.zeros_like(pairs[0][0].gram))
        mean = sum((style.mean * share for style, share in pairs), torch.zeros_like(pairs[0][0].mean))
        pairs = [(Moments(gram, mean), math.fsum(share for _, share in pairs))]
    return tuple(_target(loss, style, share * weight, form) for style, share in pairs)


def _target(loss: str, style: Moments, weight: float, form: str) -> MomentTarget:
    whole = Moments(exact(style.gram), exact(style.mean))
    filters = style.mean.shape[1]
    variance = whole.covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    epsilon = _EPSILON[loss]
    if form == "relative":
        epsilon *= max(variance.mean().item(), math.ulp(1.0))
    matrix, spread = whole.gram, variance
    if loss == "covariance":
        matrix = whole.covariance
    elif loss == "mean-std":
        spread = (variance + epsilon).sqrt()
    elif loss == "wasserstein":
        raised = whole.covariance + epsilon * torch.eye(filters, dtype=torch.float64, device=whole.mean.device)
        matrix, spread = root(raised), variance + epsilon
    means = whole.mean.square().sum().item()
    energies = {
        "gram": whole.gram.square().sum().item(),
        "covariance": max(matrix.square().sum().item(), _LEAST_COVARIANCE * whole.gram.square().sum().item()),
        "mean-std": means + spread.square().sum().item(),
        "wasserstein": means + spread.sum().item(),
    }
    if form == "relative":
        weight *= RELATIVE_FACTORS[loss]
    if loss in ("gram", "covariance"):
        weight *= style_factor(form, energies[loss], filters) / (4 * filters**2)
    else:
        weight *= 1 / max(energies[loss], math.ulp(1.0)) if form == "relative" else 1 / filters
    check_weights("moments are", [weight])
    matrix = matrix if loss == "wasserstein" else matrix.to(style.mean)
    return MomentTarget(loss, weight, epsilon, style.mean, matrix, spread.to(style.mean))


def moment_loss(target: MomentTarget, moments: Moments) -> tuple[Tensor, Moments]:
    """The weighted distance of `moments` from the target, (1,), and its gradient by each of them, that by G symmetric;
    nothing is read back."""
    if target.loss == "gram":
        difference = moments.gram - (target.matrix + target.matrix.mT) / 2
        loss = difference.square().sum((1, 2)) * target.weight
        return loss, Moments(difference * (2 * target.weight), torch.zeros_like(moments.mean))
    distance, by_covariance, by_mean = _DISTANCES[target.loss](target, moments)
    by_covariance = by_covariance * target.weight
    # Σ = G − μ μᵀ.
    by_mean = by_mean * target.weight - 2 * (by_covariance * moments.mean[:, None, :]).sum(2)
    return distance * target.weight, Moments(by_covariance, by_mean)


def _covariance(target: MomentTarget, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    difference = moments.covariance - target.matrix
    return difference.square().sum((1, 2)), 2 * difference, torch.zeros_like(moments.mean)


def _mean_std(target: MomentTarget, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    shift = moments.mean - target.mean
    variance = moments.gram.diagonal(dim1=1, dim2=2) - moments.mean.square()
    deviation = (variance.clamp_min(0) + target.epsilon).sqrt()
    stretch = deviation - target.spread
    loss = shift.square().sum(1) + stretch.square().sum(1)
    return loss, torch.diag_embed(stretch / deviation), 2 * shift


def _wasserstein(target: MomentTarget, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    # The product squares what lies between the eigenvalues: in float32 it would lose the smaller half of them.
    shift, own = exact(moments.mean) - exact(target.mean), exact(target.matrix)
    unit = torch.eye(shift.shape[1], dtype=own.dtype, device=own.device)
    raised = Moments(exact(moments.gram), exact(moments.mean)).covariance + target.epsilon * unit
    product = own @ raised @ own
    trace, inverse = root_trace((product + product.mT) / 2)
    traces = raised.diagonal(dim1=1, dim2=2).sum(1) + exact(target.spread).sum(1) - 2 * trace
    by_covariance = unit - own @ inverse @ own
    like = moments.mean
    return (shift.square().sum(1) + traces).to(like), by_covariance.to(like), (2 * shift).to(like)


_DISTANCES = {"covariance": _covariance, "mean-std": _mean_std, "wasserstein": _wasserstein}


def root(matrix: Tensor) -> Tensor:
    """M^½ of symmetric matrices (B, C, C) without negative eigenvalues, by their eigenvalues in float64 on the CPU."""
    values, vectors = torch.linalg.eigh(matrix.double().cpu())
    result: Tensor = ((vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT).to(matrix.device, matrix.dtype)
    return result


def root_trace(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """tr M^½, (B,), and twice its gradient, M^−½, (B, C, C), of symmetric positive matrices (B, C, C).

    On a CPU by the eigenvalues, in float64. Elsewhere by Newton–Schulz's iteration for the root and its inverse
    together (Higham 1997), which a captured graph may hold: eigenvalues below 1e-7 of the matrix's norm count for less
    than they should there, as in any iteration of so few steps.
    """
    if matrix.device.type == "cpu":
        values, vectors = torch.linalg.eigh(matrix.double())
        # What rounding left of an eigenvalue of 0 has no inverse that means anything.
        floor = values.amax(1, keepdim=True).clamp_min(1e-30) * 1e-14
        roots = values.clamp_min(0).maximum(floor).sqrt()
        return roots.sum(1).to(matrix.dtype), ((vectors / roots[:, None]) @ vectors.mT).to(matrix.dtype)
    return iterated_root_trace(matrix)


def iterated_root_trace(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`root_trace` by the iteration, on any device."""
    norm = torch.linalg.matrix_norm(matrix)[:, None, None].clamp_min(1e-30)
    unit = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, unit.expand_as(matrix)
    for a, b, c in _STEPS:
        product = z @ y
        step = a * unit + b * product + c * (product @ product)
        y, z = y @ step, step @ z
    trace = y.diagonal(dim1=1, dim2=2).sum(1) * norm[:, 0, 0].sqrt()
    return trace, (z + z.mT) / (2 * norm.sqrt())
