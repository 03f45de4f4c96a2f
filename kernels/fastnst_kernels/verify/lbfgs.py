"""Steps of L-BFGS against float64. The mode is the dtype of the pairs; only the Triton form is here.

`iterate` is the two-loop recursion (Nocedal 1980), each pair by itself, in any precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnst_kernels.launch.layout import dense
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.lbfgs.state import Numbers
from fastnst_kernels.verify.budget import Expected, allowed, relative_error
from fastnst_kernels.verify.check import Operation, Site

# More steps than pairs, so that the oldest ones leave.
_HISTORY, _STEPS, _MOST = 3, 6, 0.02
_OPPONENTS = torch.nn.functional.normalize(
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64), dim=1
)


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

    begins = None if places is None else _MOST

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        image = start.clone()
        terms: dict[str, Any] = {"places": places, "most": _MOST}
        fused = FusedLBFGS(image, learning_rate=1.0, history=_HISTORY, dtype=dtype, **terms)
        for step in range(_STEPS):
            given = gradient(image).float().contiguous(memory_format=layout)
            if step == 0:
                fused.begin(image, given, begins)
            fused.step(image, given)
        return {"forward": [image - start]}

    terms: dict[str, Any] = {"history": _HISTORY, "places": places, "most": _MOST, "begins": begins}
    exact = iterate(start.double(), gradient, _STEPS, **terms) - start
    plain = iterate(start, gradient, _STEPS, kept=dtype, **terms) - start
    # The image is float32 all the way.
    shared = relative_error(exact.float() + start - start, exact)
    budget = allowed([relative_error(dense(plain), exact)], exact, shared, dtype)
    return Operation("lbfgs_step", variant, run, {"forward": [Expected(exact, budget)]})


class _Coordinates:
    """An image (1, 3, H, W) as (3, N) numbers that keep inner products, each in a band: spectra, or as they lie."""

    def __init__(self, like: Tensor, places: Numbers | None) -> None:
        self._size, self.weights, self.band = like.shape[2:], None, torch.zeros(like[0, 0].numel(), dtype=torch.long)
        if places is not None:
            weights = torch.full((places.shape[1],), 2**0.5, dtype=like.dtype)
            weights[[0, -1] if like.shape[3] % 2 == 0 else [0]] = 1.0
            self.weights = weights[:, None].to(like.device)
            self.band = torch.from_numpy(places).long().flatten().repeat_interleave(2)
        self.band = self.band.to(like.device)

    def of(self, image: Tensor) -> Tensor:
        if self.weights is None:
            return image.reshape(3, -1)
        return (torch.view_as_real(torch.fft.rfft2(image[0], norm="ortho")) * self.weights).reshape(3, -1)

    def image(self, x: Tensor) -> Tensor:
        height, width = self._size
        if self.weights is None:
            return x.reshape(1, 3, height, width)
        spectrum: Tensor = torch.view_as_complex((x.reshape(3, height, -1, 2) / self.weights).contiguous())
        picture: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
        return picture[None]


def iterate(
    image: Tensor,
    gradient: Callable[[Tensor], Tensor],
    steps: int,
    *,
    history: int,
    places: Numbers | None = None,
    most: float = 1.0,
    begins: float | None = None,
    kept: torch.dtype | None = None,
) -> Tensor:
    """The image (1, 3, H, W) after some steps of `FusedLBFGS` with a learning rate of 1, in its own dtype; `begins` is
    the `most` of the first step, `kept` the dtype of the pairs."""
    coordinates = _Coordinates(image, places)
    bands = int(coordinates.band.max()) + 1
    members = torch.nn.functional.one_hot(coordinates.band, bands).T.double()
    ring: list[tuple[Tensor, Tensor] | None] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    memory_steps, memory_changes = (torch.zeros((bands, 3, 3), dtype=torch.float64) for _ in range(2))
    both, h0 = 0.0, torch.eye(3, dtype=torch.float64).repeat(bands, 1, 1)
    before = s = None
    for _ in range(steps):
        slope = gradient(image).to(image.dtype)
        g = coordinates.of(slope)
        if before is None or s is None:
            h0 /= slope.abs().sum() if begins is None else slope.double().square().mean().sqrt() / begins
        else:
            y = _rounded(g - before, kept)
            sy, yy = (s * y).sum().double(), (y * y).sum().double()
            is_curved = bool((sy > 1e-10 * (s * s).sum().double().sqrt() * yy.sqrt()) & (yy > 0))
            ring = [*ring, (s, y) if is_curved else None][-history:]
            pairs = [pair for pair in ring if pair is not None]
            if is_curved and places is None:
                h0 = float(sy / yy) * torch.eye(3, dtype=torch.float64)[None]
            elif is_curved:
                ss, changes = (torch.einsum("bn,cn,dn->bcd", members, x.double(), x.double()) / yy for x in (s, y))
                memory_steps = 0.97 * memory_steps + ss.cpu()
                memory_changes = 0.97 * memory_changes + changes.cpu()
                both = 0.97 * both + float(sy / yy)
                scale = sum(float((a * b).sum() / (b * b).sum()) for a, b in pairs) / len(pairs)
                h0 = scale * _contrasts(memory_steps, memory_changes, both)
        d = _two_loops(g, pairs, h0.to(g)[coordinates.band])
        if places is not None:
            d = d * min(1.0, most / float((d.double().square().sum() / image.numel()).sqrt().clamp_min(1e-300)))
        before, s = g, _rounded(-d, kept)
        image = image - coordinates.image(d)
    return image


def _two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor]], h0: Tensor) -> Tensor:
    q, weights = g, []
    for s, y in reversed(pairs):
        weights.append((s * q).sum() / (s * y).sum())
        q = q - weights[-1] * y
    q = torch.einsum("ncd,dn->cn", h0, q)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q = q + s * (weight - (y * q).sum() / (s * y).sum())
    return q


def _contrasts(steps: Tensor, changes: Tensor, both: float) -> Tensor:
    """The matrices (bands, 3, 3) relative to the whole, from what pairs have shown: in red, green and blue, where the
    kernels have opponent colours and their diagonal."""
    a, b = (torch.einsum("uc,bcd,ud->bu", _OPPONENTS, x, _OPPONENTS).clamp_min(0) for x in (steps, changes))
    tiny = torch.finfo(a.dtype).tiny
    contrast = (a / b.clamp_min(tiny)).sqrt() / (both / b.sum().clamp_min(tiny)).clamp_min(tiny)
    return torch.einsum("uc,bu,ud->bcd", _OPPONENTS, contrast.clamp(0.1, 10), _OPPONENTS)


def _rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or dtype.itemsize >= x.dtype.itemsize:
        return x
    largest = float(x.abs().amax().clamp_min(1e-30))
    return (x / largest).to(dtype).to(x.dtype) * largest
