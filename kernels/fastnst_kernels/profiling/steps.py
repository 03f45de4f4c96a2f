"""Times the rest of an iteration's own kernels, which all only move bytes: GB/s against the ceiling of a copy.

The least bytes of each are in `steps`: with elements of s bytes, what is read and what is written once, a sign bit for
each activation, and 4 bytes for what belongs to the image.

The eager form is plain PyTorch, channels-last as ours is; both add the bias themselves. Memory is counted as in
`losses`: a backward's begins with its forward.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from fastnst_kernels import image, losses, relu
from fastnst_kernels.profiling.step import Measurement, Roofline, Setting, Step, Work, measured
from fastnst_kernels.verify.budget import Expected

# The relative errors at which a result is not timed: rounding to the dtype, and what its sums add.
_ERRORS = {"fp32": 1e-5, "tf32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
_SCALE, _SHIFT = (4.4, 4.5, 4.6), (-2.1, -2.0, -1.8)
_TV_WEIGHT, _RATE, _BETAS, _EPSILON = 0.1, 0.02, (0.9, 0.99), 1e-8

Function = Callable[..., Tensor | tuple[Tensor, Tensor]]
Form = Callable[..., Callable[[], Tensor]]
"""Takes a step's inputs, prepares one call and returns it; the call returns its result."""


def profile_steps(size: int, setting: Setting, roofline: Roofline, *, rounds: int = 7) -> Iterator[Measurement]:
    """Measures each operation, ours and eager, for a square image of `size` pixels.

    Ours is compared with the eager form in float64 before it is timed. Raises as `measured` does.
    """
    yield from measured(steps(size, setting), setting, roofline, rounds)


def steps(size: int, setting: Setting) -> Iterator[Step]:
    """The operations for a square image of `size` pixels, in the order of an iteration."""
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
            contenders={"fastnst": lambda: ours(*inputs), "eager": lambda: eager(*inputs)},
            expected=Expected(exact, limit),
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


def _forward(function: Function) -> Form:
    """The last result of the function, with what its backward needs kept as in a run."""

    def prepared(x: Tensor, *rest: Tensor) -> Callable[[], Tensor]:
        leaf = x.detach().requires_grad_()
        return lambda: _results(function(leaf, *rest))[-1]

    return prepared


def _backward(function: Function) -> Form:
    """The gradient of the function's input, for the gradient `above` of its first result and 1 of a loss beside."""

    def prepared(x: Tensor, above: Tensor, *rest: Tensor) -> Callable[[], Tensor]:
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
    scratch: dict[torch.dtype, list[Tensor]] = {}

    def fresh(picture: Tensor) -> list[Tensor]:
        """The image and both moments before the first step, in memory of their own that each call takes again."""
        moved, first, second = scratch.setdefault(picture.dtype, [torch.empty_like(picture) for _ in range(3)])
        return [moved.copy_(picture), first.zero_(), second.zero_()]

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
