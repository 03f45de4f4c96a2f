"""`fastnst texture`: an image of the styles alone, from noise."""

import argparse
from typing import Any

# There is no content, and the size has two sides.
_LEFT_OUT = ("content_weight", "content_layers", "preserve_color", "size")


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import add_run

    parser = commands.add_parser(
        "texture",
        help="make a texture of a picture's style, from noise",
        usage="%(prog)s STYLE [STYLE …] -o OUT [--size WxH] [--tileable] [OPTION …]",
        description="Makes an image of the style of STYLE alone, from noise (Gatys, Ecker and Bethge 2015), with "
        "--preset texture where none is given. --style-layers says up to which size structures are taken over.",
        allow_abbrev=False,
    )
    parser.add_argument("styles", metavar="STYLE", nargs="+", help="the pictures whose texture it gets, or folders")
    parser.add_argument(
        "--size",
        dest="canvas",
        metavar="WxH",
        help="width and height of the result in pixels, or one number for a square (default: 512)",
    )
    parser.add_argument(
        "--tileable",
        action="store_true",
        help="make copies of it fit together without a seam; the sides are then multiples of the pooling grid (16)",
    )
    add_run(parser, leave_out=_LEFT_OUT, preset="texture")
    parser.set_defaults(run=run, together=True)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.job import Job, settings_of, style_paths
    from fastnst.app.cli.run import execute_together
    from fastnst.transfer.inputs import parse_canvas
    from fastnst.transfer.variants import texture_options

    options, outputs = settings_of(parsed)
    size = options.pop("size", 512)
    canvas = parse_canvas(size if parsed.canvas is None else parsed.canvas)
    options = texture_options(canvas, options, tileable=parsed.tileable)
    return execute_together(Job(canvas, style_paths(parsed.styles, parsed.output), options, outputs))
