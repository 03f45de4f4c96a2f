"""The image's Triton kernels in the interpreter, with every buffer that they are to write filled with NaN before."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fastnst_kernels.image import adam_step_, image_gradient, normalise, total_variation, triton_image
from fastnst_kernels.launch.gpu import INTERPRETER
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
)
from kernel_checks import DTYPES, LAYOUTS, in_both_layouts, upstreams

SHAPES = [(1, 3, 1, 1), (3, 3, 5, 7), (1, 3, 1, 24), (1, 3, 9, 1), (2, 3, 4, 12), (1, 3, 9, 136)]
# Each shape with either layout of the image, and of what lies above it the same one or the other.
LAYOUTS_IN_TURN = pytest.mark.parametrize(
    ("case", "channels_last", "above_last"),
    [(case, last, last != (case % 2 == 0)) for case in range(len(SHAPES)) for last in (False, True)],
)


@pytest.fixture(autouse=True, scope="module")
def _nan_in_empty() -> Iterator[None]:
    def filled(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def create_filled(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = create(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return create_filled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", filled(torch.empty))
        yield


@LAYOUTS_IN_TURN
def test_normalise(case: int, channels_last: bool, above_last: bool) -> None:
    image = make_image(SHAPES[case], channels_last=channels_last)
    dtype = DTYPES[(case + channels_last) % 3]
    check_normalise(image, dtype, backend="triton", channels_last=above_last, flip=case % 2 == 0)


@LAYOUTS_IN_TURN
def test_image_gradient(case: int, channels_last: bool, above_last: bool) -> None:
    image = make_image(SHAPES[case], channels_last=channels_last)
    upstream = make_upstream(image, DTYPES[(case + above_last) % 3], channels_last=above_last)
    kind = ("squared", "absolute", "nine-point")[case % 3]
    check_image_gradient(image, upstream, backend="triton", flip=case % 2 == 0, kind=kind)


@pytest.mark.parametrize(("dtype", "flip"), [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False)])
def test_every_dtype(dtype: torch.dtype, flip: bool) -> None:
    image = make_image((2, 3, 3, 16))
    check_normalise(image, dtype, backend="triton", channels_last=True, flip=flip)
    check_image_gradient(image, make_upstream(image, dtype), backend="triton", flip=flip, kind="squared")


@pytest.mark.parametrize(
    ("shape", "kind", "channels_last"),
    in_both_layouts([(1, 3, 1, 1), (3, 3, 5, 7), (2, 3, 19, 8)], ["squared", "absolute", "nine-point"]),
)
def test_total_variation(shape: tuple[int, int, int, int], kind: str, channels_last: bool) -> None:
    check_total_variation(make_image(shape, channels_last=channels_last), backend="triton", kind=kind)


@pytest.mark.parametrize("above", [torch.tensor(1.0).expand(2), torch.tensor([2.0, 7.0, -3.0])[::2]])
def test_the_gradient_of_the_total_variation_by_its_stride(above: torch.Tensor) -> None:
    check_total_variation(make_image((2, 3, 4, 6)), backend="triton", kind="squared", above=above)


@LAYOUTS
def test_adam(channels_last: bool) -> None:
    image = make_image((2, 3, 9, 11), channels_last=channels_last)
    check_adam(image, backend="triton", steps=12)
    check_adam(image, backend="triton", steps=3, betas=(0.0, 0.999), clamp=False)
    other = torch.contiguous_format if channels_last else torch.channels_last
    check_adam(image, backend="triton", steps=2, gradient_of=lambda g: g.contiguous(memory_format=other))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_a_step_that_counts_on(dtype: torch.dtype) -> None:
    counter = torch.zeros((), dtype=dtype)
    image = make_image((1, 3, 4, 5))
    check_adam(image, backend="triton", steps=50, betas=(0.9, 0.999), step_of=counter.fill_)
    gradient, first, second = torch.rand(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    counted = [tensor.clone() for tensor in (image, gradient, first, second)]
    counter.zero_()
    for number in range(1, 4):
        adam_step_(image, gradient, first, second, number, learning_rate=0.02, backend="triton")
        adam_step_(*counted, counter, learning_rate=0.02, increment=True, backend="triton")
    assert counter.item() == 3
    assert torch.equal(image, counted[0])


def test_the_bias_correction_of_thousands_of_steps() -> None:
    for number in (1, 100, 693, 10_000, 10_000_000):
        image, gradient = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 2.0)
        first, second = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        adam_step_(image, gradient, first, second, number, learning_rate=0.02, betas=(0.9, 0.999), backend="triton")
        rate = 0.02 / (1 - 0.9**number)
        wanted = 0.5 - rate * 0.2 / ((4 * 0.001 / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert image.item() == pytest.approx(max(wanted, 0.0), rel=1e-6)


@pytest.mark.parametrize("kind", list(upstreams((1, 3, 1, 1))))
def test_upstream_by_its_strides(kind: str) -> None:
    image = make_image((2, 3, 5, 8))
    check_image_gradient(image, upstreams((2, 3, 5, 8))[kind], backend="triton", flip=True, kind="squared")
    check_normalise(
        image, torch.float32, backend="triton", channels_last=False, flip=False, upstream=upstreams((2, 3, 5, 8))[kind]
    )


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
    check_normalise(image, torch.float16, backend="triton", channels_last=True, flip=True)
    check_total_variation(image, backend="triton", kind="squared")


@LAYOUTS
def test_wide_offsets(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_image, "wide_image", lambda image: True)
    for width in (6, 8):
        image = make_image((2, 3, 5, width), channels_last=channels_last)
        check_last_rows(image, backend="triton", channels_last=channels_last)
        check_adam_at_the_end(image, backend="triton")
        upstream = make_upstream(image, torch.float32)
        check_image_gradient(image, upstream, backend="triton", flip=False, kind="squared")


def test_where_offsets_become_wide() -> None:
    for side, wide in ((16384, False), (32768, True)):
        image = torch.empty((1, 3, side, side), device="meta")
        plan = triton_image.plan_normalise(image, SCALE, SHIFT, False, torch.float16, True, INTERPRETER)
        assert plan.launches[0].constants["WIDE"] == wide


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_and_infinity_come_through() -> None:
    for value in (float("nan"), float("inf")):
        image = make_image((2, 3, 4, 8))
        image[1, 2, 1, 3] = value
        result = normalise(image, SCALE, SHIFT, backend="triton")
        assert not torch.isfinite(result[1, 2, 1, 3])
        assert torch.isfinite(result).sum() == result.numel() - 1
        gradient, variation = image_gradient(image, torch.zeros_like(image), SCALE, tv_weight=1.0, backend="triton")
        assert torch.isfinite(variation).tolist() == [True, False]
        assert torch.isfinite(gradient[0]).all()
        assert torch.isfinite(gradient).sum() == gradient.numel() - 5
        assert total_variation(image, kind="absolute", backend="triton")[1].isfinite() == torch.tensor(False)
    step = torch.full((1, 1, 1, 2), float("nan"))
    after = torch.zeros(1, 1, 1, 2)
    adam_step_(after, step, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 1, learning_rate=0.1, backend="triton")
    assert after.isnan().all()


def test_two_runs_are_equal_to_the_bit() -> None:
    image = make_image((2, 3, 30, 31))
    upstream = make_upstream(image, torch.bfloat16)
    first, second = (image_gradient(image, upstream, SCALE, tv_weight=0.1, backend="triton") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_graph_break() -> None:
    image = make_image((1, 3, 4, 5), channels_last=True).requires_grad_()

    def total(x: torch.Tensor) -> torch.Tensor:
        features = normalise(x, SCALE, SHIFT, flip=True, dtype=torch.float16, backend="triton")
        return features.float().square().sum() + total_variation(x, backend="triton").sum()

    (eager,) = torch.autograd.grad(total(image), image)
    (compiled,) = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(image), image)
    assert torch.equal(eager, compiled)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
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
    check_normalise(image, dtype, backend="triton", channels_last=above_last, flip=flip, upstream=upstream)
    check_image_gradient(image, upstream, backend="triton", flip=flip, kind=kind)
