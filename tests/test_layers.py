"""The layers' ways to run, forward and back, against autograd through torch's own operations in float64."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.network import winograd
from fastnst.network.cpu import CpuLayers, OneDnn, Torch, Winograd
from fastnst.network.layers import Convolution, GpuLayers, Layers, Pool

WAYS = pytest.mark.parametrize("way", ["bits", "torch", "onednn", "winograd"])


def make_layers(way: str) -> Layers:
    if way == "bits":
        return GpuLayers(torch.device("cpu"), torch.float32, "torch")
    if way == "torch":
        return CpuLayers(Torch(torch.device("cpu"), torch.float32))
    return CpuLayers(Winograd() if way == "winograd" else OneDnn(torch.float32))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(channels: int, filters: int) -> Tensor:
    return noise(filters, channels, 3, 3, seed=1) / (9 * channels) ** 0.5


def convolution(layers: Layers, channels: int, filters: int, pool: str | None, padding: str) -> Convolution:
    bias = noise(filters, seed=2) * 0.3
    return layers.convolution(weight_of(channels, filters), bias, pool=pool, padding=padding)


def in_float64(layer: Convolution | Pool, x: Tensor) -> Tensor:
    if isinstance(layer, Convolution):
        padded = F.pad(x, (1, 1, 1, 1), mode="constant" if layer.padding == "zeros" else layer.padding)
        filters, channels = layer.weight.shape[:2]
        x = F.relu(F.conv2d(padded, weight_of(channels, filters).double(), layer.bias.double()))
    if layer.pool is None:
        return x
    return F.avg_pool2d(x, 2) if layer.pool == "avg" else F.max_pool2d(x, 2)


def check(layers: Layers, layer: Convolution | Pool, x: Tensor) -> None:
    x = x.contiguous(memory_format=torch.channels_last)
    features, bits = layers.forward(layer, x, record=True)
    assert features.is_contiguous(memory_format=torch.channels_last)
    # Torch goes by the strides, even by that of the one image.
    assert isinstance(layer, Pool) or features.stride()[0] == features[0].numel()
    leaf = x.double().requires_grad_()
    exact = in_float64(layer, leaf)
    assert (features.double() - exact.detach()).norm() <= 1e-5 * exact.detach().norm()
    unrecorded, nothing = layers.forward(layer, x, record=False)
    assert nothing is None
    assert torch.equal(unrecorded, features)

    upstream = noise(*features.shape, seed=3).contiguous(memory_format=torch.channels_last)
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
@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1)])
def test_maps_of_a_line(way: str, padding: str, size: tuple[int, int]) -> None:
    layers = make_layers(way)
    check(layers, convolution(layers, 16, 24, None, padding), noise(1, 16, *size))


def test_winograds_matrices_whatever_the_modes_at_import() -> None:
    """They are float32 on the CPU, where an importer's default device or dtype is another."""
    words = """
import torch
torch.set_default_device("meta")
torch.set_default_dtype(torch.float64)
with torch.inference_mode():
    from fastnst.network import winograd
torch.set_default_device("cpu")
x, weight = (torch.randn(shape, dtype=torch.float32) for shape in ((1, 4, 6, 9), (8, 4, 3, 3)))
expected = torch.nn.functional.conv2d(x, weight, padding=1)
result = winograd.convolve(x, winograd.pack(weight), None, relu=False, padding=1)
assert (result - expected).norm() < 1e-5 * expected.norm()
"""
    subprocess.run([sys.executable, "-c", words], check=True)


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


@pytest.mark.parametrize("pool", [None, "avg", "max"])
@pytest.mark.parametrize("height", [24, 37, 61])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_many_strips(padding: str, pool: str | None, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_STRIP_ELEMENTS", 1)
    layers = make_layers("winograd")
    # In none of its windows does rounding decide which value is the largest.
    check(layers, convolution(layers, 8, 12, pool, padding), noise(1, 8, height, 30, seed=4))


def test_strips_cover_each_row_once() -> None:
    for height in (1, 11, 12, 13, 100, 513):
        rows = [row for start, stop in winograd.strips(128, height, 4000) for row in range(start, stop)]
        assert rows == list(range(height))


@WAYS
@pytest.mark.parametrize("size", [(5, 7), (26, 12)])
def test_replicate_padding_behind_the_first_convolution(way: str, size: tuple[int, int]) -> None:
    layers = make_layers(way)
    check(layers, convolution(layers, 16, 24, "avg", "replicate"), noise(1, 16, *size))


def test_16_bit_maps_are_off_by_their_rounding() -> None:
    layers = CpuLayers(OneDnn(torch.bfloat16))
    layer = convolution(layers, 16, 24, "avg", "zeros")
    x = noise(1, 16, 30, 41).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    features, record = layers.forward(layer, x, record=True)
    exact = in_float64(layer, x.double())
    assert features.dtype == torch.bfloat16
    # Weights, the features before the pool and the result are rounded to 8 bits.
    assert (features.double() - exact).norm() <= 4e-3 * exact.norm()
    gradient = layers.backward(layer, torch.ones_like(features), record, x.shape)
    leaf = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(in_float64(layer, leaf).sum(), leaf)
    # Where rounding decides the sign, in a thousandth of the features, all of their gradient comes or goes.
    assert (gradient.double() - expected).norm() <= 5e-2 * expected.norm()


def test_without_onednn_torch_s_own_convolution_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnst.network import cpu

    monkeypatch.setattr(cpu, "has_onednn", lambda dtype: False)
    layers = make_layers("onednn")
    check(layers, convolution(layers, 16, 24, "avg", "zeros"), noise(1, 16, 9, 12))


@pytest.mark.parametrize("pool", [None, "avg"])
def test_a_library_that_answers_in_planes(pool: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = F.conv2d

    def in_planes(*arguments: Any, **named: Any) -> Tensor:
        return real(*arguments, **named).contiguous()

    monkeypatch.setattr("fastnst.network.layers.F.conv2d", in_planes)
    layers = make_layers("bits")
    check(layers, convolution(layers, 16, 24, pool, "zeros"), noise(1, 16, 9, 12))


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_sums_that_a_layer_makes_are_those_of_its_features(padding: str) -> None:
    layers = make_layers("bits")
    assert isinstance(layers, GpuLayers)
    layer = convolution(layers, 16, 24, None, padding)
    x = noise(1, 16, 9, 12).contiguous(memory_format=torch.channels_last)
    expected, _ = layers.forward(layer, x, record=False)
    features, products = layers.forward_with_sums(layer, x, "ieee")
    torch.testing.assert_close(features, expected)
    rows = expected.flatten(2)
    torch.testing.assert_close(products, rows @ rows.mT)
