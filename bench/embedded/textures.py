"""Textures made with a network, judged by another one that it was not trained with.

    python -m bench.embedded.textures --judge other.safetensors --weights random embedded

Each texture is synthesised from noise with each of the weights, the settings the same (style term alone). The judge, a
network of another seed (`train --seed 2`, then `export`), tells how far it is from its original: the mean over the
style layers of `Σ (G − A)² / Σ A²` in the judge's features. The originals are structures that no training saw, and the
example styles. `--sheet` shows the originals and what became of them.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from fastnst_kernels import reference
from torch import Tensor

import fastnst
from bench.embedded.judge import TAPS, features_at
from bench.embedded.sheets import drawn
from bench.embedded.train import PLAN
from fastnst.contact_sheet import contact_sheet
from fastnst.examples import example
from fastnst.images import load_image
from fastnst.network.weights import load_weights

# One of each family that no training saw, those beyond the ones by which `judge` tells networks apart.
_FIRST, _STEP, _COUNT = PLAN.structures + 56, 5, 9
_STYLES = ("style_swirls", "style_mosaic", "style_woodcut")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, help="weights of the network that judges")
    parser.add_argument("--weights", nargs="+", default=["random", "embedded"])
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="also write the pictures here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    judge = load_weights(given.judge, taps=TAPS).tensors
    found: dict[str, list[float]] = {weights: [] for weights in given.weights}
    rows = []
    for name, original in originals(given.side):
        row = [original]
        for weights in given.weights:
            row.append(textured(original, weights=weights, iterations=given.iterations))
            found[weights].append(distance(judge, row[-1], original))
        rows.append(row)
        print(name, {weights: f"{distances[-1]:.4f}" for weights, distances in found.items()}, flush=True)
        if given.sheet:
            labels = ["original", *(Path(weights).stem for weights in given.weights)]
            contact_sheet(rows, cell=given.side, column_labels=labels).save(given.sheet, quality=88)
    print("median", {weights: f"{median(distances):.4f}" for weights, distances in found.items()})
    if given.json:
        given.json.write_text(json.dumps({"judge": given.judge, "distances": found}, indent=1) + "\n")


def originals(side: int) -> Iterator[tuple[str, Tensor]]:
    """Names and pictures, (3, side, side) in 0…1."""
    for index in range(_COUNT):
        structure = _FIRST + _STEP * index
        yield f"structure {structure}", _resized(drawn(structure), side)
    for name in _STYLES:
        yield name, _resized(load_image(example(name)).rgb, side)


def _resized(image: Tensor, side: int) -> Tensor:
    """The middle square of (3, H, W), `side` pixels wide."""
    height, width = image.shape[1:]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = image[None, :, top : top + least, left : left + least]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def textured(original: Tensor, **options: Any) -> Tensor:
    """A texture from noise with the Gram matrices of `original`, both (3, side, side)."""
    result = fastnst.stylize(
        original, original, size=original.shape[1], scales=2, init="noise", content_weight=0, tv_weight=0, **options
    )
    return result.tensor


def distance(tensors: Mapping[str, Tensor], texture: Tensor, original: Tensor) -> float:
    """Mean over the style layers of Σ (G − A)² / Σ A² in the features of the network of `tensors`."""
    apart = []
    for found, wanted in zip(*(features_at(tensors, image[None]) for image in (texture, original)), strict=True):
        target = reference.gram(wanted)
        apart.append(float((reference.gram(found) - target).square().sum() / target.square().sum()))
    return sum(apart) / len(apart)


if __name__ == "__main__":
    main()
