"""The optimisers: one step from an image and its gradient, in place, without a host round trip.

Its modules import `options`, `network` and the kernels.
"""

from typing import Protocol

import torch
from fastnst_kernels.image.eager import Best, keep_best
from fastnst_kernels.launch.layout import exact_device
from torch import Tensor

from fastnst.network.runtime import Runtime
from fastnst.optim.adam import ADAM_RATE, Adam
from fastnst.optim.lbfgs import LBFGS, LBFGS_HISTORY, LBFGS_RATE, MOST_MOVE
from fastnst.options.options import Options

__all__ = ["ADAM_RATE", "LBFGS", "LBFGS_HISTORY", "LBFGS_RATE", "Adam", "Best", "OnHost", "Optimizer", "make_optimizer"]

# Starts from which a long first step pays, and the steps that it takes to pay.
_FAR_STARTS, _FEW_STEPS = ("content", "recoloured", "noise", "grey", "style-mean"), 4
_HISTORY_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Optimizer(Protocol):
    """The mover of an image. Its state is on the image's device, and a graph can capture its step."""

    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None, best: Best | None = None) -> None:
        """Moves `image` in place. `image` and `gradient` are (1, 3, H, W) in the same dtype and memory format; `loss`,
        a scalar on their device, is the image's, which a line search needs. Before it moves, the image is copied over
        the `best` one if it is better."""

    def rescaled(self, size: tuple[int, int]) -> "Optimizer":
        """The optimiser for the same picture at `size`, (height, width): a new one, with what carries over."""

    def live_state(self) -> dict[str, Tensor]:
        """Its state itself, by name, of use until the next step; empty before the first."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over the state of one made with the same options, and goes on from it to the same bits."""


def history_precision(options: Options, *, is_fused: bool) -> str:
    """The precision of L-BFGS's history. Where Triton moves the image and reads 16 bits as they are (`is_fused`), auto
    is fp16, which moves little more than half; elsewhere it is fp32."""
    if options.history_precision != "auto":
        return options.history_precision
    return "fp16" if is_fused and options.line_search == "none" else "fp32"


def make_optimizer(options: Options, runtime: Runtime, *, is_begun: bool = False) -> Optimizer:
    """A fresh optimiser of the kind and learning rate that `options` name; `is_begun` if the image is not their start,
    but near its end already."""
    if options.optimizer == "adam":
        return Adam(learning_rate=options.learning_rate or ADAM_RATE, backend=runtime.kernels)
    kind = history_precision(options, is_fused=runtime.kernels == "triton")
    counts = options.iterations if isinstance(options.iterations, tuple) else (options.iterations,)
    is_far = not is_begun and isinstance(options.init, str) and options.init in _FAR_STARTS
    is_long = is_far and min(counts) > _FEW_STEPS and options.hessian == "bands"
    optimizer = LBFGS(
        learning_rate=options.learning_rate or LBFGS_RATE,
        history=options.history,
        history_dtype=_HISTORY_DTYPES[kind],
        hessian=options.hessian,
        bounded=options.hessian == "bands",
        first_move=MOST_MOVE if is_long else None,
        line_search=options.line_search,
        backend=runtime.kernels,
    )
    return optimizer if exact_device(runtime.device) == runtime.device else OnHost(optimizer)


def state_device(options: Options, runtime: Runtime) -> torch.device:
    """The device of the state of the optimiser that `make_optimizer` makes."""
    return runtime.device if options.optimizer == "adam" else exact_device(runtime.device)


class OnHost:
    """L-BFGS on the CPU for an image on a device without float64, in which its small matrices are. Its state is on the
    CPU; an image and a gradient go there with each step, and an image back."""

    def __init__(self, optimizer: LBFGS) -> None:
        self._optimizer = optimizer
        self.live_state, self.curvature = optimizer.live_state, optimizer.curvature
        self.load_state_dict = optimizer.load_state_dict

    def step(self, image: Tensor, gradient: Tensor, loss: Tensor | None = None, best: Best | None = None) -> None:
        keep_best(image, best)
        moved = image.cpu()
        self._optimizer.step(moved, gradient.cpu(), None if loss is None else loss.cpu())
        image.copy_(moved)

    def rescaled(self, size: tuple[int, int]) -> "OnHost":
        return OnHost(self._optimizer.rescaled(size))
