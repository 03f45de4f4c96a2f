"""Gram matrices, taps and tiles against float64: the torch implementation, or the interpreted Triton kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastnst_kernels import blend_targets, gram_loss, style_tap
from fastnst_kernels.losses import accumulate_gram, eager, finish_gram_loss, reference, tap
from fastnst_kernels.profiling.measure import peak_extra_bytes
from fastnst_kernels.verify import budget
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    BACKEND,
    DTYPES,
    LAYOUTS,
    TORCH_ALONE,
    Shape,
    assert_expected,
    before_relu,
    by_backend,
    check_family,
    check_repeated,
    check_tap,
    gradient_over,
    make_content,
    make_features,
    make_target,
    upstreams,
)

SHAPES = by_backend(
    [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 1, 1), (2, 64, 24, 23), (1, 130, 17, 31), (1, 200, 19, 21), (1, 512, 3, 5)],
    [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 3, 3), (1, 130, 5, 4)],
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["gram", "tap", "tiles"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(shape: Shape, family: str) -> None:
    check_family(family, shape)
    if BACKEND == "torch" and family != "tiles":
        check_family(family, shape, backend="reference")


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 24, 9, 16), torch.float16, scale=scale)
    features[1] /= 8
    check_tap(features, target=make_target(features))


@pytest.mark.parametrize("kind", upstreams((1, 1, 1, 1)))
def test_upstream_by_its_strides(kind: str) -> None:
    for channels_last in (False, True):
        features = make_features((2, 9, 5, 6), torch.float32, channels_last=channels_last)
        upstream = upstreams((2, 9, 5, 6))[kind]
        check_tap(features, target=make_target(features), upstream=upstream)
        check_tap(features, content=make_content(features), relu=True, upstream=upstream)


@pytest.mark.parametrize("above", [torch.tensor(1.0).expand(2), torch.tensor([2.0, 7.0, -3.0])[::2]])
def test_loss_gradient_by_its_strides(above: torch.Tensor) -> None:
    features = make_features((2, 9, 5, 6), torch.float32).requires_grad_()
    target = make_target(features.detach())
    gradients = [
        torch.autograd.grad(gram_loss(features, target, backend=BACKEND), features, given)[0]
        for given in (above, above.contiguous())
    ]
    assert torch.equal(*gradients)


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
    check_tap(features, target=make_target(features))
    content = torch.nn.functional.pad(make_content(features), (1, 2, 2, 1))[:, :, 2:-1, 1:-2]
    check_tap(features, content=content)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_target_dtypes_and_layouts(dtype: torch.dtype) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features).to(dtype)
    forms = [single, torch.stack([single, 2 * single])]
    if dtype == torch.float64:
        forms += [single.mT, single[None], single[None].expand(2, -1, -1)]
    for target in forms:
        check_tap(features, target=target)


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


@LAYOUTS
def test_equal_blocks(channels_last: bool) -> None:
    block = make_features((1, 20, 4, 4), torch.float16)
    check_repeated(block, 12, 8, batch=2, channels_last=channels_last, backend=BACKEND)


def test_blended_targets_of_several_images_are_their_sum() -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features)
    targets = [single, torch.stack([single * 0.7, single * 0.2]), make_target(features, seed=9)]
    weights = [0.5, 2.0, 0.25]
    blended = blend_targets(targets, weights)
    assert blended.matrix.shape == (2, 12, 12)
    exact = 3 * sum(reference.gram_loss(features, a, w) for a, w in zip(targets, weights, strict=True))
    wanted = 3 * sum(reference.gram_loss_gradient(features, a, w) for a, w in zip(targets, weights, strict=True))
    for backend in (BACKEND, "reference"):
        leaf = features.clone().requires_grad_()
        loss = gram_loss(leaf, blended, 3.0, backend=backend)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=float(wanted.abs().max()) * 1e-5)
        sums = torch.zeros(2, 12, 12)
        accumulate_gram(sums, features, backend=backend)
        whole, _ = finish_gram_loss(sums, 48, blended, 3.0, dtype=torch.float32, backend=backend)
        for result in (loss, whole):
            torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=0.0)


def test_one_target_blended_is_itself() -> None:
    target = torch.rand(5, 5)
    blended = blend_targets([target], [0.3])
    assert torch.equal(blended.matrix[0], target)
    assert (blended.weight, blended.offset.tolist()) == (0.3, [0.0])
    assert blend_targets([target.double(), target], [1.0, 1.0]).matrix.dtype == torch.float64


@pytest.mark.parametrize("used", [0, 1, 2], ids=["features", "style", "content"])
def test_only_one_output_is_used(used: int) -> None:
    features = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    after = features.detach().relu()
    content, target = make_content(after), make_target(after)
    gradients = []
    for backend in (BACKEND, "reference"):
        output = tap(features, target=target, content=content, relu=True, backend=backend)[used]
        assert output is not None
        gradients.append(torch.autograd.grad(output.sum(), features)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_in_place_and_in_a_network() -> None:
    convolution = torch.nn.Conv2d(6, 4, 3)
    start = before_relu(make_features((2, 6, 5, 4), torch.float32)).requires_grad_()
    target = make_target(start.detach().relu())
    gradients = []
    for inplace, backend in ((True, BACKEND), (False, BACKEND), (True, "reference"), (False, "reference")):
        features = start * 2.0
        passed, loss, _ = tap(features, target=target, relu=True, inplace=inplace, backend=backend)
        assert (passed.data_ptr() == features.data_ptr()) == inplace
        assert loss is not None
        gradients.append(torch.autograd.grad(convolution(passed).square().sum() + loss.sum(), start)[0])
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-4, atol=1e-5)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_has_the_layout_of_the_features(dtype: torch.dtype, channels_last: bool) -> None:
    leaf = make_features((2, 6, 5, 4), dtype, channels_last=channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(gram_loss(leaf, make_target(leaf.detach()), backend=BACKEND).sum(), leaf)
    assert (gradient.dtype, gradient.stride()) == (dtype, leaf.stride())


def test_without_gradients_nothing_is_kept() -> None:
    features = make_features((1, 4, 3, 3), torch.float32)
    passed, loss = style_tap(features, make_target(features), backend=BACKEND)
    assert passed.data_ptr() == features.data_ptr()
    assert not loss.requires_grad


def test_sums_are_symmetric_and_keep_their_order() -> None:
    features = make_features((1, 130, 8, 9), torch.float32)
    once = torch.zeros(1, 130, 130)
    accumulate_gram(once, features, backend=BACKEND)
    assert torch.equal(once, once.mT)
    twice = once.clone()
    accumulate_gram(twice, features, backend=BACKEND)
    assert torch.equal(twice, 2 * once)


@settings(max_examples=60 if BACKEND == "torch" else 15, deadline=None, database=None, derandomize=True)
@given(
    features=st.builds(
        make_features,
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12)),
        st.sampled_from(DTYPES),
        channels_last=st.booleans(),
        scale=st.sampled_from([1.0, 30.0, 0.01]),
        seed=st.integers(0, 1000),
    ),
    terms=st.sampled_from([(True, False), (False, True), (True, True)]),
    content_last=st.booleans(),
    rest=st.fixed_dictionaries(
        {"relu": st.booleans(), "weight": st.floats(0.01, 100), "precision": st.sampled_from(["ieee", "tf32"])}
    ),
)
def test_any_tap(features: torch.Tensor, terms: tuple[bool, bool], content_last: bool, rest: dict[str, Any]) -> None:
    target = make_target(features) if terms[0] else None
    content = make_content(features, channels_last=content_last) if terms[1] else None
    check_tap(features, target=target, content=content, **rest)


@settings(max_examples=15 if BACKEND == "torch" else 2, deadline=None, database=None, derandomize=True)
@given(shape=st.tuples(st.integers(1, 2), st.integers(2, 20), st.integers(2, 9), st.integers(2, 9)))
def test_any_tiles(shape: Shape) -> None:
    check_family("tiles", shape)


@TORCH_ALONE
class TestOnTorchAlone:
    """The parts of torch's own computation, its memory, and the budgets; the backend changes nothing."""

    def test_several_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eager, "CHUNK_ELEMENTS", 6 * 2 * 4)
        check_family("gram", (2, 6, 5, 3))

    @pytest.mark.parametrize(
        ("shape", "channels_last"),
        [((1, 64, 256, 256), False), ((1, 64, 256, 256), True), ((1, 512, 64, 64), False), ((1, 512, 32, 32), True)],
    )
    def test_half_the_memory_of_the_plain_form(self, shape: Shape, channels_last: bool) -> None:
        features = make_features(shape, torch.float32, channels_last=channels_last).requires_grad_()
        target = make_target(features.detach())

        def plain(x: torch.Tensor) -> torch.Tensor:
            matrix = x.reshape(x.shape[1], -1)
            return (matrix @ matrix.t() / matrix.shape[1] - target).square().sum()

        own, eager_bytes = (
            peak_extra_bytes(lambda loss=loss, x=x: lambda: torch.autograd.grad(loss(x), x)[0], CPU)
            for loss, x in (
                (lambda x: gram_loss(x, target).sum(), features),
                (plain, features.detach().contiguous().requires_grad_()),
            )
        )
        assert own < eager_bytes / 2

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_gradient_over_its_upstream_takes_a_few_chunks(self, dtype: torch.dtype) -> None:
        features = make_features((1, 64, 512, 256), dtype, channels_last=True)
        upstream = torch.ones_like(features)

        def gradient() -> torch.Tensor:
            gradient_over(upstream, features, content=features)
            return torch.empty(0)

        assert peak_extra_bytes(lambda: gradient, CPU) < 4.5 * 4 * 2**20

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
