"""The tap with content, ReLU and tiles, and blended targets, on the CPU by the torch and the reference backend."""

import itertools

import pytest
import torch
from fastnst_kernels.losses import (
    BlendedTarget,
    accumulate_gram,
    blend_targets,
    finish_gram_loss,
    gram,
    gram_loss,
    reference,
    style_tap,
    tap,
    tap_gradient,
)
from fastnst_kernels.verify import budget
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, LAYOUTS, assert_within, check_style_tap, make_features, make_target
from tap_checks import before_relu, check_tap, check_tiles, make_content

BACKENDS = pytest.mark.parametrize("backend", ["torch", "reference"])
TERMS = [terms for terms in itertools.product([False, True], repeat=3) if terms[0] or terms[1]]


@BACKENDS
@LAYOUTS
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("style", "content", "relu"), TERMS)
def test_tap(style: bool, content: bool, relu: bool, dtype: torch.dtype, channels_last: bool, backend: str) -> None:
    features = make_features((2, 12, 7, 5), dtype, channels_last=channels_last)
    p = make_content(features, batch=2, channels_last=not channels_last) if content else None
    check_tap(features, backend=backend, style=style, content=p, relu=relu)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
def test_tiles(dtype: torch.dtype, relu: bool, channels_last: bool) -> None:
    features = make_features((2, 9, 12, 11), dtype, channels_last=channels_last)
    check_tiles(features, backend="torch", relu=relu)


@BACKENDS
@LAYOUTS
def test_the_gradient_of_a_part(channels_last: bool, backend: str) -> None:
    features = make_features((2, 9, 12, 11), torch.float32, channels_last=channels_last)
    target, upstream = make_target(features), torch.rand(features.shape)
    sums = torch.zeros(2, 9, 9)
    for part in (features[:, :, :5], features[:, :, 5:]):
        accumulate_gram(sums, part, backend=backend)
    loss, difference = finish_gram_loss(sums, 132, target, 0.7, dtype=torch.float32, backend=backend)
    torch.testing.assert_close(loss.double(), reference.gram_loss(features, target, 0.7), rtol=1e-5, atol=0.0)
    exact = reference.gram_loss_gradient(features, target, 0.7)
    for above in (None, upstream):
        gradient = tap_gradient(
            features[:, :, 5:], difference, None if above is None else above[:, :, 5:], backend=backend
        )
        wanted = exact if above is None else exact + above
        torch.testing.assert_close(gradient.double(), wanted[:, :, 5:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [1, 4, 40])
def test_tiles_of_many_channels(side: int) -> None:
    features = make_features((1, 140, 6, 9), torch.float32, channels_last=True)
    check_tiles(features, backend="torch", relu=True, side=side, with_content=False)


@LAYOUTS
@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
def test_large_upstream(size: float, channels_last: bool) -> None:
    for shape in ((1, 1024, 3, 2), (1, 512, 3, 5)):
        features = make_features(shape, torch.float32, channels_last=channels_last)
        upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * size
        check_style_tap(features, make_target(features), backend="torch", upstream=upstream)


@pytest.mark.parametrize("relu", [False, True])
@LAYOUTS
def test_gradcheck(relu: bool, channels_last: bool) -> None:
    features = before_relu(make_features((2, 4, 3, 5), torch.float64, channels_last=channels_last) * 3)
    features = torch.where(features.abs() < 0.01, 1.0, features).requires_grad_()
    target = make_target(features.detach().relu()).double()
    content = make_content(features.detach())
    assert torch.autograd.gradcheck(
        lambda x: tap(x, target=target, content=content, content_weight=0.7, relu=relu, backend="torch"), (features,)
    )


def test_the_reference_is_what_autograd_gives() -> None:
    features = before_relu(make_features((2, 5, 4, 3), torch.float64)).requires_grad_()
    target = make_target(features.detach().relu()).double()
    content = make_content(features.detach())
    upstream = torch.rand_like(features).detach()
    passed, style, distance = tap(
        features, target=target, weight=0.3, content=content, content_weight=0.7, relu=True, backend="reference"
    )
    assert style is not None
    assert distance is not None
    total = (passed * upstream).sum() + 2 * style.sum() - 3 * distance.sum()
    (by_autograd,) = torch.autograd.grad(total, features)
    after = features.detach().relu()
    closed = reference.tap_gradient(
        after,
        upstream,
        style=reference.style_matrix(after, target, 0.3, torch.full((2,), 2.0)),
        content=content,
        content_coefficient=torch.full((2,), -3 * 2 * 0.7),
        relu=True,
    )
    torch.testing.assert_close(closed, by_autograd)


@pytest.mark.parametrize("used", ["features", "style", "content"])
def test_only_one_output_is_used(used: str) -> None:
    features = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    after = features.detach().relu()
    content = make_content(after)
    target = make_target(after)
    passed, style, distance = tap(features, target=target, content=content, relu=True)
    assert style is not None
    assert distance is not None
    output = {"features": passed, "style": style, "content": distance}[used]
    (gradient,) = torch.autograd.grad(output.sum(), features)
    expected = reference.tap_gradient(
        after,
        torch.ones_like(after) if used == "features" else None,
        style=reference.style_matrix(after, target, 1.0, torch.ones(2)) if used == "style" else None,
        content=content if used == "content" else None,
        content_coefficient=torch.full((2,), 2.0),
        relu=True,
    )
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


def test_in_place() -> None:
    start = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    target = make_target(start.detach().relu())

    def gradient(inplace: bool) -> torch.Tensor:
        features = start * 2.0
        passed, loss, _ = tap(features, target=target, relu=True, inplace=inplace)
        assert (passed.data_ptr() == features.data_ptr()) == inplace
        assert loss is not None
        (result,) = torch.autograd.grad(passed.square().sum() + loss.sum(), start)
        return result

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_in_place_compiles_without_a_graph_break() -> None:
    start = before_relu(make_features((1, 6, 5, 4), torch.float32)).requires_grad_()
    target = make_target(start.detach().relu())

    def total(x: torch.Tensor) -> torch.Tensor:
        passed, loss, _ = tap(x * 2.0, target=target, relu=True, inplace=True)
        assert loss is not None
        return passed.square().sum() + loss.sum()

    (eager,) = torch.autograd.grad(total(start), start)
    (gradient,) = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(start), start)
    torch.testing.assert_close(gradient, eager)


def test_a_second_derivative_is_refused() -> None:
    features = make_features((1, 4, 3, 3), torch.float64).requires_grad_()
    content = make_content(features.detach())
    passed, _, distance = tap(features, content=content, relu=True)
    assert distance is not None
    for output in (passed.square().sum(), distance.sum()):
        with pytest.raises(RuntimeError, match="call backward without create_graph=True"):
            torch.autograd.grad(output, features, create_graph=True, retain_graph=True)


@BACKENDS
@pytest.mark.parametrize("batched", [False, True])
def test_blended_targets_are_their_sum(batched: bool, backend: str) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features)
    targets = [single, single * 0.7, make_target(features, seed=9)]
    if batched:
        targets[1] = torch.stack([single * 0.7, single * 0.2])
    weights = [0.5, 2.0, 0.25]
    blended = blend_targets(targets, weights)
    assert blended.matrix.shape == ((2 if batched else 1), 12, 12)
    exact = 3 * sum(reference.gram_loss(features, a, w) for a, w in zip(targets, weights, strict=True))
    leaf = features.clone().requires_grad_()
    loss = gram_loss(leaf, blended, 3.0, backend=backend)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    wanted = 3 * sum(reference.gram_loss_gradient(features, a, w) for a, w in zip(targets, weights, strict=True))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=float(wanted.abs().max()) * 1e-5)
    sums = gram(features, backend=backend) * 48
    whole, _ = finish_gram_loss(sums, 48, blended, 3.0, dtype=torch.float32, backend=backend)
    torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=0.0)


def test_one_target_blended_is_itself() -> None:
    target = torch.rand(5, 5)
    blended = blend_targets([target], [0.3])
    assert torch.equal(blended.matrix[0], target)
    assert (blended.weight, blended.offset.tolist()) == (0.3, [0.0])
    assert blend_targets([target.double(), target], [1.0, 1.0]).matrix.dtype == torch.float64


@pytest.mark.parametrize(
    ("targets", "weights", "message"),
    [
        ([], [], "0 targets and 0 weights"),
        ([torch.rand(3, 3)], [1.0, 2.0], "1 targets and 2 weights"),
        ([torch.rand(3, 3)], [-1.0], r"target weight -1\.0 is not a finite number of 0 or more"),
        ([torch.rand(3, 3)], [float("nan")], "target weight nan is not"),
        ([torch.rand(3, 3)], [0.0], "all target weights are 0"),
        ([torch.rand(3, 3), torch.rand(4, 4)], [1.0, 1.0], r"shape \(4, 4\) does not go with the others"),
        ([torch.ones(3, 3, dtype=torch.int64)], [1.0], "target is torch.int64"),
    ],
)
def test_wrong_blends(targets: list[torch.Tensor], weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blend_targets(targets, weights)


def test_accumulated_sums_keep_their_order() -> None:
    features = make_features((1, 130, 8, 9), torch.float32)
    once = torch.zeros(1, 130, 130)
    accumulate_gram(once, features)
    torch.testing.assert_close(once.double(), reference.gram(features) * 72, rtol=1e-5, atol=0.0)
    twice = once.clone()
    accumulate_gram(twice, features)
    assert torch.equal(twice, 2 * once)


FEATURES = torch.rand(2, 4, 6, 5)
SUMS = torch.zeros(2, 4, 4)
DIFFERENCE = finish_gram_loss(SUMS, 30, torch.rand(4, 4), dtype=torch.float32)[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tap(FEATURES), "give target, content or both"),
        (lambda: tap(FEATURES, content=FEATURES, inplace=True), "give relu=True with it"),
        (lambda: tap(FEATURES, content=FEATURES[..., 1:]), r"content of shape \(2, 4, 6, 4\) does not fit"),
        (lambda: tap(FEATURES, content=FEATURES.double()), "content is torch.float64, the features torch.float32"),
        (lambda: tap(FEATURES, content=FEATURES.to("meta")), "content is on meta"),
        (lambda: tap(FEATURES, content=FEATURES.clone().requires_grad_()), r"pass content\.detach\(\)"),
        (lambda: tap(FEATURES, content=FEATURES, content_weight=float("inf")), "weight inf is not finite"),
        (
            lambda: tap(FEATURES, target=BlendedTarget(torch.rand(1, 4, 4), 1.0, torch.rand(3))),
            r"offset of shape \(3,\) on cpu does not fit 2 images",
        ),
        (lambda: tap_gradient(FEATURES, DIFFERENCE, FEATURES[:1]), r"upstream \(1, 4, 6, 5\)"),
        (lambda: tap_gradient(FEATURES[:1], DIFFERENCE), r"difference of shape \(2, 4, 4\) does not fit"),
        (lambda: tap_gradient(FEATURES.double(), DIFFERENCE), "a contiguous torch.float64 is needed"),
        (lambda: accumulate_gram(torch.zeros(2, 4, 5), FEATURES), r"give \(B, C, C\)"),
        (lambda: accumulate_gram(torch.zeros(2, 4, 4).mT, FEATURES), "sums must be contiguous float32"),
        (lambda: accumulate_gram(SUMS.double(), FEATURES), r"give \(2, 4, 4\) torch.float32 on cpu"),
        (lambda: accumulate_gram(SUMS[:1], FEATURES), "do not fit features"),
        (lambda: finish_gram_loss(SUMS, 0, torch.rand(4, 4), dtype=torch.float32), "0 positions"),
        (lambda: finish_gram_loss(SUMS, 3, torch.rand(4, 4), dtype=torch.int32), "features are torch.int32"),
    ],
)
def test_wrong_arguments(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


@LAYOUTS
def test_crops_are_read_as_they_lie(channels_last: bool) -> None:
    for dtype in DTYPES:
        features = make_features((2, 9, 8, 9), dtype, channels_last=channels_last)[:, :, 1:-2, 2:-1]
        assert_within(
            gram(features, backend="torch"), reference.gram(features), budget.gram_budget(features), "Gram matrix"
        )
        check_style_tap(features, make_target(features), backend="torch")
        content = make_content(features)
        check_tap(features, backend="torch", style=True, content=content, relu=False)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@LAYOUTS
def test_compiles_without_a_graph_break(channels_last: bool) -> None:
    features = before_relu(make_features((2, 6, 4, 5), torch.float32, channels_last=channels_last)).requires_grad_()
    target = make_target(features.detach().relu())
    blended = blend_targets([target, 2 * target], [1.0, 0.5])
    content = make_content(features.detach())
    sums = gram(features.detach()) * 20

    def total(x: torch.Tensor) -> torch.Tensor:
        passed, loss, distance = tap(x, target=blended, content=content, relu=True)
        assert loss is not None
        assert distance is not None
        whole, _ = finish_gram_loss(sums, 20, blended, dtype=x.dtype)
        return passed.square().sum() + loss.sum() * whole.sum() + distance.sum() + style_tap(x, blended)[1].sum()

    (eager,) = torch.autograd.grad(total(features), features)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(features), features)
    torch.testing.assert_close(gradient, eager)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 9), st.integers(1, 12)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    terms=st.sampled_from(TERMS),
    scale=st.sampled_from([1.0, 30.0, 0.01]),
    weight=st.floats(0.01, 100),
    upstream_scale=st.sampled_from([1.0, 20.0, 0.01]),
    seed=st.integers(0, 1000),
)
def test_any_tap(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    terms: tuple[bool, bool, bool],
    scale: float,
    weight: float,
    upstream_scale: float,
    seed: int,
) -> None:
    style, with_content, relu = terms
    features = make_features(shape, dtype, channels_last=channels_last, scale=scale, seed=seed)
    content = make_content(features, channels_last=seed % 2 == 0) if with_content else None
    generator = torch.Generator().manual_seed(seed)
    upstream = (torch.randn(shape, generator=generator) * upstream_scale).to(dtype)
    check_tap(
        features,
        backend="torch",
        style=style,
        content=content,
        relu=relu,
        weight=weight,
        content_weight=weight,
        upstream=upstream,
    )


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    relu=st.booleans(),
    with_content=st.booleans(),
    side=st.integers(3, 9),
    halo=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_any_tiles(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    relu: bool,
    with_content: bool,
    side: int,
    halo: int,
    seed: int,
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last, seed=seed)
    check_tiles(features, backend="torch", relu=relu, with_content=with_content, side=side, halo=halo)
