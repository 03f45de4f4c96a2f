"""Times the rest of an iteration's own kernels, which all only move bytes: GB/s against the ceiling of a copy.

With n elements of s bytes the least that must be moved is

==========================  ==========================================================================================
operation                   bytes
==========================  ==========================================================================================
content loss                2 n s (F and P read)
content backward            4 n s (F, P and upstream read, the gradient written)
bias_relu                   2 n s + n/8 (a sign bit for each element)
bias_relu backward          2 n s + n/8
bias_relu_pool              1.25 n s + n/8
bias_relu_pool backward     1.25 n s + n/8
normalise                   4 n + n s (the image is float32)
image_gradient              8 n + n s (the image and upstream read, the gradient written)
adam_step                   28 n (the image, its gradient and both moments read, all but the gradient written)
==========================  ==========================================================================================

The eager form is plain PyTorch, channels-last as ours is; both add the bias themselves. Memory is counted as in
`losses`: a backward's begins with its forward.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from fastnst_kernels import image, losses, relu
from fastnst_kernels.profiling.losses import Measurement, Roofline, Setting, Work, check_size
from fastnst_kernels.profiling.measure import Call, interleaved, peak_extra_bytes
from fastnst_kernels.verify import worst

# The relative errors at which a result is not timed: rounding to the dtype, and what its sums add.
_ERRORS = {"fp32": 1e-5, "tf32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
_SCALE, _SHIFT = (4.4, 4.5, 4.6), (-2.1, -2.0, -1.8)
_TV_WEIGHT, _RATE, _BETAS, _EPSILON = 0.1, 0.02, (0.9, 0.99), 1e-8

Form = Callable[..., Call]
"""Takes a step's inputs, prepares one call and returns it; the call returns its result."""


@dataclass(frozen=True)
class Step:
    """One operation: the layer whose size it has, its inputs, its least bytes, and the forms of it."""

    operation: str
    layer: str
    bytes: int
    inputs: tuple[Tensor, ...]
    forms: Mapping[str, Form]


def profile_steps(size: int, setting: Setting, roofline: Roofline, *, rounds: int = 7) -> Iterator[Measurement]:
    """Measures each operation, ours and eager, for a square image of `size` pixels.

    Ours is compared with the eager form in float64 before it is timed. Raises ValueError for a wrong size or number of
    rounds, ArithmeticError where our own result is wrong.
    """
    check_size(size)
    if rounds < 1:
        raise ValueError(f"{rounds} rounds were asked for; give 1 or more")
    for step in steps(size, setting):
        errors = {name: _error(step, name, setting.precision) for name in step.forms}
        contenders = {name: _contender(form, step.inputs) for name, form in step.forms.items()}
        calls = 10 if setting.device.type == "cuda" else 1
        timings = interleaved(contenders, setting.device, rounds=rounds, calls=calls)
        work = Work(step.bytes, 0)
        for name, contender in contenders.items():
            yield Measurement(
                layer=step.layer,
                shape=tuple(step.inputs[0].shape),
                precision=setting.precision,
                operation=step.operation,
                implementation=name,
                work=work,
                least_seconds=roofline.seconds(work),
                error=errors[name],
                timing=timings[name],
                extra_bytes=peak_extra_bytes(contender, setting.device),
                features=step.inputs[0].numel() * step.inputs[0].element_size(),
            )


def _contender(form: Form, inputs: tuple[Tensor, ...]) -> Callable[[], Call]:
    return lambda: form(*inputs)


def _error(step: Step, name: str, precision: str) -> float:
    exact = step.forms["eager"](*(tensor.double() for tensor in step.inputs))()
    result = step.forms[name](*step.inputs)()
    if not isinstance(exact, Tensor) or not isinstance(result, Tensor):
        raise TypeError(f"{step.operation} returned no tensor")
    error, _ = worst(result.detach(), exact.detach(), torch.ones(len(exact), device=exact.device))
    if name == "fastnst" and not error <= _ERRORS[precision]:
        raise ArithmeticError(f"{step.operation} at {step.layer} is wrong (error {error:.3g}), so it is not timed")
    return error


def steps(size: int, setting: Setting) -> Iterator[Step]:
    """The operations for a square image of `size` pixels, in the order of an iteration."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, side: int, dtype: torch.dtype) -> Tensor:
        values = torch.randn((1, channels, side, side), generator=generator).to(setting.device, dtype)
        return values.contiguous(memory_format=torch.channels_last)

    def step(operation: str, layer: str, inputs: tuple[Tensor, ...], forms: Mapping[str, Form]) -> Step:
        moved = least_bytes(operation, inputs[0].numel(), setting.dtype)
        return Step(operation, layer, moved, inputs, forms)

    picture = noise(3, size, torch.float32).sigmoid()
    yield step("normalise", "image", (picture,), _normalise(setting))

    bias = torch.randn(64, generator=generator).to(setting.device, setting.dtype)
    before, above = noise(64, size, setting.dtype), noise(64, size, setting.dtype)
    plain, pooled = _relu_forms(setting, pool=False), _relu_forms(setting, pool=True)
    yield step("bias_relu", "conv1_1", (before, bias), _forward(plain))
    yield step("bias_relu backward", "conv1_1", (before, above, bias), _backward(plain))
    below = noise(64, size // 2, setting.dtype)
    yield step("bias_relu_pool", "conv1_2", (before, bias), _forward(pooled))
    yield step("bias_relu_pool backward", "conv1_2", (before, below, bias), _backward(pooled))

    features, content, upstream = (noise(512, size // 8, setting.dtype).relu_() for _ in range(3))
    yield step("content loss", "conv4_2", (features, content), _content(setting))
    yield step("content backward", "conv4_2", (features, content, upstream), _content_backward(setting))

    gradient = noise(3, size, setting.dtype)
    yield step("image_gradient", "image", (picture, gradient), _image_gradient(setting))
    yield step("adam_step", "image", (picture, noise(3, size, torch.float32)), _adam(setting))


def least_bytes(operation: str, elements: int, dtype: torch.dtype) -> int:
    """The table above, for `elements` of the image or of the activations before the operation."""
    s = torch.empty(0, dtype=dtype).element_size()
    per_element = {
        "normalise": 4 + s,
        "bias_relu": 2 * s + 1 / 8,
        "bias_relu backward": 2 * s + 1 / 8,
        "bias_relu_pool": 1.25 * s + 1 / 8,
        "bias_relu_pool backward": 1.25 * s + 1 / 8,
        "content loss": 2 * s,
        "content backward": 4 * s,
        "image_gradient": 8 + s,
        "adam_step": 28,
    }
    return round(per_element[operation] * elements)


def _forward(forms: Mapping[str, Callable[..., Tensor]]) -> dict[str, Form]:
    def form(function: Callable[..., Tensor]) -> Form:
        # What backward needs is kept, as in a run.
        return lambda x, *rest: _call(function, x.detach().requires_grad_(), *rest)

    return {name: form(function) for name, function in forms.items()}


def _call(function: Callable[..., Tensor], *arguments: Tensor) -> Call:
    return lambda: function(*arguments)


def _backward(forms: Mapping[str, Callable[..., Tensor]]) -> dict[str, Form]:
    def form(function: Callable[..., Tensor]) -> Form:
        def prepared(x: Tensor, above: Tensor, *rest: Tensor) -> Call:
            leaf = x.detach().requires_grad_()
            # The edge alone: whether the result lives on is the function's to say.
            edge = get_gradient_edge(function(leaf, *rest))
            return lambda: torch.autograd.grad(edge, leaf, above)[0]

        return prepared

    return {name: form(function) for name, function in forms.items()}


def _relu_forms(setting: Setting, *, pool: bool) -> dict[str, Callable[..., Tensor]]:
    def ours(x: Tensor, bias: Tensor) -> Tensor:
        if pool:
            return relu.bias_relu_pool(x, bias, backend=setting.backend)
        return relu.bias_relu(x, bias, backend=setting.backend)

    def eager(x: Tensor, bias: Tensor) -> Tensor:
        activations = torch.relu(x + bias[:, None, None])
        return F.avg_pool2d(activations, 2) if pool else activations

    return {"fastnst": ours, "eager": eager}


def _content(setting: Setting) -> dict[str, Form]:
    return _forward(
        {
            "fastnst": lambda features, content: _tap(features, content, setting)[1],
            "eager": lambda features, content: _eager_content(features, content)[1],
        }
    )


def _content_backward(setting: Setting) -> dict[str, Form]:
    def form(function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Form:
        def prepared(features: Tensor, content: Tensor, upstream: Tensor) -> Call:
            leaf = features.detach().requires_grad_()
            passed, loss = function(leaf, content)
            return lambda: torch.autograd.grad([passed, loss], leaf, [upstream, torch.ones_like(loss)])[0]

        return prepared

    return {"fastnst": form(lambda f, p: _tap(f, p, setting)), "eager": form(_eager_content)}


def _tap(features: Tensor, content: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    passed, _, loss = losses.tap(features, content=content, content_weight=0.5, backend=setting.backend)
    if loss is None:
        raise TypeError("a content tap has a loss")
    return passed, loss


def _eager_content(features: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(features.dtype, torch.float32)
    difference = features.to(wide) - content.to(wide)
    return features.view_as(features), 0.5 * difference.square().sum((1, 2, 3))


def _normalise(setting: Setting) -> dict[str, Form]:
    def ours(picture: Tensor) -> Tensor:
        return image.normalise(picture, _SCALE, _SHIFT, dtype=setting.dtype, backend=setting.backend)

    def eager(picture: Tensor) -> Tensor:
        scale, shift = (_by_channel(values, picture) for values in (_SCALE, _SHIFT))
        normalised = picture * scale + shift
        return normalised if picture.dtype == torch.float64 else normalised.to(setting.dtype)

    return _forward({"fastnst": ours, "eager": eager})


def _by_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _image_gradient(setting: Setting) -> dict[str, Form]:
    def ours(picture: Tensor, upstream: Tensor) -> Call:
        return lambda: image.image_gradient(picture, upstream, _SCALE, tv_weight=_TV_WEIGHT, backend=setting.backend)[0]

    def eager(picture: Tensor, upstream: Tensor) -> Call:
        scale = _by_channel(_SCALE, picture)

        def call() -> Tensor:
            leaf = picture.detach().requires_grad_()
            right, down = leaf[..., 1:] - leaf[..., :-1], leaf[..., 1:, :] - leaf[..., :-1, :]
            variation = (right.square().sum() + down.square().sum()) / leaf[0, 0].numel()
            return torch.autograd.grad(_TV_WEIGHT * variation, leaf)[0] + upstream * scale

        return call

    return {"fastnst": ours, "eager": eager}


def _adam(setting: Setting) -> dict[str, Form]:
    scratch: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def fresh(picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image and both moments before the first step, in memory of their own that each call takes again."""
        moved, first, second = scratch.setdefault(
            picture.dtype, (picture.clone(), torch.zeros_like(picture), torch.zeros_like(picture))
        )
        moved.copy_(picture)
        first.zero_()
        second.zero_()
        return moved, first, second

    def ours(picture: Tensor, gradient: Tensor) -> Call:
        state = fresh(picture)

        def call() -> Tensor:
            moved, first, second = state
            image.adam_step_(
                moved, gradient, first, second, 1, learning_rate=_RATE, betas=_BETAS, backend=setting.backend
            )
            return moved

        return call

    def eager(picture: Tensor, gradient: Tensor) -> Call:
        moved, first, second = fresh(picture)

        def call() -> Tensor:
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            root = (second / (1 - _BETAS[1])).sqrt_().add_(_EPSILON)
            return moved.addcdiv_(first, root, value=-_RATE / (1 - _BETAS[0])).clamp_(0, 1)

        return call

    return {"fastnst": ours, "eager": eager}
