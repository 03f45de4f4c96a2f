"""`fastnst stylize`: a picture in the style of others."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnst.app.cli.job import Job


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import add_run

    parser = commands.add_parser(
        "stylize",
        help="render a picture in the style of others",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [OPTION …]",
        description="Renders CONTENT in the style of STYLE by optimising the image itself.",
        allow_abbrev=False,
    )
    parser.add_argument("content", metavar="CONTENT", help="the picture to render; - reads it from stdin")
    parser.add_argument(
        "styles", metavar="STYLE", nargs="+", help="the pictures whose style it gets, or folders of them"
    )
    add_run(parser)
    parser.set_defaults(run=run, together=True)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.run import execute_together

    return execute_together(make_job(parsed))


def make_job(parsed: argparse.Namespace) -> "Job":
    """The job of the parsed arguments. Raises FastnstError as `settings_of` and `style_paths` do."""
    from fastnst.app.cli.job import Job, settings_of, style_paths

    return Job(parsed.content, style_paths(parsed.styles, parsed.output), *settings_of(parsed))
