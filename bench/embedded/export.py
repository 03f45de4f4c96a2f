"""Export a training checkpoint as the file that the package ships: folded, normalised, quantised.

    python -m bench.embedded.export training/checkpoint.pt fastnst/embedded.safetensors

Batch norm is folded into the convolutions. Each layer is scaled to a mean activation of 1 over its filters, positions
and training pictures, the next layer's weights by the inverse: what the network computes stays the same but for these
scales. (Gatys et al. 2015 scaled each filter so: filters that seldom fire then rule the Gram matrix, seen in the
pictures and in the optimiser's steps.) The filters of conv4_2, the content layer, are also scaled by how little they
change with colour alone, so that content does not hold on to colours that the style replaces. Weights are rounded to
8 bits with a step for each output channel; what that costs is printed. With `--plain`, they stay float32 and the file
is one for `--weights`.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from bench.embedded.bank import Bank, Jitter, crops, load_bank
from bench.embedded.train import MEAN, PLAN, RECIPE, STD
from fastnst.embedded import DEEPEST, FORMAT, NETWORK
from fastnst.network.architecture import layers_up_to
from fastnst.network.preprocessing import IMAGENET
from fastnst.network.weights_file import save_weights

# How many pictures, and their side in pixels, the mean activations are taken over.
CALIBRATION = (32, 160)
_NO_JITTER = Jitter(brightness=0, gain=0, offset=0, mixing=0, grey=0, noise=0)
CONTENT = "conv4_2"
# The smallest factor of a content filter that sees nothing but colour.
LEAST = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bank", type=Path, help="the folder of the bank of pictures (default: the checkpoint's)")
    parser.add_argument("--plain", action="store_true", help="float32, as a file for --weights")
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    bank = load_bank(PLAN, options.bank or options.checkpoint.parent, torch.device("cpu"))
    images, recoloured = calibration_images(bank)
    exact = balanced(folded(state["trunk"]), images, recoloured)
    if options.plain:
        save_weights(options.output, NETWORK, exact, IMAGENET)
        return
    stored = quantised(exact)
    lost = relative_error(convolved(exact, images), convolved(restored(stored), images))
    print(f"{DEEPEST}: rounding to 8 bits changes the features by {lost:.2%}")
    save_file(stored, options.output, metadata=card(state, stored, options.checkpoint.parent / "log.csv"))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


def calibration_images(bank: Bank) -> tuple[Tensor, Tensor]:
    """Crops of the pictures as the network sees them, always the same, and those with other hues.

    Both are (count, 3, side, side). Red, green and blue change places: each pixel keeps its brightness and strength.
    """
    generator = torch.Generator().manual_seed(0)
    images, _, _ = crops(bank, *CALIBRATION, _NO_JITTER, generator)
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std, (images[:, [1, 2, 0]] - mean) / std


def folded(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's convolutions with their batch norm in them: `conv1_1.weight` and `conv1_1.bias`, float32."""
    tensors = {}
    for layer in layers_up_to(NETWORK, (DEEPEST,)):
        if not layer.is_pool:
            prefix = f"blocks.{layer.name}"
            gain = trunk[f"{prefix}.1.weight"] / (trunk[f"{prefix}.1.running_var"] + 1e-5).sqrt()
            weight = trunk[f"{prefix}.0.weight"] * gain[:, None, None, None]
            tensors[f"{layer.name}.weight"] = weight.contiguous()
            tensors[f"{layer.name}.bias"] = trunk[f"{prefix}.1.bias"] - trunk[f"{prefix}.1.running_mean"] * gain
    return tensors


def balanced(tensors: Mapping[str, Tensor], images: Tensor, recoloured: Tensor) -> dict[str, Tensor]:
    """The same network with its filters scaled: each layer to a mean activation of 1, content to what colour leaves.

    A convolution's filters are divided by their common mean activation over the images, (B, 3, H, W), normalised.
    Those of CONTENT are also multiplied by how little they change with colour alone,
    `max(1 − E(f − f′)² / 2 Var f, LEAST)` with `f′` the activations of `recoloured`: the same images in other colours.
    """
    result = {}
    pair = torch.cat([images, recoloured])
    incoming = torch.ones(3)
    for layer in layers_up_to(NETWORK, (DEEPEST,)):
        if layer.is_pool:
            pair = F.avg_pool2d(pair, 2)
            continue
        weight = tensors[f"{layer.name}.weight"] * incoming[:, None, None]
        bias = tensors[f"{layer.name}.bias"]
        y = F.conv2d(pair, weight, bias, padding=1).relu_()
        gain = torch.full((layer.out_channels,), 1 / float(y.mean()))
        if layer.name == CONTENT:
            gain *= constancy(*y.chunk(2))
        result[f"{layer.name}.weight"] = weight * gain[:, None, None, None]
        result[f"{layer.name}.bias"] = bias * gain
        pair = y * gain[:, None, None]
        incoming = 1 / gain
    return result


def constancy(before: Tensor, after: Tensor) -> Tensor:
    """How far each channel of (B, C, H, W) stays the same from `before` to `after`, LEAST … 1, (C,)."""
    change = (before - after).square().mean(dim=(0, 2, 3))
    variance = before.var(dim=(0, 2, 3)) + after.var(dim=(0, 2, 3)) + 1e-12
    return (1 - change / variance).clamp(min=LEAST)


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as int8 and the step of each output channel, `conv1_1.scale`; biases as they are."""
    stored = {}
    for key, tensor in tensors.items():
        if key.endswith(".bias"):
            stored[key] = tensor.contiguous()
            continue
        scale = tensor.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / 127
        stored[key] = torch.round(tensor / scale[:, None, None, None]).to(torch.int8).contiguous()
        stored[key.replace(".weight", ".scale")] = scale
    return stored


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 convolutions of quantised ones."""
    tensors = {}
    for key, tensor in stored.items():
        if key.endswith(".weight"):
            tensors[key] = tensor.float() * stored[key.replace(".weight", ".scale")][:, None, None, None]
        elif key.endswith(".bias"):
            tensors[key] = tensor
    return tensors


def convolved(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The features of the deepest layer."""
    x = images
    for layer in layers_up_to(NETWORK, (DEEPEST,)):
        if layer.is_pool:
            x = F.avg_pool2d(x, 2)
        else:
            x = F.conv2d(x, tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"], padding=1).relu_()
    return x


def relative_error(exact: Tensor, other: Tensor) -> float:
    """`‖other − exact‖ / ‖exact‖`."""
    return float((other - exact).norm() / exact.norm())


def card(state: Mapping[str, Any], stored: Mapping[str, Tensor], log: Path) -> dict[str, str]:
    """What the file says of itself."""
    digest = hashlib.sha256()
    for key in sorted(stored):
        digest.update(key.encode())
        digest.update(stored[key].numpy().data.cast("B"))
    progress = state["progress"]
    return {
        "format": FORMAT,
        "network": NETWORK,
        "recipe": str(RECIPE),
        "seed": str(state["seed"]),
        "plan": json.dumps(state["plan"]),
        "crops": str(progress["crops"]),
        "minutes": f"{progress['seconds'] / 60:.0f}",
        "log": summary(log),
        "sha256": digest.hexdigest(),
        "licence": "Apache-2.0",
    }


def summary(log: Path) -> str:
    """The training log's header, some ten of its lines evenly, and the last."""
    lines = log.read_text().splitlines()
    body = lines[1:]
    step = max(1, len(body) // 10)
    return "\n".join([lines[0], *body[:-1:step], body[-1]])


if __name__ == "__main__":
    main()
