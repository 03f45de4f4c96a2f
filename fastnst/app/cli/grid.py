"""`fastnst grid` and `fastnst compare`: several pictures on one labelled sheet.

A grid is made of one pair, with the values of one option down and of another across; a comparison of results.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image
from tqdm import tqdm

from fastnst.app.cli import say
from fastnst.app.cli.arguments import OPTIONS, Outputs, given_options, read_option
from fastnst.app.cli.job import Job
from fastnst.errors import ImageError, OptionError, counted
from fastnst.image.files import check_apart, make_folder
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image, open_picture
from fastnst.image.sheet import Look, check_look, contact_sheet, differing_options, in_rows
from fastnst.image.write import check_output_path, save_image
from fastnst.network.architecture import PAPER_STYLE_LAYERS
from fastnst.options.resolve import resolve_options
from fastnst.transfer.inputs import most_pixels, sized
from fastnst.transfer.result import Result
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

    def as_dict(self) -> dict[str, Any]:
        return {"option": self.option, "values": list(self.values)}


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
        preset = resolve_options(**{name: value for name, value in given.items() if name != "style_weight"})
        betas = [factor * preset.last_style_weight for factor in _TIMES_BETA]
        ratios = [f"α/β {preset.content_weight / beta:.0e}" for beta in betas]
        down = make_axis(_DOWN, "--down")
        across = make_axis(["style_weight", *(f"{beta:g}" for beta in betas)], "--across")
    if down.option is not None and down.option == across.option:
        raise OptionError(f"{down.option} is on both axes; choose another option for one of them")
    Job(parsed.content, parsed.styles, given, Outputs(output=parsed.output)).check()
    cells = [{**given, **row, **column} for row in down.settings for column in across.settings]
    most = max(map(most_pixels, cells))
    content = open_picture(parsed.content, role="content", max_pixels=most)
    resolved = [resolve_options(**sized(cell, content)) for cell in cells]
    size = min(384, max(options.size for options in resolved)) if parsed.cell is None else parsed.cell
    look = Look(font=parsed.font)
    check_look(look, size)
    for cell in cells:
        Stylizer(parsed.styles, **cell).prepare(content)
    columns = len(across.settings)
    names = [f"{index // columns + 1}_{index % columns + 1}.png" for index in range(len(cells))]
    if down.option is None or across.option is None:
        names = [f"{index + 1}.png" for index in range(len(cells))]
    make_kept_folder(parsed.keep, names, parsed.output, [parsed.content, *parsed.styles])
    made: list[Result] = []
    disabled = True if parsed.quiet else None
    for name, cell in zip(tqdm(names, unit="picture", disable=disabled, file=sys.stderr), cells, strict=True):
        # A stylizer for each, let go at once: it holds a network.
        made.append(Stylizer(parsed.styles, **cell)(content))
        if parsed.keep is not None:
            made[-1].save(Path(parsed.keep) / name)
    results = in_rows(made, columns)
    sheet = contact_sheet(
        [[result.tensor for result in row] for row in results],
        cell=size,
        row_labels=down.labels,
        column_labels=ratios or across.labels,
        title=parsed.title,
        look=look,
    )
    cells_of = [[result.parameters for result in row] for row in results]
    parameters = {"down": down.as_dict(), "across": across.as_dict(), "cells": cells_of}
    save_sheet(sheet, parsed.output, parameters, quiet=parsed.quiet)
    return 0


def run_compare(parsed: argparse.Namespace) -> int:
    if parsed.columns is not None and parsed.columns < 1:
        raise OptionError(f"--columns {parsed.columns} is too small; it must be 1 or more")
    if parsed.labels is not None and len(parsed.labels) != len(parsed.images):
        raise OptionError(
            f"you gave {counted(len(parsed.labels), 'label')} for "
            f"{counted(len(parsed.images), 'picture')}; give one for each"
        )
    Job(parsed.images[0], parsed.images[1:], {}, Outputs(output=parsed.output)).check()
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
    save_sheet(sheet, parsed.output, {"compared": list(parsed.images)})
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


def make_kept_folder(folder: str | None, names: Sequence[str], output: str, inputs: Sequence[str]) -> None:
    """Makes the folder in which pictures of these `names` are kept, beside the `output`. Raises FastnstError where they
    cannot be written, or would replace that or an input."""
    if folder is not None:
        make_folder(folder)
        paths = [Path(folder) / name for name in names]
        for path in paths:
            check_output_path(path)
        check_apart((output, *paths), inputs)


def save_sheet(sheet: Image, output: str, parameters: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Writes the sheet, with `parameters` in its metadata, to the path `output` or for `-` as PNG, and says so."""
    outputs = Outputs(output=output)
    save_image(outputs.target, load_image(sheet, role="the").rgb, parameters=parameters)
    if not quiet:
        say(f"saved {outputs.label} ({sheet.width}×{sheet.height})")
