"""The operations at the image's edge against float64. The mode is the dtype of the network's side of them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fastnst_kernels.image import KINDS, adam_step_, image_gradient, normalise, reference, total_variation
from fastnst_kernels.verify import image_budget
from fastnst_kernels.verify.check import Expected, Operation, Site, gradient_of

_SCALE = (2.1, 3.7, -0.4)
_SHIFT = (0.1, -2.0, 0.3)
_RATE = 0.02
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_STEPS = 3


def operations(site: Site) -> Iterator[Operation]:
    """The checks of the operations at the image's edge at one site."""
    noise = site.noise(6)
    # Part of it lies at either end, as after a clamp, so that neighbours can be equal.
    image = (0.5 + 0.4 * noise(*site.shape)).clamp(0, 1)
    upstream = noise(*site.shape).to(site.mode.dtype)
    for flip in (False, True):
        yield _normalise(site, image, upstream, flip)
    for kind in KINDS:
        yield _image_gradient(site, image, upstream, kind)
    if site.mode.dtype == torch.float32:
        for kind in KINDS:
            yield _total_variation(site, image, kind)
        for limits in ((0.0, 1.0), None):
            yield _adam(site, image, limits)


def _other(layout: torch.memory_format) -> torch.memory_format:
    return torch.contiguous_format if layout == torch.channels_last else torch.channels_last


def _normalise(site: Site, image: Tensor, upstream: Tensor, flip: bool) -> Operation:
    """With `flip` into the other layout, without it into the same."""
    dtype = site.mode.dtype
    forward = Expected(
        reference.normalise(image, _SCALE, _SHIFT, flip),
        image_budget.normalise_budget(image, _SCALE, _SHIFT, flip, dtype),
    )
    backward = Expected(
        reference.normalise_gradient(upstream, _SCALE, flip),
        image_budget.normalise_gradient_budget(upstream, _SCALE, flip, image.dtype),
    )

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        into = _other(layout) if flip else layout
        leaf = image.to(memory_format=layout, copy=True).requires_grad_()
        last = into == torch.channels_last
        result = normalise(leaf, _SCALE, _SHIFT, flip=flip, dtype=dtype, channels_last=last, backend=site.backend)
        torch.autograd.backward(result, upstream.to(memory_format=into, copy=True))
        return {"forward": [result.detach()], "backward": [gradient_of(leaf)]}

    variant = "flipped" if flip else ""
    return Operation("normalise", variant, run, {"forward": [forward], "backward": [backward]})


def _variation(image: Tensor, kind: str) -> Expected:
    return Expected(reference.total_variation(image, kind), image_budget.total_variation_budget(image, kind))


def _total_variation(site: Site, image: Tensor, kind: str) -> Operation:
    # Brings the gradient to the size of one.
    above = torch.arange(1.0, 1 + len(image), device=image.device) * image[0, 0].numel()
    backward = Expected(
        reference.image_gradient(image, None, _SCALE, False, above, kind),
        image_budget.image_gradient_budget(image, None, _SCALE, False, above, kind),
    )

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = image.to(memory_format=layout, copy=True).requires_grad_()
        value = total_variation(leaf, kind=kind, backend=site.backend)
        torch.autograd.backward(value, above)
        return {"forward": [value.detach()], "backward": [gradient_of(leaf)]}

    return Operation("total_variation", kind, run, {"forward": [_variation(image, kind)], "backward": [backward]})


def _image_gradient(site: Site, image: Tensor, upstream: Tensor, kind: str) -> Operation:
    """The variation's share is as large as the upstream's. With kind "absolute" upstream is flipped and in the other
    layout."""
    flip = kind == "absolute"
    weight = 0.7 * image[0, 0].numel()
    backward = Expected(
        reference.image_gradient(image, upstream, _SCALE, flip, weight, kind),
        image_budget.image_gradient_budget(image, upstream, _SCALE, flip, weight, kind),
    )

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        above = upstream.to(memory_format=_other(layout) if flip else layout, copy=True)
        given = image.contiguous(memory_format=layout)
        gradient, value = image_gradient(
            given, above, _SCALE, flip=flip, tv_weight=weight, kind=kind, backend=site.backend
        )
        return {"forward": [value], "backward": [gradient]}

    variant = f"{kind}, flipped" if flip else kind
    return Operation("image_gradient", variant, run, {"forward": [_variation(image, kind)], "backward": [backward]})


def _adam(site: Site, image: Tensor, limits: tuple[float, float] | None) -> Operation:
    """A few steps, with gradients of many sizes; without limits the step is a tensor that counts on."""
    noise = site.noise(7)
    sizes = (3 * noise(*site.shape)).exp()
    gradients = [sizes * noise(*site.shape) for _ in range(_STEPS)]
    exact = (image, torch.zeros_like(image), torch.zeros_like(image))
    for index, gradient in enumerate(gradients):
        exact = reference.adam_step(
            exact[0],
            gradient,
            *exact[1:],
            index + 1,
            learning_rate=_RATE,
            betas=_BETAS,
            epsilon=_EPSILON,
            limits=limits,
        )
    budgets = image_budget.adam_budget(
        image, gradients, learning_rate=_RATE, betas=_BETAS, epsilon=_EPSILON, limits=limits
    )
    expected = [Expected(state, allowed) for state, allowed in zip(exact, budgets, strict=True)]

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        x, m, v = (
            tensor.to(memory_format=layout, copy=True)
            for tensor in (image, torch.zeros_like(image), torch.zeros_like(image))
        )
        count = torch.zeros((), dtype=torch.int64, device=image.device)
        for index, gradient in enumerate(gradients):
            adam_step_(
                x,
                gradient.contiguous(memory_format=layout),
                m,
                v,
                index + 1 if limits else count,
                learning_rate=_RATE,
                betas=_BETAS,
                epsilon=_EPSILON,
                clamp=limits is not None,
                increment=limits is None,
                backend=site.backend,
            )
        return {"forward": [x, m, v]}

    return Operation("adam_step_", "clamped" if limits else "counted", run, {"forward": expected})
