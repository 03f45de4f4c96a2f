"""The operations at the image's edge against float64. The mode is the dtype of the network's side of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import direct
from fastnst_kernels.image import KINDS, adam_step_, image_gradient, normalise, total_variation
from fastnst_kernels.launch.layout import dense_channels_last
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.check import Operation, Site, differentiated

_SCALE = (2.1, 3.7, -0.4)
_SHIFT = (0.1, -2.0, 0.3)
_STEPS = 3


def operations(site: Site) -> Iterator[Operation]:
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


def _normalise(site: Site, image: Tensor, upstream: Tensor, flip: bool) -> Operation:
    """With `flip` into the other layout, without it into the same."""
    dtype = site.mode.dtype

    def function(leaf: Tensor) -> Tensor:
        last = dense_channels_last(leaf) != flip
        return normalise(leaf, _SCALE, _SHIFT, flip=flip, dtype=dtype, channels_last=last, backend=site.backend)

    variant, forward = "flipped" if flip else "", [budget.normalise(image, _SCALE, _SHIFT, flip, dtype=dtype)]
    backward = budget.normalise_gradient(upstream, _SCALE, flip, image.dtype)
    gradients = [upstream]
    return differentiated(
        "normalise", variant, image, function, gradients=gradients, forward=forward, backward=backward
    )


def _total_variation(site: Site, image: Tensor, kind: str) -> Operation:
    # Brings the gradient to the size of one.
    above = torch.arange(1.0, 1 + len(image), device=image.device) * image[0, 0].numel()
    function = partial(total_variation, kind=kind, backend=site.backend)
    forward = [budget.total_variation(image, kind)]
    backward = budget.image_gradient(image, None, _SCALE, flip=False, tv_weight=above, kind=kind)
    return differentiated(
        "total_variation", kind, image, function, gradients=[above], forward=forward, backward=backward
    )


def _image_gradient(site: Site, image: Tensor, upstream: Tensor, kind: str) -> Operation:
    """The variation is as large as the upstream, which in kind "absolute" is flipped and in the other layout."""
    flip = kind == "absolute"
    terms: Mapping[str, Any] = {"flip": flip, "tv_weight": 0.7 * image[0, 0].numel(), "kind": kind}

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        nchw, last = torch.contiguous_format, torch.channels_last
        above = upstream.to(memory_format=layout if not flip else nchw if layout == last else last, copy=True)
        given = image.contiguous(memory_format=layout)
        gradient, value = image_gradient(given, above, _SCALE, backend=site.backend, **terms)
        place, eight = gradient.clone(), torch.full((1,), 8.0, device=given.device)
        # A power of two divides without an error.
        scaled = [8 * factor for factor in _SCALE]
        if site.backend != "reference":
            direct.image_gradient(site.backend, given, above, scaled, divisor=eight, out=place, **terms)
        return {"forward": [value], "backward": [gradient, place]}

    backward = budget.image_gradient(image, upstream, _SCALE, **terms)
    expected = {"forward": [budget.total_variation(image, kind)], "backward": [backward, backward]}
    return Operation("image_gradient", f"{kind}, flipped" if flip else kind, run, expected)


def _adam(site: Site, image: Tensor, limits: tuple[float, float] | None) -> Operation:
    """A few steps, with gradients of many sizes; without limits the step is a tensor that counts on."""
    noise = site.noise(7)
    sizes = (3 * noise(*site.shape)).exp()
    gradients = [sizes * noise(*site.shape) for _ in range(_STEPS)]
    change: dict[str, Any] = {"learning_rate": 0.02, "betas": (0.9, 0.99), "epsilon": 1e-8}

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        x, m, v = (t.to(memory_format=layout, copy=True) for t in (image, *[torch.zeros_like(image)] * 2))
        count = torch.zeros((), dtype=torch.int64, device=image.device)
        switches: dict[str, Any] = {"clamp": limits is not None, "increment": limits is None, "backend": site.backend}
        for index, gradient in enumerate(gradients):
            step = index + 1 if limits else count
            adam_step_(x, gradient.contiguous(memory_format=layout), m, v, step, **change, **switches)
        return {"forward": [x, m, v]}

    expected = budget.adam(image, gradients, limits=limits, **change)
    return Operation("adam_step_", "clamped" if limits else "counted", run, {"forward": expected})
