"""The picture of textures in the documents: for each example style a texture, and one that tiles, four times.

`python -m bench.gallery_textures`, with the network of the paper and the defaults but for size and iterations.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import fastnst
from bench.gallery import QUALITY
from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.sheet import contact_sheet

STYLES = ("style_swirls", "style_mosaic", "style_woodcut")
CELL = 400


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--styles", nargs="+", default=STYLES)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--weights", default="original")
    given = parser.parse_args(arguments)

    rows = [row(name, given.size, given.iterations, given.weights) for name in tqdm(given.styles, desc="styles")]
    names = [name.removeprefix("style_") for name in given.styles]
    labels = ["style", "texture", "tileable, four times"]
    contact_sheet(rows, cell=CELL, row_labels=names, column_labels=labels).save(
        given.output / "gallery_textures.jpg", quality=QUALITY, progressive=True
    )


def row(name: str, size: int, iterations: int, weights: str) -> list[Tensor]:
    """The style, its texture, and its tile 2 × 2."""
    textures = [
        fastnst.synthesize_texture(
            example(name), size=size, iterations=iterations, tileable=tileable, weights=weights
        ).tensor
        for tileable in (False, True)
    ]
    return [load_image(example(name)).rgb, textures[0], torch.tile(textures[1], (1, 2, 2))]


if __name__ == "__main__":
    main()
