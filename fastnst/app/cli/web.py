"""`fastnst web`: the page, on this machine."""

import argparse
import importlib.util
from typing import Any

from fastnst.app.cli.arguments import OPTIONS, add_option, whole_number
from fastnst.errors import OptionError
from fastnst.options.parse import parse_memory

HOST_OPTIONS = ("network", "weights", "device", "max_memory", "backend")
"""Decided by the one who starts the page, for all runs."""
_PORT = 8017


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "web",
        help="serve a page to stylize pictures in a browser",
        description="Serves a page (fastnst[web]) on which to drop pictures, move the controls and watch the image "
        "form. Only this machine reaches it; nothing is loaded from elsewhere, and pictures and results stay in memory "
        "until the command ends.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port", metavar="N", type=whole_number, default=_PORT, help=f"its port; 0 is any free one (default: {_PORT})"
    )
    parser.add_argument(
        "--max-size",
        metavar="PX",
        type=whole_number,
        default=2048,
        help="largest --size that may be asked for (default: 2048)",
    )
    parser.add_argument(
        "--max-upload", metavar="SIZE", default="32MB", help="most bytes of a picture's file (default: 32MB)"
    )
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=whole_number,
        default=50_000_000,
        help="most pixels of one (default: 50000000)",
    )
    for name in HOST_OPTIONS:
        add_option(parser, OPTIONS[name])
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise OptionError(f'the page needs {package}; install it with pip install "fastnst[web]"')

    from fastnst.app.web.results import Limits
    from fastnst.app.web.serve import serve

    try:
        upload_bytes = parse_memory(parsed.max_upload) or 0
    except OptionError as error:
        raise OptionError(str(error).replace("max memory", "max upload", 1)) from None
    limits = Limits(upload_bytes=upload_bytes, pixels=parsed.max_pixels, size=parsed.max_size)
    options = {name: getattr(parsed, name) for name in HOST_OPTIONS if name in parsed}
    serve(parsed.port, options, limits)
    return 0
