"""The gallery of settings: the example content under one option at a time, `python -m bench.gallery_settings`.

Each sheet is one row of an option's values, with the value under each picture, in bench/results/gallery_NAME.jpg. The
pictures are the package's own and so is the network, so that anyone can make the same sheets without a download.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import fastnst
from fastnst.examples import example
from fastnst.image.sheet import contact_sheet

RESULTS = Path(__file__).parent / "results"
# Of each sheet: the styles, then the options of each picture.
SHEETS: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
    "style_weight": (["style_mosaic"], [{"style_weight": weight} for weight in (5, 20, 50, 200)]),
    "scales": (["style_swirls"], [{"scales": scales} for scales in ("none", 2)]),
    "style_scale": (["style_swirls"], [{"style_scale": scale} for scale in (0.5, 1, 2)]),
    "style_layers": (
        ["style_woodcut"],
        [
            {"style_layers": "conv1_1 conv2_1"},
            {"style_layers": "conv1_1 conv2_1 conv3_1"},
            {"style_layers": "conv1_1 conv2_1 conv3_1 conv4_1 conv5_1"},
        ],
    ),
    "content_layers": (["style_mosaic"], [{"content_layers": layer} for layer in ("conv2_2", "conv3_2", "conv4_2")]),
    "preserve_color": (["style_woodcut"], [{"preserve_color": mode} for mode in ("none", "luminance", "histogram")]),
    "style_weights": (
        ["style_mosaic", "style_swirls"],
        [{"style_weights": [1 - share, share]} for share in (0.0, 0.3, 0.7, 1.0)],
    ),
    "init": (["style_swirls"], [{"init": start} for start in ("content", "noise")]),
    "style_loss": (
        ["style_mosaic"],
        [{"style_loss": loss} for loss in ("gram", "covariance", "mean-std", "wasserstein", "sliced")],
    ),
    "tv_weight": (["style_woodcut"], [{"tv_weight": weight} for weight in (0, 0.05, 1)]),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=tuple(SHEETS), default=tuple(SHEETS), help="these sheets alone")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        styles, settings = SHEETS[name]
        pictures = [
            fastnst.stylize(
                example("content"),
                [example(style) for style in styles],
                size=given.size,
                iterations=given.iterations,
                weights="original",
                **options,
            ).tensor
            for options in tqdm(settings, desc=name)
        ]
        captions = [_caption(options) for options in settings]
        sheet = contact_sheet([pictures], cell=given.size, captions=[captions])
        sheet.save(given.folder / f"gallery_{name}.jpg", quality=85)
    return 0


def _caption(options: Mapping[str, Any]) -> str:
    """As the command has it: --style-weight 5."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [
            "--" + name.replace("_", "-"),
            *(f"{one:g}" if isinstance(one, float) else str(one) for one in values),
        ]
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
