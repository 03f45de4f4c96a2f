"""The torch and the reference backend, and what holds for any backend, on the CPU."""

from collections.abc import Callable

import pytest
import torch
from fastnst_kernels import gram, gram_loss, style_tap
from fastnst_kernels.losses import eager, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from image_checks import make_image
from kernel_checks import (
    DTYPES,
    LAYOUTS,
    check_gram,
    check_loss_gradient_strides,
    check_style_tap,
    make_features,
    make_target,
)
from operator_checks import check_operators
from torch.utils.checkpoint import checkpoint

SHAPES = [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 1, 1), (2, 64, 24, 23), (1, 200, 19, 21), (1, 512, 3, 5)]


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_style_tap(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="torch", weight=0.2)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gram(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    check_gram(make_features(shape, dtype, channels_last=channels_last), backend="torch")


@pytest.mark.slow
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64, 256, 256), (1, 128, 128, 128), (1, 512, 64, 64), (1, 1024, 20, 31)])
def test_large(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="torch")
    check_gram(features, backend="torch")


@LAYOUTS
def test_float64_stays_float64(channels_last: bool) -> None:
    features = make_features((2, 130, 6, 7), torch.float64, channels_last=channels_last).requires_grad_()
    target = make_target(features.detach())
    loss = gram_loss(features, target, backend="torch")
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    torch.testing.assert_close(loss, reference.gram_loss(features, target))
    torch.testing.assert_close(gradient, reference.gram_loss_gradient(features.detach(), target))
    torch.testing.assert_close(gram(features, backend="torch"), reference.gram(features))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_backend(dtype: torch.dtype) -> None:
    features = make_features((2, 12, 6, 7), dtype)
    check_style_tap(features, make_target(features), backend="reference")
    check_gram(features, backend="reference")


def test_closed_forms_are_what_autograd_gives() -> None:
    features = make_features((2, 5, 4, 3), torch.float64).requires_grad_()
    target = make_target(features.detach()).double()
    above = torch.rand(2, 5, 5, dtype=torch.float64)
    upstream = torch.rand_like(features).detach()
    loss_gradient = torch.tensor([2.0, -3.0], dtype=torch.float64)
    (by_autograd,) = torch.autograd.grad((reference.gram(features) * above).sum(), features)
    torch.testing.assert_close(reference.gram_gradient(features.detach(), above), by_autograd)
    passed, loss = reference.style_tap(features, target, 0.7)
    (by_autograd,) = torch.autograd.grad((passed * upstream).sum() + (loss * loss_gradient).sum(), features)
    closed = reference.style_tap_gradient(features.detach(), target, 0.7, upstream, loss_gradient)
    torch.testing.assert_close(closed, by_autograd)


@LAYOUTS
@pytest.mark.parametrize("operation", ["gram", "gram_loss", "style_tap"])
def test_gradcheck(operation: str, channels_last: bool) -> None:
    features = make_features((2, 4, 3, 5), torch.float64, channels_last=channels_last).requires_grad_()
    target = make_target(features.detach()).double()
    functions: dict[str, Callable[[torch.Tensor], object]] = {
        "gram": lambda x: gram(x, backend="torch"),
        "gram_loss": lambda x: gram_loss(x, target, 1.7, backend="torch"),
        "style_tap": lambda x: style_tap(x, target, 1.7, backend="torch"),
    }
    assert torch.autograd.gradcheck(functions[operation], (features,))


def test_a_second_derivative_is_refused() -> None:
    features = make_features((1, 4, 3, 3), torch.float64).requires_grad_()
    target = make_target(features.detach())
    passed, loss = style_tap(features, target)
    for output in (gram(features).sum(), gram_loss(features, target).square().sum(), passed.square().sum() + loss):
        with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
            torch.autograd.grad(output, features, create_graph=True)
    passed, _ = style_tap(features, target)
    (first,) = torch.autograd.grad(passed.square().sum(), features, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), features)
    assert torch.equal(second, torch.full_like(features, 2.0))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_loss_has_the_same_gradient(use_reentrant: bool) -> None:
    features = make_features((2, 6, 5, 4), torch.float32).requires_grad_()
    target = make_target(features.detach())
    (plain,) = torch.autograd.grad(gram_loss(features, target).sum(), features)
    checkpoint(gram_loss, features, target, use_reentrant=use_reentrant).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, plain)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradient_has_the_layout_of_the_features(channels_last: bool) -> None:
    for dtype in DTYPES:
        features = make_features((2, 6, 5, 4), dtype, channels_last=channels_last)
        target = make_target(features)
        leaf = features.requires_grad_()
        (gradient,) = torch.autograd.grad(gram_loss(leaf, target).sum(), leaf)
        assert gradient.stride() == features.stride()
        assert gradient.dtype == dtype


def test_loss_gradient_by_its_strides() -> None:
    check_loss_gradient_strides("torch")


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_several_chunks(dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "CHUNK_ELEMENTS", 6 * 2 * 4)
    features = make_features((2, 6, 5, 3), dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="torch")
    check_gram(features, backend="torch")


def test_only_one_output_of_the_tap_is_used() -> None:
    features = make_features((2, 6, 5, 4), torch.float32).requires_grad_()
    target = make_target(features.detach())
    upstream = torch.rand(features.shape)
    passed, loss = style_tap(features, target)
    (through,) = torch.autograd.grad(passed, features, upstream, retain_graph=True)
    (own,) = torch.autograd.grad(loss.sum(), features, retain_graph=True)
    (both,) = torch.autograd.grad([passed, loss], features, [upstream, torch.ones(2)])
    assert torch.equal(through, upstream)
    torch.testing.assert_close(own.double(), reference.gram_loss_gradient(features.detach(), target))
    torch.testing.assert_close(both, through + own)


def test_the_tap_is_a_gram_loss_in_a_network() -> None:
    convolution = torch.nn.Conv2d(5, 4, 3).double()
    features = make_features((1, 5, 8, 8), torch.float64).requires_grad_()
    target = make_target(features.detach()).double()
    passed, loss = style_tap(features, target, 0.3)
    (tapped,) = torch.autograd.grad(convolution(passed).square().sum() + 2 * loss.sum(), features)
    forked = convolution(features).square().sum() + 2 * reference.gram_loss(features, target, 0.3).sum()
    (expected,) = torch.autograd.grad(forked, features)
    torch.testing.assert_close(tapped, expected)


def test_without_gradients_nothing_is_kept() -> None:
    features = make_features((1, 4, 3, 3), torch.float32)
    passed, loss = style_tap(features, make_target(features))
    assert passed.data_ptr() == features.data_ptr()
    assert not loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_target_dtypes_and_layouts(dtype: torch.dtype) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features).to(dtype)
    for target in (single, single.mT, single[None], torch.stack([single, 2 * single]), single[None].expand(2, -1, -1)):
        check_style_tap(features, target, backend="torch")


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 24, 9, 16), torch.float16, scale=scale)
    check_style_tap(features, make_target(features), backend="torch")
    check_gram(features, backend="torch")


@LAYOUTS
def test_autocast_changes_nothing(channels_last: bool) -> None:
    features = make_features((1, 8, 6, 6), torch.float32, channels_last=channels_last).requires_grad_()
    target = make_target(features.detach())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        loss = gram_loss(features, target)
        (gradient,) = torch.autograd.grad(loss.sum(), features)
        return loss.detach(), gradient

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize(
    ("dtype", "channels_last"),
    [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False), (torch.float64, True)],
)
def test_opcheck(dtype: torch.dtype, channels_last: bool) -> None:
    image_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    image = make_image((1, 3, 3, 4), channels_last=channels_last, dtype=image_dtype)
    check_operators(make_features((2, 5, 3, 4), dtype, channels_last=channels_last), image, "torch")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@LAYOUTS
def test_compiles_without_a_graph_break(channels_last: bool) -> None:
    features = make_features((2, 6, 4, 5), torch.float32, channels_last=channels_last).requires_grad_()
    target = make_target(features.detach())

    def total(x: torch.Tensor) -> torch.Tensor:
        passed, loss = style_tap(x, target, 0.5)
        return passed.square().sum() + loss.sum() + gram_loss(x, target).sum() + gram(x).square().sum()

    (eager,) = torch.autograd.grad(total(features), features)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(features), features)
    torch.testing.assert_close(gradient, eager)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_sizes_that_change() -> None:
    target = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))

    def total(x: torch.Tensor) -> torch.Tensor:
        return gram_loss(x[:, :, 1:, 1:], target).sum() + gram(x[:, :, 1:, 1:]).square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for height, width in ((5, 4), (7, 3), (9, 11)):
        features = make_features((2, 6, height, width), torch.float32).requires_grad_()
        (eager,) = torch.autograd.grad(total(features), features)
        (gradient,) = torch.autograd.grad(compiled(features), features)
        torch.testing.assert_close(gradient, eager)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_weight_that_changes(dynamic: bool | None) -> None:
    features = make_features((2, 6, 5, 4), torch.float32).requires_grad_()
    target = make_target(features.detach())

    def total(x: torch.Tensor, weight: float) -> torch.Tensor:
        return gram_loss(x, target, weight).sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for weight in (0.5, 0.7):
        (eager,) = torch.autograd.grad(total(features, weight), features)
        (gradient,) = torch.autograd.grad(compiled(features, weight), features)
        torch.testing.assert_close(gradient, eager)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 9), st.integers(1, 12)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    scale=st.sampled_from([1.0, 30.0, 0.01]),
    weight=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, scale: float, weight: float, seed: int
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last, scale=scale, seed=seed)
    check_style_tap(features, make_target(features, seed=seed), backend="torch", weight=weight)
