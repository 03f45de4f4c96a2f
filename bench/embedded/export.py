"""Export a training checkpoint as the file that the package ships: folded, normalised, quantised.

    python -m bench.embedded.export training/checkpoint.pt fastnst/embedded.safetensors

Batch norm is folded into the convolutions. Each filter is scaled to a mean activation of 1 over positions and training
pictures (Gatys et al. 2015), the next layer's weights by the inverse: what the network computes stays the same but for
these scales. Weights are rounded to 8 bits with a step for each output channel. What that costs is printed.
With `--plain`, weights stay float32 and the file is one for `--weights`.
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
from fastnst.architecture import layers_up_to
from fastnst.checkpoint import IMAGENET, save_weights
from fastnst.embedded import DEEPEST, FORMAT, NETWORK

# How many pictures, and their side in pixels, the mean activations are taken over.
CALIBRATION = (32, 160)
_NO_JITTER = Jitter(brightness=0, gain=0, offset=0, mixing=0, grey=0, noise=0)
# A filter that hardly ever fires is not blown up beyond this.
_MOST_GAIN = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bank", type=Path, help="the folder of the bank of pictures (default: the checkpoint's)")
    parser.add_argument("--plain", action="store_true", help="float32, as a file for --weights")
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    bank = load_bank(PLAN, options.bank or options.checkpoint.parent, torch.device("cpu"))
    images = calibration_images(bank)
    exact = normalised(folded(state["trunk"]), images)
    if options.plain:
        save_weights(options.output, NETWORK, exact, IMAGENET)
        return
    stored = quantised(exact)
    lost = relative_error(convolved(exact, images), convolved(restored(stored), images))
    print(f"{DEEPEST}: rounding to 8 bits changes the features by {lost:.2%}")
    save_file(stored, options.output, metadata=card(state, stored, options.checkpoint.parent / "log.csv"))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


def calibration_images(bank: Bank) -> Tensor:
    """Crops of the pictures as the network sees them, (count, 3, side, side), always the same."""
    generator = torch.Generator().manual_seed(0)
    images, _, _ = crops(bank, *CALIBRATION, _NO_JITTER, generator)
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


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


def normalised(tensors: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The same network with each filter's mean activation over the images 1, but for filters that are all but dead."""
    result = {}
    x = images
    incoming = torch.ones(3)
    for layer in layers_up_to(NETWORK, (DEEPEST,)):
        if layer.is_pool:
            x = F.avg_pool2d(x, 2)
            continue
        weight = tensors[f"{layer.name}.weight"] * incoming[:, None, None]
        bias = tensors[f"{layer.name}.bias"]
        y = F.conv2d(x, weight, bias, padding=1).relu_()
        means = y.mean(dim=(0, 2, 3))
        gain = 1 / means.clamp(min=float(means.mean()) / _MOST_GAIN)
        result[f"{layer.name}.weight"] = weight * gain[:, None, None, None]
        result[f"{layer.name}.bias"] = bias * gain
        x = y * gain[:, None, None]
        incoming = 1 / gain
    return result


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
