"""The steps of the profile: the Gram losses at the five style layers, and the rest of an iteration's own kernels.

The Gram losses have three operations: `forward` (the Gram matrix), `loss` (the Gram-difference loss, with what its
backward needs kept) and `backward` (the gradient of the loss, added to the one from above). With C channels and M
positions, `work_of` says the least that must be moved and multiplied: F, and for backward the upstream, read once,
matrices read and written once, and M C (C + 1) operations for a symmetric product. The other kernels only move bytes,
of which `steps` says the least: with elements of s bytes, what is read and what is written once, a sign bit for each
activation, and 4 bytes for what belongs to the image.

There are up to three implementations: `fastnst`, `eager` (plain PyTorch, with autograd), and for the Gram losses
`compile` (torch.compile of that; its mode "max-autotune" is taken without CUDA graphs, which save time of the host
alone, and that is not in the figures). All is channels-last, as the engine has it, but the plain forms of the Gram
losses: they read the same values in NCHW, as the tutorials have them, which is faster for them.

The roofline is the larger of bytes / copy bandwidth and operations / rate of a large product, both measured in the
same run. GB/s and TFLOP/s count the same bytes and operations for each implementation, whatever it really moves.
Memory is the peak of what an operation allocates besides its inputs and its result; that of a backward begins with its
forward, so that what is kept for backward is in it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from fastnst_kernels import image, losses, relu
from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.profiling.measure import Contender, quieten_profiler, synchronise
from fastnst_kernels.profiling.step import Setting, Step, Work
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.everything import STYLE_LAYERS
from fastnst_kernels.verify.losses import bring_to_one, target_near

OPERATIONS = ("forward", "loss", "backward")
IMPLEMENTATIONS = ("fastnst", "eager", "compile")

# The relative errors at which a kernel that moves bytes is not timed: rounding to the dtype, and what its sums add.
_ERRORS = {"fp32": 1e-5, "tf32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
_SCALE, _SHIFT = (4.4, 4.5, 4.6), (-2.1, -2.0, -1.8)
_TV_WEIGHT, _RATE, _BETAS, _EPSILON = 0.1, 0.02, (0.9, 0.99), 1e-8

Function = Callable[..., Tensor | tuple[Tensor, Tensor]]
Form = Callable[..., Callable[[], Tensor]]
"""Takes a step's inputs, prepares one call and returns it; the call returns its result."""


def work_of(operation: str, channels: int, positions: int, itemsize: int) -> Work:
    """The least bytes and FLOPs of `operation` for one image's (C, M) features of `itemsize` bytes an element."""
    features, matrix = channels * positions * itemsize, channels**2
    if operation == "backward":
        return Work(3 * features + matrix * itemsize, 2 * positions * matrix)
    symmetric = positions * channels * (channels + 1)
    if operation == "forward":
        return Work(features + 4 * matrix, symmetric)
    return Work(features + (4 + itemsize) * matrix, symmetric)


def gram_steps(size: int, setting: Setting, compile_mode: str | None) -> Iterator[Step]:
    """The Gram losses at the style layers of a square image of `size` pixels, one layer after another.

    `compile_mode` is torch.compile's, "default" or "max-autotune"; with None it is left out.
    """
    precision = setting.dot_precision
    options: dict[str, Any] = {"precision": precision, "backend": setting.backend}
    functions: dict[str, tuple[Function, Function]] = {
        "fastnst": (partial(losses.gram, **options), partial(losses.style_tap, **options)),
        "eager": (plain_gram, plain_tap),
    }
    for index, (layer, channels) in enumerate(STYLE_LAYERS.items()):
        if compile_mode is not None:
            torch.compiler.reset()
            mode = "max-autotune-no-cudagraphs" if compile_mode == "max-autotune" else compile_mode
            compiled = partial(torch.compile, dynamic=False, mode=mode)
            functions["compile"] = (compiled(plain_gram), compiled(plain_tap))
        features, upstream, target, weight = _gram_inputs(channels, size >> index, setting)
        contenders: dict[str, dict[str, Contender]] = {operation: {} for operation in OPERATIONS}
        for name, (gram, tap) in functions.items():
            x, above = (features, upstream) if name == "fastnst" else (features.contiguous(), upstream.contiguous())
            contenders["forward"][name] = partial(_untracked(gram), x)
            contenders["loss"][name] = partial(_forward(tap), x, target, weight)
            contenders["backward"][name] = partial(_backward(tap), x, above, target, weight)
        loss: dict[str, Any] = {"target": target, "weight": weight, "precision": precision}
        expected: dict[str, Callable[[], Expected]] = {
            "forward": partial(budget.gram, features, precision),
            "loss": partial(budget.gram_loss, features, **loss),
            "backward": partial(budget.tap_gradient, features, upstream, **loss),
        }
        for operation in OPERATIONS:
            work = work_of(operation, channels, features[0, 0].numel(), features.element_size())
            yield Step(layer, operation, work, features, contenders[operation], expected=expected[operation])


def _gram_inputs(channels: int, side: int, setting: Setting) -> tuple[Tensor, Tensor, Tensor, float]:
    """Features and upstream (1, C, H, W) channels-last, target (C, C), and the weight that makes its loss's gradient as
    large as the upstream.

    The features are as after a ReLU, scaled so that F Fᵀ, before its division by M, stays in the range of float16.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(setting.device)

    def channels_last(values: Tensor) -> Tensor:
        return values.to(setting.dtype).contiguous(memory_format=torch.channels_last)

    features = channels_last((noise(1, channels, side, side) + 0.3).relu() * (128 / side))
    target = target_near(features, noise(channels, channels))
    weight = bring_to_one(losses.reference.gram_loss_gradient(features, target)).item()
    return features, channels_last(noise(1, channels, side, side)), target, weight


def plain_gram(features: Tensor) -> Tensor:
    """The tutorials' Gram matrix, F @ F.T / M of (1, C, H, W) in NCHW, in float32 after the product: (1, C, C)."""
    matrix = features.view(features.shape[1], -1)
    return ((matrix @ matrix.t()).float() / matrix.shape[1])[None]


def plain_tap(features: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The features for the next layer, and the Gram-difference loss (1,) by autograd."""
    difference = plain_gram(features) - target
    return features.view_as(features), weight / (4 * features.shape[1] ** 2) * difference.square().sum((1, 2))


def steps(size: int, setting: Setting) -> Iterator[Step]:
    """The other operations for a square image of `size` pixels, in the order of an iteration."""
    generator = torch.Generator().manual_seed(0)
    s = torch.empty(0, dtype=setting.dtype).element_size()

    def noise(channels: int, side: int, dtype: torch.dtype = setting.dtype) -> Tensor:
        values = torch.randn((1, channels, side, side), generator=generator).to(setting.device, dtype)
        return values.contiguous(memory_format=torch.channels_last)

    def step(operation: str, layer: str, each: float, inputs: tuple[Tensor, ...], *forms: Form) -> Step:
        """`each` is the least bytes for an element of the first input."""
        ours, eager = forms
        exact = eager(*(tensor.double() for tensor in inputs))().detach()
        limit = torch.full((len(exact),), _ERRORS[setting.precision], device=exact.device)
        return Step(
            layer=layer,
            operation=operation,
            work=Work(round(each * inputs[0].numel()), 0),
            features=inputs[0],
            contenders={"fastnst": partial(ours, *inputs), "eager": partial(eager, *inputs)},
            expected=lambda: Expected(exact, limit),
        )

    picture = noise(3, size, torch.float32).sigmoid()
    # The image read, the features written.
    yield step("normalise", "image", 4 + s, (picture,), *map(_forward, _normalise(setting)))

    bias = torch.randn(64, generator=generator).to(setting.device, setting.dtype)
    before, above, below = noise(64, size), noise(64, size), noise(64, size // 2)
    for name, each, gradient in (("bias_relu", 2 * s, above), ("bias_relu_pool", 1.25 * s, below)):
        pooled = name == "bias_relu_pool"
        functions, layer = _relu(setting, pooled), "conv1_2" if pooled else "conv1_1"
        yield step(name, layer, each + 1 / 8, (before, bias), *map(_forward, functions))
        yield step(f"{name} backward", layer, each + 1 / 8, (before, gradient, bias), *map(_backward, functions))

    # Both features read; backward reads the upstream too, and writes the gradient.
    features, content, upstream = (noise(512, size // 8).relu_() for _ in range(3))
    functions = _content(setting)
    yield step("content loss", "conv4_2", 2 * s, (features, content), *map(_forward, functions))
    yield step("content backward", "conv4_2", 4 * s, (features, upstream, content), *map(_backward, functions))

    # The image and the upstream read, the gradient written.
    yield step("image_gradient", "image", 8 + s, (picture, noise(3, size)), *map(_forward, _image_gradient(setting)))
    # The image, its gradient and both moments read, all but the gradient written.
    yield step("adam_step", "image", 28, (picture, noise(3, size, torch.float32)), *_adam(setting))


def _untracked(function: Function) -> Form:
    """The result of the function, of which autograd keeps nothing."""
    untracked = torch.no_grad()(function)
    return lambda *inputs: lambda: _results(untracked(*inputs))[-1]


def _forward(function: Function) -> Form:
    """The last result of the function, with what its backward needs kept as in a run."""

    def prepared(x: Tensor, *rest: Any) -> Callable[[], Tensor]:
        leaf = x.detach().requires_grad_()
        return lambda: _results(function(leaf, *rest))[-1]

    return prepared


def _backward(function: Function) -> Form:
    """The gradient of the function's input, for the gradient `above` of its first result and 1 of a loss beside."""

    def prepared(x: Tensor, above: Tensor, *rest: Any) -> Callable[[], Tensor]:
        leaf = x.detach().requires_grad_()
        results = _results(function(leaf, *rest))
        gradients = [above, *map(torch.ones_like, results[1:])]
        # The edges alone: whether the results live on is the function's to say.
        edges = [get_gradient_edge(result) for result in results]
        return lambda: torch.autograd.grad(edges, leaf, gradients)[0]

    return prepared


def _results(results: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _relu(setting: Setting, pooled: bool) -> tuple[Function, Function]:
    function = relu.bias_relu_pool if pooled else relu.bias_relu

    def eager(x: Tensor, bias: Tensor) -> Tensor:
        activations = torch.relu(x + bias[:, None, None])
        return F.avg_pool2d(activations, 2) if pooled else activations

    return lambda x, bias: function(x, bias, backend=setting.backend), eager


def _content(setting: Setting) -> tuple[Function, Function]:
    def ours(features: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        passed, _, loss = losses.tap(features, content=content, content_weight=0.5, backend=setting.backend)
        return passed, features.new_empty(0) if loss is None else loss

    def eager(features: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(features.dtype, torch.float32)
        difference = features.to(wide) - content.to(wide)
        return features.view_as(features), 0.5 * difference.square().sum((1, 2, 3))

    return ours, eager


def _normalise(setting: Setting) -> tuple[Function, Function]:
    def ours(picture: Tensor) -> Tensor:
        return image.normalise(picture, _SCALE, _SHIFT, dtype=setting.dtype, backend=setting.backend)

    def eager(picture: Tensor) -> Tensor:
        normalised = image.reference.normalise(picture, _SCALE, _SHIFT, dtype=picture.dtype)
        return normalised if picture.dtype == torch.float64 else normalised.to(setting.dtype)

    return ours, eager


def _image_gradient(setting: Setting) -> tuple[Function, Function]:
    def ours(picture: Tensor, upstream: Tensor) -> Tensor:
        return image.image_gradient(picture, upstream, _SCALE, tv_weight=_TV_WEIGHT, backend=setting.backend)[0]

    def eager(picture: Tensor, upstream: Tensor) -> Tensor:
        weighted = _TV_WEIGHT * image.reference.total_variation(picture, dtype=picture.dtype).sum()
        scale = image.reference.by_channel(_SCALE, picture)
        return torch.autograd.grad(weighted, picture)[0] + upstream * scale

    return ours, eager


def _adam(setting: Setting) -> tuple[Form, Form]:
    def fresh(picture: Tensor) -> list[Tensor]:
        """The image and both moments before the first step, in memory of their own."""
        return [picture.clone(), torch.zeros_like(picture), torch.zeros_like(picture)]

    def ours(picture: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
        moved, first, second = fresh(picture)
        step = partial(image.adam_step_, learning_rate=_RATE, betas=_BETAS, backend=setting.backend)

        def call() -> Tensor:
            step(moved, gradient, first, second, 1)
            return moved

        return call

    def eager(picture: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
        moved, first, second = fresh(picture)

        def call() -> Tensor:
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            root = (second / (1 - _BETAS[1])).sqrt_().add_(_EPSILON)
            return moved.addcdiv_(first, root, value=-_RATE / (1 - _BETAS[0])).clamp_(0, 1)

        return call

    return ours, eager


def trace(size: int, setting: Setting, path: Path) -> None:
    """Writes one loss and backward of each style layer, ours and eager, as a trace for Perfetto or chrome://tracing.

    Each is a span named layer, operation and implementation. Raises OSError where `path` cannot be written.
    """
    quieten_profiler()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    calls = [
        (f"{step.layer} {step.operation} {name}", prepare)
        for step in gram_steps(size, setting, None)
        for name, prepare in step.contenders.items()
        if step.operation != "forward"
    ]
    with float32_products(setting.tf32):
        for _, prepare in calls:
            prepare()()
        with torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
            for span, prepare in calls:
                call = prepare()
                synchronise(setting.device)
                with torch.profiler.record_function(span):
                    call()
                    synchronise(setting.device)
    try:
        profiler.export_chrome_trace(str(path))
    except RuntimeError as error:
        raise OSError(str(error)) from None
