"""The command `fastnst`: its subcommands, its exit codes, and how its errors are shown."""

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fastnst import __version__
from fastnst.app.cli.arguments import Parser
from fastnst.app.cli.commands import RENDERING
from fastnst.app.cli.tools import TOOLS
from fastnst.errors import FastnstError, FastnstWarning, Interrupted, OptionError

EXIT_BAD_INPUT = 1
"""Bad input, or a check that failed."""
EXIT_USAGE = 2
"""No command was given, or arguments that are wrong."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, or a signal like it: as a shell has it, 128 and the number of SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, 0 or one of those above."""
    if (cores := usable_cores()) is not None:
        # Before torch is imported, which knows nothing of a container's share of the processor.
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    _make_streams_safe()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        build_parser().print_help(sys.stderr)
        return EXIT_USAGE
    parsed = build_parser().parse_args(words)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        warnings.simplefilter("always", FastnstWarning)
        try:
            together = getattr(parsed, "together", False)
            if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1") and "RANK" in os.environ and not together:
                raise OptionError(
                    "only stylize, texture, reconstruct and resume can be shared by several processes; start this "
                    "command without torchrun"
                )
            module, name = parsed.run.split(".")
            code = int(getattr(import_module(f"fastnst.app.cli.{module}"), name)(parsed))
            sys.stdout.flush()
            return code
        except FastnstError as error:
            _complain(_as_typed(error, words))
            return EXIT_BAD_INPUT
        except (KeyboardInterrupt, Interrupted) as stop:
            _complain(f"interrupted. {stop}".removesuffix(". "))
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            drop_output()
            return EXIT_BAD_INPUT
        except (MemoryError, RuntimeError) as error:
            from fastnst.network.runtime import is_out_of_memory  # after torch

            if not is_out_of_memory(error):
                raise
            _complain("there is not enough memory; lower --size, or close other programs")
            return EXIT_BAD_INPUT
        except OSError as error:
            where = "while writing to the standard output or a file"
            where = where if error.filename is None else f"at {error.filename!r}"
            _complain(f"{error.strerror or error} {where}; free some space or choose another place")
            return EXIT_BAD_INPUT


def usable_cores() -> int | None:
    """The physical cores that this process may use, on Linux: those of its affinity, up to its control group's share.

    None where the system does not tell: torch's own number is as good.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    share = len(cores)
    # Without a limit the first word is "max".
    with contextlib.suppress(OSError, ValueError):
        granted, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        share = math.ceil(granted / period)
    return max(1, min(len(cores), share))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command. Its namespace has `run`, the module and the name of a function of the namespace."""
    parser = Parser(
        prog="fastnst",
        description="Neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).",
        epilog="Type fastnst COMMAND --help to see the arguments of a command. To begin, type: fastnst stylize "
        "photo.jpg painting.jpg -o result.png",
    )
    version = f"fastnst {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (*RENDERING, *TOOLS):
        add(commands)
    return parser


def _make_streams_safe() -> None:
    """A closed stream goes nowhere, and a character that a stream cannot write is written as its code."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (it stays open for the life of the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Lets the standard output, which nobody reads any more, go nowhere: the interpreter writes the rest at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(message: object) -> None:
    """Prints a line on stderr, after the command's name."""
    print(f"fastnst: {message}", file=sys.stderr, flush=True)


def _as_typed(error: FastnstError, words: Sequence[str]) -> str:
    """The error's message, where one of the options that it speaks of stands among the `words` with all as flags."""
    message = str(error)
    flags = {name.replace("_", " "): f"--{name.replace('_', '-')}" for name in getattr(error, "options", ())}
    if not {word.partition("=")[0] for word in words}.isdisjoint(flags.values()):
        for spoken, flag in flags.items():
            message = re.sub(rf"(?<![\w-]){spoken}(?![\w-])", flag, message)
    return message


def _complain(message: object) -> None:
    say(f"error: {message}")
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # torchrun ends with a report of its own, and shows there what this file says.
        with contextlib.suppress(OSError):
            facts = {"message": f"fastnst: error: {message}", "extraInfo": {"timestamp": str(int(time.time()))}}
            Path(report).write_text(json.dumps({"message": facts}))
