"""The image's kernels on a GPU: full size, 64-bit offsets, equal runs and captured graphs."""

import pytest
import torch
from fastnst_kernels.image import adam_step_, image_gradient, normalise
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
from kernel_checks import DTYPES, LAYOUTS, captured

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]


@LAYOUTS
@pytest.mark.parametrize("above_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 1), (3, 3, 37, 53), (2, 3, 64, 100), (1, 3, 1, 1000), (1, 3, 513, 1), (1, 3, 1024, 1024)]
)
def test_against_float64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, above_last: bool, channels_last: bool
) -> None:
    image = make_image(shape, channels_last=channels_last).cuda()
    upstream = make_upstream(image, dtype, channels_last=above_last)
    for flip in (False, True):
        check_normalise(image, dtype, backend="triton", channels_last=above_last, flip=flip)
        for kind in ("squared", "absolute", "nine-point"):
            check_image_gradient(image, upstream, backend="triton", flip=flip, kind=kind)


@LAYOUTS
@pytest.mark.parametrize("side", [1024, 4096])
def test_full_size(side: int, channels_last: bool) -> None:
    image = make_image((1, 3, side, side), channels_last=channels_last).cuda()
    check_normalise(image, torch.bfloat16, backend="triton", channels_last=True, flip=True)
    check_total_variation(image, backend="triton", kind="squared")
    check_image_gradient(image, make_upstream(image, torch.float16), backend="triton", flip=True, kind="squared")


@LAYOUTS
def test_fifty_steps_of_adam(channels_last: bool) -> None:
    image = make_image((1, 3, 255, 257), channels_last=channels_last).cuda()
    check_adam(image, backend="triton", steps=50)
    counter = torch.zeros((), dtype=torch.int64, device="cuda")
    check_adam(image, backend="triton", steps=50, betas=(0.9, 0.999), clamp=False, step_of=counter.fill_)
    check_adam(make_image((1, 3, 4096, 4096)).cuda(), backend="triton", steps=2)


@LAYOUTS
@pytest.mark.parametrize("width", [26760, 26761])
def test_more_elements_than_32_bits_count(width: int, channels_last: bool) -> None:
    """2³¹ elements in one image, in rows that are and that are not aligned."""
    height = 26752
    needed = 3 * height * width * 20
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.empty((1, 3, height, width), device="cuda", memory_format=layout).uniform_()
    assert image.numel() >= 2**31
    check_last_rows(image, backend="triton", channels_last=channels_last)
    check_adam_at_the_end(image, backend="triton")


def test_twenty_runs_are_equal_to_the_bit() -> None:
    image = make_image((2, 3, 1023, 1025)).cuda()
    upstream = make_upstream(image, torch.bfloat16)
    first = image_gradient(image, upstream, SCALE, tv_weight=0.1)
    for _ in range(20):
        again = image_gradient(image, upstream, SCALE, tv_weight=0.1)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_captured_step_counts_on() -> None:
    def state() -> list[torch.Tensor]:
        image = make_image((1, 3, 64, 96)).cuda()
        step = torch.zeros((), dtype=torch.int64, device="cuda")
        return [image, torch.zeros_like(image), torch.zeros_like(image), step]

    def advance(image: torch.Tensor, first: torch.Tensor, second: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        above = normalise(image, SCALE, SHIFT, flip=True, dtype=torch.float16)
        gradient, value = image_gradient(image, above, SCALE, flip=True, tv_weight=3.0)
        adam_step_(image, gradient, first, second, step, learning_rate=0.02, increment=True)
        return value

    eager, replayed = state(), state()
    for _ in range(5):
        expected = advance(*eager)
    graph, value = captured(lambda: advance(*replayed), lambda: advance(*state()))
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert replayed[3].item() == 5
    assert torch.equal(value, expected)
    assert all(torch.equal(one, other) for one, other in zip(eager, replayed, strict=True))
