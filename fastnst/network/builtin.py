"""A network of random weights that needs no file and has the same bits everywhere."""

import math
from collections.abc import Iterable
from zlib import crc32

import numpy as np
import torch

from fastnst.network.architecture import Layer


def random_convolutions(layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, on the CPU.

    He initialisation (He et al. 2015): weights of mean 0 and standard deviation `sqrt(2 / (9 · in))`, biases 0. A layer
    has the same weights whichever others are asked for.
    """
    tensors = {}
    for layer in layers:
        tensors[f"{layer.name}.weight"] = torch.from_numpy(_he_weight(layer))
        tensors[f"{layer.name}.bias"] = torch.zeros(layer.out_channels, dtype=torch.float32)
    return tensors


def _he_weight(layer: Layer) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Bell-shaped weights of variance 2 / (9 · in): each the centred sum of four random bytes, scaled.

    RandomState, because NumPy promises that its streams never change, which it does not for Generator (nor torch for
    its own). Sums of bytes, because a normal deviate goes through the platform's log(), whose last bit differs;
    integers and one rounded product do not.
    """
    shape = (layer.out_channels, layer.in_channels, 3, 3)
    count = math.prod(shape)
    # A seed from the layer's name: a shallow request then has the same tensors as a deep one.
    stream = np.random.RandomState(crc32(layer.name.encode()))
    # RandomState.bytes is little-endian on every platform.
    four = np.frombuffer(stream.bytes(4 * count), np.uint8).reshape(4, count)
    centred = four.sum(axis=0, dtype=np.int16) - np.int16(4 * 255 // 2)
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    scale = np.float32(math.sqrt(2 / (9 * layer.in_channels)) / deviation)
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = centred.astype(np.float32) * scale
    return weight.reshape(shape)
