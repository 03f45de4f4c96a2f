"""Contact sheets to judge networks by: each pair of pictures in each network, the settings the same.

    python -m bench.embedded.sheets sheet.png --weights random early.safetensors embedded --pairs town.jpg:waves.jpg

A row is a pair: content, style, then the result with each of the weights. Printed, and with `--json` kept: the final
losses, and how often the total rose from one reading to the next at the same scale.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageOps

import fastnst
from fastnst.examples import example

_GAP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", nargs="+", default=["random", "embedded"])
    parser.add_argument("--pairs", nargs="+", help="CONTENT:STYLE files, or names of example pictures")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--style-weight", type=float)
    parser.add_argument("--tv-weight", type=float)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pairs = given.pairs or [f"content:style_{name}" for name in ("swirls", "mosaic", "woodcut")]
    chosen = {"style_weight": given.style_weight, "tv_weight": given.tv_weight}
    options = {key: value for key, value in chosen.items() if value is not None}
    rows = []
    report = []
    for pair in pairs:
        content, style = (_file(name) for name in pair.split(":"))
        row = [_tile(content, given.size), _tile(style, given.size)]
        for weights in given.weights:
            result = fastnst.stylize(
                content, style, size=given.size, iterations=given.iterations, weights=weights, **options
            )
            row.append(result.image)
            rises = sum(
                after.total > before.total and after.scale == before.scale for before, after in pairwise(result.losses)
            )
            last = result.losses[-1].as_dict()
            report.append({"pair": pair, "weights": weights, "rises": rises, **last})
            print(pair, weights, {key: f"{value:.4g}" for key, value in last.items()}, f"{rises} rises", flush=True)
        rows.append(row)
        sheet(rows).save(given.output)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """The pictures in rows and columns, each in a square of the largest's side."""
    side = max(max(picture.size) for row in rows for picture in row)
    page = Image.new("RGB", ((side + _GAP) * max(map(len, rows)), (side + _GAP) * len(rows)), "white")
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            page.paste(picture, (left * (side + _GAP), top * (side + _GAP)))
    return page


def _file(name: str) -> Path:
    path = Path(name)
    return path if path.suffix else Path(str(example(name)))


def _tile(path: Path, size: int) -> Image.Image:
    with Image.open(path) as picture:
        return ImageOps.contain(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
