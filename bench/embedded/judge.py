"""What a network's features tell apart, beside the pictures that it makes.

    python -m bench.embedded.judge --weights random embedded

- procedural: structures that no training saw, each crop named after the nearest of those of another realisation in
  another palette (cosine, one neighbour), by all the features and by those of conv5_1 alone;
- digits: the 1,797 8 × 8 digits that come with scikit-learn (skipped without it), enlarged to 32 × 32, a linear probe
  by ridge regression, trained on the first 1,000.

Features are the mean and deviation of each channel at the five style layers.
"""

import argparse
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.embedded.bank import Bank, Jitter, crops
from bench.embedded.pictures import picture
from bench.embedded.train import MEAN, PLAN, STD
from fastnst.network.architecture import layers_up_to
from fastnst.network.weights import load_weights

TAPS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
_DEEPEST_CHANNELS = 512
_STRUCTURES = 56
_CROPS = 6
_SIDE = 64
_JITTER = Jitter(brightness=0.15, gain=0.08, offset=0.03, mixing=0.05, grey=0, noise=0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["random", "embedded"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    unseen, labels = _unseen()
    digits = _digits()
    report = {}
    for spec in given.weights:
        tensors = load_weights(spec, taps=TAPS).tensors
        features = describe(tensors, unseen)
        deepest = features[:, -2 * _DEEPEST_CHANNELS :]
        figures = {"procedural": nearest(features, labels), "procedural, conv5_1": nearest(deepest, labels)}
        if digits is not None:
            figures["digits"] = probe(describe(tensors, digits[0]), digits[1], 1000)
        report[spec] = figures
        print(spec, {key: f"{value:.1%}" for key, value in figures.items()}, flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def describe(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Mean and deviation of each channel at TAPS for images (B, 3, H, W) in 0…1: (B, 2 · 1472)."""
    rows = []
    for batch in torch.split(images, 32):
        positions = [features.flatten(2) for features in features_at(tensors, batch)]
        rows.append(torch.cat([part for x in positions for part in (x.mean(2), x.std(2, correction=0))], dim=1))
    return torch.cat(rows)


@torch.inference_mode()
def features_at(tensors: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    """The features at TAPS of images (B, 3, H, W) in 0…1, each (B, C, H/2ᵏ, W/2ᵏ)."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    x = (images - mean) / std
    found = []
    for layer in layers_up_to("vgg19", TAPS):
        if layer.is_pool:
            x = F.avg_pool2d(x, 2)
            continue
        x = F.conv2d(x, tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"], padding=1).relu()
        if layer.name in TAPS:
            found.append(x)
    return found


def _unseen() -> tuple[Tensor, Tensor]:
    """Crops of structures beyond the plan's, two realisations of each, in two palettes: (B, 3, side, side), (B,)."""
    generator = torch.Generator().manual_seed(1)
    images, labels = [], []
    for structure in range(_STRUCTURES):
        for take in range(2):
            array = picture(PLAN.seed, PLAN.structures + structure, 2 * structure + take, take)
            single = torch.from_numpy(array).permute(2, 0, 1)[None]
            zero = torch.zeros(1, dtype=torch.int64)
            images.append(crops(Bank(single, zero, zero), _CROPS, _SIDE, _JITTER, generator)[0])
            labels += [2 * structure + take] * _CROPS
    return torch.cat(images), torch.tensor(labels)


def _digits() -> tuple[Tensor, Tensor] | None:
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError:
        return None
    bundle = datasets.load_digits()
    small = torch.from_numpy(bundle.images).float()[:, None] / 16
    return F.interpolate(small, size=(32, 32), mode="bilinear").repeat(1, 3, 1, 1), torch.from_numpy(bundle.target)


def nearest(features: Tensor, labels: Tensor) -> float:
    """Part of the crops whose nearest crop of the other realisations is of their own structure."""
    standard = F.normalize((features - features.mean(0)) / (features.std(0) + 1e-6), dim=1)
    likeness = standard @ standard.T
    likeness[labels[:, None] % 2 == labels[None, :] % 2] = -2
    return float((labels[likeness.argmax(1)] // 2 == labels // 2).float().mean())


def probe(features: Tensor, labels: Tensor, train: int) -> float:
    """Accuracy beyond the first `train` of a ridge regression on the one-hot labels of those."""
    known = features[:train]
    standard = (features - known.mean(0)) / (known.std(0) + 1e-6)
    targets = F.one_hot(labels[:train]).float()
    kernel = standard @ standard[:train].T
    ridge = 1e-2 * kernel[:train].diagonal().mean() * torch.eye(train)
    scores = kernel[train:] @ torch.linalg.solve(kernel[:train] + ridge, targets - targets.mean(0))
    return float((scores.argmax(1) == labels[train:]).float().mean())


if __name__ == "__main__":
    main()
