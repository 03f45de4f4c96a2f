"""The README's picture, `python -m bench.gallery`: the content, then each style beside what it makes of the content.

All pictures of the documents are rendered here: the example pictures, the network of the paper and the options'
defaults, but for what a caption says. Each is kept in build/pictures, and made once.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import fastnst
from fastnst.examples import example
from fastnst.options.resolve import resolve_options

BENCH = Path(__file__).parent
PICTURES = BENCH.parent / "build" / "pictures"
STYLES = ("style_swirls", "style_mosaic", "style_woodcut")
GAP = 12
PAPER = (255, 255, 255)
QUALITY = 84  # of the sheets' JPEGs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path, default=BENCH / "results" / "gallery.jpg")
    given = parser.parse_args()

    pairs = [(Image.open(example(name)), rendered([name], given.size, precision=given.precision)) for name in STYLES]
    given.output.parent.mkdir(exist_ok=True)
    page(Image.open(example("content")), pairs, given.size).save(given.output, quality=QUALITY, progressive=True)


def rendered(styles: Sequence[str], size: int, **options: Any) -> Image.Image:
    """The example content in the example `styles`."""
    resolved = resolve_options(size=size, **options)
    pictures = [example(style) for style in styles]
    return kept((styles, resolved), lambda: fastnst.stylize(example("content"), pictures, size=size, **options))


def kept(key: object, make: Callable[[], fastnst.Result]) -> Image.Image:
    """The image that `make` makes, made once: its file is named by `key`, which is all that it depends on."""
    path = PICTURES / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.png"
    if not path.exists():
        result = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        result.save(path)
    with Image.open(path) as picture:
        return picture.convert("RGB")


def page(content: Image.Image, pairs: Sequence[tuple[Image.Image, Image.Image]], width: int) -> Image.Image:
    """The content over both columns, then rows of two cells, each `width` wide and of the content's proportions."""
    cell = (width, round(width * content.height / content.width))
    whole = 2 * width + GAP
    top = round(whole * 9 / 16)
    sheet = Image.new("RGB", (whole, top + len(pairs) * (cell[1] + GAP)), PAPER)
    sheet.paste(_fitted(content, (whole, top)), (0, 0))
    for row, pair in enumerate(pairs):
        for column, picture in enumerate(pair):
            place = (column * (width + GAP), top + GAP + row * (cell[1] + GAP))
            sheet.paste(_fitted(picture, cell), place)
    return sheet


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
