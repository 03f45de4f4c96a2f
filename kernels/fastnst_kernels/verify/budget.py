"""Error budgets, how far a result may be from float64: the rule, and the budget of each operation.

An error is ‖result − exact‖₂ / ‖exact‖₂ of one image, so that one element near zero decides nothing. Its budget is

    2 × (error of the plain computation + rounding of the output's dtype)

where the plain computation is the formula in naive torch with the operation's own dtypes: 16-bit factors, a running
float32 sum, one rounding at the end; TF32 factors cut to 10 bits. A result that is exact by luck must not make a
budget of nothing, as it could where the output is one element. So the plain error is the largest over a few orders of
the positions, which change the rounding and not the result; and it is not taken below what the roundings that every
implementation shares do to the output (G as a sum and after the division by M, both in float32; the difference G − A in
16 bit, where the product takes it so; at the image's edge those of the factors, and of each sum where terms cancel),
carried through the formula to first order and added in quadrature. For large outputs the plain error is the larger.

Every function returns the exact result and its budget, one number for each image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.image import reference as image_reference
from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.losses import reference

_ORDERS = 4
# Positions that a matrix unit multiplies at once, and the most steps that a budget is computed in.
_STEP = 16
_MOST_STEPS = 1024


@dataclass(frozen=True)
class Expected:
    """A result in float64, (B, …), and the budget (B,) of each image's error; 0 asks for equality to the bit."""

    exact: Tensor
    budget: Tensor

    @staticmethod
    def equal(exact: Tensor) -> "Expected":
        return Expected(exact.double(), torch.zeros(len(exact), dtype=torch.float64, device=exact.device))


def size_of(exact: Tensor) -> Tensor:
    """‖exact‖₂ of each image of a (B, …) tensor, 1 where that is zero."""
    size: Tensor = exact.double().reshape(len(exact), -1).norm(dim=1)
    return torch.where(size > 0, size, 1.0)


def relative_error(result: Tensor, exact: Tensor) -> Tensor:
    """‖result − exact‖₂ / ‖exact‖₂ of each image of two (B, …) tensors; the absolute error where `exact` is zero."""
    error: Tensor = (result.double() - exact.double()).reshape(len(exact), -1).norm(dim=1)
    return error / size_of(exact)


def allowed(plain_errors: Sequence[Tensor], exact: Tensor, shared: Tensor, dtype: torch.dtype) -> Tensor:
    """The rule: 2 × (the largest plain error, at least `shared`, + the rounding of the exact result to `dtype`)."""
    errors = torch.stack([shared.to(exact.device), *plain_errors]).amax(0)
    return 2 * (errors + relative_error(exact.to(dtype), exact).clamp_min(unit(dtype)))


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff: the largest relative error of rounding a number to `dtype`."""
    return torch.finfo(dtype).eps / 2


def gram(features: Tensor, precision: str = "ieee") -> Expected:
    """`gram` of features (B, C, H, W)."""
    exact = reference.gram(features)
    shared = _gram_rounding(features, precision) * torch.ones(len(features), dtype=torch.float64)
    dtype = accumulation_dtype(features.dtype)
    return _budget(lambda x, _: plain_gram(x, precision), features, exact, shared=shared, dtype=dtype)


def gram_loss(features: Tensor, target: Tensor, weight: float, precision: str = "ieee") -> Expected:
    """`gram_loss` of features (B, C, H, W)."""
    exact = reference.gram_loss(features, target, weight)
    matrix = reference.gram(features)
    difference = matrix - target.double()
    dtype = accumulation_dtype(features.dtype)
    carried = _gram_rounding(features, precision) * 2 * (difference * matrix).square().sum((1, 2)).sqrt()
    size = difference.square().sum((1, 2))
    # The sum's last addition, the factor and the product of both are rounded as well.
    shared = ((carried / torch.where(size > 0, size, 1.0)).square() + 3 * unit(dtype) ** 2).sqrt()

    def plain(permuted: Tensor, order: Tensor) -> Tensor:
        difference = plain_gram(permuted, precision) - target.to(dtype)
        return weight / (4 * features.shape[1] ** 2) * difference.square().sum((1, 2))

    return _budget(plain, features, exact, shared=shared, dtype=dtype)


def content_loss(features: Tensor, content: Tensor, weight: float) -> Expected:
    """The content loss of features (B, C, H, W) and content (1 or B, C, H, W)."""
    exact = reference.content_loss(features, content, weight)
    dtype = accumulation_dtype(features.dtype)
    squares = (features.double() - content.double()).square()
    # Each difference is rounded once, and its square carries twice of that.
    carried = 2 * unit(dtype) * weight * squares.square().sum((1, 2, 3)).sqrt()
    expanded = content.expand_as(features).flatten(2)

    def plain(permuted: Tensor, order: Tensor) -> Tensor:
        distance = permuted.to(dtype) - expanded[:, :, order].to(dtype)
        return weight * distance.square().sum((1, 2))

    return _budget(plain, features, exact, shared=carried / torch.where(exact > 0, exact, 1.0), dtype=dtype)


def tap_gradient(
    features: Tensor,
    upstream: Tensor,
    *,
    target: Tensor | None = None,
    weight: float = 1.0,
    style_gradient: Tensor | None = None,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    content_gradient: Tensor | None = None,
    relu: bool = False,
    precision: str = "ieee",
) -> Expected:
    """The gradient that a tap sends down, (B, C, H, W) as `features` and `upstream`.

    `features` are those after the ReLU, `target` and `content` those of `tap`, and the gradients of the two losses
    (B,), ones where not given.
    """
    batch = len(features)
    dtype = accumulation_dtype(features.dtype)
    ones = torch.ones(batch, dtype=torch.float64, device=features.device)
    kept = ~((features <= 0) & relu)
    style = coefficient = None
    shared = 0 * ones
    factor = (ones if style_gradient is None else style_gradient.double()) * (
        weight / (features.shape[1] ** 2 * features[0, 0].numel())
    )
    if content is not None:
        coefficient = (ones if content_gradient is None else content_gradient.double()) * 2 * content_weight
    if target is not None:
        style = reference.style_matrix(features, target, weight, ones if style_gradient is None else style_gradient)
    exact = reference.tap_gradient(
        features, upstream, style=style, content=content, content_coefficient=coefficient, relu=relu
    )
    symmetric_target = None if target is None else (target.double() + target.double().mT) / 2
    if symmetric_target is not None:
        matrix = reference.gram(features)
        variance = (_gram_rounding(features, precision) * matrix).square() + _product_variance(
            matrix - symmetric_target, features.dtype
        )
        shared = _carried(variance, features, factor, exact, kept=kept)
    expanded = None if content is None else content.expand_as(features).flatten(2)

    def plain(permuted: Tensor, order: Tensor) -> Tensor:
        above = upstream.flatten(2)[:, :, order].to(dtype)
        if expanded is not None and coefficient is not None:
            distance = permuted.to(dtype) - expanded[:, :, order].to(dtype)
            above = above + coefficient.to(dtype)[:, None, None] * distance
        if symmetric_target is None:
            result = above.to(features.dtype)
        else:
            difference = plain_gram(permuted, precision) - symmetric_target.to(dtype)
            result = _plain_product(difference, permuted, factor, added=above, precision=precision)
        return torch.where(kept.flatten(2)[:, :, order], result, 0.0)

    return _budget(plain, features, exact, shared=shared, dtype=features.dtype)


def gram_gradient(features: Tensor, gram_gradient: Tensor, precision: str = "ieee") -> Expected:
    """The gradient of `gram`, (W + Wᵀ) F/M (B, C, H, W), for the gradient W (B, C, C) of its output."""
    dtype = accumulation_dtype(features.dtype)
    matrix = gram_gradient.double() + gram_gradient.double().mT
    factor = torch.full((len(features),), 1.0 / features[0, 0].numel(), dtype=torch.float64, device=features.device)
    exact = reference.tap_gradient(features, None, style=matrix * factor[:, None, None])
    variance = (unit(dtype) * matrix).square() + _product_variance(matrix, features.dtype)
    shared = _carried(variance, features, factor, exact)

    def plain(permuted: Tensor, order: Tensor) -> Tensor:
        summed, zeros = gram_gradient.to(dtype) + gram_gradient.to(dtype).mT, torch.zeros_like(permuted, dtype=dtype)
        return _plain_product(summed, permuted, factor, added=zeros, precision=precision)

    return _budget(plain, features, exact, shared=shared, dtype=features.dtype)


def _budget(
    plain: Callable[[Tensor, Tensor], Tensor], features: Tensor, exact: Tensor, shared: Tensor, dtype: torch.dtype
) -> Expected:
    """The exact result and 2 × (the plain error, at least `shared`, + the rounding to `dtype`).

    `plain` takes (B, C, M) features and the order of their positions; a result with positions comes back in that order.
    """
    errors = []
    for order in orders(features[0, 0].numel(), features.device):
        result = plain(features.flatten(2)[:, :, order], order)
        in_order = exact.flatten(2)[:, :, order] if exact.ndim == 4 else exact
        errors.append(relative_error(result, in_order))
    return Expected(exact, allowed(errors, exact, shared, dtype))


def orders(positions: int, device: torch.device) -> Iterator[Tensor]:
    """The positions as they are, then in a few random orders, the same in each run."""
    generator = torch.Generator().manual_seed(0)
    yield torch.arange(positions, device=device)
    for _ in range(_ORDERS - 1):
        yield torch.randperm(positions, generator=generator).to(device)


def _gram_rounding(features: Tensor, precision: str) -> float:
    """The relative error of any G: its sum and its division are rounded, or its product to 16 bits."""
    if precision == "bf16" and features.dtype == torch.bfloat16:
        return unit(torch.bfloat16)
    return 2**0.5 * unit(accumulation_dtype(features.dtype))


def _product_variance(difference: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared error of each element of a difference that a product takes in `dtype`; none where it is kept as it is."""
    if dtype in (torch.float32, torch.float64):
        return torch.zeros_like(difference)
    return (unit(dtype) * difference).square()


def _carried(variance: Tensor, features: Tensor, factor: Tensor, exact: Tensor, kept: Tensor | None = None) -> Tensor:
    """Relative error of factor · X · F for independent errors of the elements of X, given squared as (B, C, C).

    `kept` is (B, C, H, W), False where the result is set to zero.
    """
    errors = variance @ features.double().flatten(2).square()
    squared = (errors if kept is None else errors * kept.flatten(2)).sum((1, 2)) * factor.square()
    return squared.sqrt() / size_of(exact)


def operands(values: Tensor, precision: str) -> Tensor:
    """The values as the multipliers see them: 16-bit ones are exact in float32, TF32 cuts float32 to 10 bits."""
    if values.dtype == torch.float32 and precision == "tf32":
        return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)
    return values if values.dtype == torch.float64 else values.float()


def plain_gram(features: Tensor, precision: str) -> Tensor:
    """F Fᵀ/M of (B, C, M), summed as matrix units do it: a few positions at a time, onto a running float32 sum.

    One product of the whole is no measure: how a library splits it depends on its threads, and so does its error. In
    "bf16" the product is rounded to the features' 16 bits.
    """
    positions = features.shape[2]
    if precision == "bf16" and features.dtype == torch.bfloat16:
        return (features @ features.mT).float() / positions
    step = max(_STEP, ceil(positions / _MOST_STEPS))
    factors = operands(features, precision)
    sums: Tensor = factors[:, :, :step] @ factors[:, :, :step].mT
    for start in range(step, positions, step):
        chunk = factors[:, :, start : start + step]
        sums = sums + chunk @ chunk.mT
    return sums / positions


def _plain_product(difference: Tensor, features: Tensor, factor: Tensor, added: Tensor, precision: str) -> Tensor:
    """added + factor · difference · F, (B, C, M) in the features' dtype; 16-bit products scale the difference first."""
    if features.dtype in (torch.float32, torch.float64):
        product = operands(difference, precision) @ operands(features, precision)
    else:
        peak = difference.abs().amax((1, 2), keepdim=True)
        peak = torch.where(peak > 0, peak, 1.0)
        product = (difference / peak).to(features.dtype).float() @ features.float() * peak
    return (added + factor.to(product.dtype)[:, None, None] * product).to(features.dtype)


def normalise(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype
) -> Expected:
    exact = image_reference.normalise(image, scale, shift, flip)
    plain = image_reference.normalise(image, scale, shift, flip, dtype=image.dtype)
    shifts = image_reference.by_channel(shift, exact).expand_as(exact)
    return _rounded([plain.to(dtype)], exact, [exact - shifts, shifts, exact], dtype=image.dtype, result_dtype=dtype)


def normalise_gradient(upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype) -> Expected:
    """The gradient of `normalise` for the image's `dtype`."""
    exact = image_reference.normalise_gradient(upstream, scale, flip)
    plain = image_reference.normalise_gradient(upstream, scale, flip, dtype=dtype)
    return _rounded([plain], exact, [exact, exact], dtype=dtype)


def total_variation(image: Tensor, kind: str) -> Expected:
    """The total variation: its plain sum is taken in a few orders of the terms."""
    exact = image_reference.total_variation(image, kind)
    plains = [image_reference.total_variation(image, kind, dtype=image.dtype)]
    if kind != "nine-point":
        terms = torch.cat([difference.flatten(1) for difference in image_reference.differences(image, kind)], 1)
        terms = terms.square() if kind == "squared" else terms.abs()
        plains += [terms[:, order].sum(1) / image[0, 0].numel() for order in orders(terms.shape[1], image.device)]
    return _rounded(plains, exact, [exact] * (3 if kind == "nine-point" else 2), dtype=image.dtype)


def image_gradient(
    image: Tensor, upstream: Tensor | None, scale: Sequence[float], flip: bool, tv_weight: float | Tensor, kind: str
) -> Expected:
    """The gradient of `image_gradient`; with no upstream, the one of `total_variation`."""
    exact, plain = (
        image_reference.image_gradient(image, upstream, scale, flip=flip, tv_weight=tv_weight, kind=kind, dtype=dtype)
        for dtype in (torch.float64, image.dtype)
    )
    weights = torch.as_tensor(tv_weight, dtype=image.dtype, device=image.device).expand(len(image))[:, None, None, None]
    # Each difference counts in two pixels.
    terms = [weights * slope for slope in image_reference.slopes(image, kind)] * 2 + [exact, exact]
    if upstream is not None:
        terms.append(image_reference.normalise_gradient(upstream, scale, flip))
    return _rounded([plain], exact, terms, dtype=image.dtype)


def adam(image: Tensor, gradients: Sequence[Tensor], **change: Any) -> list[Expected]:
    """Image and moments after a step for each gradient; `change` is for `image_reference.adam_step`."""
    exact = plain = (image, torch.zeros_like(image), torch.zeros_like(image))
    updates = [torch.zeros_like(image)] * 3
    for index, gradient in enumerate(gradients):
        before = exact
        exact = image_reference.adam_step(exact[0], gradient, *exact[1:], index + 1, **change)
        plain = image_reference.adam_step(plain[0], gradient, *plain[1:], index + 1, **change, dtype=image.dtype)
        updates = [(now - then).abs() + total for now, then, total in zip(exact, before, updates, strict=True)]
    return [
        _rounded([result], state, [state, 2 * update], dtype=image.dtype)
        for result, state, update in zip(plain, exact, updates, strict=True)
    ]


def _rounded(
    plains: Sequence[Tensor],
    exact: Tensor,
    terms: Sequence[Tensor],
    *,
    dtype: torch.dtype,
    result_dtype: torch.dtype | None = None,
) -> Expected:
    """The exact result and the budget of plain results that share one rounding of each of `terms` in `dtype`."""
    sizes = torch.stack([term.double().reshape(len(exact), -1).norm(dim=1) for term in terms])
    shared = unit(dtype) * sizes.norm(dim=0) / size_of(exact)
    return Expected(
        exact, allowed([relative_error(plain, exact) for plain in plains], exact, shared, result_dtype or dtype)
    )
