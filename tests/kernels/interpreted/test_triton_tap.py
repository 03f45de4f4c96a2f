"""The tap's kernels in the interpreter: content, ReLU, tiles, crops; buffers are filled with NaN before."""

from collections.abc import Iterator

import pytest
import torch
from fastnst_kernels.launch.gpu import INTERPRETER
from fastnst_kernels.losses import (
    blend_targets,
    finish_gram_loss,
    gram,
    gram_loss,
    reference,
    tap,
    triton_content,
    triton_product,
    triton_tap,
)
from fastnst_kernels.verify import budget
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    DTYPES,
    LAYOUTS,
    assert_within,
    check_style_tap,
    in_both_layouts,
    make_features,
    make_target,
    nan_in_empty,
)
from tap_checks import check_equal_runs, check_repeated, check_tap, check_tiles, make_content, tile_gradient

TERMS = [(True, False, True), (False, True, False), (False, True, True), (True, True, False), (True, True, True)]


@pytest.fixture(autouse=True, scope="module")
def _nan_in_empty() -> Iterator[None]:
    with nan_in_empty():
        yield


@pytest.mark.parametrize(("terms", "dtype", "channels_last"), in_both_layouts(TERMS, DTYPES))
def test_tap(terms: tuple[bool, bool, bool], dtype: torch.dtype, channels_last: bool) -> None:
    style, content, relu = terms
    features = make_features((2, 18, 5, 7), dtype, channels_last=channels_last)
    p = make_content(features, batch=2, channels_last=channels_last) if content else None
    check_tap(features, backend="triton", style=style, content=p, relu=relu)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 17, 5), (2, 65, 3, 3), (1, 512, 1, 3)])
@LAYOUTS
def test_edges(shape: tuple[int, int, int, int], channels_last: bool) -> None:
    features = make_features(shape, torch.float16, channels_last=channels_last)
    content = make_content(features, channels_last=not channels_last)
    check_tap(features, backend="triton", style=shape[1] < 512, content=content, relu=True)


@pytest.mark.parametrize(
    ("dtype", "channels_last"), [(torch.float32, True), (torch.float16, False), (torch.bfloat16, True)]
)
def test_tiles(dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features((2, 9, 9, 8), dtype, channels_last=channels_last)
    check_tiles(features, backend="triton", relu=channels_last, side=5, halo=2)


def test_tf32_is_taken() -> None:
    features = make_features((1, 20, 6, 7), torch.float32)
    check_tiles(features, backend="triton", relu=True, side=4, precision="tf32")


def test_several_blocks() -> None:
    features = make_features((1, 130, 7, 19), torch.float16, channels_last=True)
    check_tiles(features, backend="triton", relu=True, side=10, halo=2)


@pytest.mark.parametrize(
    ("view", "dtype"),
    [
        (lambda x: x[:, :, 1:-2, 2:-1], torch.float32),
        (lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:-2, 2:-1], torch.bfloat16),
        (lambda x: x[:, :, :1].expand(-1, -1, 4, -1), torch.float32),
        (lambda x: x[:, :, ::2, 1:], torch.bfloat16),
    ],
    ids=["crop", "channels-last crop", "expanded rows", "every second row"],
)
def test_crops(view: object, dtype: torch.dtype) -> None:
    assert callable(view)
    features = view(make_features((2, 20, 8, 11), dtype))
    launch = triton_product.partial_launch(features, "ieee", INTERPRETER)[0]
    assert launch.constants["CROP"]
    assert launch.arguments["features"] is features
    exact = reference.gram(features)
    assert_within(gram(features, backend="triton"), exact, budget.gram_budget(features), "Gram matrix")
    check_style_tap(features, make_target(features), backend="triton")
    larger = torch.nn.functional.pad(make_content(features), (1, 2, 2, 1))
    check_tap(features, backend="triton", style=False, content=larger[:, :, 2:-1, 1:-2], relu=False)


@LAYOUTS
def test_wide_offsets(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (triton_product, triton_tap, triton_content):
        monkeypatch.setattr(module, "wide", lambda *tensors: True)
    features = make_features((1, 20, 9, 8), torch.float16, channels_last=channels_last)
    check_tiles(features, backend="triton", relu=True)


def test_upstream_by_its_strides() -> None:
    features = make_features((2, 9, 5, 6), torch.float32, channels_last=True)
    content = make_content(features)
    wide = torch.linspace(-1, 1, 2 * 9 * 7 * 8).view(2, 9, 7, 8)
    for upstream in (torch.tensor(0.5).expand(2, 9, 5, 6), wide[:, :, 1:-1, 1:-1]):
        check_tap(features, backend="triton", style=True, content=content, relu=True, upstream=upstream)
        check_tap(features, backend="triton", style=False, content=content, relu=True, upstream=upstream)


def test_nothing_else_is_written() -> None:
    features = make_features((1, 9, 5, 6), torch.float16)
    around = torch.full((1, 9, 9, 9), float("nan"), dtype=torch.float16)
    upstream = around[:, :, 2:7, 2:8]
    upstream.fill_(0.25)
    tile_gradient(features, upstream=upstream, gradient=upstream, content=features, backend="triton")
    assert torch.equal(upstream, 0.25 * (features > 0))
    assert around.isnan().sum() == around.numel() - upstream.numel()


def test_blended_targets() -> None:
    features = make_features((2, 20, 6, 7), torch.float16)
    targets = [make_target(features), make_target(features, seed=5)]
    blended = blend_targets([targets[0], torch.stack([targets[1], targets[0]])], [0.25, 1.5])
    loss = gram_loss(features, blended, 2.0, backend="triton")
    exact = 2 * reference.gram_loss(features, targets[0], 0.25)
    exact += 2 * reference.gram_loss(features, torch.stack([targets[1], targets[0]]), 1.5)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0.0)
    sums = gram(features, backend="triton") * 42
    whole, difference = finish_gram_loss(sums, 42, blended, 2.0, dtype=torch.float16, backend="triton")
    torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=0.0)
    assert difference.matrix.dtype == torch.float16


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_come_through(dtype: torch.dtype) -> None:
    features = make_features((2, 8, 4, 4), dtype)
    features[1, 3, 2, 1] = float("nan")
    leaf = features.requires_grad_()
    passed, _, loss = tap(leaf, content=torch.zeros_like(features), relu=True, backend="triton")
    assert loss is not None
    (passed.float().sum() + loss.sum()).backward()
    assert torch.isfinite(loss).tolist() == [True, False]
    assert leaf.grad is not None
    assert leaf.grad[0].isfinite().all()
    assert leaf.grad[1].isnan().sum() == 1


@LAYOUTS
def test_two_runs_are_equal_to_the_bit(channels_last: bool) -> None:
    check_equal_runs(
        make_features((1, 24, 14, 15), torch.float16, channels_last=channels_last), backend="triton", runs=2
    )


@LAYOUTS
def test_equal_blocks(channels_last: bool) -> None:
    block = make_features((1, 20, 4, 4), torch.float16)
    check_repeated(block, 12, 8, batch=2, channels_last=channels_last, backend="triton")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_graph_break() -> None:
    features = make_features((1, 6, 4, 5), torch.float32, channels_last=True).requires_grad_()
    target = blend_targets([make_target(features.detach())], [2.0])
    content = make_content(features.detach())

    def total(x: torch.Tensor) -> torch.Tensor:
        passed, loss, distance = tap(x, target=target, content=content, relu=True, backend="triton")
        assert loss is not None
        assert distance is not None
        return passed.square().sum() + loss.sum() + distance.sum()

    (eager,) = torch.autograd.grad(total(features), features)
    (compiled,) = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(features), features)
    assert torch.equal(eager, compiled)


@settings(max_examples=10, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 30), st.integers(1, 8), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    terms=st.sampled_from(TERMS),
    scale=st.sampled_from([1.0, 30.0, 0.01]),
    weight=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_any_tap(
    shape: tuple[int, int, int, int],
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
    check_tap(features, backend="triton", style=style, content=content, relu=relu, weight=weight)


@settings(max_examples=4, deadline=None, database=None, derandomize=True)
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
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    relu: bool,
    side: int,
    halo: int,
    seed: int,
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last, seed=seed)
    check_tiles(features, backend="triton", relu=relu, side=side, halo=halo)
