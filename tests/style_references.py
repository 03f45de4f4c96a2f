"""The style losses as their papers write them, in float64 and left to autograd, on a small VGG."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.network.architecture import layers_up_to
from fastnst.network.weights import Weights


def features(weights: Weights, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The layers' features after their ReLU, (N, h, w) float64, of an image (1, 3, H, W), with average pooling."""
    known = weights.preprocessing
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (known.mean, known.std))
    x = ((image.flip(1) if known.bgr else image) * known.scale - mean) / std
    found = {}
    for layer in layers_up_to(weights.network, tuple(names)):
        if layer.is_pool:
            x = F.avg_pool2d(x, 2)
        else:
            own = (weights.tensors[f"{layer.name}.{part}"].double() for part in ("weight", "bias"))
            x = F.conv2d(x, *own, padding=1).relu()
        found[layer.name] = x[0]
    return {name: found[name] for name in names}


def pooled(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask (H, W) at a layer's resolution, by means of 2×2."""
    while mask.shape != shape:
        mask = F.avg_pool2d(mask[None, None], 2)[0, 0]
    return mask


def moments(found: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ m² F Fᵀ / Σ m² and Σ m² F / Σ m²."""
    weight = torch.ones_like(found[0]) if mask is None else pooled(mask.double(), found.shape[1:]).square()
    share = (weight / weight.sum()).flatten()
    matrix = found.flatten(1)
    return (matrix * share) @ matrix.T, matrix @ share


# Of the relative objective, written down a second time: a change of one is a change of every picture.
FACTORS = {"covariance": 0.35, "mean-std": 3.5, "wasserstein": 0.55, "sliced": 4.5}
Pair = tuple[Tensor, Tensor]


def _covariance(pair: Pair) -> Tensor:
    return pair[0] - torch.outer(pair[1], pair[1])


def _epsilon(style: Pair, plain: float, relative: bool) -> float:
    return plain * (_covariance(style).diagonal().mean().item() if relative else 1.0)


def _gram(own: Pair, style: Pair, relative: bool) -> Tensor:
    constant = 1 / style[0].square().sum() if relative else 1 / (4 * len(style[0]) ** 2)
    return constant * (own[0] - style[0]).square().sum()


def _centred(own: Pair, style: Pair, relative: bool) -> Tensor:
    constant = FACTORS["covariance"] / _covariance(style).square().sum() if relative else 1 / (4 * len(style[0]) ** 2)
    return constant * (_covariance(own) - _covariance(style)).square().sum()


def _mean_std(own: Pair, style: Pair, relative: bool) -> Tensor:
    epsilon = _epsilon(style, 1e-5, relative)
    deviations = [(_covariance(pair).diagonal() + epsilon).sqrt() for pair in (own, style)]
    whole = style[1].square().sum() + deviations[1].square().sum()
    distance = (own[1] - style[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    return FACTORS["mean-std"] * distance / whole if relative else distance / len(style[1])


def _wasserstein(own: Pair, style: Pair, relative: bool) -> Tensor:
    epsilon = _epsilon(style, 1e-4, relative) * torch.eye(len(style[1]), dtype=torch.float64)
    mine, theirs = (_covariance(pair) + epsilon for pair in (own, style))
    values, vectors = torch.linalg.eigh(theirs)
    half = vectors @ torch.diag(values.sqrt()) @ vectors.T
    # The trace of a root is the sum of the roots, and its gradient that of the eigenvalues.
    roots = torch.linalg.eigvalsh(half @ mine @ half).sqrt()
    distance = (own[1] - style[1]).square().sum() + mine.trace() + theirs.trace() - 2 * roots.sum()
    whole = style[1].square().sum() + theirs.trace()
    return FACTORS["wasserstein"] * distance / whole if relative else distance / len(style[1])


DISTANCES: Mapping[str, Callable[[Pair, Pair, bool], Tensor]] = {
    "gram": _gram,
    "covariance": _centred,
    "mean-std": _mean_std,
    "wasserstein": _wasserstein,
}
