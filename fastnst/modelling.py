"""A model, not a measurement: what the kernels would move on a GPU that is not here, and the least time for that.

The launches are those that would run there. Bytes are counted from their tensors, each once for each launch, and
the peaks are the data sheet's. Latency, waiting and what blocks read again from the cache are not in it, so that a
real GPU is slower.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastnst.datasheets import DATASHEETS, Datasheet
from fastnst.errors import OptionError
from fastnst.profiling import Roofline, Work, check_size, work_of
from fastnst.verification import STYLE_LAYERS

if TYPE_CHECKING:
    from fastnst_kernels.launch import Plan

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelledKernel:
    """One launch: its blocks, how many rounds of the multiprocessors they are, and the bytes of its tensors."""

    kernel: str
    blocks: int
    waves: float
    bytes: int


@dataclass(frozen=True)
class Modelled:
    """One operation at one layer, on the GPU that stands for `target`.

    `least_seconds` is the roofline's for the least `work`; `plan_seconds` is the same for the `plan_bytes` that the
    launches move, partial sums included. `workspace` is what they allocate besides inputs and outputs, in bytes;
    `features` are the features' bytes.
    """

    target: str
    layer: str
    shape: tuple[int, int, int, int]
    precision: str
    operation: str
    work: Work
    features: int
    least_seconds: float
    plan_seconds: float
    plan_bytes: int
    workspace: int
    kernels: tuple[ModelledKernel, ...]

    @property
    def roofline_share(self) -> float:
        """Least time over that of what the launches move: the most that they could reach."""
        return self.least_seconds / self.plan_seconds

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them, marked as a model."""
        return {"model": True, **asdict(self), "shape": list(self.shape), "roofline_share": self.roofline_share}


def datasheet_roofline(target: str, precision: str) -> Roofline:
    """The data sheet's ceilings. Raises OptionError for an unknown target or a precision that it lacks."""
    sheet = _sheet(target)
    if precision not in sheet.rates:
        raise OptionError(f"precision {precision} is not one of {target}'s; use {', '.join(sheet.rates)}")
    return Roofline(sheet.bandwidth * 1e9, sheet.rates[precision] * 1e12)


def model(size: int, target: str, precision: str) -> Iterator[Modelled]:
    """The loss and the backward at the style layers of a square image of `size` pixels, in channels-last.

    `precision` is fp32, tf32, bf16 or fp16. Raises OptionError for a wrong size, target or precision, or where the
    triton package, which holds the kernels, is missing.
    """
    check_size(size)
    roofline = datasheet_roofline(target, precision)
    if importlib.util.find_spec("triton") is None:
        raise OptionError("the model counts what the Triton kernels move; install triton (pip install triton)")
    from fastnst_kernels import triton_gram, triton_tap
    from fastnst_kernels.gpu import TARGETS
    from fastnst_kernels.terms import StyleTerm

    gpu = TARGETS[target]
    dot_precision = "tf32" if precision == "tf32" else "ieee"
    for index, (layer, channels) in enumerate(STYLE_LAYERS.items()):
        side = size >> index
        features, upstream = (
            torch.empty((1, channels, side, side), dtype=_DTYPES[precision], device="meta").to(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        )
        matrix = torch.empty((1, channels, channels), device="meta")
        loss = triton_gram.plan_difference_loss(features, matrix, 1.0, dot_precision, gpu)
        style = StyleTerm(loss.outputs[1], loss.outputs[2], loss.outputs[0], 1.0)
        backward = triton_tap.plan_tap_backward(features, style, None, upstream, False, None, dot_precision, gpu)
        given = (features, upstream, matrix, *loss.outputs)
        for operation, plan in (("loss", loss), ("backward", backward)):
            work = work_of(operation, channels, side * side, features.element_size())
            yield Modelled(
                target=target,
                layer=layer,
                shape=(1, channels, side, side),
                precision=precision,
                operation=operation,
                work=work,
                features=features.numel() * features.element_size(),
                least_seconds=roofline.seconds(work),
                **_moved(plan, given, work, roofline, gpu.multiprocessors),
            )


def _moved(
    plan: "Plan", given: tuple[torch.Tensor, ...], work: Work, roofline: Roofline, multiprocessors: int
) -> dict[str, Any]:
    from fastnst_kernels.traffic import traffic_of

    traffic = traffic_of(plan, given)
    return {
        "plan_bytes": traffic.bytes,
        "plan_seconds": max(traffic.bytes / roofline.bandwidth, work.flops / roofline.rate),
        "workspace": traffic.workspace,
        "kernels": tuple(
            ModelledKernel(launch.kernel, launch.blocks, launch.blocks / multiprocessors, launch.bytes)
            for launch in traffic.launches
        ),
    }


def _sheet(target: str) -> Datasheet:
    if target not in DATASHEETS:
        raise OptionError(f"target {target!r} is unknown; choose one of {', '.join(DATASHEETS)}")
    return DATASHEETS[target]
