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
    yield from _activations(site, x, bias, above, pool=None)
    for pool in POOLS if min(site.shape[2:]) > 1 else ():
        yield from _activations(site, x, bias, above[:, :, : site.shape[2] // 2, : site.shape[3] // 2], pool=pool)


def _quantised(values: Tensor) -> Tensor:
    return (values / _QUANTUM).round() * _QUANTUM


def _activations(site: Site, x: Tensor, bias: Tensor, above: Tensor, pool: str | None) -> Iterator[Operation]:
    backend, flags = site.backend, reference.mask(x, bias, pool)
    forward = Expected.equal(reference.bias_relu(x, bias, pool).to(x.dtype))
    backward = Expected.equal(reference.gradient(x, bias, pool, above).to(x.dtype))

    def run_into_buffers(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        """In place where nothing is pooled."""
        given, gradient = (tensor.to(memory_format=layout, copy=True) for tensor in (x, above))
        y, below = (given, gradient) if pool is None else (torch.empty_like(gradient), torch.empty_like(given))
        packed = by_channels(backend, given)
        bits = empty_bits(given, packed)
        direct.bias_relu(backend, given, bias, pool, y, bits)
        direct.relu_backward(backend, gradient, bits, pool, below)
        passed = reference.unpack(bits, x.shape[1 if packed else 3], packed)
        return {"forward": [y, passed], "backward": [below]}

    op, function = "bias_relu", partial(bias_relu, bias=bias, backend=backend)
    variant, into = "", "in place"
    if pool is not None:
        op, function = "bias_relu_pool", partial(bias_relu_pool, bias=bias, pool=pool, backend=backend)
        variant, into = pool, f"{pool}, into buffers"
    yield differentiated(op, variant, x, function, gradients=[above], forward=[forward], backward=backward)
    expected = {"forward": [forward, Expected.equal(flags)], "backward": [backward]}
    yield Operation(op, into, run_into_buffers, expected)
