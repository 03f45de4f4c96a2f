"""The gallery of settings: the example content under one option at a time, `python -m bench.gallery_settings`.

Each sheet is one row of an option's values, with the value under each picture, in bench/results/gallery_NAME.jpg; that
of the textures has each style's, four copies side by side. The
pictures are the package's own and so is the network, so that anyone can make the same sheets without a download.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

import fastnst
from fastnst.contact_sheet import contact_sheet
from fastnst.examples import example

STYLES = ("style_swirls", "style_mosaic", "style_woodcut")
TEXTURES = "textures"
RESULTS = Path(__file__).parent / "results"
# Of each sheet: the styles, then the options of each picture.
SHEETS: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
    "style_weight": (["style_mosaic"], [{"style_weight": weight} for weight in (1, 5, 20, 100)]),
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

NAMES = (*SHEETS, TEXTURES)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these sheets alone")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        form: Mapping[str, Any] = {"size": given.size, "iterations": given.iterations, "weights": "embedded"}
        if name == TEXTURES:
            captions = list(STYLES)
            pictures = [_texture(style, form) for style in tqdm(STYLES, desc=name)]
        else:
            styles, settings = SHEETS[name]
            captions = [_caption(options) for options in settings]
            sources = [example(style) for style in styles]
            pictures = [
                fastnst.stylize(example("content"), sources, **form, **options).tensor
                for options in tqdm(settings, desc=name)
            ]
        cell = max(max(picture.shape) for picture in pictures)
        sheet = contact_sheet([pictures], cell=cell, captions=[captions])
        sheet.save(given.folder / f"gallery_{name}.jpg", quality=85)
    return 0


def _texture(style: str, form: Mapping[str, Any]) -> Tensor:
    """Four copies of a tile, (3, H, W), whose seams do not show."""
    return fastnst.synthesize_texture(example(style), tileable=True, **form).tensor.repeat(1, 2, 2)


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
