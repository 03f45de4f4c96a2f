"""Options from a file: TOML with the names that the command has."""

import difflib
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastnst.app.cli.arguments import OUTPUT_ARGUMENTS
from fastnst.errors import OptionError
from fastnst.options.options import Options, resolve_options

# More than a thousand times what all options take.
_MOST_BYTES = 1_000_000


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options of `stylize`, and the arguments that say where output goes, that the file sets.

    The names are those of the command, with dashes or underscores; the values are TOML's strings, numbers, lists and
    booleans, and for layers a table from name to weight too:

        size = 768
        scales = "none"
        style-weight = 200.0
        style_layers = {conv1_1 = 0.5, conv2_1 = 0.5}
        bit-depth = 16

    Raises OptionError, with the file's name, if it cannot be read, is no TOML, or has an unknown name, one name twice,
    or a value of a wrong type or out of range.
    """
    name = os.fsdecode(path)
    entries = _entries(name)
    known = {option.name for option in fields(Options)} | {argument.name for argument in OUTPUT_ARGUMENTS}
    found: dict[str, Any] = {}
    for key, value in entries.items():
        option = key.replace("-", "_")
        if option not in known:
            raise OptionError(f"config {name!r}: unknown option {key!r}{_suggestion(option, known)}")
        if option in found:
            raise OptionError(f"config {name!r}: {option} is set twice, with a dash and with an underscore; keep one")
        found[option] = value
    try:
        _check_outputs(found)
        resolve_options(**{key: value for key, value in found.items() if key in Options.__dataclass_fields__})
    except OptionError as error:
        raise OptionError(f"config {name!r}: {error}") from None
    return found


def _entries(name: str) -> dict[str, Any]:
    try:
        with Path(name).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"config {name!r} cannot be read ({reason}); check the path") from None
    if len(data) > _MOST_BYTES:
        raise OptionError(f"config {name!r} is larger than a file of options can be; check the path")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise OptionError(f"config {name!r} is not text in UTF-8; save it as UTF-8") from None
    except RecursionError:
        raise OptionError(f"config {name!r} is not TOML that can be read: it nests too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what Python says of a number of thousands of digits
        raise OptionError(f"config {name!r} is not TOML: {error}; see toml.io for how it is written") from None


def _check_outputs(found: dict[str, Any]) -> None:
    words = {str: 'a text, as in "out.png"', int: "a whole number", bool: "true or false"}
    for argument in OUTPUT_ARGUMENTS:
        value = found.get(argument.name)
        if value is None:
            continue
        if not isinstance(value, argument.kind) or (argument.kind is int and isinstance(value, bool)):
            raise OptionError(f"{argument.name} {value!r} is not {words[argument.kind]}")
        if argument.choices and value not in argument.choices:
            raise OptionError(f"unknown {argument.name} {value!r}; choose one of: {', '.join(argument.choices)}")


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; the names are those of fastnst stylize --help"
