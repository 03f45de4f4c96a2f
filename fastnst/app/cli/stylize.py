"""`fastnst stylize`, `fastnst texture` and `fastnst resume`: one run, anew or from where it was stopped."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.app.cli.arguments import Outputs, add_earlier_run, add_run

if TYPE_CHECKING:
    from fastnst.app.cli.job import Job

# A texture has no content, and its size has two sides.
_NO_TEXTURES = ("content_weight", "content_layers", "preserve_color", "size")


def add_parser(commands: Any) -> None:
    stylize = commands.add_parser(
        "stylize",
        help="render a picture in the style of others",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [OPTION …]",
        description="Renders CONTENT in the style of STYLE by optimising the image itself.",
        allow_abbrev=False,
    )
    stylize.add_argument("content", metavar="CONTENT", help="the picture to render; - reads it from stdin")
    stylize.add_argument(
        "styles", metavar="STYLE", nargs="+", help="the pictures whose style it gets, or folders of them"
    )
    add_run(stylize)
    stylize.set_defaults(run=run_stylize, together=True)

    texture = commands.add_parser(
        "texture",
        help="make a texture of a picture's style, from noise",
        usage="%(prog)s STYLE [STYLE …] -o OUT [--size WxH] [--tileable] [OPTION …]",
        description="Makes an image of the style of STYLE alone, from noise (Gatys, Ecker and Bethge 2015), with "
        "--preset texture where none is given. --style-layers says up to which size structures are taken over.",
        allow_abbrev=False,
    )
    texture.add_argument("styles", metavar="STYLE", nargs="+", help="the pictures whose texture it gets, or folders")
    size = "width and height of the result in pixels, or one number for a square (default: 512)"
    texture.add_argument("--size", dest="canvas", metavar="WxH", help=size)
    texture.add_argument(
        "--tileable",
        action="store_true",
        help="make copies of it fit together without a seam; the sides are then multiples of the pooling grid (16)",
    )
    add_run(texture, leave_out=_NO_TEXTURES, preset="texture")
    texture.set_defaults(run=run_texture, together=True)

    resume = commands.add_parser(
        "resume",
        help="go on with a run from its checkpoint",
        description="Goes on with the run whose CHECKPOINT `fastnst stylize --checkpoint` wrote, and on with the "
        "checkpoint. On a CPU the image is that of the run that was not stopped, bit for bit.",
        allow_abbrev=False,
    )
    resume.add_argument("saved", metavar="CHECKPOINT", help="the file that --checkpoint wrote")
    add_earlier_run(resume)
    for name, what in (("device", "another device"), ("tile", "other tiles"), ("max-memory", "another memory limit")):
        resume.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="X", help=f"{what} than the run had")
    resume.set_defaults(run=run_resume, together=True)


def run_stylize(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.run import execute_together

    return execute_together(make_job(parsed))


def make_job(parsed: argparse.Namespace) -> "Job":
    """The job of the parsed arguments. Raises FastnstError as `settings_of` and `style_paths` do."""
    from fastnst.app.cli.job import Job, settings_of, style_paths

    return Job(parsed.content, style_paths(parsed.styles, parsed.output), *settings_of(parsed))


def run_texture(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.job import Job, settings_of, style_paths
    from fastnst.app.cli.run import execute_together
    from fastnst.transfer.inputs import parse_canvas
    from fastnst.transfer.variants import texture_options

    options, outputs = settings_of(parsed)
    size = options.pop("size", 512)
    canvas = parse_canvas(size if parsed.canvas is None else parsed.canvas)
    options = texture_options(canvas, options, tileable=parsed.tileable)
    return execute_together(Job(canvas, style_paths(parsed.styles, parsed.output), options, outputs))


def run_resume(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.job import Job
    from fastnst.app.cli.run import execute_together
    from fastnst.transfer.checkpoint import CheckpointError, load_run

    if getattr(parsed, "checkpoint", None) is not None:
        raise CheckpointError("the run goes on with its own checkpoint; leave --checkpoint out")
    path = Path(parsed.saved)
    content, styles, options = load_run(path, check=False).again(
        content=parsed.content, style=parsed.styles, init=parsed.init, masks=parsed.masks
    )
    options.update({name: getattr(parsed, name) for name in ("device", "tile", "max_memory") if name in parsed})
    outputs = replace(Outputs.of(vars(parsed)), checkpoint=parsed.saved)
    return execute_together(Job(content, styles, options, outputs), saved=path)
