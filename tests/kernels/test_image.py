"""The operations at the image's edge against float64: the torch implementation, or the interpreted Triton kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastnst_kernels import direct
from fastnst_kernels.image import KINDS, adam_step_, eager, image_gradient, normalise, reference, total_variation
from hypothesis import given, settings
from hypothesis import strategies as st
from image_checks import (
    RATE,
    SCALE,
    SHIFT,
    check_adam_at_the_end,
    check_image,
    check_last_rows,
    make_image,
    make_upstream,
)
from kernel_checks import (
    BACKEND,
    DTYPES,
    LAYOUTS,
    TORCH_ALONE,
    Shape,
    by_backend,
    check_family,
    layout_of,
    upstreams,
)

SHAPES = [(1, 3, 1, 1), (3, 3, 5, 7), (1, 3, 1, 24), (1, 3, 9, 1), (2, 3, 4, 12), (1, 3, 9, 136)]


@pytest.mark.parametrize("shape", by_backend(SHAPES, SHAPES[:2] + SHAPES[-1:]))
def test_against_float64(shape: Shape) -> None:
    check_family("image", shape)
    if BACKEND == "torch":
        check_family("image", shape, backend="reference")


@pytest.mark.parametrize("above", [torch.tensor(1.0).expand(2), torch.tensor([2.0, 7.0, -3.0])[::2]])
def test_the_gradient_of_the_total_variation_by_its_stride(above: torch.Tensor) -> None:
    image = make_image((2, 3, 4, 6)).requires_grad_()
    gradients = [
        torch.autograd.grad(total_variation(image, backend=BACKEND), image, given)[0]
        for given in (above, above.contiguous())
    ]
    assert torch.equal(*gradients)


@LAYOUTS
@pytest.mark.parametrize(
    ("step_dtype", "dtype", "tolerance"),
    by_backend(
        [(torch.int64, torch.float64, 1e-12), (torch.int64, torch.float32, 1e-5)],
        [(step_dtype, torch.float32, 1e-5) for step_dtype in (torch.int64, torch.int32, torch.float32)],
    ),
)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.999)])
def test_adam_is_that_of_torch(
    step_dtype: torch.dtype, dtype: torch.dtype, tolerance: float, betas: tuple[float, float], channels_last: bool
) -> None:
    """By number and by a tensor that counts, with gradients in either layout, of many sizes."""
    generator = torch.Generator().manual_seed(0)
    image = make_image((2, 3, 9, 10), dtype=dtype, channels_last=channels_last)
    sizes = torch.randn(image.shape, generator=generator, dtype=dtype).mul(3).exp()
    leaf, numbered, zeros = image.clone().requires_grad_(), image.clone(), torch.zeros_like(image)
    optimizer = torch.optim.Adam([leaf], lr=RATE, betas=betas, eps=1e-8)
    counted, own = [zeros.clone(), zeros.clone(), torch.zeros((), dtype=step_dtype)], [zeros.clone(), zeros.clone()]
    for number in range(1, 51):
        gradient = sizes * torch.randn(image.shape, generator=generator, dtype=dtype)
        leaf.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            leaf.clamp_(0, 1)
        gradient = gradient.contiguous(memory_format=layout_of(number % 2 == 0))
        adam_step_(image, gradient, *counted, learning_rate=RATE, betas=betas, increment=True, backend=BACKEND)
        adam_step_(numbered, gradient, *own, number, learning_rate=RATE, betas=betas, backend=BACKEND)
    assert counted[2].item() == 50
    assert torch.equal(image, numbered)
    torch.testing.assert_close(image, leaf.detach(), rtol=tolerance, atol=tolerance)


def test_the_bias_correction_of_thousands_of_steps() -> None:
    for number in (1, 100, 693, 10_000, 10_000_000):
        image, gradient = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 2.0)
        first, second = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        adam_step_(image, gradient, first, second, number, learning_rate=RATE, betas=(0.9, 0.999), backend=BACKEND)
        rate = RATE / (1 - 0.9**number)
        wanted = 0.5 - rate * 0.2 / ((4 * 0.001 / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert image.item() == pytest.approx(max(wanted, 0.0), rel=1e-6)


@pytest.mark.parametrize("kind", upstreams((1, 3, 1, 1)))
def test_upstream_by_its_strides(kind: str) -> None:
    check_image(make_image((2, 3, 5, 8)), upstreams((2, 3, 5, 8))[kind], flip=True)


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strided_images(view: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    image = view(make_image((2, 6, 6, 8)))
    check_image(image, make_upstream(image, dtype), flip=dtype == torch.float16)


@LAYOUTS
def test_results_have_the_layout_of_the_image(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    for backend in by_backend([BACKEND, "reference"], [BACKEND]):
        for last in (False, True):
            result = normalise(image, SCALE, SHIFT, channels_last=last, backend=backend)
            assert result.is_contiguous(memory_format=layout_of(last))
            gradient, _ = image_gradient(image, result, SCALE, tv_weight=1.0, backend=backend)
            assert gradient.is_contiguous(memory_format=layout_of(channels_last))


@LAYOUTS
def test_checks_of_large_images_at_a_small_size(channels_last: bool) -> None:
    image = make_image((2, 3, 5, 6), channels_last=channels_last)
    check_last_rows(image, backend=BACKEND, channels_last=channels_last)
    check_adam_at_the_end(image, backend=BACKEND)


@LAYOUTS
@pytest.mark.parametrize("is_better", [False, True])
def test_before_adam_moves_it_a_better_image_becomes_the_best_one(is_better: bool, channels_last: bool) -> None:
    image = make_image((1, 3, 6, 7), channels_last=channels_last)
    before, best = image.clone(), torch.zeros_like(image)
    change: dict[str, Any] = {"learning_rate": RATE, "betas": (0.9, 0.99), "epsilon": 1e-8, "limits": (0.0, 1.0)}
    first, second, step = torch.zeros_like(image), torch.zeros_like(image), torch.ones((), dtype=torch.int64)
    change |= {"first": first, "second": second, "step": step, "best": (best, torch.tensor(is_better))}
    direct.adam_step(BACKEND, image, torch.ones_like(image), **change)
    assert not torch.equal(image, before)
    assert torch.equal(best, before if is_better else torch.zeros_like(image))


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


@settings(max_examples=40 if BACKEND == "torch" else 15, deadline=None, database=None, derandomize=True)
@given(
    image=st.builds(
        make_image,
        st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 20), st.integers(1, 40)),
        channels_last=st.booleans(),
        seed=st.integers(0, 1000),
    ),
    dtype=st.sampled_from(DTYPES),
    above_last=st.booleans(),
    flip=st.booleans(),
    kind=st.sampled_from(KINDS),
)
def test_any_shape_layout_and_value(
    image: torch.Tensor, dtype: torch.dtype, above_last: bool, flip: bool, kind: str
) -> None:
    check_image(image, make_upstream(image, dtype, channels_last=above_last), flip=flip, kind=kind)


@TORCH_ALONE
class TestOnTorchAlone:
    """The parts of torch's own computation, and the references; the backend changes nothing."""

    def test_in_several_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eager, "_PIECE", 100)
        check_family("image", (2, 3, 11, 9))

    def test_adam_moves_a_leaf_and_clamps_it(self) -> None:
        leaf, zeros = torch.full((1, 1, 1, 2), 0.5, requires_grad=True), torch.zeros(1, 1, 1, 2)
        gradient = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
        adam_step_(leaf, gradient, zeros, zeros.clone(), 1, learning_rate=0.3, minimum=0.25, maximum=0.75)
        assert leaf.flatten().tolist() == [0.25, 0.75]

    def test_the_references_are_the_formulas(self) -> None:
        image = make_image((1, 3, 6, 5), dtype=torch.float64)
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in ((1, 2, 3), (4, 5, 6)))
        exact = (image.flip(1) * 255 - mean) / std
        scale, shift = [255 / value for value in (4, 5, 6)], [-m / s for m, s in ((1, 4), (2, 5), (3, 6))]
        torch.testing.assert_close(reference.normalise(image, scale, shift, True), exact)
        across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
        for kind, value in (
            ("squared", (across.square().sum() + down.square().sum()) / 30),
            ("absolute", (across.abs().sum() + down.abs().sum()) / 30),
            ("nine-point", nine_point_of_the_padded(image)),
        ):
            torch.testing.assert_close(reference.total_variation(image, kind), value[None])


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
