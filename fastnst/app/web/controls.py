"""The controls of the page, from the one definition of the options, and the way back from a filled form to options."""

from collections.abc import Mapping
from dataclasses import Field
from types import MappingProxyType
from typing import Any

from fastnst.app.cli.arguments import HOST_OPTIONS, OPTIONS, read_option, typed
from fastnst.app.web.results import Limits
from fastnst.errors import OptionError
from fastnst.options.options import GROUPS, Options
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options

MAIN = ("preset", "size", "style_weight", "iterations", "preserve_color")
"""Shown at once; the other controls are a click away."""

# The start of a run has a control of its own, and the pixels of a picture are the page's limit.
_NOT_OFFERED = (*HOST_OPTIONS, "init", "max_pixels")
# The only options of free text on the page: another one may name a file of this machine.
_TEXTS = ("style_weight", "iterations", "scales", "tile", "style_weights", "content_layers", "style_layers")
# The range that a slider offers, beside the field that takes any value: low, high, step; a step of 0 is logarithmic.
_SLIDERS = MappingProxyType({"style_weight": (0.1, 1e4, 0), "iterations": (10, 500, 10)})
_MOST_LETTERS = 500
_NUMBERS = (int, float, int | None, float | None)


def make_controls(limits: Limits) -> list[dict[str, Any]]:
    """The controls, as JSON has them: the main ones, then group by group; each option that is not the host's, nor free
    text.

    `kind` is choice, number, size or text; `defaults` are the values of the presets as they are typed, empty where the
    engine decides; `placeholder` is the meaning of an empty field, `group` its heading, `slider` low, high and step (0:
    logarithmic).
    """
    presets = {name: resolve_options(preset=name) for name in PRESETS}
    headings = dict.fromkeys(MAIN, "")
    for heading, names in GROUPS.items():
        headings |= {name: heading.capitalize() for name in names if name not in MAIN}
    return [_control(OPTIONS[name], headings[name], presets, limits) for name in headings if name in _KINDS]


def read_form(form: Mapping[str, object]) -> dict[str, Any]:
    """The options that a form gives, from a control's name to what is typed in it, parsed as the command parses words.

    Raises OptionError for a name that is no control, and for a text that is no value of it.
    """
    values = {}
    for name, text in form.items():
        if name not in _KINDS:
            raise OptionError(f"{name[:40]!r} is not a control of this page; load the page again")
        if not isinstance(text, str) or len(text) > _MOST_LETTERS:
            raise OptionError(f"{_spoken(name)} is not a text of up to {_MOST_LETTERS} letters; type it again")
        if text.strip():
            values[name] = read_option(name, text.strip())
    return values


def _kind(option: "Field[Any]") -> str | None:
    """The kind of an option's control, or None where it has none."""
    if option.name in _NOT_OFFERED:
        return None
    if option.metadata["choices"]:
        return "choice"
    if option.type in _NUMBERS and not option.metadata["many"]:
        return "size" if option.name == "size" else "number"
    return "text" if option.name in _TEXTS else None


_KINDS = {name: kind for name, option in OPTIONS.items() if (kind := _kind(option)) is not None}


def _control(option: "Field[Any]", group: str, presets: Mapping[str, Options], limits: Limits) -> dict[str, Any]:
    name, facts = option.name, option.metadata
    slider = _SLIDERS.get(name)
    most = facts["maximum"]
    if name == "size":
        most = limits.size
        slider = (min(128, limits.size), limits.size, 64 if limits.size % 64 == 0 else 1)
    return {
        "name": name,
        "label": _label(name),
        "meaning": facts["meaning"],
        "kind": _KINDS[name],
        "defaults": {preset: typed(name, getattr(options, name)) for preset, options in presets.items()},
        "group": group,
        "choices": facts["choices"],
        "placeholder": facts["shown"] or "",
        "minimum": facts["minimum"] if facts["minimum"] is not None else facts["above"],
        "maximum": most,
        "whole": option.type is int,
        "slider": slider,
    }


def _label(name: str) -> str:
    spoken = _spoken(name)
    return "TV" + spoken[2:] if spoken.startswith("tv ") else spoken[0].upper() + spoken[1:]


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("color", "colour").replace("optimizer", "optimiser")
