"""`fastnst completion SHELL`: a script that completes the command in a shell."""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_parser(commands: Any, build_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Adds the command to those of `fastnst`, whose whole parser `build_parser` makes."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Prints a script of completions (fastnst[completion]). For bash, write "
        'eval "$(fastnst completion bash)" into ~/.bashrc; for zsh, save it as _fastnst in a folder of $fpath; for '
        "fish, as ~/.config/fish/completions/fastnst.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=partial(run, build_parser=build_parser))


def run(parsed: argparse.Namespace, build_parser: Callable[[], argparse.ArgumentParser]) -> int:
    from fastnst.errors import OptionError

    if importlib.util.find_spec("shtab") is None:
        raise OptionError('completion needs shtab; install it with pip install "fastnst[completion]"')
    import shtab

    if parsed.shell not in shtab.SUPPORTED_SHELLS:
        raise OptionError(f"the shtab that is installed does not know {parsed.shell}; install a newer one")
    print(shtab.complete(build_parser(), shell=parsed.shell))
    return 0
