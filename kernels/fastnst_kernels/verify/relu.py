"""The sign-bit epilogues against float64: equal to the bit, as each result is exact and rounded once."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from fastnst_kernels import direct
from fastnst_kernels.launch.layout import empty_bits
from fastnst_kernels.operators import by_channels
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool, reference
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.check import Operation, Site, differentiated

# Multiples of it add up without rounding in float32, so that equal sums are equal in float64 too.
_QUANTUM = 2.0**-12


def operations(site: Site) -> Iterator[Operation]:
    noise, dtype = site.noise(5), site.mode.dtype
    x = _quantised(noise(*site.shape)).to(dtype)
    bias = _quantised(0.5 * noise(site.shape[1])).to(dtype)
    above = noise(*site.shape).to(dtype)
    yield from _activations(site, x, bias, above)
    for pool in POOLS if min(site.shape[2:]) > 1 else ():
        yield from _pools(site, x, bias, above[:, :, : site.shape[2] // 2, : site.shape[3] // 2], pool=pool)


def _quantised(values: Tensor) -> Tensor:
    return (values / _QUANTUM).round() * _QUANTUM


def _activations(site: Site, x: Tensor, bias: Tensor, above: Tensor) -> Iterator[Operation]:
    flags = reference.mask(x, bias)
    forward = Expected.equal(reference.bias_relu(x, bias).to(x.dtype))
    backward = Expected.equal(reference.gradient(x, bias, None, above))

    def run_in_place(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        y, gradient = (tensor.to(memory_format=layout, copy=True) for tensor in (x, above))
        bits = empty_bits(y, by_channels(site.backend, y))
        direct.bias_relu(site.backend, y, bias, y, bits)
        direct.relu_backward(site.backend, gradient, bits, gradient)
        return {"forward": [y, _flags(bits, y, site.backend)], "backward": [gradient]}

    function = partial(bias_relu, bias=bias, backend=site.backend)
    yield differentiated("bias_relu", "", x, function, gradients=[above], forward=[forward], backward=backward)
    expected = {"forward": [forward, Expected.equal(flags)], "backward": [backward]}
    yield Operation("bias_relu", "in place", run_in_place, expected)


def _pools(site: Site, x: Tensor, bias: Tensor, above: Tensor, pool: str) -> Iterator[Operation]:
    flags = reference.mask(x, bias, pool)
    forward = Expected.equal(reference.bias_relu(x, bias, pool).to(x.dtype))
    backward = Expected.equal(reference.gradient(x, bias, pool, above).to(x.dtype))

    def run_into_buffers(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given = x.to(memory_format=layout, copy=True)
        pooled = torch.empty_like(above, memory_format=layout)
        bits, gradient = empty_bits(given, by_channels(site.backend, given)), torch.empty_like(given)
        direct.bias_relu_pool(site.backend, given, bias, pool, pooled, bits)
        direct.unpool_backward(site.backend, above.contiguous(memory_format=layout), bits, pool, gradient)
        return {"forward": [pooled, _flags(bits, given, site.backend)], "backward": [gradient]}

    function = partial(bias_relu_pool, bias=bias, pool=pool, backend=site.backend)
    yield differentiated("bias_relu_pool", pool, x, function, gradients=[above], forward=[forward], backward=backward)
    expected = {"forward": [forward, Expected.equal(flags)], "backward": [backward]}
    yield Operation("bias_relu_pool", f"{pool}, into buffers", run_into_buffers, expected)


def _flags(bits: Tensor, like: Tensor, backend: str) -> Tensor:
    packed = by_channels(backend, like)
    return reference.unpack(bits, like.shape[1 if packed else 3], packed)
