"""The loop that tutorials teach, in plain PyTorch, and what becomes of it with all that plain PyTorch offers.

The objective is that of `fastnst.loss.objective`, written once more with autograd, `F @ F.T` and `mse_loss`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastnst.image.picture import opaque
from fastnst.image.read import Source, load_image
from fastnst.image.resize import fitted_size, resize_picture
from fastnst.network.architecture import layers_up_to
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.optim import ADAM_RATE, LBFGS_HISTORY
from fastnst.options.options import Options

TUTORIAL_HISTORY = 100


@dataclass(frozen=True)
class Task:
    """The inputs of all sides of a comparison: pictures (1, 3, H, W) in 0…1, weights and options."""

    content: Tensor
    style: Tensor
    start: Tensor
    weights: Weights
    options: Options
    device: torch.device


@dataclass(frozen=True)
class Form:
    """How the loop is written: the default is the tutorials', float32 NCHW with torch's defaults.

    `tuned` is channels-last with in-place ReLUs, a Gram whose gradient is one product, a fused Adam and a short L-BFGS
    history; `dtype` is that of weights and features, `compile_mode` that of `torch.compile`, or None for eager.
    """

    tuned: bool = False
    dtype: torch.dtype = torch.float32
    compile_mode: str | None = None


def make_task(options: Options, content: Source, style: Source) -> Task:
    """The pictures at the size of `options`, which start from noise or from the content."""
    device = resolve_runtime(options.device, options.precision, options.backend).device
    picture, painting = (opaque(load_image(source)) for source in (content, style))
    size = fitted_size(picture.height, picture.width, options.size)
    style_size = fitted_size(painting.height, painting.width, round(options.size * options.style_scale))
    pixels, strokes = (
        resize_picture(source, size=edges).rgb[None].to(device)
        for source, edges in ((picture, size), (painting, style_size))
    )
    noise = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(options.seed)).to(device)
    weights = load_weights(options.weights, options.network, taps=options.taps, filter_scaling=options.filter_scaling)
    return Task(pixels, strokes, noise if options.init == "noise" else pixels, weights, options, device)


class _SymmetricGram(torch.autograd.Function):
    """`F Fᵀ` of the rows of F: its gradient is symmetric, so that one product is enough."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        return matrix @ matrix.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient: Tensor = (2 * gradients[0]) @ ctx.saved_tensors[0]
        return gradient


def plain_loss(task: Task, form: Form) -> Callable[[Tensor], Tensor]:
    """The total loss of an image (1, 3, H, W) float32 as autograd sees it."""
    options = task.options
    style_layers, content_layers = dict(options.active_style_layers), dict(options.active_content_layers)
    network = _network(task, form)
    mean, std = _normalisation(task)

    def features(image: Tensor) -> dict[str, Tensor]:
        x = ((image - mean) / std).to(form.dtype)
        if form.tuned:
            x = x.contiguous(memory_format=torch.channels_last)
        kept = {}
        for name, module in network.items():
            x = module(x)
            if name in style_layers or name in content_layers:
                kept[name] = x
        return kept

    with torch.no_grad():
        grams = {name: _gram(x, form) for name, x in features(task.style).items() if name in style_layers}
        contents = {name: x.clone() for name, x in features(task.content).items() if name in content_layers}
    constants = {}
    for name, weight in style_layers.items():
        scale = 4 * len(grams[name]) ** 2 if options.objective == "paper" else grams[name].square().sum().item()
        constants["style", name] = options.last_style_weight * weight / scale
    for name, weight in content_layers.items():
        scale = 2 if options.objective == "paper" else contents[name].float().square().sum().item()
        constants["content", name] = options.content_weight * weight / scale

    def total(image: Tensor) -> Tensor:
        kept = features(image)
        loss = image.new_zeros(())
        for name, target in grams.items():
            loss = loss + constants["style", name] * F.mse_loss(_gram(kept[name], form), target, reduction="sum")
        for name, target in contents.items():
            squares = F.mse_loss(kept[name].float(), target.float(), reduction="sum")
            loss = loss + constants["content", name] * squares
        if options.tv_weight:
            right, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
            variation = right.square().sum() + down.square().sum()
            loss = loss + options.tv_weight * variation / image[0, 0].numel()
        return loss

    return total if form.compile_mode is None else torch.compile(total, mode=form.compile_mode)


def _gram(x: Tensor, form: Form) -> Tensor:
    if not form.tuned:
        matrix = x.view(x.shape[1], -1)
        return matrix @ matrix.t() / matrix.shape[1]
    matrix = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).t()
    product: Tensor = _SymmetricGram.apply(matrix)  # type: ignore[no-untyped-call]
    return product.float() / matrix.shape[1]


def _normalisation(task: Task) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels in 0…1, in RGB."""
    kind = task.weights.preprocessing
    mean, std = (
        torch.tensor(values, device=task.device).view(1, 3, 1, 1) / kind.scale for values in (kind.mean, kind.std)
    )
    return (mean.flip(1), std.flip(1)) if kind.bgr else (mean, std)


def _network(task: Task, form: Form) -> nn.ModuleDict:
    options = task.options
    network = nn.ModuleDict()
    for layer in layers_up_to(options.network, options.taps):
        if layer.is_pool:
            network[layer.name] = nn.AvgPool2d(2) if options.pooling == "avg" else nn.MaxPool2d(2)
            continue
        weight, bias = (task.weights.tensors[f"{layer.name}.{part}"] for part in ("weight", "bias"))
        first = layer.in_channels == 3
        if first and task.weights.preprocessing.bgr:
            weight = weight.flip(1)
        padding_mode: Any = options.padding if first else "zeros"
        convolution = nn.Conv2d(
            layer.in_channels, layer.out_channels, 3, padding=1, padding_mode=padding_mode, device="meta"
        )
        convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        network[layer.name] = nn.Sequential(convolution, nn.ReLU(inplace=form.tuned))
    network.requires_grad_(False).to(task.device, form.dtype)
    return network.to(memory_format=torch.channels_last) if form.tuned else network  # type: ignore[call-overload]


def plain_iteration(
    loss: Callable[[Tensor], Tensor], start: Tensor, optimizer: str, form: Form, *, full_history: bool = False
) -> Callable[[], Tensor]:
    """One iteration of "adam" or "lbfgs" on an image of its own; it returns the loss before the step.

    The image is clamped before its loss is computed, as PyTorch's own tutorial does it: a loss of pixels that no
    picture has is nobody's. L-BFGS takes one evaluation a call, as with the `max_iter=20` of the tutorials. With
    `full_history` its history is padded with copies of the latest pair: an iteration then costs what a late one does.
    """
    image = start.clone().requires_grad_()
    if optimizer == "lbfgs":
        history = LBFGS_HISTORY if form.tuned else TUTORIAL_HISTORY
        lbfgs = torch.optim.LBFGS([image], max_iter=1, history_size=history)

        def closure() -> Tensor:
            with torch.no_grad():
                image.clamp_(0, 1)
            lbfgs.zero_grad()
            value = loss(image)
            torch.autograd.backward(value)
            return value

        def lbfgs_iteration() -> Tensor:
            value: Tensor = lbfgs.step(closure)  # type: ignore[no-untyped-call]
            if full_history:
                _pad_history(lbfgs.state[image], history)
            return value.detach()

        return lbfgs_iteration
    adam = torch.optim.Adam([image], lr=ADAM_RATE, betas=(0.9, 0.99), fused=form.tuned)

    def adam_iteration() -> Tensor:
        adam.zero_grad()
        value = loss(image)
        torch.autograd.backward(value)
        adam.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        return value.detach()

    return adam_iteration


def _pad_history(state: dict[str, Any], length: int) -> None:
    pairs = state.get("old_dirs", [])
    while pairs and len(pairs) < length:
        for name in ("old_dirs", "old_stps", "ro"):
            state[name].append(state[name][-1].clone())
