"""The picture of textures in the documents: for each example style a texture, and one that tiles, four times.

`python -m bench.gallery_textures`, with the network of the paper and the defaults but for size and iterations.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fastnst
from bench.gallery import QUALITY, kept
from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.sheet import contact_sheet

STYLES = ("style_swirls", "style_mosaic", "style_woodcut")
CELL = 400


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--styles", nargs="+", default=STYLES)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--weights", default="original")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)

    common = {name: getattr(given, name) for name in ("size", "iterations", "weights", "precision")}
    rows = [row(name, common) for name in tqdm(given.styles, desc="styles")]
    names = [name.removeprefix("style_") for name in given.styles]
    labels = ["style", "texture", "tileable, four times"]
    contact_sheet(rows, cell=CELL, row_labels=names, column_labels=labels).save(
        given.output / "gallery_textures.jpg", quality=QUALITY, progressive=True
    )


def row(name: str, common: Mapping[str, Any]) -> list[Tensor]:
    """The style, its texture, and its tile 2 × 2, by the options `common`."""
    textures = [
        kept((name, options), partial(fastnst.synthesize_texture, example(name), **options))
        for options in ({**common, "tileable": tileable} for tileable in (False, True))
    ]
    texture, tile = (load_image(picture).rgb for picture in textures)
    return [load_image(example(name)).rgb, texture, torch.tile(tile, (1, 2, 2))]


if __name__ == "__main__":
    main()
