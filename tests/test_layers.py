"""The layers' two ways to run, forward and back, against autograd through torch's own operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.network import winograd
from fastnst.network.backbone import build_backbone
from fastnst.network.layers import Convolution, DirectLayers, Layers, Pool, WinogradLayers
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.options.options import resolve_options

needs_nnpack = pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this CPU")
WAYS = pytest.mark.parametrize("way", ["direct", pytest.param("winograd", marks=needs_nnpack)])


def make_layers(way: str) -> Layers:
    return WinogradLayers() if way == "winograd" else DirectLayers(torch.device("cpu"), torch.float32, "torch")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(layers: Layers, channels: int, filters: int, pool: str | None, padding: str) -> Convolution:
    memory_format = torch.channels_last if layers.channels_last else torch.contiguous_format
    weight = noise(filters, channels, 3, 3, seed=1) / (9 * channels) ** 0.5
    transposed = weight.flip(2, 3).transpose(0, 1)
    weight, transposed = (each.contiguous(memory_format=memory_format) for each in (weight, transposed))
    return Convolution(weight, transposed, noise(filters, seed=2) * 0.3, pool, padding)


def in_float64(layer: Convolution | Pool, x: Tensor) -> Tensor:
    if isinstance(layer, Convolution):
        padded = F.pad(x, (1, 1, 1, 1), mode="constant" if layer.padding == "zeros" else layer.padding)
        x = F.relu(F.conv2d(padded, layer.weight.double(), layer.bias.double()))
    if layer.pool is None:
        return x
    return F.avg_pool2d(x, 2) if layer.pool == "avg" else F.max_pool2d(x, 2)


def check(layers: Layers, layer: Convolution | Pool, x: Tensor) -> None:
    memory_format = torch.channels_last if layers.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=memory_format)
    features, bits = layers.forward(layer, x, record=True)
    leaf = x.double().requires_grad_()
    exact = in_float64(layer, leaf)
    assert (features.double() - exact.detach()).norm() <= 1e-5 * exact.detach().norm()
    unrecorded, nothing = layers.forward(layer, x, record=False)
    assert nothing is None
    assert torch.equal(unrecorded, features)

    upstream = noise(*features.shape, seed=3).contiguous(memory_format=memory_format)
    # Where rounding decides the sign, nothing can be said of the gradient.
    (expected,) = torch.autograd.grad(exact, leaf, upstream.double())
    if isinstance(layer, Pool):
        # What a pool of its own looks at has a ReLU, which lets no gradient through where it is zero.
        expected = expected * (x > 0)
    result = layers.backward(layer, upstream.clone(memory_format=torch.preserve_format), bits, x.shape)
    assert result.shape == x.shape
    error = (result.double() - expected).norm() / expected.norm()
    assert error < 2e-5

    if isinstance(layer, Convolution) and layer.pool is None:
        masked = upstream * (features > 0)
        without_bits = layers.backward(layer, masked, None, x.shape)
        torch.testing.assert_close(without_bits, result, rtol=0, atol=1e-6)


@WAYS
@pytest.mark.parametrize("pool", [None, "avg", "max"])
@pytest.mark.parametrize("size", [(2, 2), (5, 7), (16, 12), (31, 50)])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_convolution(way: str, padding: str, pool: str | None, size: tuple[int, int]) -> None:
    layers = make_layers(way)
    check(layers, convolution(layers, 16, 24, pool, padding), noise(1, 16, *size))


@WAYS
@pytest.mark.parametrize("padding", ["zeros", "replicate", "circular"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (23, 18), (2200, 18)])
def test_the_first_convolution(way: str, padding: str, size: tuple[int, int]) -> None:
    layers = make_layers(way)
    check(layers, convolution(layers, 3, 8, None, padding), noise(1, 3, *size))


@WAYS
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_a_pool(way: str, pool: str) -> None:
    check(make_layers(way), Pool(pool), noise(1, 5, 9, 6).relu())


@needs_nnpack
@pytest.mark.parametrize("pool", [None, "avg", "max"])
@pytest.mark.parametrize("height", [24, 37, 48, 61])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_many_stripes(padding: str, pool: str | None, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_STRIPE_BYTES", 1)
    assert len(list(winograd.stripes(20, height, 30))) == height // 12
    layers = WinogradLayers()
    check(layers, convolution(layers, 8, 12, pool, padding), noise(1, 8, height, 30))


def test_stripes_cover_each_row_once() -> None:
    for height in (1, 11, 12, 13, 100, 513):
        rows = [row for start, stop in winograd.stripes(128, height, 4000) for row in range(start, stop)]
        assert rows == list(range(height))


@needs_nnpack
def test_memory_does_not_grow() -> None:
    from fastnst.loss.objective import make_objective
    from fastnst.loss.targets import style_targets

    options = resolve_options(weights="random", precision="winograd", style_layers=["conv1_1", "pool1", "conv2_2"])
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    weights = load_weights("random", "vgg19", taps=options.taps)
    backbone = build_backbone(weights, options.taps, runtime)
    image = torch.rand(1, 3, 24, 31)
    targets = style_targets(backbone, [(image, 1.0)], options, runtime)
    objective = make_objective(backbone, image, targets, options, runtime)
    objective.loss_and_gradient(image)
    used = backbone.layers.buffers.used  # type: ignore[attr-defined]
    for _ in range(3):
        objective.loss_and_gradient(image)
    assert backbone.layers.buffers.used == used  # type: ignore[attr-defined]


@needs_nnpack
def test_the_memory_of_one_size_goes_with_the_next() -> None:
    layers = WinogradLayers()
    layers.begin(torch.Size((1, 3, 8, 8)))
    kept = layers.empty((1, 4, 8, 8))
    address = kept.data_ptr()
    layers.release(kept)
    layers.begin(torch.Size((1, 3, 8, 8)))
    assert layers.empty((1, 4, 8, 8)).data_ptr() == address
    layers.release(kept)
    layers.begin(torch.Size((1, 3, 8, 9)))
    assert layers.buffers.used == 0


@needs_nnpack
def test_what_a_failed_pass_took_is_taken_back() -> None:
    layers = WinogradLayers()
    shape = torch.Size((1, 3, 8, 8))
    layers.begin(shape)
    layers.empty((1, 4, 8, 8))
    layers.forget()
    layers.begin(shape)
    assert layers.buffers.used == 0


@needs_nnpack
@pytest.mark.parametrize("size", [(5, 7), (26, 12)])
def test_replicate_padding_behind_the_first_convolution(size: tuple[int, int]) -> None:
    direct = make_layers("direct")
    layer, x = convolution(direct, 16, 24, "avg", "replicate"), noise(1, 16, *size)
    check(direct, layer, x)
    layers = WinogradLayers()
    layer = convolution(layers, 16, 24, "avg", "replicate")
    exact = in_float64(layer, x.double())
    features, bits = layers.forward(layer, x, record=True)
    assert (features.double() - exact).norm() <= 1e-5 * exact.norm()
    with pytest.raises(FastnstError, match="replicate"):
        layers.backward(layer, features, bits, x.shape)


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cudnn_s_fused_relu_gives_the_same_features(dtype: torch.dtype, padding: str) -> None:
    gpu = torch.device("cuda")
    fused, plain = (DirectLayers(gpu, dtype, "triton", cudnn_relu=cudnn_relu) for cudnn_relu in (True, False))
    for channels in (3, 64):
        layer = convolution(plain, channels, 64, None, padding)
        weight, transposed, bias = (each.to(gpu, dtype) for each in (layer.weight, layer.transposed, layer.bias))
        layer = Convolution(weight, transposed, bias, None, padding)
        x = noise(1, channels, 37, 50).to(gpu, dtype).contiguous(memory_format=torch.channels_last)
        (expected, _), (found, bits) = (layers.forward(layer, x, record=False) for layers in (plain, fused))
        assert bits is None
        # The bias is added before the result is rounded, not after.
        torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
