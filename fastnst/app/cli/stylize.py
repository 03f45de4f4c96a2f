"""`fastnst stylize`, `texture`, `resume` and `reconstruct`: one run, and the figure of many reconstructions."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastnst.app.cli.arguments import STANDARD, Outputs, check_heeded, given_options, standard_input
from fastnst.app.cli.grid import make_kept_folder, save_sheet
from fastnst.app.cli.job import Job, settings_of, style_paths
from fastnst.app.cli.run import execute_together
from fastnst.errors import OptionError
from fastnst.image.read import load_image
from fastnst.image.resize import fitted_size
from fastnst.image.sheet import Look, check_cells, check_look
from fastnst.network.architecture import PAPER_STYLE_LAYERS
from fastnst.options.resolve import resolve_options
from fastnst.plan.processes import are_launched
from fastnst.transfer.checkpoint import CheckpointError, load_run
from fastnst.transfer.inputs import Canvas, most_pixels, parse_canvas, sized
from fastnst.transfer.result import Result
from fastnst.transfer.variants import content_options, reconstruction_figure, style_options, texture_options

# A sheet of many runs has no file for what each would write on its way.
_OF_ONE_RUN = ("format", "bit_depth", "quality", "save_every", "preview", "plot", "movie", "checkpoint", "json")


def run_stylize(parsed: argparse.Namespace) -> int:
    return execute_together(make_job(parsed))


def make_job(parsed: argparse.Namespace) -> Job:
    """The job of the parsed arguments. Raises FastnstError as `settings_of` and `style_paths` do."""
    options, outputs = settings_of(parsed)
    return Job(parsed.content, style_paths(parsed.styles, *outputs.paths), options, outputs)


def run_texture(parsed: argparse.Namespace) -> int:
    options, outputs = settings_of(parsed)
    size = options.pop("size", 512)
    canvas = parse_canvas(size if parsed.canvas is None else parsed.canvas)
    options = texture_options(canvas, options, tileable=parsed.tileable)
    return execute_together(Job(canvas, style_paths(parsed.styles, *outputs.paths), options, outputs))


def run_resume(parsed: argparse.Namespace) -> int:
    if getattr(parsed, "checkpoint", None) is not None:
        raise CheckpointError("a resumed run keeps using its own checkpoint; leave --checkpoint out")
    path = Path(parsed.saved)
    outputs = replace(Outputs.of(vars(parsed)), checkpoint=parsed.saved)
    given = None if parsed.styles is None else style_paths(parsed.styles, *outputs.paths)
    content, styles, options = load_run(path, check=False).inputs(
        content=parsed.content, style=given, init=parsed.init, masks=parsed.masks
    )
    options.update(given_options(vars(parsed), ("device", "tile", "max_memory")))
    return execute_together(Job(content, styles, options, outputs), saved=path)


def run_reconstruct(parsed: argparse.Namespace) -> int:
    layers, style_layers = parsed.layer, parsed.layers_of_style
    options, outputs = settings_of(parsed)
    if parsed.figure:
        if style_layers is not None:
            raise OptionError("--style-layers makes one image; name the layers of the figure with --layer")
        return _run_figure(parsed, options, outputs)
    check_heeded("--figure", {f"--{name}": bool(getattr(parsed, name)) for name in ("cell", "title", "font", "keep")})
    if (layers is None) == (style_layers is None):
        raise OptionError("give --layer, such as conv4_2, or --style-layers, such as conv1_1,conv2_1, or --figure")
    if layers is not None:
        return execute_together(Job(parsed.image, [], content_options(layers, options), outputs))
    if parsed.image == STANDARD:
        raise OptionError("the style can only be reconstructed from a file; give a path instead of -")
    options = style_options(style_layers, options)
    picture = load_image(parsed.image, role="content", max_pixels=most_pixels(options))
    canvas = Canvas(picture.height, picture.width)
    return execute_together(Job(canvas, [parsed.image], options, outputs))


def _run_figure(parsed: argparse.Namespace, options: dict[str, Any], outputs: Outputs) -> int:
    if are_launched():
        raise OptionError("a figure is made by one process; start it without torchrun")
    for name in _OF_ONE_RUN:
        if getattr(outputs, name):
            raise OptionError(f"--{name.replace('_', '-')} works for one run, and a figure takes several; leave it out")
    job = Job(parsed.image, [], options, outputs)
    job.check()
    layers = tuple(parsed.layer.replace(",", " ").split()) if parsed.layer else PAPER_STYLE_LAYERS
    names = [f"{kind}_{layer}.png" for kind in ("style", "content") for layer in layers]
    source = standard_input() if parsed.image == STANDARD else parsed.image
    image = load_image(source, role="content", max_pixels=most_pixels(options))
    resolved = resolve_options(**sized(content_options(layers, options), image))
    cell, look = parsed.cell if parsed.cell is not None else min(256, resolved.size), Look(font=parsed.font)
    check_look(look, cell)
    check_cells(2 * (len(layers) + 1), fitted_size(image.height, image.width, cell))
    make_kept_folder(parsed.keep, names, outputs, job.inputs)
    with tqdm(total=len(names), unit="picture", disable=True if outputs.quiet else None, file=sys.stderr) as bar:
        left = iter(names)

        def made(result: Result) -> None:
            bar.update()
            if parsed.keep is not None:
                result.save(Path(parsed.keep) / next(left))

        figure = reconstruction_figure(image, layers, made=made, **options)
    sheet = figure.sheet(cell=cell, title=parsed.title, look=look)
    cells = [[result.parameters for result in row] for row in (figure.style, figure.content)]
    save_sheet(sheet, outputs, {"layers": list(layers), "cells": cells})
    return 0
