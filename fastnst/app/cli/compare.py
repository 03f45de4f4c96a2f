"""`fastnst compare`: several results side by side, each with the options in which they differ."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import whole_number

    parser = commands.add_parser(
        "compare",
        help="put results side by side, with the options in which they differ",
        description="Puts pictures on one sheet. Under each that fastnst wrote stand its loss and the options in which "
        "they differ; under any other stands its name.",
        allow_abbrev=False,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="the pictures, in order")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the sheet; - writes it to stdout")
    parser.add_argument(
        "--columns", metavar="N", type=whole_number, help="pictures in a row (default: as fits a screen)"
    )
    parser.add_argument("--cell", metavar="PX", type=whole_number, default=384, help="long edge of each (default: 384)")
    parser.add_argument("--labels", metavar="TEXT", nargs="+", help="captions in place of the options, one for each")
    parser.add_argument("--title", metavar="TEXT", default="", help="a line above all")
    parser.add_argument("--font", metavar="FILE", help="a .ttf or .otf file, for letters beyond ASCII")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from fastnst.app.cli.job import Job, Outputs
    from fastnst.app.cli.sheet_output import save_sheet
    from fastnst.errors import ImageError, OptionError
    from fastnst.image.metadata import read_parameters
    from fastnst.image.read import load_image
    from fastnst.image.sheet import Look, contact_sheet, differing_options, in_rows

    if parsed.columns is not None and parsed.columns < 1:
        raise OptionError(f"--columns {parsed.columns} is too small; it must be 1 or more")
    if parsed.labels is not None and len(parsed.labels) != len(parsed.images):
        raise OptionError(f"{len(parsed.labels)} labels for {len(parsed.images)} pictures; give one for each")
    Job(parsed.images[0], parsed.images[1:], {}, Outputs(output=parsed.output)).check()
    pictures = [load_image(path, role="the") for path in parsed.images]
    captions = parsed.labels
    if captions is None:
        records = []
        for path in parsed.images:
            try:
                records.append(read_parameters(path))
            except ImageError:  # not one of ours
                records.append({})
        told = differing_options([record for record in records if record])
        captions = [
            told.pop(0) or Path(path).name if record else Path(path).name
            for path, record in zip(parsed.images, records, strict=True)
        ]
    if parsed.columns is not None:
        starts = range(0, len(pictures), parsed.columns)
        rows = [list(range(len(pictures)))[start : start + parsed.columns] for start in starts]
    else:
        rows = in_rows(range(len(pictures)), width=pictures[0].width, height=pictures[0].height)
    sheet = contact_sheet(
        [[pictures[index].rgb for index in row] for row in rows],
        cell=parsed.cell,
        captions=[[captions[index] for index in row] for row in rows],
        title=parsed.title,
        look=Look(font=parsed.font),
    )
    save_sheet(sheet, parsed.output, {"compared": list(parsed.images)})
    return 0
