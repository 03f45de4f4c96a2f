"""`fastnst grid` and `fastnst compare`: several pictures on one labelled sheet.

A grid is made of one pair, with the values of one option down and of another across; a comparison of results.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Any

from PIL.Image import Image
from tqdm import tqdm

from fastnst.app.cli import say
from fastnst.app.cli.arguments import OPTIONS, Outputs, given_options, read_option
from fastnst.app.cli.job import Job, style_paths
from fastnst.app.cli.run import on_stop_signal, written
from fastnst.errors import FastnstError, ImageError, OptionError, counted, warn
from fastnst.image.files import check_apart, make_folder
from fastnst.image.metadata import read_parameters
from fastnst.image.picture import AnyPicture
from fastnst.image.read import load_image, open_picture
from fastnst.image.resize import fitted_size
from fastnst.image.sheet import Look, check_cells, check_look, contact_sheet, differing_options, in_rows
from fastnst.image.write import check_output_path, save_image
from fastnst.network.architecture import PAPER_STYLE_LAYERS
from fastnst.options.resolve import unsized_options
from fastnst.transfer.inputs import most_pixels
from fastnst.transfer.result import DivergedError, Result
from fastnst.transfer.stylizer import Stylizer

_MOST_VALUES = 64

# Figure 3 of Gatys et al. 2015: ever more layers down, α/β across.
_DOWN = ["style_layers", *(" ".join(PAPER_STYLE_LAYERS[: count + 1]) for count in range(5))]
_TIMES_BETA = (100, 10, 1, 0.1)


@dataclass(frozen=True)
class Axis:
    """One option and the `values` of its steps as they are typed, and the options of each; with none it is one step."""

    option: str | None
    values: Sequence[str]
    settings: Sequence[Mapping[str, Any]]

    @property
    def labels(self) -> list[str]:
        return [f"{(self.option or '').replace('_', ' ')} {value}" for value in self.values]


def make_axis(words: Sequence[str], flag: str) -> Axis:
    """The axis of `words`, an option's name and its values as the command has them; none make one step. OptionErrors
    name the `flag`."""
    if not words:
        return Axis(None, [], [{}])
    name, values = words[0].removeprefix("--").replace("-", "_"), words[1:]
    if name not in OPTIONS:
        raise OptionError(f"{flag} {words[0]!r} is not an option; the options are: {', '.join(OPTIONS)}")
    if not values or len(values) > _MOST_VALUES:
        raise OptionError(f"{flag} {name} has {len(values)} values; give 1 to {_MOST_VALUES}")
    try:
        return Axis(name, values, [{name: read_option(name, value)} for value in values])
    except OptionError as error:
        raise OptionError(f"{flag} {error}") from None


def run_grid(parsed: argparse.Namespace) -> int:
    given, ratios = given_options(vars(parsed)), None
    down, across = make_axis(parsed.down or [], "--down"), make_axis(parsed.across or [], "--across")
    if parsed.down is None and parsed.across is None:
        given = {"preset": "gatys", **given}
        preset = unsized_options(given)
        betas = [factor * preset.last_style_weight for factor in _TIMES_BETA]
        ratios = [f"α/β {preset.content_weight / beta:.0e}" for beta in betas]
        down = make_axis(_DOWN, "--down")
        across = make_axis(["style_weight", *(f"{beta:g}" for beta in betas)], "--across")
    if down.option is not None and down.option == across.option:
        raise OptionError(f"{down.option} is on both axes; choose another option for one of them")
    for name in given.keys() & {down.option, across.option}:
        raise OptionError(f"{name.replace('_', ' ')} has no effect beside the values of its axis; leave it out", name)
    outputs = Outputs(output=parsed.output, quiet=parsed.quiet)
    styles = style_paths(parsed.styles, *outputs.paths, *([] if parsed.keep is None else [f"{parsed.keep}/1.png"]))
    cells = [{**given, **row, **column} for row in down.settings for column in across.settings]
    jobs = [Job(parsed.content, styles, cell, outputs) for cell in cells]
    jobs[0].check()
    most = max(map(most_pixels, cells))
    content = open_picture(parsed.content, role="content", max_pixels=most)
    edges = [max(Stylizer(styles, **cell).prepare(content).scales[-1].size) for cell in cells]
    size, look = min(384, max(edges)) if parsed.cell is None else parsed.cell, Look(font=parsed.font)
    check_look(look, size)
    check_cells(len(cells), fitted_size(content.height, content.width, size))
    columns = len(across.settings)
    names = [f"{index // columns + 1}_{index % columns + 1}.png" for index in range(len(cells))]
    if down.option is None or across.option is None:
        names = [f"{index + 1}.png" for index in range(len(cells))]
    make_kept_folder(parsed.keep, names, outputs, [source for job in jobs for source in job.inputs])
    paths = [None if parsed.keep is None else Path(parsed.keep) / name for name in names]
    made, stop = _make_cells(content, styles, cells, paths, quiet=parsed.quiet)
    sheet = contact_sheet(
        in_rows([*(result.tensor for result in made), *[None] * (len(cells) - len(made))], columns),
        cell=size,
        row_labels=down.labels,
        column_labels=ratios or across.labels,
        title=parsed.title,
        look=look,
    )
    cells_of = in_rows([result.parameters for result in made], columns)
    axes = {name: {"option": axis.option, "values": axis.values} for name, axis in (("down", down), ("across", across))}
    save_sheet(sheet, outputs, {**axes, "cells": cells_of})
    if stop is not None:
        raise stop
    return 0


def _make_cells(
    content: AnyPicture,
    styles: Sequence[Any],
    cells: Sequence[Mapping[str, Any]],
    paths: Sequence[Path | None],
    *,
    quiet: bool,
) -> tuple[list[Result], BaseException | None]:
    """The pictures of `cells`, kept at their paths, and what stopped their making before the last, if one is made."""
    made: list[Result] = []
    bar = tqdm(paths, unit="picture", disable=quiet or None, file=sys.stderr)
    try:
        with on_stop_signal(), bar:
            for path, cell in zip(bar, cells, strict=True):
                try:
                    # A stylizer for each, let go at once: it holds a network.
                    made.append(Stylizer(styles, **cell)(content))
                except DivergedError as error:
                    warn(f"picture {len(made) + 1} of {len(cells)}: {error}; the sheet has the best image before that")
                    made.append(error.result)
                if path is not None:
                    made[-1].save(path)
    except (KeyboardInterrupt, FastnstError, RuntimeError, MemoryError) as stop:
        if not made:
            raise
        # They hold the memory of the picture that was not made.
        clear_frames(stop.__traceback__)
        return made, stop
    return made, None


def run_compare(parsed: argparse.Namespace) -> int:
    if parsed.columns is not None and parsed.columns < 1:
        raise OptionError(f"--columns {parsed.columns} is too small; it must be 1 or more")
    if parsed.labels is not None and len(parsed.labels) != len(parsed.images):
        raise OptionError(
            f"you gave {counted(len(parsed.labels), 'label')} for "
            f"{counted(len(parsed.images), 'picture')}; give one for each"
        )
    outputs = Outputs(output=parsed.output)
    Job(parsed.images[0], parsed.images[1:], {}, outputs).check()
    pictures = [load_image(path, role="the") for path in parsed.images]
    captions = parsed.labels or _captions(parsed.images)
    rows = partial(in_rows, columns=parsed.columns, width=pictures[0].width, height=pictures[0].height)
    sheet = contact_sheet(
        rows([picture.rgb for picture in pictures]),
        cell=parsed.cell,
        captions=rows(captions),
        title=parsed.title,
        look=Look(font=parsed.font),
    )
    save_sheet(sheet, outputs, {"compared": list(parsed.images)})
    return 0


def _captions(paths: Sequence[str]) -> list[str]:
    """Each picture's name, and where fastnst wrote it the options in which it differs."""
    records = {}
    for index, path in enumerate(paths):
        try:
            records[index] = read_parameters(path)
        except ImageError:  # another program's
            continue
    differing = dict(zip(records, differing_options(list(records.values())), strict=True))
    return [": ".join(filter(None, (Path(path).name, differing.get(index)))) for index, path in enumerate(paths)]


def make_kept_folder(folder: str | None, names: Sequence[str], outputs: Outputs, inputs: Sequence[object]) -> None:
    """Makes the folder in which pictures of these `names` are kept, beside the sheet. Raises FastnstError where they
    cannot be written, or where they or the sheet would replace each other or an input."""
    paths = [] if folder is None else [str(Path(folder) / name) for name in names]
    if folder is not None:
        make_folder(folder)
    for path in paths:
        check_output_path(path)
    check_apart((*outputs.paths, *paths), inputs)


def save_sheet(sheet: Image, outputs: Outputs, parameters: Mapping[str, Any]) -> None:
    """Writes the sheet, with `parameters` in its metadata, to its path or for `-` as PNG, and says so. Raises
    FastnstError, which says where it is, where that fails."""
    place, problem = written(partial(save_image, rgb=load_image(sheet, role="the").rgb, parameters=parameters), outputs)
    if problem is not None:
        raise FastnstError(f"{problem}; the sheet is saved in {place}")
    if not outputs.quiet:
        say(f"saved {place} ({sheet.width}×{sheet.height})")
