"""The network that comes with the package: a VGG-19 to conv5_1, trained by us on pictures that a program drew.

Its file holds for each convolution `conv1_1.weight` (out, in, 3, 3) int8, `conv1_1.scale` (out,) float32, the step of
each output channel's weights, and `conv1_1.bias` (out,) float32; the metadata say how it was trained. `bench/embedded`
is the recipe, `docs/model-card.md` what it is good for.
"""

from collections.abc import Iterable
from importlib.resources import as_file, files
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fastnst.errors import WeightsError
from fastnst.network.architecture import Layer, layers_up_to

NETWORK = "vgg19"
DEEPEST = "conv5_1"
FILE = "embedded.safetensors"
FORMAT = "fastnst-embedded-1"


def embedded_layers() -> tuple[Layer, ...]:
    """The convolutions that the embedded network has, from the image on."""
    return tuple(layer for layer in layers_up_to(NETWORK, (DEEPEST,)) if not layer.is_pool)


def why_not_embedded(network: str, layers: Iterable[Layer]) -> str | None:
    """Why the embedded network cannot serve as `network` with these convolutions; None if it can."""
    if network != NETWORK:
        return f"the embedded network is a {NETWORK}, not a {network}"
    deeper = [layer.name for layer in layers if layer not in embedded_layers()]
    return f"the embedded network ends at {DEEPEST}, before {deeper[-1]}" if deeper else None


def embedded_convolutions(layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, on the CPU.

    Weights are `int8 · scale` of their output channel. Raises WeightsError if the package's file is missing or damaged.
    """
    tensors = {}
    with as_file(files("fastnst") / FILE) as path:
        try:
            handle: Any = safe_open(path, framework="pt")
            if (handle.metadata() or {}).get("format") != FORMAT:
                raise WeightsError(f"{path} is not the embedded network of this version; install fastnst again")
            for layer in layers:
                weight, scale, bias = (
                    handle.get_tensor(f"{layer.name}.{part}") for part in ("weight", "scale", "bias")
                )
                tensors[f"{layer.name}.weight"] = weight.float().mul_(scale[:, None, None, None])
                # A copy of our own: the file's is a view of the file.
                tensors[f"{layer.name}.bias"] = bias.clone()
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"the embedded network {path} cannot be read ({error}); install fastnst again"
            ) from error
    return tensors
