"""`fastnst grid`: the same pair with an option's values down and another's across, as one labelled picture."""

import argparse
from typing import TYPE_CHECKING, Any

from fastnst.network.architecture import PAPER_STYLE_LAYERS

if TYPE_CHECKING:
    from fastnst.app.cli.axes import Axis

# Figure 3 of Gatys et al. 2015: ever more layers down, α/β across.
_DOWN = ["style_layers", *(" ".join(PAPER_STYLE_LAYERS[: count + 1]) for count in range(5))]
_TIMES_BETA = (100, 10, 1, 0.1)


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import add_options, whole_number

    parser = commands.add_parser(
        "grid",
        help="stylize a pair with the values of two options, as one labelled picture",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [--down OPTION VALUE …] [--across OPTION VALUE …] [OPTION …]",
        description="Renders CONTENT in the style of STYLE once for each value of one option (down) and of another "
        "(across), and puts the results on one labelled sheet. Without --down and --across it is the paper's grid: "
        "layer sets down, α/β across, with --preset gatys.",
        allow_abbrev=False,
    )
    parser.add_argument("content", metavar="CONTENT", help="the picture to render")
    parser.add_argument(
        "styles", metavar="STYLE", nargs="+", help="the pictures whose style it gets, or folders of them"
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the sheet; - writes it to stdout")
    for axis, example in (("down", 'style_layers "conv1_1" "conv1_1 conv2_1"'), ("across", "style_weight 10 100 1000")):
        parser.add_argument(
            f"--{axis}",
            nargs="+",
            metavar="OPTION",
            help=f"an option and its values, as --{axis} {example}; several numbers or layers make one value in quotes",
        )
    parser.add_argument(
        "--cell", metavar="PX", type=whole_number, help="long edge of each (default: the size, 384 at most)"
    )
    parser.add_argument("--title", metavar="TEXT", default="", help="a line above all")
    parser.add_argument("--font", metavar="FILE", help="a .ttf or .otf file, for letters beyond ASCII")
    parser.add_argument("--keep", metavar="FOLDER", help="also write each result into this folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no closing line")
    add_options(parser)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from tqdm import tqdm

    from fastnst.app.cli.arguments import given_options
    from fastnst.app.cli.axes import make_axis
    from fastnst.app.cli.job import Job, Outputs
    from fastnst.app.cli.sheet_output import save_sheet
    from fastnst.errors import OptionError
    from fastnst.image.files import make_folder
    from fastnst.image.read import open_picture
    from fastnst.image.sheet import Look, check_look, contact_sheet
    from fastnst.image.write import check_output_path
    from fastnst.options.options import resolve_options
    from fastnst.transfer.result import Result
    from fastnst.transfer.stylizer import Stylizer

    given = given_options(vars(parsed))
    if parsed.down is None and parsed.across is None:
        given = {"preset": "gatys", **given}
    down = make_axis(parsed.down or ([] if parsed.across else _DOWN), "--down")
    ratios = None
    if parsed.down is None and parsed.across is None:
        preset = resolve_options(**{name: value for name, value in given.items() if name != "style_weight"})
        betas = [factor * preset.last_style_weight for factor in _TIMES_BETA]
        ratios = [f"α/β {preset.content_weight / beta:.0e}" for beta in betas]
        across = make_axis(["style_weight", *(f"{beta:g}" for beta in betas)], "--across")
    else:
        across = make_axis(parsed.across or [], "--across")
    if down.option is not None and down.option == across.option:
        raise OptionError(f"{down.option} is on both axes; give another option to one")
    Job(parsed.content, parsed.styles, given, Outputs(output=parsed.output)).check()
    cells = [[{**given, **row, **column} for column in across.settings] for row in down.settings]
    resolved = [[resolve_options(**cell) for cell in row] for row in cells]
    names = [[_file_name(index, place, down, across) for place in range(len(row))] for index, row in enumerate(cells)]
    side = (
        parsed.cell if parsed.cell is not None else min(384, max(options.size for row in resolved for options in row))
    )
    look = Look(font=parsed.font)
    check_look(look, side)
    most = max(options.max_pixels for row in resolved for options in row)
    content = open_picture(parsed.content, role="content", max_pixels=most)
    for row in cells:
        for cell in row:
            Stylizer(parsed.styles, **cell).prepare(content)
    if parsed.keep is not None:
        make_folder(parsed.keep)
        for row_of_names in names:
            for name in row_of_names:
                check_output_path(Path(parsed.keep) / name)
    results: list[list[Result]] = []
    hidden = True if parsed.quiet else None
    with tqdm(total=sum(map(len, cells)), unit="picture", disable=hidden, file=sys.stderr) as bar:
        for row, row_of_names in zip(cells, names, strict=True):
            results.append([])
            for cell, name in zip(row, row_of_names, strict=True):
                # One at a time: each holds a network.
                results[-1].append(Stylizer(parsed.styles, **cell)(content))
                if parsed.keep is not None:
                    results[-1][-1].save(Path(parsed.keep) / name)
                bar.update()
    sheet = contact_sheet(
        [[result.tensor for result in row] for row in results],
        cell=side,
        row_labels=down.labels,
        column_labels=ratios or across.labels,
        title=parsed.title,
        look=look,
    )
    made = {
        "down": down.as_dict(),
        "across": across.as_dict(),
        "cells": [[result.parameters for result in row] for row in results],
    }
    save_sheet(sheet, parsed.output, made, quiet=parsed.quiet)
    return 0


def _file_name(row: int, column: int, down: "Axis", across: "Axis") -> str:
    """As 2_3.png, counted from 1, or where there is one axis 3.png."""
    if down.option is None or across.option is None:
        return f"{max(row, column) + 1}.png"
    return f"{row + 1}_{column + 1}.png"
