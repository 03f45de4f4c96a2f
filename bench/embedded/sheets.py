"""Contact sheets to judge networks by: each pair of pictures in each network, the settings the same.

    python -m bench.embedded.sheets sheet.png --weights random short.safetensors embedded

A row is a pair: content, style, then the result with each of the weights. Printed, and with `--json` kept: the final
losses, how often the total rose from one reading to the next at the same scale, and the largest rise as a part of it.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import fastnst
from bench.embedded.pictures import picture
from bench.embedded.train import PLAN
from fastnst.contact_sheet import contact_sheet
from fastnst.examples import example
from fastnst.images import load_image
from fastnst.transfer.result import LossRecord

# Our own pictures alone; the drawn ones are of structures and palettes that no training saw.
PAIRS = (
    "content:style_swirls",
    "content:style_mosaic",
    "content:style_woodcut",
    "content:drawn-605",
    "style_woodcut:drawn-577",
    "drawn-612:style_swirls",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", nargs="+", default=["random", "embedded"])
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=PAIRS,
        help="CONTENT:STYLE, each a file, the name of an example picture, or drawn-N: structure N of the training's",
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--style-weight", type=float)
    parser.add_argument("--tv-weight", type=float)
    parser.add_argument("--line-search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    names = ("style_weight", "tv_weight", "line_search")
    options = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    labels = ["content", "style", *(Path(weights).stem for weights in given.weights)]
    rows: list[list[Tensor]] = []
    report = []
    for pair in tqdm(given.pairs, desc="pairs"):
        content, style = (shown(name) for name in pair.split(":"))
        rows.append([content, style])
        for weights in given.weights:
            result = fastnst.stylize(
                content, style, size=given.size, iterations=given.iterations, weights=weights, **options
            )
            rows[-1].append(result.tensor)
            found = {**rises(result.losses), **result.losses[-1].as_dict()}
            report.append({"pair": pair, "weights": weights, **found})
            print(pair, weights, {key: f"{value:.4g}" for key, value in found.items()}, flush=True)
        contact_sheet(rows, cell=given.size, column_labels=labels).save(given.output, quality=88)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def shown(name: str) -> Tensor:
    """The picture that `name` stands for, see `--pairs`: (3, H, W) float32 in 0…1."""
    if name.startswith("drawn-"):
        return drawn(int(name.removeprefix("drawn-")))
    return load_image(name if Path(name).suffix else example(name)).rgb


def drawn(structure: int) -> Tensor:
    """A picture of that structure in a palette of the same number: (3, SIZE, SIZE) float32 in 0…1."""
    return torch.from_numpy(picture(PLAN.seed, structure, structure, 0)).permute(2, 0, 1) / 255


def rises(losses: Sequence[LossRecord]) -> dict[str, float]:
    """How often the total rose from one reading to the next at the same scale, and the largest such part of it."""
    parts = [
        after.total / before.total - 1
        for before, after in pairwise(losses)
        if after.scale == before.scale and after.total > before.total
    ]
    return {"rises": len(parts), "largest_rise": max(parts, default=0.0)}


if __name__ == "__main__":
    main()
