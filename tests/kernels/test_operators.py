"""The operators as torch has them: under `opcheck`, compiled, checkpointed, differentiated numerically and twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastnst_kernels import blend_targets, operators
from fastnst_kernels.image import KINDS, adam_step_, image_gradient, normalise, total_variation
from fastnst_kernels.losses import accumulate_gram, finish_gram_loss, gram, gram_loss, tap, tap_gradient
from fastnst_kernels.losses.checks import backend_for
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool
from image_checks import SCALE, SHIFT, make_image, make_upstream
from kernel_checks import BACKEND, LAYOUTS, TORCH_ALONE, by_backend, make_activations, make_features, make_target
from torch import Tensor
from torch.utils.checkpoint import checkpoint

COMPILED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.mark.parametrize(
    ("dtype", "channels_last"),
    by_backend(
        [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False), (torch.float64, True)],
        [(torch.float16, True)],
    ),
)
def test_opcheck(dtype: torch.dtype, channels_last: bool) -> None:
    image_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    image = make_image((1, 3, 3, 4), channels_last=channels_last, dtype=image_dtype)
    features = make_features((2, 5, 3, 4), dtype, channels_last=channels_last)
    arguments = calls(features, image)
    assert set(arguments) == set(operators.OPERATORS.values())
    for operator, each in arguments.items():
        for call in each:
            torch.library.opcheck(operator, (BACKEND, *call))


def calls(features: Tensor, image: Tensor) -> dict[Any, list[tuple[Any, ...]]]:
    """The arguments after the backend of every operator, for features (2, 5, 3, 4) and an image (1, 3, 3, 4)."""
    target, shift = make_target(features)[None], torch.ones(5).to(features.dtype)
    loss, difference, scale = operators.gram_difference_loss(BACKEND, features, target, 0.5, None, 1.0, "ieee")
    style, content = (difference, scale, loss, 0.1), (features[:1], loss, 2.0)
    sums = torch.zeros_like(difference, dtype=loss.dtype)
    y, bits = operators.bias_relu(BACKEND, features, None, None, True)
    pooled, pool_bits = operators.bias_relu(BACKEND, features, shift, "max", True)
    packed = operators.by_channels(BACKEND, features)
    upstream, dtype, last = make_upstream(image, torch.bfloat16), image.dtype, not image.is_contiguous()
    zeros, factors = torch.zeros_like(image), [list(SCALE), list(SHIFT)]
    adam = (image, zeros + 1, zeros, zeros.clone(), torch.ones((), dtype=torch.int64), 0.02, (0.9, 0.99), 1e-8)
    return {
        operators.gram: [(features, "ieee")],
        operators.gram_difference_loss: [(features, target, 0.5, None, 1.0, "ieee")],
        operators.accumulate_gram: [(sums, features, "ieee")],
        operators.finish_gram_loss: [(sums, 12, target, 0.5, loss, 1.0, features.dtype)],
        operators.content_loss: [(features, features[:1], 0.5)],
        operators.tap_gradient: [
            (features, features, "ieee", *style, *content, True),
            (features, None, "ieee", *style),
        ],
        operators.bias_relu: [
            (features, shift, None, True),
            (features, None, None, False),
            (features, shift, "avg", True),
        ],
        operators.relu_backward: [(y, bits, 3, 4, packed, None), (pooled, pool_bits, 3, 4, packed, "max")],
        operators.normalise: [(image, *factors, True, torch.float16, True)],
        operators.normalise_backward: [(upstream, factors[0], True, dtype, last)],
        operators.total_variation: [(image, "squared")],
        operators.image_gradient: [
            (image, upstream, factors[0], True, 0.5, None, "squared"),
            (image, None, factors[0], False, 1.0, torch.ones(1, dtype=dtype), "absolute"),
        ],
        operators.adam_step_: [(*adam, (0.0, 1.0)), (*adam, None)],
    }


def losses(x: Tensor, weight: float, inplace: bool) -> Tensor:
    target = torch.ones(3, 3)
    blended = blend_targets([target, 2 * target], [1.0, 0.5])
    passed, loss, distance = tap(
        x * 2.0, target=blended, content=torch.ones_like(x[:1]), relu=True, inplace=inplace, backend=BACKEND
    )
    assert loss is not None
    assert distance is not None
    whole, _ = finish_gram_loss(torch.ones(2, 3, 3), 20, blended, dtype=x.dtype, backend=BACKEND)
    crop = gram_loss(x[:, :, 1:, 1:], target, weight, backend=BACKEND)
    return passed.square().sum() + loss.sum() * whole.sum() + distance.sum() + crop.sum()


def activations(x: Tensor, weight: float, inplace: bool) -> Tensor:
    bias = torch.tensor([weight, 0.0, -weight])
    y = bias_relu(x * 2, bias, inplace=inplace, backend=BACKEND)
    pooled = bias_relu_pool(y - 0.3, None, "avg", backend=BACKEND)
    return pooled.square().sum() + bias_relu_pool(y, bias, "max", backend=BACKEND).sum()


def images(x: Tensor, weight: float, inplace: bool) -> Tensor:
    normalised = normalise(x, SCALE, SHIFT, flip=inplace, dtype=torch.float16, backend=BACKEND)
    return normalised.float().square().sum() + weight * total_variation(x, backend=BACKEND).sum()


@COMPILED
@pytest.mark.parametrize("channels_last", by_backend([False, True], [True]))
@pytest.mark.parametrize("function", [losses, activations, images])
def test_compiles_without_a_graph_break(function: Callable[..., Tensor], channels_last: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for (height, width), weight in zip(((5, 4), (7, 3), (9, 11)), (0.5, 0.7, 0.9), strict=True):
        x = make_activations((2, 3, height, width), torch.float32, channels_last=channels_last).requires_grad_()
        (expected,) = torch.autograd.grad(function(x, weight, height == 7), x)
        (gradient,) = torch.autograd.grad(compiled(x, weight, height == 7), x)
        torch.testing.assert_close(gradient, expected)


@COMPILED
def test_a_step_compiles_without_a_graph_break() -> None:
    def step(image: Tensor, upstream: Tensor, first: Tensor, second: Tensor, count: Tensor) -> Tensor:
        gradient, value = image_gradient(image, upstream, SCALE, tv_weight=2.0, backend=BACKEND)
        adam_step_(image, gradient, first, second, count, learning_rate=0.02, increment=True, backend=BACKEND)
        return value

    def arguments() -> list[Tensor]:
        image = make_image((2, 3, 4, 5))
        zeros = torch.zeros_like(image)
        return [image, make_upstream(image, torch.float16), zeros, zeros.clone(), torch.zeros((), dtype=torch.int64)]

    plain, compiled = arguments(), arguments()
    wanted = step(*plain)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled), wanted)
    assert all(torch.equal(first, second) for first, second in zip(plain, compiled, strict=True))


TARGET, CONTENT = torch.rand(3, 3, dtype=torch.float64), torch.rand(1, 3, 5, 4, dtype=torch.float64)
DIFFERENTIABLE: dict[str, Callable[[Tensor], object]] = {
    "gram": gram,
    # What a tap without a ReLU passes on is its input.
    "tap": lambda x: tap(x, target=TARGET, content=CONTENT)[1:],
    "tap with a ReLU": lambda x: tap(x, target=TARGET, content=CONTENT, content_weight=0.7, relu=True),
    "bias_relu": bias_relu,
    "bias_relu in place": lambda x: bias_relu(x * 1.0, inplace=True),
    **{f"{pool} pool": lambda x, pool=pool: bias_relu_pool(x, None, pool) for pool in POOLS},
    "normalise": lambda x: normalise(x, SCALE, SHIFT, flip=True, dtype=torch.float64),
    **{f"{kind} variation": lambda x, kind=kind: total_variation(x, kind=kind) for kind in KINDS},
}


@TORCH_ALONE
@LAYOUTS
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_the_numerical_ones(name: str, channels_last: bool) -> None:
    x = make_activations((2, 3, 5, 4), torch.float64, channels_last=channels_last)
    # Away from the kinks: of zero, of windows with two largest, of equal neighbours.
    x = (x.sign() + 0.2 * torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(x.shape)).requires_grad_()
    assert torch.autograd.gradcheck(DIFFERENTIABLE[name], (x,))


@TORCH_ALONE
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_second_derivative_is_refused(name: str) -> None:
    x = make_activations((2, 3, 5, 4), torch.float64).requires_grad_()
    results = DIFFERENTIABLE[name](x)
    for result in results if isinstance(results, tuple) else (results,):
        with pytest.raises(RuntimeError, match="have no second derivative; call backward without create_graph=True"):
            torch.autograd.grad(result.square().sum(), x, create_graph=True, retain_graph=True)


@TORCH_ALONE
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is (deprecated|not supported)")  # torch's own
@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "bias_relu in place"])
def test_torch_func_transforms_them(name: str) -> None:
    """Gradients, vjp, jvp, and those of each image by vmap; a second derivative too."""

    def loss(x: Tensor) -> Tensor:
        results: Any = DIFFERENTIABLE[name](x)
        parts = results if isinstance(results, tuple) else (results,)
        return torch.stack([part.square().sum() for part in parts]).sum()

    batch = make_activations((3 * 2, 3, 5, 4), torch.float64).unflatten(0, (3, 2))
    leaf = batch.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.stack([loss(x) for x in leaf]).sum(), leaf)
    assert torch.allclose(torch.func.grad(loss)(batch[0]), expected[0])
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(batch), expected)
    assert torch.allclose(torch.func.grad(lambda x: torch.func.vmap(loss)(x).sum())(batch), expected)
    value, pull = torch.func.vjp(loss, batch[0])
    assert torch.allclose(pull(torch.ones_like(value))[0], expected[0])
    assert torch.allclose(torch.func.jvp(loss, (batch[0],), (expected[0],))[1], expected[0].square().sum())
    second = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(batch[0])
    assert second.isfinite().all()


WRITTEN: dict[str, Callable[[Tensor], object]] = {
    "bias_relu": lambda x: bias_relu(x, inplace=True, backend=BACKEND),
    "adam_step_": lambda x: adam_step_(x, x, x.clone(), x.clone(), 1, learning_rate=0.1, backend=BACKEND),
    "accumulate_gram": lambda x: accumulate_gram(x[0], torch.ones(3, 3, 2, 2), backend=BACKEND),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_autograd_hears_of_what_is_written_in_place(name: str) -> None:
    x, factor = torch.rand(1, 3, 3, 3), torch.ones((), requires_grad=True)
    product = (x * factor).sum()
    WRITTEN[name](x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@TORCH_ALONE
def test_torch_func_does_not_work_in_place() -> None:
    with pytest.raises(ValueError, match=r"does not work in place under torch\.func's transforms"):
        torch.func.grad(lambda x: bias_relu(x * 1.0, inplace=True).sum())(torch.rand(1, 3, 4, 4))


@TORCH_ALONE
@pytest.mark.parametrize("channels", [1025, 2048])
def test_the_torch_backend_has_no_limit_of_channels(channels: int) -> None:
    features = torch.randn(1, channels, 3, 3, requires_grad=True)
    matrix = gram(features)
    flat = features.detach().double().flatten(2)
    exact = flat @ flat.mT / 9
    assert torch.allclose(matrix.double(), exact, atol=1e-5)
    loss = gram_loss(features, torch.zeros(channels, channels))
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    assert torch.allclose(gradient.double().flatten(2), exact @ flat / (channels**2 * 9), atol=1e-8)
    sums = torch.zeros(1, channels, channels)
    accumulate_gram(sums, features)
    whole, difference = finish_gram_loss(sums, 9, torch.zeros(channels, channels), dtype=torch.float32)
    assert torch.allclose(whole, loss.detach(), rtol=1e-4)
    assert torch.allclose(tap_gradient(features.detach(), difference), gradient, rtol=1e-3, atol=1e-9)


@TORCH_ALONE
def test_a_backend_is_chosen_by_the_channels() -> None:
    assert backend_for(1024, "auto", "triton") == "triton"
    assert backend_for(1025, "auto", "triton") == "torch"
    with pytest.raises(ValueError, match='1025 channels; the Triton Gram kernels take up to 1024: use backend="torch"'):
        backend_for(1025, "triton", "triton")


@TORCH_ALONE
def test_tokens_as_the_message_says() -> None:
    tokens = torch.randn(2, 9, 5)
    assert torch.allclose(gram(tokens.mT[..., None]), tokens.mT @ tokens / 9, atol=1e-6)


@TORCH_ALONE
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_and_autocast_change_nothing(use_reentrant: bool) -> None:
    features = make_features((2, 6, 5, 4), torch.float32).requires_grad_()
    target = make_target(features.detach())
    (plain,) = torch.autograd.grad(gram_loss(features, target).sum(), features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        checkpoint(gram_loss, features, target, use_reentrant=use_reentrant).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, plain)
