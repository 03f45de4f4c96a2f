"""Steps of L-BFGS against float64. The mode is the dtype of the pairs; only the Triton form is here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnst_kernels.launch.layout import dense
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.lbfgs.reference import iterate
from fastnst_kernels.lbfgs.state import Numbers
from fastnst_kernels.verify.budget import Expected, allowed, relative_error
from fastnst_kernels.verify.check import Operation, Site

# More steps than pairs, so that the oldest ones leave.
_HISTORY, _STEPS, _MOST = 3, 6, 0.02


def operations(site: Site) -> Iterator[Operation]:
    if site.backend == "triton":
        for variant, places in (("bands", octaves(*site.shape[2:])), ("scalar", None)):
            yield _steps(site, variant, places)


def octaves(height: int, width: int) -> Numbers:
    """The band of each frequency of a real transform, (height, width // 2 + 1): octaves of their radius."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    return np.unique(np.log2(1 + radius).astype(np.int64), return_inverse=True)[1].reshape(radius.shape)


def _steps(site: Site, variant: str, places: Numbers | None) -> Operation:
    """The way that an image goes down a quadratic whose curvature mixes the channels."""
    noise, dtype = site.noise(8), site.mode.dtype
    start, curvature = 0.3 * noise(1, *site.shape[1:]), noise(1, *site.shape[1:]).double().square() + 0.1
    mixing = torch.tensor([[1.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 1.0]], dtype=torch.float64, device=site.device)

    def gradient(image: Tensor) -> Tensor:
        mixed = torch.einsum("cd,bdhw->bchw", mixing, image.double())
        return torch.einsum("cd,bdhw->bchw", mixing, curvature * mixed)

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        image = start.clone()
        terms: dict[str, Any] = {"places": places, "most": _MOST}
        fused = FusedLBFGS(image, learning_rate=1.0, history=_HISTORY, dtype=dtype, **terms)
        for step in range(_STEPS):
            given = gradient(image).float().contiguous(memory_format=layout)
            if step == 0:
                fused.begin(given)
            fused.step(image, given)
        return {"forward": [image - start]}

    terms: dict[str, Any] = {"history": _HISTORY, "places": places, "most": _MOST}
    exact = iterate(start.double(), gradient, _STEPS, **terms) - start
    plain = iterate(start, gradient, _STEPS, kept=dtype, **terms) - start
    # The image is float32 all the way.
    shared = relative_error(exact.float() + start - start, exact)
    budget = allowed([relative_error(dense(plain), exact)], exact, shared, dtype)
    return Operation("lbfgs_step", variant, run, {"forward": [Expected(exact, budget)]})
