"""Gram matrices, taps and tiles against float64: the torch implementation, or the interpreted Triton kernels."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from fastnst_kernels.losses import (
    GramDifference,
    accumulate_gram,
    blend_targets,
    eager,
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
from image_checks import make_image
from kernel_checks import (
    BACKEND,
    DTYPES,
    LAYOUTS,
    assert_expected,
    by_backend,
    check_gram,
    check_loss_gradient_strides,
    check_style_tap,
    in_both_layouts,
    make_features,
    make_target,
    nan_in_empty,
    upstreams,
)
from operator_checks import check_operators
from tap_checks import before_relu, check_equal_runs, check_repeated, check_tap, check_tiles, make_content
from torch.utils.checkpoint import checkpoint

Shape = tuple[int, int, int, int]
SHAPES = by_backend(
    [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 1, 1), (2, 64, 24, 23), (1, 200, 19, 21), (1, 512, 3, 5)],
    [(1, 1, 1, 1), (2, 3, 17, 5), (3, 65, 7, 9), (1, 64, 24, 23)],
)
TERMS = [terms for terms in itertools.product([False, True], repeat=3) if terms[0] or terms[1]]
COMPILED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def _nan_in_empty() -> Iterator[None]:
    with nan_in_empty():
        yield


@pytest.mark.parametrize(("shape", "dtype", "channels_last"), in_both_layouts(SHAPES, DTYPES))
def test_style_tap(shape: Shape, dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend=BACKEND, weight=0.2)


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last"), in_both_layouts(by_backend(SHAPES, [(2, 33, 12, 21)]), DTYPES)
)
def test_gram(shape: Shape, dtype: torch.dtype, channels_last: bool) -> None:
    check_gram(make_features(shape, dtype, channels_last=channels_last), backend=BACKEND)


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last"),
    [
        ((1, 130, 17, 31), torch.float16, True),
        ((1, 136, 16, 24), torch.bfloat16, False),
        ((1, 512, 3, 5), torch.float32, False),
    ],
)
def test_many_channels(shape: Shape, dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend=BACKEND)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "triton", reason="too large for the interpreter")
@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last"),
    in_both_layouts([(1, 64, 256, 256), (1, 128, 128, 128), (1, 512, 64, 64), (1, 1024, 20, 31)], DTYPES),
)
def test_large(shape: Shape, dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend=BACKEND)
    check_gram(features, backend=BACKEND)


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 24, 9, 16), torch.float16, scale=scale)
    features[1] /= 8
    check_style_tap(features, make_target(features), backend=BACKEND)
    check_gram(features, backend=BACKEND)


@pytest.mark.parametrize(
    ("kind", "channels_last"), [(kind, index % 2 == 1) for index, kind in enumerate(upstreams((1, 1, 1, 1)))]
)
def test_upstream_by_its_strides(kind: str, channels_last: bool) -> None:
    features = make_features((2, 9, 5, 6), torch.float32, channels_last=channels_last)
    upstream = upstreams((2, 9, 5, 6))[kind]
    check_style_tap(features, make_target(features), backend=BACKEND, upstream=upstream)
    check_tap(features, backend=BACKEND, style=False, content=make_content(features), relu=True, upstream=upstream)


def test_loss_gradient_by_its_strides() -> None:
    check_loss_gradient_strides(BACKEND)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 2:11],
        lambda x: x[:, :, 1:, 1:],
        lambda x: x[..., ::2],
        lambda x: x.transpose(2, 3),
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:10],
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:-2, 2:-1],
    ],
    ids=["channels", "crop", "step", "transposed", "expanded", "channels of channels-last", "crop of channels-last"],
)
def test_strided_features(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    features = view(make_features((2, 12, 6, 8), torch.float16))
    check_style_tap(features, make_target(features), backend=BACKEND)
    content = torch.nn.functional.pad(make_content(features), (1, 2, 2, 1))[:, :, 2:-1, 1:-2]
    check_tap(features, backend=BACKEND, style=False, content=content, relu=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_target_dtypes_and_layouts(dtype: torch.dtype) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features).to(dtype)
    forms = [single, torch.stack([single, 2 * single])]
    if dtype == torch.float64:
        forms += [single.mT, single[None], single[None].expand(2, -1, -1)]
    for target in forms:
        check_style_tap(features, target, backend=BACKEND)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_come_through(value: float) -> None:
    features = make_features((2, 8, 4, 4), torch.float16)
    features[1, 3, 2, 1] = value
    leaf = features.requires_grad_()
    passed, style, content = tap(
        leaf, target=torch.zeros(8, 8), content=torch.zeros_like(features), relu=True, backend=BACKEND
    )
    assert style is not None
    assert content is not None
    (passed.float().sum() + style.sum() + content.sum()).backward()
    assert torch.isfinite(style).tolist() == torch.isfinite(content).tolist() == [True, False]
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad[0]).all()
    assert not torch.isfinite(leaf.grad[1]).all()


@pytest.mark.parametrize(("terms", "dtype", "channels_last"), in_both_layouts(TERMS, DTYPES))
def test_tap(terms: tuple[bool, bool, bool], dtype: torch.dtype, channels_last: bool) -> None:
    style, content, relu = terms
    features = make_features((2, 18, 5, 7), dtype, channels_last=channels_last)
    p = make_content(features, batch=2, channels_last=not channels_last) if content else None
    check_tap(features, backend=BACKEND, style=style, content=p, relu=relu)
    if BACKEND == "torch":
        check_tap(features, backend="reference", style=style, content=p, relu=relu)


@LAYOUTS
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 3, 3), (1, 512, 1, 3)])
def test_edges(shape: Shape, channels_last: bool) -> None:
    features = make_features(shape, torch.float16, channels_last=channels_last)
    content = make_content(features, channels_last=not channels_last)
    check_tap(features, backend=BACKEND, style=shape[1] < 512, content=content, relu=True)


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last", "precision"),
    [
        ((2, 9, 9, 8), torch.float32, True, "ieee"),
        ((2, 9, 9, 8), torch.float16, False, "ieee"),
        ((2, 9, 9, 8), torch.bfloat16, True, "ieee"),
        ((1, 20, 6, 7), torch.float32, False, "tf32"),
        ((1, 130, 7, 19), torch.float16, True, "ieee"),
    ],
)
def test_tiles(shape: Shape, dtype: torch.dtype, channels_last: bool, precision: str) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    side = 10 if shape[1] == 130 else 5
    check_tiles(features, backend=BACKEND, relu=channels_last, side=side, halo=2, precision=precision)


@LAYOUTS
def test_equal_blocks(channels_last: bool) -> None:
    block = make_features((1, 20, 4, 4), torch.float16)
    check_repeated(block, 12, 8, batch=2, channels_last=channels_last, backend=BACKEND)


@LAYOUTS
def test_two_runs_are_equal_to_the_bit(channels_last: bool) -> None:
    features = make_features((1, 24, 14, 15), torch.float16, channels_last=channels_last)
    check_equal_runs(features, backend=BACKEND, runs=2)


def _sums(features: torch.Tensor, target: torch.Tensor, backend: str) -> tuple[torch.Tensor, GramDifference]:
    sums = torch.zeros(len(features), features.shape[1], features.shape[1])
    for part in (features[:, :, :5], features[:, :, 5:]):
        accumulate_gram(sums, part, backend=backend)
    positions = features[0, 0].numel()
    return finish_gram_loss(sums, positions, target, 0.7, dtype=features.dtype, backend=backend)


@LAYOUTS
def test_the_gradient_of_a_part(channels_last: bool) -> None:
    features = make_features((2, 9, 12, 11), torch.float32, channels_last=channels_last)
    target, upstream = make_target(features), torch.rand(features.shape)
    exact = reference.gram_loss_gradient(features, target, 0.7)
    for backend in (BACKEND, "reference"):
        loss, difference = _sums(features, target, backend)
        torch.testing.assert_close(loss.double(), reference.gram_loss(features, target, 0.7), rtol=1e-5, atol=0.0)
        gradient = tap_gradient(features[:, :, 5:], difference, upstream[:, :, 5:], backend=backend)
        wanted = (exact + upstream)[:, :, 5:]
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_blended_targets_are_their_sum(batched: bool) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features)
    targets = [single, single * 0.7, make_target(features, seed=9)]
    if batched:
        targets[1] = torch.stack([single * 0.7, single * 0.2])
    weights = [0.5, 2.0, 0.25]
    blended = blend_targets(targets, weights)
    assert blended.matrix.shape == ((2 if batched else 1), 12, 12)
    exact = 3 * sum(reference.gram_loss(features, a, w) for a, w in zip(targets, weights, strict=True))
    wanted = 3 * sum(reference.gram_loss_gradient(features, a, w) for a, w in zip(targets, weights, strict=True))
    for backend in (BACKEND, "reference"):
        leaf = features.clone().requires_grad_()
        loss = gram_loss(leaf, blended, 3.0, backend=backend)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
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


@pytest.mark.parametrize("used", ["features", "style", "content"])
def test_only_one_output_is_used(used: str) -> None:
    features = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    after = features.detach().relu()
    content, target = make_content(after), make_target(after)
    passed, style, distance = tap(features, target=target, content=content, relu=True, backend=BACKEND)
    output = {"features": passed, "style": style, "content": distance}[used]
    assert output is not None
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


def test_in_place_and_in_a_network() -> None:
    convolution = torch.nn.Conv2d(6, 4, 3)
    start = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    target = make_target(start.detach().relu())
    gradients = []
    for inplace in (True, False):
        features = start * 2.0
        passed, loss, _ = tap(features, target=target, relu=True, inplace=inplace, backend=BACKEND)
        assert (passed.data_ptr() == features.data_ptr()) == inplace
        assert loss is not None
        gradients.append(torch.autograd.grad(convolution(passed).square().sum() + loss.sum(), start)[0])
    assert torch.equal(*gradients)
    after = (start * 2.0).relu()
    total = convolution(after).square().sum() + reference.gram_loss(after, target).sum()
    torch.testing.assert_close(gradients[0], torch.autograd.grad(total, start)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradient_has_the_layout_of_the_features(channels_last: bool) -> None:
    for dtype in DTYPES:
        leaf = make_features((2, 6, 5, 4), dtype, channels_last=channels_last).requires_grad_()
        (gradient,) = torch.autograd.grad(gram_loss(leaf, make_target(leaf.detach()), backend=BACKEND).sum(), leaf)
        assert gradient.stride() == leaf.stride()
        assert gradient.dtype == dtype


def test_without_gradients_nothing_is_kept() -> None:
    features = make_features((1, 4, 3, 3), torch.float32)
    passed, loss = style_tap(features, make_target(features), backend=BACKEND)
    assert passed.data_ptr() == features.data_ptr()
    assert not loss.requires_grad


def test_accumulated_sums_keep_their_order() -> None:
    features = make_features((1, 130, 8, 9), torch.float32)
    once = torch.zeros(1, 130, 130)
    accumulate_gram(once, features, backend=BACKEND)
    torch.testing.assert_close(once.double(), reference.gram(features) * 72, rtol=1e-5, atol=0.0)
    twice = once.clone()
    accumulate_gram(twice, features, backend=BACKEND)
    assert torch.equal(twice, 2 * once)


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
    check_operators(make_features((2, 5, 3, 4), dtype, channels_last=channels_last), image, BACKEND)


@COMPILED
@pytest.mark.parametrize("channels_last", by_backend([False, True], [True]))
def test_compiles_without_a_graph_break(channels_last: bool) -> None:
    target = make_target(make_features((2, 6, 4, 5), torch.float32))
    blended = blend_targets([target, 2 * target], [1.0, 0.5])
    sums = torch.rand(2, 6, 6)

    def total(x: torch.Tensor, content: torch.Tensor, weight: float, inplace: bool) -> torch.Tensor:
        passed, loss, distance = tap(
            x * 2.0, target=blended, content=content, relu=True, inplace=inplace, backend=BACKEND
        )
        assert loss is not None
        assert distance is not None
        whole, _ = finish_gram_loss(sums, 20, blended, dtype=x.dtype, backend=BACKEND)
        crop = gram_loss(x[:, :, 1:, 1:], target, weight, backend=BACKEND)
        return passed.square().sum() + loss.sum() * whole.sum() + distance.sum() + crop.sum()

    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for (height, width), weight in zip(((5, 4), (7, 3), (9, 11)), (0.5, 0.7, 0.9), strict=True):
        features = before_relu(make_features((2, 6, height, width), torch.float32, channels_last=channels_last))
        leaf, content = features.requires_grad_(), make_content(features.detach())
        (expected,) = torch.autograd.grad(total(leaf, content, weight, height == 7), leaf)
        (gradient,) = torch.autograd.grad(compiled(leaf, content, weight, height == 7), leaf)
        torch.testing.assert_close(gradient, expected)


@settings(max_examples=60 if BACKEND == "torch" else 15, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    terms=st.sampled_from(TERMS),
    scale=st.sampled_from([1.0, 30.0, 0.01]),
    weight=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_any_tap(
    shape: Shape,
    dtype: torch.dtype,
    channels_last: bool,
    terms: tuple[bool, bool, bool],
    scale: float,
    weight: float,
    seed: int,
) -> None:
    style, with_content, relu = terms
    features = make_features(shape, dtype, channels_last=channels_last, scale=scale, seed=seed)
    content = make_content(features, channels_last=seed % 2 == 0) if with_content else None
    check_tap(features, backend=BACKEND, style=style, content=content, relu=relu, weight=weight, content_weight=weight)


@settings(max_examples=30 if BACKEND == "torch" else 4, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(4, 9), st.integers(4, 9)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    relu=st.booleans(),
    side=st.integers(4, 9),
    halo=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_any_tiles(
    shape: Shape, dtype: torch.dtype, channels_last: bool, relu: bool, side: int, halo: int, seed: int
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last, seed=seed)
    check_tiles(features, backend=BACKEND, relu=relu, side=side, halo=halo)


class TestOnTorchAlone:
    """Autograd's rules, float64, and what torch's own computation is made of; the backend changes nothing here."""

    pytestmark = pytest.mark.skipif(BACKEND == "triton", reason="holds for any backend")

    @LAYOUTS
    def test_float64_stays_float64(self, channels_last: bool) -> None:
        features = make_features((2, 130, 6, 7), torch.float64, channels_last=channels_last).requires_grad_()
        target = make_target(features.detach())
        loss = gram_loss(features, target)
        (gradient,) = torch.autograd.grad(loss.sum(), features)
        torch.testing.assert_close(loss, reference.gram_loss(features, target))
        torch.testing.assert_close(gradient, reference.gram_loss_gradient(features.detach(), target))
        torch.testing.assert_close(gram(features), reference.gram(features))

    @LAYOUTS
    @pytest.mark.parametrize("relu", [False, True])
    def test_gradcheck(self, relu: bool, channels_last: bool) -> None:
        features = before_relu(make_features((2, 4, 3, 5), torch.float64, channels_last=channels_last) * 3)
        features = torch.where(features.abs() < 0.01, 1.0, features).requires_grad_()
        target, content = make_target(features.detach().relu()).double(), make_content(features.detach())

        def losses(x: torch.Tensor) -> object:
            return *tap(x, target=target, content=content, content_weight=0.7, relu=relu), gram(x)

        assert torch.autograd.gradcheck(losses, (features,))

    def test_the_references_are_what_autograd_gives(self) -> None:
        features = before_relu(make_features((2, 5, 4, 3), torch.float64)).requires_grad_()
        after = features.detach().relu()
        target, content = make_target(after).double(), make_content(features.detach())
        upstream, above = torch.rand_like(features).detach(), torch.rand(2, 5, 5, dtype=torch.float64)
        passed, style, distance = tap(
            features, target=target, weight=0.3, content=content, content_weight=0.7, relu=True, backend="reference"
        )
        assert style is not None
        assert distance is not None
        total = (passed * upstream).sum() + 2 * style.sum() - 3 * distance.sum()
        (by_autograd,) = torch.autograd.grad(total, features)
        closed = reference.tap_gradient(
            after,
            upstream,
            style=reference.style_matrix(after, target, 0.3, torch.full((2,), 2.0)),
            content=content,
            content_coefficient=torch.full((2,), -3 * 2 * 0.7),
            relu=True,
        )
        torch.testing.assert_close(closed, by_autograd)
        (by_autograd,) = torch.autograd.grad((reference.gram(features) * above).sum(), features)
        torch.testing.assert_close(reference.gram_gradient(features.detach(), above), by_autograd)

    def test_a_second_derivative_is_refused(self) -> None:
        features = make_features((1, 4, 3, 3), torch.float64).requires_grad_()
        target, content = make_target(features.detach()), make_content(features.detach())
        passed, style, distance = tap(features, target=target, content=content)
        assert style is not None
        assert distance is not None
        for output in (gram(features).sum(), style.square().sum(), passed.square().sum() + distance.sum()):
            with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
                torch.autograd.grad(output, features, create_graph=True, retain_graph=True)
        passed, _ = style_tap(features, target)
        (first,) = torch.autograd.grad(passed.square().sum(), features, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), features)
        assert torch.equal(second, torch.full_like(features, 2.0))

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpoint_and_autocast_change_nothing(self, use_reentrant: bool) -> None:
        features = make_features((2, 6, 5, 4), torch.float32).requires_grad_()
        target = make_target(features.detach())
        (plain,) = torch.autograd.grad(gram_loss(features, target).sum(), features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            checkpoint(gram_loss, features, target, use_reentrant=use_reentrant).sum().backward()
        assert features.grad is not None
        assert torch.equal(features.grad, plain)

    @LAYOUTS
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_several_chunks(self, dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eager, "CHUNK_ELEMENTS", 6 * 2 * 4)
        features = make_features((2, 6, 5, 3), dtype, channels_last=channels_last)
        check_style_tap(features, make_target(features), backend="torch")
        check_gram(features, backend="torch")

    @pytest.mark.parametrize("size", [1.0, 100.0])
    def test_large_upstream(self, size: float) -> None:
        for shape in ((1, 1024, 3, 2), (1, 512, 3, 5)):
            features = make_features(shape, torch.float32, channels_last=True)
            upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * size
            check_style_tap(features, make_target(features), backend="torch", upstream=upstream)

    def test_budgets_are_exceeded_by_what_kernels_get_wrong(self) -> None:
        features = make_features((1, 16, 32, 32), torch.bfloat16)
        responses = features.flatten(2)
        rounded = (responses @ responses.mT / responses.shape[2]).float()
        without = features.clone()
        without[..., -1, -1] = 0
        gram_of = budget.gram(features.float())
        for wrong in (rounded, reference.gram(without)):
            assert (budget.relative_error(wrong, gram_of.exact) > gram_of.budget).all()
        target = make_target(features)
        unsymmetrised = (gram_of.exact - target.double()) @ features.double().flatten(2) / (16**2 * 1024)
        expected = budget.tap_gradient(features, torch.zeros_like(features), target=target)
        with pytest.raises(AssertionError, match="gradient: error"):
            assert_expected(unsymmetrised.view(features.shape), expected, "gradient")

    def test_budgets_are_a_few_roundings(self) -> None:
        features = make_features((2, 64, 32, 32), torch.float32)
        target, zeros = make_target(features), torch.zeros(features.shape)
        assert (budget.gram(features).budget < 2e-6).all()
        assert (budget.gram_loss(features, target, 1.0).budget < 5e-6).all()
        assert (budget.tap_gradient(features, zeros, target=target).budget < 2e-5).all()
        assert (budget.gram(features, "tf32").budget > 50 * budget.gram(features).budget).all()
        exact, result = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.5], [0.0, 0.25]])
        assert budget.relative_error(result, exact).tolist() == [0.1, 0.25]
