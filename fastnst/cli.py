"""The command `fastnst`: its arguments, and how its errors are shown."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, NoReturn, TextIO

from fastnst import __version__
from fastnst.errors import FastnstError, FastnstWarning
from fastnst.options import Options

EXIT_BAD_INPUT = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 for bad input or a failed check, 130 for Ctrl-C."""
    # Before torch is imported: threads that wait by spinning make a run ten times slower beside another busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parsed = build_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _plain_warning
        warnings.simplefilter("always", FastnstWarning)
        try:
            return int(parsed.run(parsed))
        except FastnstError as error:
            _complain(error)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            _complain("interrupted")
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            sys.stderr.close()
            return EXIT_BAD_INPUT


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastnst",
        description="Neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).",
    )
    parser.add_argument("--version", action="version", version=f"fastnst {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_stylize(commands)
    _add_info(commands)
    _add_verify(commands)
    _add_profile(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _add_stylize(commands: Any) -> None:
    parser = commands.add_parser(
        "stylize",
        help="render a picture in the style of others",
        description="Renders CONTENT in the style of STYLE by optimising the image itself.",
        allow_abbrev=False,
    )
    parser.add_argument("content", metavar="CONTENT", help="the picture to render")
    parser.add_argument("styles", metavar="STYLE", nargs="+", help="the picture or pictures whose style it gets")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the result: .png, .jpg, .webp or .tif")
    for option in fields(Options):
        _add_option(parser, option)
    parser.add_argument(
        "--save-every",
        metavar="N",
        type=int,
        help="also write the image every N iterations, beside OUT, with the iteration in its name",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no closing line")
    parser.add_argument("--json", action="store_true", help="print losses and parameters as one JSON object on stdout")
    parser.set_defaults(run=_run_stylize)


def _add_option(parser: argparse.ArgumentParser, option: "Field[Any]") -> None:
    facts = option.metadata
    parser.add_argument(
        "--" + option.name.replace("_", "-"),
        default=argparse.SUPPRESS,
        choices=facts["choices"] or None,
        metavar=facts["metavar"],
        nargs="+" if facts["many"] else None,
        type=_parse_as(option),
        help=f"{facts['meaning']} (default: {describe_default(option)})",
    )


def _parse_as(option: "Field[Any]") -> Any:
    if option.name == "scales":
        return _scale
    if option.name == "style_weights" or option.type in (float, float | None):
        return float
    return int if option.type is int else str


def _scale(word: str) -> int | str:
    return word if word == "none" else int(word)


def describe_default(option: "Field[Any]") -> str:
    """The default as a user would type it."""
    default = option.metadata["shown"] or option.default
    if isinstance(default, tuple):
        return " ".join(name for name, _ in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print how an image was made", description="Prints how OUT was made.")
    parser.add_argument("image", metavar="OUT", help="an image that fastnst wrote")
    parser.add_argument("--json", action="store_true", help="print the parameters as JSON")
    parser.set_defaults(run=_run_info)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check every kernel against float64",
        description="Checks each op × dtype × layout × layer shape against float64, forward and backward.",
    )
    parser.add_argument(
        "--backend", choices=("all", "triton", "torch"), default="all", help="what to check (default: all)"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="side of the square image whose layers are checked (default: 512 on a GPU, 256 on a CPU)",
    )
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object on stdout")
    parser.set_defaults(run=_run_verify)


def _add_profile(commands: Any) -> None:
    parser = commands.add_parser(
        "profile",
        help="time the losses at the style layers",
        description="Times forward, loss and backward of the Gram loss at the five style layers of an image.",
    )
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="side of the square image (default: 512)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto", help="dtype of the features"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 …")
    parser.add_argument("--backend", choices=("auto", "triton", "torch"), default="auto", help="what to time")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="interleaved rounds (default: 7)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object on stdout")
    parser.set_defaults(run=_run_profile)


def _run_stylize(parsed: argparse.Namespace) -> int:
    from fastnst.commands.stylize import run

    return run(parsed)


def _run_info(parsed: argparse.Namespace) -> int:
    from fastnst.commands.info import run

    return run(parsed)


def _run_verify(parsed: argparse.Namespace) -> int:
    from fastnst.commands.verify import run

    return run(parsed)


def _run_profile(parsed: argparse.Namespace) -> int:
    from fastnst.commands.profile import run

    return run(parsed)


def _plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"fastnst: warning: {message}", file=sys.stderr)


def _complain(message: object) -> None:
    print(f"fastnst: error: {message}", file=sys.stderr)
