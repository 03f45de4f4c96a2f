"""`fastnst info OUT`: how an image, at a path or on the standard input, was made."""

import argparse
import json
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    parser = commands.add_parser("info", help="print how an image was made", description="Prints how OUT was made.")
    parser.add_argument("image", metavar="OUT", help="an image that fastnst wrote; - reads it from stdin")
    parser.add_argument("--json", action="store_true", help="print the parameters as JSON")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.job import STANDARD, standard_input
    from fastnst.output import read_parameters

    parameters = read_parameters(standard_input() if parsed.image == STANDARD else parsed.image)
    if parsed.json:
        print(json.dumps(parameters, indent=2))
        return 0
    for name, value in parameters.items():
        print(f"{_shown(name):10} {_readable(value)}")
    return 0


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_shown(name)} {_readable(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(_readable(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else _shown(str(value))


def _shown(text: str) -> str:
    """`text` with what would steer a terminal, or is no character (a lone surrogate), as an escape sequence."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
