"""The operations at the image's edge against float64: the torch implementation, or the interpreted Triton kernels."""

from collections.abc import Callable, Iterator

import pytest
import torch
from fastnst_kernels.image import adam_step_, eager, image_gradient, normalise, reference, total_variation
from hypothesis import given, settings
from hypothesis import strategies as st
from image_checks import (
    SCALE,
    SHIFT,
    check_adam,
    check_adam_at_the_end,
    check_image_gradient,
    check_last_rows,
    check_normalise,
    check_total_variation,
    make_image,
    make_upstream,
    same_layout,
)
from kernel_checks import BACKEND, DTYPES, LAYOUTS, by_backend, in_both_layouts, nan_in_empty, upstreams

Shape = tuple[int, int, int, int]
KINDS = ("squared", "absolute", "nine-point")
SHAPES = [(1, 3, 1, 1), (3, 3, 5, 7), (1, 3, 1, 24), (1, 3, 9, 1), (2, 3, 4, 12), (1, 3, 9, 136)]
TORCH_ALONE = pytest.mark.skipif(BACKEND == "triton", reason="holds for any backend")


@pytest.fixture(autouse=True, scope="module")
def _nan_in_empty() -> Iterator[None]:
    with nan_in_empty():
        yield


@pytest.mark.parametrize("above_last", [False, True])
@pytest.mark.parametrize(("shape", "dtype", "channels_last"), in_both_layouts(SHAPES, DTYPES))
def test_normalise_and_gradient(shape: Shape, dtype: torch.dtype, channels_last: bool, above_last: bool) -> None:
    image = make_image(shape, channels_last=channels_last)
    flip = dtype == torch.float16
    upstream = make_upstream(image, dtype, channels_last=above_last)
    check_normalise(image, dtype, backend=BACKEND, channels_last=above_last, flip=flip)
    for kind in by_backend(KINDS, KINDS[DTYPES.index(dtype) :][:1]):
        check_image_gradient(image, upstream, backend=BACKEND, flip=flip, kind=kind)
    if BACKEND == "torch":
        check_normalise(image, dtype, backend="reference", channels_last=above_last, flip=flip)
        check_image_gradient(image, upstream, backend="reference", flip=flip, kind="squared")


@pytest.mark.parametrize(("shape", "kind", "channels_last"), in_both_layouts(by_backend(SHAPES, SHAPES[:2]), KINDS))
def test_total_variation(shape: Shape, kind: str, channels_last: bool) -> None:
    check_total_variation(make_image(shape, channels_last=channels_last), backend=BACKEND, kind=kind)


@pytest.mark.parametrize("above", [torch.tensor(1.0).expand(2), torch.tensor([2.0, 7.0, -3.0])[::2]])
def test_the_gradient_of_the_total_variation_by_its_stride(above: torch.Tensor) -> None:
    check_total_variation(make_image((2, 3, 4, 6)), backend=BACKEND, kind="squared", above=above)


@LAYOUTS
def test_adam(channels_last: bool) -> None:
    image = make_image((2, 3, 9, 11), channels_last=channels_last)
    check_adam(image, backend=BACKEND, steps=12)
    check_adam(image, backend=BACKEND, steps=3, betas=(0.0, 0.999), clamp=False)
    other = torch.contiguous_format if channels_last else torch.channels_last
    check_adam(image, backend=BACKEND, steps=2, gradient_of=lambda g: g.contiguous(memory_format=other))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_a_step_that_counts_on(dtype: torch.dtype) -> None:
    counter = torch.zeros((), dtype=dtype)
    image = make_image((1, 3, 4, 5))
    check_adam(image, backend=BACKEND, steps=50, betas=(0.9, 0.999), step_of=counter.fill_)
    gradient, first, second = torch.rand(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    counted = [tensor.clone() for tensor in (image, gradient, first, second)]
    counter.zero_()
    for number in range(1, 4):
        adam_step_(image, gradient, first, second, number, learning_rate=0.02, backend=BACKEND)
        adam_step_(*counted, counter, learning_rate=0.02, increment=True, backend=BACKEND)
    assert counter.item() == 3
    assert torch.equal(image, counted[0])


def test_the_bias_correction_of_thousands_of_steps() -> None:
    for number in (1, 100, 693, 10_000, 10_000_000):
        image, gradient = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 2.0)
        first, second = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        adam_step_(image, gradient, first, second, number, learning_rate=0.02, betas=(0.9, 0.999), backend=BACKEND)
        rate = 0.02 / (1 - 0.9**number)
        wanted = 0.5 - rate * 0.2 / ((4 * 0.001 / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert image.item() == pytest.approx(max(wanted, 0.0), rel=1e-6)


@pytest.mark.parametrize("kind", list(upstreams((1, 3, 1, 1))))
def test_upstream_by_its_strides(kind: str) -> None:
    image, upstream = make_image((2, 3, 5, 8)), upstreams((2, 3, 5, 8))[kind]
    check_image_gradient(image, upstream, backend=BACKEND, flip=True, kind="squared")
    check_normalise(image, torch.float32, backend=BACKEND, channels_last=False, flip=False, upstream=upstream)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 2:5],
        lambda x: x[:, :3, 1:, 1:],
        lambda x: x[:, :3].transpose(2, 3),
        lambda x: x[:1, :3].expand(2, -1, -1, -1),
        lambda x: x[1:, :3],
    ],
    ids=["channels", "crop", "transposed", "expanded", "second image"],
)
def test_strided_images(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    image = view(make_image((2, 6, 6, 8)))
    check_normalise(image, torch.float16, backend=BACKEND, channels_last=True, flip=True)
    check_total_variation(image, backend=BACKEND, kind="squared")
    check_image_gradient(image, make_upstream(image, torch.float32), backend=BACKEND, flip=False, kind="squared")


@LAYOUTS
def test_checks_of_large_images_at_a_small_size(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    check_last_rows(image, backend=BACKEND, channels_last=channels_last)
    check_adam_at_the_end(image, backend=BACKEND)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_come_through(value: float) -> None:
    image = make_image((2, 3, 4, 8))
    image[1, 2, 1, 3] = value
    result = normalise(image, SCALE, SHIFT, backend=BACKEND)
    assert not torch.isfinite(result[1, 2, 1, 3])
    assert torch.isfinite(result).sum() == result.numel() - 1
    gradient, variation = image_gradient(image, torch.zeros_like(image), SCALE, tv_weight=1.0, backend=BACKEND)
    assert torch.isfinite(variation).tolist() == [True, False]
    assert torch.isfinite(gradient[0]).all()
    assert torch.isfinite(gradient).sum() == gradient.numel() - 5
    after, step = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), float("nan"))
    adam_step_(after, step, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 1, learning_rate=0.1, backend=BACKEND)
    assert after.isnan().all()


def test_two_runs_are_equal_to_the_bit() -> None:
    image = make_image((2, 3, 30, 31))
    upstream = make_upstream(image, torch.bfloat16)
    runs = [image_gradient(image, upstream, SCALE, tv_weight=0.1, backend=BACKEND) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("channels_last", by_backend([False, True], [True]))
def test_compiles_without_a_graph_break(channels_last: bool) -> None:
    def total(x: torch.Tensor) -> torch.Tensor:
        features = normalise(x, SCALE, SHIFT, flip=True, dtype=torch.float16, backend=BACKEND)
        return features.float().square().sum() + total_variation(x, backend=BACKEND).sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for width in (5, 8, 11):
        image = make_image((2, 3, 4, width), channels_last=channels_last).requires_grad_()
        (expected,) = torch.autograd.grad(total(image), image)
        (gradient,) = torch.autograd.grad(compiled(image), image)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_step_compiles_without_a_graph_break() -> None:
    def step(
        image: torch.Tensor, upstream: torch.Tensor, first: torch.Tensor, second: torch.Tensor, count: torch.Tensor
    ) -> torch.Tensor:
        gradient, value = image_gradient(image, upstream, SCALE, tv_weight=2.0, backend=BACKEND)
        adam_step_(image, gradient, first, second, count, learning_rate=0.02, increment=True, backend=BACKEND)
        return value

    def arguments() -> list[torch.Tensor]:
        image = make_image((2, 3, 4, 5))
        zeros = torch.zeros_like(image)
        return [image, make_upstream(image, torch.float16), zeros, zeros.clone(), torch.zeros((), dtype=torch.int64)]

    plain, compiled = arguments(), arguments()
    wanted = step(*plain)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled), wanted)
    assert all(torch.equal(first, second) for first, second in zip(plain, compiled, strict=True))


@settings(max_examples=40 if BACKEND == "torch" else 15, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 20), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    above_last=st.booleans(),
    flip=st.booleans(),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: Shape, dtype: torch.dtype, channels_last: bool, above_last: bool, flip: bool, kind: str, seed: int
) -> None:
    image = make_image(shape, channels_last=channels_last, seed=seed)
    upstream = make_upstream(image, dtype, channels_last=above_last, seed=seed + 1)
    check_normalise(image, dtype, backend=BACKEND, channels_last=above_last, flip=flip, upstream=upstream)
    check_image_gradient(image, upstream, backend=BACKEND, flip=flip, kind=kind)


@TORCH_ALONE
@LAYOUTS
def test_in_several_pieces(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_PIECE", 100)
    image = make_image((2, 3, 11, 9), channels_last=channels_last)
    for kind in KINDS:
        check_total_variation(image, backend="torch", kind=kind)
        check_image_gradient(image, make_upstream(image, torch.float16), backend="torch", flip=True, kind=kind)
    check_adam(image, backend="torch", steps=3)


@TORCH_ALONE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_adam_is_that_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image = make_image((1, 3, 12, 10), dtype=dtype)
    leaf = image.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.02, betas=(0.9, 0.99), eps=1e-8)
    first, second = torch.zeros_like(image), torch.zeros_like(image)
    step = torch.zeros((), dtype=torch.int64)
    for _ in range(50):
        gradient = torch.randn(image.shape, generator=generator, dtype=dtype)
        leaf.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            leaf.clamp_(0, 1)
        adam_step_(image, gradient, first, second, step, learning_rate=0.02, increment=True)
    assert step.item() == 50
    torch.testing.assert_close(image, leaf.detach(), rtol=tolerance, atol=tolerance)
    check_adam(image, backend="reference", steps=5)


@TORCH_ALONE
def test_adam_moves_a_leaf_and_clamps_it() -> None:
    leaf, zeros = torch.full((1, 1, 1, 2), 0.5, requires_grad=True), torch.zeros(1, 1, 1, 2)
    gradient = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    adam_step_(leaf, gradient, zeros, zeros.clone(), 1, learning_rate=0.3, minimum=0.25, maximum=0.75)
    assert leaf.flatten().tolist() == [0.25, 0.75]


@TORCH_ALONE
def test_the_references_are_the_formulas() -> None:
    image = make_image((1, 3, 6, 5), dtype=torch.float64).requires_grad_()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in ((1, 2, 3), (4, 5, 6)))
    exact = (image.flip(1) * 255 - mean) / std
    scale, shift = [255 / value for value in (4, 5, 6)], [-m / s for m, s in ((1, 4), (2, 5), (3, 6))]
    torch.testing.assert_close(reference.normalise(image, scale, shift, True), exact)
    upstream = torch.rand(image.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((exact * upstream).sum(), image)
    torch.testing.assert_close(reference.normalise_gradient(upstream, scale, True), gradient)
    across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    for kind, value in (
        ("squared", (across.square().sum() + down.square().sum()) / 30),
        ("absolute", (across.abs().sum() + down.abs().sum()) / 30),
        ("nine-point", nine_point_of_the_padded(image)),
    ):
        torch.testing.assert_close(reference.total_variation(image.detach(), kind), value.detach()[None])
        (gradient,) = torch.autograd.grad(value, image)
        torch.testing.assert_close(reference.total_variation_gradient(image.detach(), kind), gradient)


def nine_point_of_the_padded(image: torch.Tensor) -> torch.Tensor:
    """The sum of 1/3 and 1/12 of the squares of two stencils each, over the image with a replicated border."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    height, width = image.shape[2:]
    total = padded.new_zeros(())
    for i in range(-1, height):
        for j in range(-1, width):
            x = padded[0, :, i + 1 : i + 3, j + 1 : j + 3]
            diagonals = (x[:, 1, 1] - x[:, 0, 0]).square() + (x[:, 1, 0] - x[:, 0, 1]).square()
            total = total + diagonals.sum() / (12 * 3 * (height + 1) * (width + 1))
            if i >= 0 and j >= 0:
                straight = (x[:, 0, 1] - x[:, 0, 0]).square() + (x[:, 1, 0] - x[:, 0, 0]).square()
                total = total + straight.sum() / (3 * 3 * height * width)
    return 2 * total


@TORCH_ALONE
@LAYOUTS
def test_gradcheck(channels_last: bool) -> None:
    image = make_image((2, 3, 3, 4), channels_last=channels_last, dtype=torch.float64)
    image = (0.5 + 0.3 * image + torch.linspace(0, 0.1, 72, dtype=torch.float64).view(2, 3, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalise(x, SCALE, SHIFT, flip=True, dtype=torch.float64), (image,))
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda x, kind=kind: total_variation(x, kind=kind), (image,))


@TORCH_ALONE
def test_a_second_derivative_is_refused() -> None:
    image = make_image((1, 3, 3, 3)).requires_grad_()
    for output in (normalise(image, SCALE, SHIFT).square().sum(), total_variation(image).square().sum()):
        with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
            torch.autograd.grad(output, image, create_graph=True)


@TORCH_ALONE
@LAYOUTS
def test_the_reference_keeps_layouts(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    gradient, _ = image_gradient(image, torch.ones_like(image), SCALE, tv_weight=1.0, backend="reference")
    assert same_layout(gradient, image)
