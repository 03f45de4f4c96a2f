"""`fastnst reconstruct`: a picture from what layers hold of it; one image, or figure 1 of the paper."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import OptionError

if TYPE_CHECKING:
    from fastnst.app.cli.arguments import Outputs

# The layers have arguments of their own; there are no weights of styles and no colours to keep.
_LEFT_OUT = ("content_layers", "style_layers", "style_weights", "preserve_color")
# A sheet of many runs has no file for what each would write on its way.
_OF_ONE_RUN = ("format", "bit_depth", "save_every", "preview", "plot", "movie", "checkpoint", "json")


def add_parser(commands: Any) -> None:
    from fastnst.app.cli.arguments import Several, add_run
    from fastnst.app.cli.grid import add_sheet

    parser = commands.add_parser(
        "reconstruct",
        help="make a picture again from what layers hold of it",
        usage="%(prog)s IMAGE (--layer LAYER [LAYER …] | --style-layers LAYER [LAYER …] | --figure) -o OUT [OPTION …]",
        description="Makes an image that has the features of IMAGE at --layer, from grey, or its Gram matrices at "
        "--style-layers, from noise (figure 1 of Gatys, Ecker and Bethge 2015), with --preset reconstruction where no "
        "other is given.",
        allow_abbrev=False,
    )
    parser.add_argument("image", metavar="IMAGE", help="the picture to reconstruct; - reads it from stdin")
    layers: dict[str, Any] = {"metavar": "LAYER", "nargs": "+", "action": Several}
    parser.add_argument("--layer", help="reconstruct the content from these, as conv4_2", **layers)
    parser.add_argument(
        "--style-layers", dest="layers_of_style", help="reconstruct the style from these, as conv1_1,conv2_1", **layers
    )
    parser.add_argument(
        "--figure",
        action="store_true",
        help="one labelled sheet: the content of each of conv1_1 … conv5_1, or of --layer, and the style of the first "
        "of them, the first two, and so on",
    )
    add_sheet(parser, "the size, 256 at most", keep="each image", prefix="with --figure: ")
    add_run(parser, leave_out=_LEFT_OUT, preset="reconstruction")
    parser.set_defaults(run=run, together=True)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.arguments import STANDARD
    from fastnst.app.cli.job import Job, settings_of
    from fastnst.app.cli.run import execute_together
    from fastnst.image.read import load_image
    from fastnst.options.options import resolve_options
    from fastnst.transfer.inputs import Canvas
    from fastnst.transfer.variants import content_options, style_options

    layers, style_layers = parsed.layer, parsed.layers_of_style
    options, outputs = settings_of(parsed)
    if parsed.figure:
        if style_layers is not None:
            raise OptionError("--style-layers is for one image; name the layers of the figure with --layer")
        return _run_figure(parsed, options, outputs)
    if (layers is None) == (style_layers is None):
        raise OptionError("give either --layer, as conv4_2, or --style-layers, as conv1_1,conv2_1, or --figure")
    if layers is not None:
        return execute_together(Job(parsed.image, [], content_options(layers, options), outputs))
    if parsed.image == STANDARD:
        raise OptionError("a style is reconstructed from a file; give a path in place of -")
    options = style_options(style_layers, options)
    picture = load_image(parsed.image, role="content", max_pixels=resolve_options(**options).max_pixels)
    canvas = Canvas(picture.height, picture.width)
    return execute_together(Job(canvas, [parsed.image], options, outputs))


def _run_figure(parsed: argparse.Namespace, options: dict[str, Any], outputs: "Outputs") -> int:
    from tqdm import tqdm

    from fastnst.app.cli.arguments import STANDARD, standard_input
    from fastnst.app.cli.grid import make_kept_folder, save_sheet
    from fastnst.app.cli.job import Job
    from fastnst.image.read import load_image
    from fastnst.image.sheet import Look, check_look
    from fastnst.options.options import resolve_options
    from fastnst.plan.processes import are_launched
    from fastnst.transfer.result import Result
    from fastnst.transfer.variants import FIGURE_LAYERS, content_options, reconstruction_figure

    if are_launched():
        raise OptionError("a figure is made by one process; start it without torchrun")
    for name in _OF_ONE_RUN:
        if getattr(outputs, name):
            raise OptionError(f"--{name.replace('_', '-')} is for one run, and a figure is many; leave it out")
    Job(parsed.image, [], options, outputs).check()
    layers = tuple(parsed.layer.replace(",", " ").split()) if parsed.layer else FIGURE_LAYERS
    names = [f"{kind}_{layer}.png" for kind in ("style", "content") for layer in layers]
    resolved = resolve_options(**content_options(layers, options))
    cell, look = parsed.cell if parsed.cell is not None else min(256, resolved.size), Look(font=parsed.font)
    check_look(look, cell)
    source = standard_input() if parsed.image == STANDARD else parsed.image
    image = load_image(source, role="content", max_pixels=resolved.max_pixels)
    make_kept_folder(parsed.keep, names)
    with tqdm(total=len(names), unit="picture", disable=True if outputs.quiet else None, file=sys.stderr) as bar:
        left = iter(names)

        def made(result: Result) -> None:
            bar.update()
            if parsed.keep is not None:
                result.save(Path(parsed.keep) / next(left))

        figure = reconstruction_figure(image, layers, made=made, **options)
    sheet = figure.sheet(cell=cell, title=parsed.title, look=look)
    cells = [[result.parameters for result in row] for row in (figure.style, figure.content)]
    save_sheet(sheet, parsed.output, {"layers": list(layers), "cells": cells}, quiet=outputs.quiet)
    return 0
