"""The image operations of the torch and the reference backend, and what holds for any backend, on the CPU."""

from collections.abc import Callable

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
from kernel_checks import DTYPES, LAYOUTS, in_both_layouts, upstreams

BACKENDS = pytest.mark.parametrize("backend", ["torch", "reference"])
SHAPES = [(1, 3, 1, 1), (3, 3, 5, 7), (1, 3, 1, 24), (1, 3, 9, 1), (2, 3, 4, 12), (1, 3, 40, 136)]


@BACKENDS
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shape", "dtype", "channels_last"), in_both_layouts(SHAPES, DTYPES))
def test_normalise_and_gradient(
    shape: tuple[int, int, int, int], flip: bool, dtype: torch.dtype, channels_last: bool, backend: str
) -> None:
    image = make_image(shape, channels_last=channels_last)
    for above_last in (False, True):
        check_normalise(image, dtype, backend=backend, channels_last=above_last, flip=flip)
        upstream = make_upstream(image, dtype, channels_last=above_last)
        for kind in ("squared", "absolute", "nine-point"):
            check_image_gradient(image, upstream, backend=backend, flip=flip, kind=kind)


@BACKENDS
@LAYOUTS
@pytest.mark.parametrize("kind", ["squared", "absolute", "nine-point"])
@pytest.mark.parametrize("shape", SHAPES)
def test_total_variation(shape: tuple[int, int, int, int], kind: str, channels_last: bool, backend: str) -> None:
    check_total_variation(make_image(shape, channels_last=channels_last), backend=backend, kind=kind)


@LAYOUTS
def test_in_several_pieces(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_PIECE", 100)
    image = make_image((2, 3, 11, 9), channels_last=channels_last)
    check_total_variation(image, backend="torch", kind="squared")
    for kind in ("absolute", "nine-point"):
        check_total_variation(image, backend="torch", kind=kind)
        check_image_gradient(image, make_upstream(image, torch.float16), backend="torch", flip=True, kind=kind)
    check_adam(image, backend="torch", steps=3)


@LAYOUTS
@pytest.mark.parametrize(
    ("backend", "dtype"), [("torch", torch.float32), ("torch", torch.float64), ("reference", torch.float64)]
)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.999), (0.0, 0.5)])
def test_fifty_steps_of_adam(betas: tuple[float, float], dtype: torch.dtype, backend: str, channels_last: bool) -> None:
    image = make_image((2, 3, 7, 9), channels_last=channels_last, dtype=dtype)
    check_adam(image, backend=backend, steps=50, betas=betas)
    counter = torch.zeros(1, dtype=torch.float32)
    check_adam(image, backend=backend, steps=5, betas=betas, clamp=False, step_of=counter.fill_)


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


def test_the_clamp_has_limits() -> None:
    image = torch.full((1, 1, 1, 2), 0.5)
    gradient = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    zeros = torch.zeros(1, 1, 1, 2)
    adam_step_(image, gradient, zeros, zeros.clone(), 1, learning_rate=0.3, minimum=0.25, maximum=0.75)
    assert image.flatten().tolist() == [0.25, 0.75]


def test_adam_moves_a_leaf() -> None:
    leaf = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    zeros = torch.zeros(1, 3, 2, 2)
    adam_step_(leaf, torch.ones(1, 3, 2, 2), zeros, zeros.clone(), 1, learning_rate=0.1)
    torch.testing.assert_close(leaf.detach(), torch.full((1, 3, 2, 2), 0.4))


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
    """As 1/3 and 1/12 of the squares of two stencils each, over the image with a replicated border."""
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


@LAYOUTS
def test_gradcheck(channels_last: bool) -> None:
    image = torch.rand((2, 3, 3, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    functions: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: normalise(x, SCALE, SHIFT, flip=True, dtype=torch.float64),
        lambda x: total_variation(x),
        lambda x: total_variation(x, kind="absolute"),
        lambda x: total_variation(x, kind="nine-point"),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (image.requires_grad_(),))


def test_a_second_derivative_is_refused() -> None:
    image = make_image((1, 3, 3, 3)).requires_grad_()
    for output in (normalise(image, SCALE, SHIFT).square().sum(), total_variation(image).square().sum()):
        with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
            torch.autograd.grad(output, image, create_graph=True)


@pytest.mark.parametrize("kind", list(upstreams((1, 3, 1, 1))))
@LAYOUTS
def test_upstream_by_its_strides(kind: str, channels_last: bool) -> None:
    image = make_image((2, 3, 5, 8), channels_last=channels_last)
    upstream = upstreams((2, 3, 5, 8))[kind]
    check_image_gradient(image, upstream, backend="torch", flip=True, kind="squared")
    check_normalise(image, torch.float32, backend="torch", channels_last=False, flip=False, upstream=upstream)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 2:5],
        lambda x: x[:, :3, 1:, 1:],
        lambda x: x[:, :3].transpose(2, 3),
        lambda x: x[:1, :3].expand(2, -1, -1, -1),
    ],
    ids=["channels", "crop", "transposed", "expanded"],
)
def test_strided_images(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    image = view(make_image((2, 6, 6, 8)))
    check_normalise(image, torch.float16, backend="torch", channels_last=True, flip=True)
    check_total_variation(image, backend="torch", kind="squared")
    check_image_gradient(image, make_upstream(image, torch.float32), backend="torch", flip=False, kind="squared")


@LAYOUTS
def test_checks_of_large_images_at_a_small_size(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    check_last_rows(image, backend="torch", channels_last=channels_last)
    check_adam_at_the_end(image, backend="torch")


@LAYOUTS
def test_the_reference_keeps_layouts(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    gradient, _ = image_gradient(image, torch.ones_like(image), SCALE, tv_weight=1.0, backend="reference")
    assert same_layout(gradient, image)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@LAYOUTS
def test_compiles_without_a_graph_break(channels_last: bool) -> None:
    def total(x: torch.Tensor) -> torch.Tensor:
        features = normalise(x, SCALE, SHIFT, flip=True, dtype=torch.bfloat16)
        return features.float().square().sum() + total_variation(x).sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for width in (5, 8, 11):
        image = make_image((2, 3, 4, width), channels_last=channels_last).requires_grad_()
        (eager,) = torch.autograd.grad(total(image), image)
        (gradient,) = torch.autograd.grad(compiled(image), image)
        torch.testing.assert_close(gradient, eager)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_step_compiles_without_a_graph_break() -> None:
    def step(
        image: torch.Tensor, upstream: torch.Tensor, first: torch.Tensor, second: torch.Tensor, count: torch.Tensor
    ) -> torch.Tensor:
        gradient, value = image_gradient(image, upstream, SCALE, tv_weight=2.0)
        adam_step_(image, gradient, first, second, count, learning_rate=0.02, increment=True)
        return value

    def arguments() -> list[torch.Tensor]:
        image = make_image((2, 3, 4, 5))
        zeros = torch.zeros_like(image)
        return [image, make_upstream(image, torch.float16), zeros, zeros.clone(), torch.zeros((), dtype=torch.int64)]

    eager, compiled = arguments(), arguments()
    wanted = step(*eager)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled), wanted)
    assert all(torch.equal(one, other) for one, other in zip(eager, compiled, strict=True))


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 20), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    above_last=st.booleans(),
    flip=st.booleans(),
    kind=st.sampled_from(["squared", "absolute", "nine-point"]),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    above_last: bool,
    flip: bool,
    kind: str,
    seed: int,
) -> None:
    image = make_image(shape, channels_last=channels_last, seed=seed)
    upstream = make_upstream(image, dtype, channels_last=above_last, seed=seed + 1)
    check_normalise(image, dtype, backend="torch", channels_last=above_last, flip=flip, upstream=upstream)
    check_image_gradient(image, upstream, backend="torch", flip=flip, kind=kind)
    check_total_variation(image, backend="torch", kind=kind)
    check_adam(image, backend="torch", steps=2)
