"""Draws the example pictures anew: `python -m bench.examples.draw [FOLDER]`, by default those of the package."""

import sys
from pathlib import Path

from PIL import Image

from bench.examples import landscape, mosaic, swirls, woodcut
from fastnst.examples import NAMES, example

PICTURES = {
    "content": landscape.draw,
    "style_mosaic": mosaic.draw,
    "style_swirls": swirls.draw,
    "style_woodcut": woodcut.draw,
}


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture as a JPEG without metadata."""
    picture.save(path, quality=90, optimize=True, progressive=True)


def main(folder: Path) -> None:
    """Draws every example picture at its full size into `folder`; about a minute."""
    for name, draw in PICTURES.items():
        path = folder / f"{name}.jpg"
        save(draw(), path)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else example(NAMES[0]).parent)
