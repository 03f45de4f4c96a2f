"""The README's picture: the example content in each example style, `python -m bench.gallery`.

Above, the content and the styles; below, the content in each style. It uses the network of the paper, which
comes with the package, and the options' defaults but for size and iterations.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

import fastnst
from fastnst.examples import example

STYLES = ("style_swirls", "style_mosaic", "style_woodcut")
WIDTH = 1536
GAP = 12
PAPER = (255, 255, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gallery.jpg")
    given = parser.parse_args()

    rendered = []
    for name in tqdm(STYLES, desc="styles"):
        result = fastnst.stylize(
            example("content"), example(name), size=given.size, iterations=given.iterations, weights="original"
        )
        print(name, result.losses[-1])
        rendered.append(result.image)

    with Image.open(example("content")) as content:
        above = [content.convert("RGB")]
    for name in STYLES:
        with Image.open(example(name)) as style:
            above.append(style.convert("RGB"))
    given.output.parent.mkdir(exist_ok=True)
    sheet(above, rendered).save(given.output, quality=88)


def sheet(above: list[Image.Image], below: list[Image.Image]) -> Image.Image:
    """Two rows of equal tiles, each row as wide as the sheet."""
    rows = [_row(above), _row(below)]
    page = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + GAP), PAPER)
    page.paste(rows[0], (0, 0))
    page.paste(rows[1], (0, rows[0].height + GAP))
    return page


def _row(pictures: list[Image.Image]) -> Image.Image:
    width = (WIDTH - GAP * (len(pictures) - 1)) // len(pictures)
    height = width * 3 // 4
    row = Image.new("RGB", (WIDTH, height), PAPER)
    for index, picture in enumerate(pictures):
        row.paste(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS), (index * (width + GAP), 0))
    return row


if __name__ == "__main__":
    main()
