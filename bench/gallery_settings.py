"""The gallery of settings: the example content under one option at a time, `python -m bench.gallery_settings`.

Each sheet has the styles, then some values of an option, in bench/results/gallery_NAME.jpg. What is finished is kept
(see `bench.gallery`), so that a run that was interrupted goes on where it was.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gallery import BENCH, QUALITY, rendered
from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.sheet import Look, contact_sheet, in_rows

# Of each sheet: the styles, then the options of each picture.
SHEETS: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
    "weights": (["style_swirls"], [{}, {"weights": "random"}]),
    "preserve_color": (["style_woodcut"], [{}, {"preserve_color": "luminance"}, {"preserve_color": "histogram"}]),
    "style_weight": (["style_mosaic"], [{"style_weight": 2}, {}, {"style_weight": 200}]),
    "style_scale": (["style_swirls"], [{"style_scale": 0.5}, {}, {"style_scale": 2}]),
    "style_weights": (["style_swirls", "style_woodcut"], [{"style_weights": [0.5, 0.5]}]),
    "scales": (["style_swirls"], [{"scales": "none"}, {}]),
    "init": (["style_swirls"], [{}, {"init": "style-mean"}]),
    "style_loss": (["style_mosaic"], [{}, {"style_loss": "wasserstein"}, {"style_loss": "sliced"}]),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, help="as the default of the options")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", nargs="+", choices=tuple(SHEETS), default=tuple(SHEETS), help="these sheets alone")
    parser.add_argument("--folder", type=Path, default=BENCH / "results")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"precision": given.precision}
    if given.iterations is not None:
        common["iterations"] = given.iterations
    for name in given.only:
        styles, settings = SHEETS[name]
        sources = [rendered(styles, given.size, **common, **options) for options in settings]
        cells = [load_image(example(style)).rgb for style in styles] + [load_image(source).rgb for source in sources]
        captions = ["the style"] * len(styles) + [caption(options) for options in settings]
        rows, texts = (in_rows(each, 3 if len(cells) == 3 else 2) for each in (cells, captions))
        sheet = contact_sheet(rows, cell=given.size, captions=texts, look=Look(letters=20, gap=10))
        sheet.save(given.folder / f"gallery_{name}.jpg", quality=QUALITY, progressive=True)
    return 0


def caption(options: Mapping[str, Any]) -> str:
    """An option as the command has it: --style-weight 5."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        text = ",".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
        words += ["--" + name.replace("_", "-"), text]
    return " ".join(words) or "the defaults"


if __name__ == "__main__":
    raise SystemExit(main())
