"""The content and style terms as their papers write them, in float64 and left to autograd, on a small VGG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.loss.masks import Guidance
from fastnst.loss.sliced import unit_vectors
from fastnst.network.architecture import layers_up_to
from fastnst.network.weights import Weights
from fastnst.options.options import Options


def features(
    weights: Weights,
    image: Tensor,
    names: Sequence[str],
    *,
    pooling: str = "avg",
    padding: str = "zeros",
    everywhere: bool = False,
) -> dict[str, Tensor]:
    """The layers' features after their ReLU, (N, h, w) float64, of an image (1, 3, H, W).

    `padding` is that of the first layer, or `everywhere`; other layers are padded by zeros.
    """
    known = weights.preprocessing
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (known.mean, known.std))
    x = ((image.flip(1) if known.bgr else image) * known.scale - mean) / std
    outputs = {}
    for layer in layers_up_to(weights.network, tuple(names)):
        if layer.is_pool:
            x = F.avg_pool2d(x, 2) if pooling == "avg" else F.max_pool2d(x, 2)
        else:
            own = (weights.tensors[f"{layer.name}.{part}"].double() for part in ("weight", "bias"))
            mode = padding if everywhere or layer.name == "conv1_1" else "zeros"
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="constant" if mode == "zeros" else mode), *own).relu()
        outputs[layer.name] = x[0]
    return {name: outputs[name] for name in names}


Pair = tuple[Tensor, Tensor]


def pooled(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask (H, W) at a layer's resolution, by means of 2×2, in float64."""
    mask = mask.double()
    while mask.shape != shape:
        mask = F.avg_pool2d(mask[None, None], 2)[0, 0]
    return mask


def moments(layer: Tensor, mask: Tensor | None) -> Pair:
    """Σ m² F Fᵀ / Σ m² and Σ m² F / Σ m²."""
    weight = torch.ones_like(layer[0]) if mask is None else pooled(mask, layer.shape[1:]).square()
    share = (weight / weight.sum()).flatten()
    matrix = layer.flatten(1)
    return (matrix * share) @ matrix.T, matrix @ share


# Of the relative objective, written down a second time: a change of one is a change of every picture.
FACTORS = {"covariance": 0.35, "mean-std": 3.5, "wasserstein": 0.55, "sliced": 4.5}


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


def _sliced(own: Tensor, style: Tensor, directions: Tensor, relative: bool) -> Tensor:
    """1/N Σ 1/M |sort(vᵀ F) − sort(vᵀ F_A)|², of (N, M); the style's values read at the quantiles (i + ½)/M."""
    values, known = (torch.sort(directions @ matrix, dim=1).values for matrix in (own, style))
    count, length = values.shape[1], known.shape[1]
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) * length / count - 0.5).clamp(0, length - 1)
    below = places.floor().long().clamp(max=length - 1)
    above = (below + 1).clamp(max=length - 1)
    part = places - below
    distance = (values - (known[:, below] * (1 - part) + known[:, above] * part)).square().mean()
    return FACTORS["sliced"] * distance / known.square().mean() if relative else distance


def exact_terms(
    weights: Weights,
    options: Options,
    content: Tensor,
    image: Tensor,
    styles: Sequence[tuple[Tensor, float]],
    regions: Sequence[Mapping[int, Tensor | None]] | None,
    guidance: Guidance,
) -> tuple[Tensor, Tensor]:
    """The content and the style term before their weights, () float64, with a graph to the image (1, 3, H, W).

    The sliced loss takes what lies inside a mask, more than ½, and styles without masks.
    """
    relative, loss = options.objective == "relative", options.style_loss
    wraps = options.padding == "circular"
    edges: dict[str, Any] = {"pooling": options.pooling, "padding": options.padding, "everywhere": wraps}
    own = features(weights, image, options.taps, **edges)
    shown = features(weights, content.double(), options.taps, **edges)
    # A style goes on beyond its borders as it ends.
    edges |= {"padding": "replicate"} if wraps else {}
    theirs = [features(weights, style.double(), options.taps, **edges) for style, _ in styles]
    white = torch.ones(image.shape[2:], dtype=torch.float64)
    opaque = white if guidance.opaque is None else guidance.opaque[0, 0].double()
    content_term = style_term = torch.zeros((), dtype=torch.float64)
    for mask, region in zip(guidance.masks, regions or [dict.fromkeys(range(len(styles)))], strict=True):
        inside = (white if mask is None else mask[0, 0].double()) * opaque
        whole = sum(styles[index][1] for index in region)
        share = inside.sum() / opaque.sum() / whole
        for name, weight in options.style_layers:
            if loss == "sliced":
                seen = own[name][:, pooled(inside, own[name].shape[1:]) > 0.5]
                directions = unit_vectors(name, len(seen), options.seed).double()
                distances = [
                    (_sliced(seen, theirs[index][name].flatten(1), directions, relative), styles[index][1])
                    for index in region
                ]
            else:
                targets = [
                    (moments(theirs[index][name], None if where is None else where[0, 0]), styles[index][1])
                    for index, where in region.items()
                ]
                if loss == "wasserstein":
                    mixture = [sum(part * pair[place] for pair, part in targets) / whole for place in (0, 1)]
                    targets = [((torch.as_tensor(mixture[0]), torch.as_tensor(mixture[1])), whole)]
                mine = moments(own[name], inside)
                distances = [(DISTANCES[loss](mine, target, relative), part) for target, part in targets]
            style_term = style_term + sum(weight * share * part * distance for distance, part in distances)
    for name, weight in options.content_layers:
        alpha = pooled(opaque, own[name].shape[1:])
        constant = 1 / (alpha * shown[name]).square().sum() if relative else 0.5
        content_term = content_term + weight * constant * (alpha * (own[name] - shown[name])).square().sum()
    return content_term, style_term
