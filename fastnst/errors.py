"""The errors that a user can act on. Each message says what was given, what is allowed and what to do."""

import importlib.util
import warnings
from collections.abc import Iterable


class FastnstError(ValueError):
    """The base of every error that fastnst raises for bad input; the command prints it without a traceback.

    The message is one line, even if it quotes a file.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class Interrupted(Exception):
    """The user stopped the command at once; the message says what was saved."""


class FastnstWarning(UserWarning):
    """Something is not as you may expect, and the run continues; the command prints the warning in one line."""


def warn(message: object, *, level: int = 2) -> None:
    """Warns with a FastnstWarning, at the place `level` calls above this one, as `warnings.warn` counts them."""
    warnings.warn(str(message), FastnstWarning, stacklevel=level + 1)


class OptionError(FastnstError):
    """An option is out of its range, unknown, or contradicts another one.

    `options` are the names of those that the message speaks of, which the command writes as they were typed.
    """

    def __init__(self, message: str, *options: str) -> None:
        super().__init__(message)
        self.options = options


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raises OptionError where `value`, of an option or an argument, is none of the `choices`."""
    if value not in (known := list(choices)):
        raise OptionError(f"unknown {what} {value!r}; choose one of: {', '.join(map(str, known))}")


def check_package(name: str, what: str, extra: str) -> None:
    """Raises OptionError where a package of an extra, which `what` needs, is missing."""
    if importlib.util.find_spec(name) is None:
        raise OptionError(f'{what} needs {name}; install it with pip install "fastnst[{extra}]"')


class RangeError(FastnstError):
    """A constant of the loss is beyond the range of its dtype; another precision of the network may help."""


class ImageError(FastnstError):
    """An image cannot be read, is unusable, or cannot be written."""


class WeightsError(FastnstError):
    """A weights file is missing, damaged, of the wrong shape, or could not be fetched."""


def counted(count: int, noun: str) -> str:
    """The count with its noun, for a message: `1 style`, `2 styles`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
