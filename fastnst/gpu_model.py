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
from fastnst.step_profile import least_bytes
from fastnst.verification import STYLE_LAYERS

if TYPE_CHECKING:
    from fastnst_kernels.gpu import Gpu
    from fastnst_kernels.launch import Plan

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelledKernel:
    """One launch: its blocks, how many rounds of the multiprocessors they are, and the bytes of its tensors.

    The bytes are None for the kernels that write where they read, whose tensors do not tell.
    """

    kernel: str
    blocks: int
    waves: float
    bytes: int | None


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
    _require_triton()
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


def model_steps(size: int, target: str, precision: str) -> Iterator[Modelled]:
    """The operations of `fastnst.step_profile` at that size: the least bytes, and the workspace written and read.

    Takes and raises what `model` does.
    """
    check_size(size)
    roofline = datasheet_roofline(target, precision)
    _require_triton()
    from fastnst_kernels.gpu import TARGETS
    from fastnst_kernels.traffic import traffic_of

    gpu = TARGETS[target]
    for operation, layer, shape, plan, given in _step_plans(size, _DTYPES[precision], gpu):
        traffic = traffic_of(plan, given)
        elements = shape[1] * shape[2] * shape[3]
        work = Work(least_bytes(operation, elements, _DTYPES[precision]), 0)
        moved = work.bytes + 2 * traffic.workspace
        yield Modelled(
            target=target,
            layer=layer,
            shape=shape,
            precision=precision,
            operation=operation,
            work=work,
            features=elements * given[0].element_size(),
            least_seconds=roofline.seconds(work),
            plan_seconds=moved / roofline.bandwidth,
            plan_bytes=moved,
            workspace=traffic.workspace,
            kernels=tuple(
                ModelledKernel(launch.kernel, launch.blocks, launch.blocks / gpu.multiprocessors, None)
                for launch in traffic.launches
            ),
        )


def _step_plans(
    size: int, dtype: torch.dtype, gpu: "Gpu"
) -> Iterator[tuple[str, str, tuple[int, int, int, int], "Plan", tuple[torch.Tensor, ...]]]:
    """Each operation, its layer, the shape that its elements are counted in, its plan, and what the plan is given."""
    from fastnst_kernels import triton_adam, triton_content, triton_image, triton_relu, triton_relu_pool, triton_tap
    from fastnst_kernels.relu_layout import empty_bits
    from fastnst_kernels.terms import ContentTerm

    def empty(channels: int, side: int, dtype: torch.dtype) -> torch.Tensor:
        values = torch.empty((1, channels, side, side), dtype=dtype, device="meta")
        return values.to(memory_format=torch.channels_last)

    ones, betas = (1.0, 1.0, 1.0), (0.9, 0.99)
    image, moment, first, second = (empty(3, size, torch.float32) for _ in range(4))
    above = empty(3, size, dtype)
    x, y, pooled = empty(64, size, dtype), empty(64, size, dtype), empty(64, size // 2, dtype)
    bits, bias = empty_bits(x), torch.empty(64, dtype=dtype, device="meta")
    flat, wide, deep = (1, 3, size, size), (1, 64, size, size), (1, 512, size // 8, size // 8)
    features, content, upstream = (empty(512, size // 8, dtype) for _ in range(3))
    one, count = torch.empty(1, device="meta"), torch.empty((), dtype=torch.int64, device="meta")
    term = ContentTerm(content, one, 1.0)

    plan = triton_image.plan_normalise(image, ones, ones, False, dtype, True, gpu)
    yield "normalise", "image", flat, plan, (image,)
    given = (x, y, pooled, bits, bias)
    yield "bias_relu", "conv1_1", wide, triton_relu.plan_bias_relu(x, bias, y, bits), given
    yield "bias_relu backward", "conv1_1", wide, triton_relu.plan_relu_backward(y, bits, x), given
    plan = triton_relu_pool.plan_bias_relu_pool(x, bias, "avg", pooled, bits, gpu)
    yield "bias_relu_pool", "conv1_2", wide, plan, given
    plan = triton_relu_pool.plan_unpool_backward(pooled, bits, "avg", x, gpu)
    yield "bias_relu_pool backward", "conv1_2", wide, plan, given
    plan = triton_content.plan_content_loss(features, content, 1.0, gpu)
    yield "content loss", "conv4_2", deep, plan, (features, content)
    plan = triton_tap.plan_tap_backward(features, None, term, upstream, False, None, "ieee", gpu)
    yield "content backward", "conv4_2", deep, plan, (features, content, upstream, one)
    plan = triton_image.plan_image_gradient(image, above, ones, False, 1.0, None, "squared", gpu)
    yield "image_gradient", "image", flat, plan, (image, above)
    plan = triton_adam.plan_adam_step(image, moment, first, second, count, 0.1, betas, 1e-8, (0.0, 1.0), gpu)
    yield "adam_step", "image", flat, plan, (image, moment, first, second, count)


def _require_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        raise OptionError("the model counts what the Triton kernels move; install triton (pip install triton)")


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
