"""The arguments of every subcommand as Markdown, from the parsers themselves: `python -m bench.command_reference`."""

import argparse
import textwrap
from collections.abc import Iterable
from dataclasses import fields

from fastnst.app.cli import build_parser
from fastnst.options.options import Options


def command_reference() -> str:
    """A section for each subcommand: what it does, its usage, and a table of its arguments.

    The options of a run, which have a page of their own, are named in one line where a command has them all.
    """
    return "\n\n".join(_section(name, parser) for name, parser in subcommands(build_parser()).items())


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand by its name, in the order of `--help`."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    options = {option.name for option in fields(Options)}
    has_all = options <= {action.dest for action in actions}
    own = [action for action in actions if not (has_all and action.dest in options)]
    parts = [f"## fastnst {name}", parser.description or "", f"```text\n{_usage(parser.prog, own, has_all)}\n```"]
    if own:
        rows = "\n".join(f"| {_name(action)} | {_meaning(action)} |" for action in own)
        parts.append(f"| Argument | Meaning |\n| --- | --- |\n{rows}")
    if has_all:
        parts.append("And all the [options of a run](options.md).")
    return "\n\n".join(part for part in parts if part)


def _usage(prog: str, actions: Iterable[argparse.Action], has_all: bool) -> str:
    words = [prog]
    for action in actions:
        word = f"{min(action.option_strings, key=len, default='')} {_values(action)}".strip()
        words.append(word if action.required or word.startswith("[") else f"[{word}]")
    # Brackets stay on one line.
    glued = [word.replace(" ", "\u00a0") for word in [*words, *(["[OPTION …]"] if has_all else [])]]
    wrapped = textwrap.fill(
        " ".join(glued), width=88, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    return wrapped.replace("\u00a0", " ")


def _name(action: argparse.Action) -> str:
    words = f"{', '.join(action.option_strings)} {_values(action)}"
    return f"`{words.strip()}`"


def _values(action: argparse.Action) -> str:
    """The values of an argument as one would write them; nothing for a flag."""
    if action.nargs == 0:
        return ""
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    several = {"+": f"{name} [{name} …]", "*": f"[{name} …]", "?": f"[{name}]"}
    return several.get(str(action.nargs), str(name))


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    print(command_reference())
