"""The first layer and the image against float64. The mode is the dtype of its features; the shape is the image's.

Pixels are rounded to the features' dtype once they are normalised, in the plain computation as in every other: where
that moves a feature across zero, its gradient comes or goes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import direct
from fastnst_kernels.first import FirstLayer, reference
from fastnst_kernels.image import reference as image_reference
from fastnst_kernels.launch.layout import empty_map
from fastnst_kernels.losses.targets import StyleTerm, difference_dtype
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.check import Operation, Site

_SCALE, _SHIFT, _FILTERS = (2.1, 3.7, -0.4), (0.1, -2.0, 0.3), 64


def operations(site: Site) -> Iterator[Operation]:
    yield _both_ways(site, "zeros", "squared", divisor=4.0)
    yield _both_ways(site, "replicate", "absolute", flip=True)
    yield _both_ways(site, "circular", "nine-point", flip=True, has_style=False, divisor=4.0)
    yield _both_ways(site, "replicate", "squared", has_upstream=False)


def _both_ways(
    site: Site,
    padding: str,
    kind: str,
    *,
    flip: bool = False,
    has_style: bool = True,
    has_upstream: bool = True,
    divisor: float | None = None,
) -> Operation:
    noise, dtype, precision = site.noise(8), site.mode.dtype, site.mode.precision
    image = (0.5 + 0.4 * noise(*site.shape)).clamp(0, 1)
    batch, _, height, width = site.shape
    weight = (noise(_FILTERS, 3, 3, 3) / 5).to(dtype).contiguous(memory_format=torch.channels_last)
    layer = FirstLayer(weight, (0.3 * noise(_FILTERS)).to(dtype), _SCALE, _SHIFT, flip, padding)
    upstream = noise(batch, _FILTERS, height, width).to(dtype) if has_upstream else None
    matrix = noise(batch, _FILTERS, _FILTERS)
    # As large as `upstream`, and exact in the features' dtype.
    difference, style_scale = (matrix + matrix.mT).to(dtype), 1 + torch.arange(batch, device=image.device) / 2
    factor = 0.05
    variation: dict[str, Any] = {"tv_weight": 0.7 * height * width, "kind": kind}
    by = None if divisor is None else torch.full((1,), divisor, device=image.device)
    style = StyleTerm(difference.to(difference_dtype(dtype, site.backend)), style_scale, style_scale + 2, factor)

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given = image.to(memory_format=layout, copy=True)
        like = image.new_empty((batch, _FILTERS, height, width), dtype=dtype)
        y, out = empty_map(like, True), torch.empty_like(given)
        sums = direct.first_forward(site.backend, given, layer, y, has_style, precision)
        above = None if upstream is None else upstream.contiguous(memory_format=torch.channels_last)
        terms: dict[str, Any] = {"precision": precision, "divisor": by, "out": None if by is None else out, **variation}
        gradient, value, _ = direct.first_backward(
            site.backend, given, layer, above, style if has_style else None, **terms
        )
        # Triton leaves those of its splits.
        summed = [] if sums is None else [sums if sums.ndim == 3 else sums.sum((1, 2))]
        return {"forward": [y, value, *summed], "backward": [gradient]}

    scaled = difference.double() * (factor * style_scale * (style_scale + 2)).double()[:, None, None]
    forward = [_features(image, layer, precision), budget.total_variation(image, kind)]
    if has_style:
        forward.append(_sums(image, layer, precision))
    backward = _gradient(
        image, layer, upstream, scaled if has_style else None, precision, divisor=divisor or 1.0, **variation
    )
    name = f"{padding}, {kind}" + (", style" if has_style else "")
    return Operation("first_layer", name, run, {"forward": forward, "backward": [backward]})


def _plain_features(image: Tensor, layer: FirstLayer, precision: str) -> Tensor:
    """The features in the features' dtype, from products of operands as the multipliers see them."""
    x = image_reference.normalise(image, layer.scale, layer.shift, layer.flip, dtype=image.dtype)
    x = budget.operands(x.to(layer.weight.dtype), precision)
    return reference.before_relu(x, _seen(layer, precision)).relu().to(layer.weight.dtype)


def _seen(layer: FirstLayer, precision: str) -> FirstLayer:
    weight = budget.operands(layer.weight, precision)
    return FirstLayer(weight, layer.bias, layer.scale, layer.shift, layer.flip, layer.padding)


def _product_error(image: Tensor, layer: FirstLayer) -> Tensor:
    """The error of each feature, (B, N, H, W), of one rounding of each product in the features' dtype, squared."""
    x = image_reference.normalise(image, layer.scale, layer.shift, layer.flip)
    squares = FirstLayer(layer.weight.double().square(), layer.bias * 0, (), (), layer.flip, layer.padding)
    return reference.before_relu(x.square(), squares) * budget.unit(layer.weight.dtype) ** 2


def _features(image: Tensor, layer: FirstLayer, precision: str) -> Expected:
    exact, plain = reference.features(image, layer), _plain_features(image, layer, precision)
    shared = (_product_error(image, layer) * (exact > 0)).sum((1, 2, 3)).sqrt() / budget.size_of(exact)
    errors = [budget.relative_error(plain, exact)]
    return Expected(exact, budget.allowed(errors, exact, shared, layer.weight.dtype))


def _sums(image: Tensor, layer: FirstLayer, precision: str) -> Expected:
    """F Fᵀ of the features in their own dtype, over a few orders of the positions."""
    features = reference.features(image, layer).flatten(2)
    exact = features @ features.mT
    plain = _plain_features(image, layer, precision).flatten(2)
    positions = plain.shape[2]
    errors = [
        budget.relative_error(positions * budget.plain_gram(plain[:, :, order], precision), exact)
        for order in budget.orders(positions, image.device)
    ]
    carried = 4 * (_product_error(image, layer).flatten(2) @ features.square().mT).sum((1, 2))
    shared = (carried + 2 * (budget.unit(image.dtype) * budget.size_of(exact)).square()).sqrt() / budget.size_of(exact)
    return Expected(exact, budget.allowed(errors, exact, shared, image.dtype))


def _gradient(
    image: Tensor,
    layer: FirstLayer,
    upstream: Tensor | None,
    style: Tensor | None,
    precision: str,
    *,
    divisor: float,
    tv_weight: float,
    kind: str,
) -> Expected:
    exact = reference.image_gradient(image, layer, upstream, style, tv_weight, kind, divisor=divisor)
    dtype, own = layer.weight.dtype, _plain_features(image, layer, precision)
    above = torch.zeros_like(own, dtype=image.dtype) if upstream is None else upstream.float()
    if style is not None:
        peak = style.abs().amax((1, 2), keepdim=True)
        product = budget.operands((style / peak).to(dtype), precision) @ budget.operands(own, precision).flatten(2)
        above = above + (product * peak.float()).view(own.shape)
    gradient = torch.where(own > 0, above, 0.0).to(dtype)
    below = reference.transposed(budget.operands(gradient, precision), _seen(layer, precision))
    plain = image_reference.image_gradient(
        image, below / divisor, layer.scale, layer.flip, tv_weight=tv_weight, kind=kind, dtype=image.dtype
    )
    squares = FirstLayer(layer.weight.double().square(), layer.bias, (), (), layer.flip, layer.padding)
    carried = reference.transposed(gradient.double().square(), squares)
    factors = [(scale / divisor) ** 2 for scale in layer.scale]
    rounded = image_reference.normalise_gradient(carried, factors, layer.flip).sum((1, 2, 3)) * budget.unit(dtype) ** 2
    edges = 3 * budget.size_of(exact).square()
    for slope in image_reference.slopes(image, kind):
        edges += 2 * (tv_weight * slope.double()).square().sum((1, 2, 3))
    shared = (rounded + budget.unit(image.dtype) ** 2 * edges).sqrt() / budget.size_of(exact)
    return Expected(exact, budget.allowed([budget.relative_error(plain, exact)], exact, shared, image.dtype))
