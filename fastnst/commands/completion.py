"""`fastnst completion SHELL`: a script that completes the command in a shell."""

import argparse
import importlib.util
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Prints a script of completions (fastnst[completion]). For bash, write "
        'eval "$(fastnst completion bash)" into ~/.bashrc; for zsh, save it as _fastnst in a folder of $fpath; for '
        "fish, as ~/.config/fish/completions/fastnst.fish.",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.cli import build_parser
    from fastnst.errors import OptionError

    if importlib.util.find_spec("shtab") is None:
        raise OptionError('completion needs shtab; install it with pip install "fastnst[completion]"')
    import shtab

    if parsed.shell not in shtab.SUPPORTED_SHELLS:
        raise OptionError(f"the shtab that is installed does not know {parsed.shell}; install a newer one")
    print(shtab.complete(build_parser(), shell=parsed.shell))
    return 0
