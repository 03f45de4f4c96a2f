"""Error budgets of the operations at the image's edge, by the rule of `budget`.

The plain computation is the formula in naive torch, in the image's dtype. It is not taken below the roundings that
every implementation shares: of the factors, and of each sum where terms cancel, added in quadrature.

Every function returns one number for each image, (B,) float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnst_kernels.image import reference
from fastnst_kernels.verify.budget import allowed, relative_error, unit

_ORDERS = 4


def normalise_budget(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype
) -> Tensor:
    """The budget of `normalise`'s result."""
    exact = reference.normalise(image, scale, shift, flip)
    channels = image.flip(1) if flip else image
    products = channels * _by_channel(scale, image)
    plain = products + _by_channel(shift, image)
    terms = [products, _by_channel(shift, image).expand_as(image), exact]
    return _budget([plain.to(dtype)], exact, terms, image.dtype, dtype)


def normalise_gradient_budget(upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype) -> Tensor:
    """The budget of the gradient of `normalise` for the image's `dtype`."""
    exact = reference.normalise_gradient(upstream, scale, flip)
    plain = upstream.to(dtype) * _by_channel(scale, upstream.to(dtype))
    return _budget([plain.flip(1) if flip else plain], exact, [exact, exact], dtype, dtype)


def total_variation_budget(image: Tensor, kind: str) -> Tensor:
    """The budget of `total_variation`: its plain sum is taken in a few orders of the terms."""
    exact = reference.total_variation(image, kind)
    if kind == "nine-point":
        return _budget([reference.nine_point(image)], exact, [exact, exact, exact], image.dtype, image.dtype)
    right, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    terms = torch.cat([right.flatten(1), down.flatten(1)], 1)
    terms = terms.square() if kind == "squared" else terms.abs()
    generator = torch.Generator().manual_seed(0)
    plains = [terms.sum(1) / image[0, 0].numel()]
    for _ in range(_ORDERS - 1):
        order = torch.randperm(terms.shape[1], generator=generator).to(image.device)
        plains.append(terms[:, order].sum(1) / image[0, 0].numel())
    return _budget(plains, exact, [exact, exact], image.dtype, image.dtype)


def image_gradient_budget(
    image: Tensor, upstream: Tensor | None, scale: Sequence[float], flip: bool, tv_weight: float | Tensor, kind: str
) -> Tensor:
    """The budget of the gradient of `image_gradient`; with no upstream, of that of `total_variation`."""
    exact = reference.image_gradient(image, upstream, scale, flip, tv_weight, kind)
    positions = image[0, 0].numel()
    weights = torch.as_tensor(tv_weight, dtype=image.dtype, device=image.device).expand(len(image))[:, None, None, None]
    if kind == "nine-point":
        plain, terms = _nine_point_terms(image, weights)
        terms = [*terms, exact, exact]
        return _with_upstream(plain, terms, exact, image=image, upstream=upstream, scale=scale, flip=flip)
    factor = weights * ((2.0 if kind == "squared" else 1.0) / positions)
    right, down = torch.zeros_like(image), torch.zeros_like(image)
    right[..., :-1] = image[..., 1:] - image[..., :-1]
    down[..., :-1, :] = image[..., 1:, :] - image[..., :-1, :]
    if kind == "absolute":
        right, down = right.sign(), down.sign()
    left, up = right.roll(1, -1), down.roll(1, -2)
    plain = ((left - right) + (up - down)) * factor
    terms = [left * factor, right * factor, up * factor, down * factor, exact, exact]
    return _with_upstream(plain, terms, exact, image=image, upstream=upstream, scale=scale, flip=flip)


def _nine_point_terms(image: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the weighted nine-point form in the image's dtype, and the differences that it is made of."""
    right, down, falling, rising = reference.nine_point_differences(image)
    straight, diagonal = 4 * weights / (3 * right[0].numel()), weights / (3 * falling[0].numel())
    parts = [straight * right, straight * down, diagonal * falling, diagonal * rising]
    return weights * reference.nine_point_gradient(image), [part for part in parts for _ in range(2)]


def _with_upstream(
    plain: Tensor,
    terms: list[Tensor],
    exact: Tensor,
    *,
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
) -> Tensor:
    """The budget of the gradient of the variation, to which that of the normalised image may be added."""
    if upstream is not None:
        above = upstream.to(image.dtype) * _by_channel(scale, image)
        above = above.flip(1) if flip else above
        plain = plain + above
        terms.append(above)
    return _budget([plain], exact, terms, image.dtype, image.dtype)


def adam_budget(
    image: Tensor,
    gradients: Sequence[Tensor],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    limits: tuple[float, float] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The budgets of image, first and second moment after one step for each gradient, from moments of zero."""
    exact = (image.double(), torch.zeros_like(image).double(), torch.zeros_like(image).double())
    x, m, v = image.clone(), torch.zeros_like(image), torch.zeros_like(image)
    updates = [torch.zeros_like(image)] * 3
    for index, gradient in enumerate(gradients):
        before = exact
        exact = reference.adam_step(
            exact[0],
            gradient,
            exact[1],
            exact[2],
            index + 1,
            learning_rate=learning_rate,
            betas=betas,
            epsilon=epsilon,
            limits=limits,
        )
        m.lerp_(gradient, 1 - betas[0])
        v.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        deviation = (v / (1 - betas[1] ** (index + 1))).sqrt() + epsilon
        x.addcdiv_(m, deviation, value=-learning_rate / (1 - betas[0] ** (index + 1)))
        if limits is not None:
            x.clamp_(*limits)
        updates = [(now - then).abs() + total for now, then, total in zip(exact, before, updates, strict=True)]
    budgets = [
        _budget([plain], state, [state, 2 * update], image.dtype, image.dtype)
        for plain, state, update in zip((x, m, v), exact, updates, strict=True)
    ]
    return budgets[0], budgets[1], budgets[2]


def _budget(
    plains: Sequence[Tensor], exact: Tensor, terms: Sequence[Tensor], dtype: torch.dtype, result_dtype: torch.dtype
) -> Tensor:
    """The budget of plain results that share one rounding of each of `terms` in `dtype`."""
    size = exact.double().reshape(len(exact), -1).norm(dim=1)
    sizes = torch.stack([term.double().reshape(len(exact), -1).norm(dim=1) for term in terms])
    shared = unit(dtype) * sizes.norm(dim=0) / torch.where(size > 0, size, 1.0)
    return allowed([relative_error(plain, exact) for plain in plains], exact, shared, result_dtype)


def _by_channel(values: Sequence[float], image: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=image.dtype, device=image.device)[:, None, None]
