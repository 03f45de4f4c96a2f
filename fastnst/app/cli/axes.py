"""The axis of a grid: an option, and the values that it takes in turn."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fastnst.app.cli.arguments import option_value
from fastnst.errors import OptionError
from fastnst.options.options import Options

_MOST_VALUES = 64


@dataclass(frozen=True)
class Axis:
    """`settings` are the options of each step, `labels` what stands beside them; with no option it is one step."""

    option: str | None
    settings: Sequence[Mapping[str, Any]]
    labels: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return {"option": self.option, "values": [value for setting in self.settings for value in setting.values()]}


def make_axis(words: Sequence[str], flag: str) -> Axis:
    """The axis of `words`, an option's name and its values, each written as on the command line; none make one step.

    Raises OptionError, which names `flag`, for an unknown option, no values or too many, or one that cannot be read.
    """
    if not words:
        return Axis(None, [{}], [])
    name, values = words[0].removeprefix("--").replace("-", "_"), words[1:]
    known = [option.name for option in fields(Options)]
    if name not in known:
        raise OptionError(f"{flag} {words[0]!r} is no option; the options are: {', '.join(known)}")
    if not values or len(values) > _MOST_VALUES:
        raise OptionError(f"{flag} {name} has {len(values)} values; give 1 to {_MOST_VALUES}")
    settings = []
    for value in values:
        try:
            settings.append({name: option_value(name, shlex.split(value))})
        except (ValueError, OptionError) as error:
            raise OptionError(f"{flag} {name}: the value {value!r} cannot be read: {error}") from None
    return Axis(name, settings, [f"{name.replace('_', ' ')} {value}" for value in values])
