"""The kernels of a run on a GPU, built in threads while its network loads.

A rehearsal computes the run on meta tensors, which have shapes and no values, and so knows all that will be launched.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels.profiling.measure import device_name, versions
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastnst.loss.networks import backbone_of
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.architecture import CAFFE, IMAGENET, is_original, layers_up_to
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights, cache_folder
from fastnst.optim import Adam, Best, make_optimizer
from fastnst.options.options import Options
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import Plan
from fastnst.transfer.descent import Descent

_META = torch.device("meta")
_MOST_THREADS = 16
# An optimiser's kernels depend on an image's size by what is left of a division by this.
_ALIGNED, _SMALL = 16, 64


@dataclass(frozen=True)
class Rehearsal:
    """All that the kernels of a scale depend on: `style_sizes`, (height, width), are those of the style images."""

    options: Options
    runtime: Runtime
    plan: Plan
    style_sizes: tuple[tuple[int, int], ...]

    def launches(self) -> list[Any]:
        """The launches of the style's and the content's targets and of a few iterations, without masks.

        Of a network from a file it is not known yet in which order it takes the channels: it is taken for one of
        torchvision's.
        """
        from fastnst_kernels.launch.launch import planned

        options, runtime, plan = self.options, replace(self.runtime, device=_META), self.plan
        with planned() as launches, _Answers(), torch.no_grad():
            backbone = backbone_of(self._weights(), options, runtime)
            styles = [(_map(*size), 1 / len(self.style_sizes)) for size in self.style_sizes]
            style = style_targets(backbone, styles, options, runtime, tile=plan.style_tile)
            image = _map(plan.height, plan.width)
            make = partial(Objective, backbone, image, style, options, runtime)
            objective = FittingObjective(make, options, runtime, plan=plan, tile_is_fixed=True)
            descent = Descent(image, objective, _Still)
            descent.begin()
            descent.advance()
            descent.end()
            optimizer = make_optimizer(options, runtime)
            small = _map(*(_SMALL + side % _ALIGNED for side in (plan.height, plan.width)))
            best = small.clone(), torch.empty((), dtype=torch.bool, device=_META)
            for _ in range(3):
                optimizer.step(small, torch.empty_like(small), torch.empty((), device=_META), best)
        return launches

    def _weights(self) -> Weights:
        options, tensors = self.options, {}
        for layer in layers_up_to(options.network, options.taps):
            if not layer.is_pool:
                shape = (layer.out_channels, layer.in_channels, 3, 3)
                tensors[f"{layer.name}.weight"] = torch.empty(shape, device=_META)
                tensors[f"{layer.name}.bias"] = torch.empty(shape[:1], device=_META)
        preprocessing = CAFFE if is_original(options.network, options.weights) else IMAGENET
        return Weights("", options.network, tensors, preprocessing, "")


class Building:
    """The kernels of some scales, being built for `device`; marks in our cache say what Triton's has already."""

    def __init__(self, rehearsals: Sequence[Rehearsal], device: torch.device) -> None:
        self._device = device
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, 1 + (os.cpu_count() or 1)), "kernels")
        self._futures: list[Future[None]] = []
        marks = {_mark(each, device): each for each in rehearsals}
        self._rehearsed = {
            mark: self._pool.submit(self._build, each) for mark, each in marks.items() if not mark.exists()
        }

    def wait(self, report: Callable[[int], object] = lambda left: None) -> None:
        """Waits until all are built, or have failed to; `report` is told how many are left."""
        failed = [planning.exception() for planning in self._rehearsed.values()]
        for index, future in enumerate(self._futures):
            report(len(self._futures) - index)
            failed.append(future.exception())
        self._pool.shutdown()
        if not any(failed):
            # A cache that cannot be written is none.
            with suppress(OSError):
                for mark in self._rehearsed:
                    mark.parent.mkdir(parents=True, exist_ok=True)
                    mark.touch()

    def _build(self, rehearsal: Rehearsal) -> None:
        from fastnst_kernels.launch.build import build

        self._futures += build(rehearsal.launches(), self._device, self._pool)


def _mark(rehearsal: Rehearsal, device: torch.device) -> Path:
    """The file in our cache whose presence says that the kernels of this rehearsal have been built on this machine."""
    plan = replace(rehearsal.plan, peak_bytes=0, held_bytes=0, limit_bytes=None)
    facts = (replace(rehearsal, plan=plan), device_name(device), versions(), os.environ.get("TRITON_CACHE_DIR"))
    return cache_folder() / "kernels" / hashlib.sha256(repr(facts).encode()).hexdigest()


class _Still(Adam):
    """An optimiser that moves nothing."""

    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None, best: Best | None = None) -> None:
        pass


class _Answers(TorchFunctionMode):
    """Within it, meta tensors are read as ones."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _READINGS and args[0].is_meta:
            return _READINGS[function]
        return function(*args, **(kwargs or {}))


_READINGS: Mapping[Callable[..., Any], object] = {Tensor.item: 1.0, Tensor.__float__: 1.0, Tensor.__bool__: True}


def _map(height: int, width: int) -> Tensor:
    return torch.empty((1, 3, height, width), device=_META)
