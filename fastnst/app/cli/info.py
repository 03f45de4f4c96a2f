"""`fastnst info OUT`: how an image, at a path or on the standard input, was made."""

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from fastnst.app.cli.arguments import STANDARD, standard_input
from fastnst.image.metadata import read_parameters, to_json
from fastnst.network.architecture import ATTRIBUTION
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options

_COLUMN, _WIDTH = 11, 100


def run(parsed: argparse.Namespace) -> int:
    parameters = read_parameters(standard_input() if parsed.image == STANDARD else parsed.image)
    if parsed.json:
        print(json.dumps(parameters, indent=2))
        return 0
    for name, value in parameters.items():
        if name == "options" and isinstance(value, dict):
            print("\n".join(_option_lines(value)))
        elif value is not None:
            print(f"{_printable(name):10} {_readable(value)}")
    weights = parameters.get("weights")
    if isinstance(weights, dict) and weights.get("source") == "original":
        print(f"{'network':10} {ATTRIBUTION}")
    return 0


def _option_lines(options: Mapping[str, Any]) -> list[str]:
    """The options that are not as their preset has them, then the others."""
    preset, usual = options.get("preset"), dict[str, Any]()
    if isinstance(preset, str) and preset in PRESETS:
        usual = json.loads(to_json(resolve_options(preset=preset).as_dict()))
    own = {name: value for name, value in options.items() if name == "preset" or usual.get(name, ...) != value}
    rest = {name: value for name, value in options.items() if name not in own}
    return [*_wrapped("options", own), *(_wrapped("as preset", rest) if rest else [])]


def _typed(value: Any) -> str:
    """Layers as the command takes them, conv1_1=0.5 conv3_1=0.5; other values as they are read."""
    if isinstance(value, dict) and value:
        return " ".join(f"{_printable(layer)}={_readable(weight)}" for layer, weight in value.items())
    return _readable(value)


def _wrapped(name: str, options: Mapping[str, Any]) -> list[str]:
    """Lines that break between options alone."""
    text = ", ".join(f"{_printable(name)} {_typed(value)}" for name, value in options.items())
    glued = text.replace(" ", "\u00a0").replace(",\u00a0", ", ")
    lines = textwrap.wrap(glued, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False)
    headings = [name, *[""] * len(lines)]
    return [f"{head:{_COLUMN}}{line}".replace("\u00a0", " ") for head, line in zip(headings, lines, strict=False)]


def _readable(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{_printable(name)} {_readable(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(_readable(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else _printable(str(value))


def _printable(text: str) -> str:
    """`text` with what would steer a terminal, or is no character (a lone surrogate), as an escape sequence."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
