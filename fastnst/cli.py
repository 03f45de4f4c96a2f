"""The command `fastnst`: its arguments, and how its errors are shown."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from fastnst import __version__
from fastnst.arguments import (
    Parser,
    add_option,
    add_options,
    add_output,
    add_output_arguments,
    describe_default,
    whole_number,
)
from fastnst.commands import batch, compare, completion, env, grid, plan, reconstruct, rerun, resume, texture, web
from fastnst.errors import FastnstError, FastnstWarning, Interrupted, OptionError

__all__ = ["add_option", "build_parser", "describe_default", "main"]

EXIT_BAD_INPUT = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 for bad input or a failed check, 130 for Ctrl-C."""
    # Before torch is imported: threads that wait by spinning make a run ten times slower beside another busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _make_streams_safe()
    parsed = build_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _plain_warning
        warnings.simplefilter("always", FastnstWarning)
        try:
            _check_alone(parsed)
            code = int(parsed.run(parsed))
            sys.stdout.flush()
            return code
        except FastnstError as error:
            _complain(error)
            return EXIT_BAD_INPUT
        except (KeyboardInterrupt, Interrupted) as stop:
            _complain(f"interrupted. {stop}".removesuffix(". "))
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            # What reads our output has had enough; the interpreter must not try to write the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_BAD_INPUT
        except OSError as error:
            _complain(
                f"{error.strerror or error} on the standard output or a file; free some space or choose another place"
            )
            return EXIT_BAD_INPUT


def _check_alone(parsed: argparse.Namespace) -> None:
    """Raises OptionError where torchrun started several processes of a command that one does alone."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ and not getattr(parsed, "together", False):
        raise OptionError(
            "several processes share the work of stylize, texture, reconstruct and resume alone; start this one "
            "without torchrun"
        )


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fastnst",
        description="Neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).",
    )
    parser.add_argument("--version", action="version", version=f"fastnst {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_stylize(commands)
    texture.add_parser(commands)
    reconstruct.add_parser(commands)
    resume.add_parser(commands)
    batch.add_parser(commands)
    grid.add_parser(commands)
    compare.add_parser(commands)
    rerun.add_parser(commands)
    web.add_parser(commands)
    _add_info(commands)
    plan.add_parser(commands)
    _add_verify(commands)
    _add_profile(commands)
    _add_kernels(commands)
    env.add_parser(commands)
    completion.add_parser(commands)
    return parser


def _add_stylize(commands: Any) -> None:
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
    add_output(parser)
    add_options(parser)
    add_output_arguments(parser)
    parser.set_defaults(run=_run_stylize, together=True)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print how an image was made", description="Prints how OUT was made.")
    parser.add_argument("image", metavar="OUT", help="an image that fastnst wrote; - reads it from stdin")
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
        help="time the losses at the style layers, or model a GPU that is not here",
        description="Times forward, loss and backward of the Gram loss at the five style layers of an image; with "
        "--target nothing runs, and a model of that GPU is printed instead.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--size", type=whole_number, default=512, metavar="PX", help="side of the square image (default: 512)"
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto", help="dtype of the features"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 …")
    parser.add_argument("--backend", choices=("auto", "triton", "torch"), default="auto", help="what to time")
    parser.add_argument("--rounds", type=whole_number, default=7, metavar="N", help="interleaved rounds (default: 7)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument(
        "--compile-mode",
        choices=("default", "max-autotune"),
        default="default",
        help="torch.compile's mode; max-autotune takes minutes (default: default)",
    )
    parser.add_argument("--plot", metavar="FILE", help="also draw the roofline: .png, .svg or .pdf (fastnst[plot])")
    parser.add_argument("--trace", metavar="FILE", help="also write a trace to open in Perfetto: .json")
    parser.add_argument(
        "--target", metavar="NAME", help="model this GPU from its data sheet: sm_80 … sm_120, gfx942 or gfx1100"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object on stdout")
    parser.set_defaults(run=_run_profile)


def _add_kernels(commands: Any) -> None:
    parser = commands.add_parser(
        "kernels",
        help="build every kernel for a GPU that need not be here",
        description="Builds each kernel × dtype × layout × shape class ahead of time and shows what the compiler made "
        "of it: registers, spills, shared memory, occupancy, matrix instructions, widths of loads and stores. The exit "
        "code is 1 if one spills, needs more shared memory than there is, leaves the matrix unit idle, or reads or "
        "writes aligned features less than 16 bytes at a time.",
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        nargs="+",
        required=True,
        help="sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, gfx942, gfx1100, or all",
    )
    parser.add_argument("--kernel", metavar="NAME", nargs="+", help="these kernels alone, as partial_gram")
    parser.add_argument("--shapes", metavar="SHAPE", nargs="+", help="these shape classes alone, as conv1_1 odd")
    parser.add_argument("--modes", metavar="MODE", nargs="+", help="float32, tf32, float16, bfloat16 (default: all)")
    parser.add_argument(
        "--jobs", metavar="N", type=whole_number, help="builds at once (default: the number of processors)"
    )
    parser.add_argument("--json", action="store_true", help="print the builds as one JSON object on stdout")
    parser.set_defaults(run=_run_kernels)


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


def _run_kernels(parsed: argparse.Namespace) -> int:
    from fastnst.commands.kernels import run

    return run(parsed)


def _make_streams_safe() -> None:
    """A closed stream goes nowhere, and a character that a stream cannot write is written as its code."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (it stays open for the life of the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
