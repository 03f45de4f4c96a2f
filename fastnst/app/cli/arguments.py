"""The arguments of the command: those of each option, from its one definition, and those that say where output goes."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from itertools import takewhile
from typing import Any, NoReturn

from fastnst.errors import OptionError
from fastnst.options.options import GROUPS, Options
from fastnst.options.parse import Iterations, StyleWeight
from fastnst.options.presets import PRESETS

# As in `fastnst.image.write`, which is not imported here: the command's help must not wait for what it imports.
_FORMATS = ("png", "jpeg", "webp", "tiff", "avif", "npy")


@dataclass(frozen=True)
class OutputArgument:
    """An argument of `stylize` that changes nothing of the picture. `kind` is str, int or bool (a flag)."""

    name: str
    kind: type
    meaning: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()


OUTPUT_ARGUMENTS = (
    OutputArgument("format", str, "format of OUT, whatever its name (default: by the name; png for -)", None, _FORMATS),
    OutputArgument("bit_depth", int, "bits per channel: 8, or 16 for png and tiff (default: 8)", "N"),
    OutputArgument(
        "save_every", int, "also write the image every N iterations, beside OUT, with the iteration in its name", "N"
    ),
    OutputArgument("preview", str, "also keep the newest image in this file, written once a second", "FILE"),
    OutputArgument("plot", str, "also draw the losses: .png, .svg or .pdf (fastnst[plot])", "FILE"),
    OutputArgument("movie", str, "also make a movie of the run: .gif, .webp or .mp4 (fastnst[movie])", "FILE"),
    OutputArgument("movie_every", int, "iterations between two frames of the movie (default: 10)", "N"),
    OutputArgument("checkpoint", str, "also keep all of the run in this file, for `fastnst resume`", "FILE"),
    OutputArgument("checkpoint_every", int, "seconds between two checkpoints (default: 60)", "N"),
    OutputArgument("quiet", bool, "no progress bar and no closing line"),
    OutputArgument("json", bool, "print losses and parameters as one JSON object on stdout"),
)
"""Those that a `--config` file may hold beside the options."""


# Options of which one value is no list of one.
_ONE_OR_SEVERAL = ("scales", "style_weight")

# What is told from a path, by its metavar: layers (nothing with a dot or a slash), and the pictures of a mask.
_LOOKS = {"LAYER": r"[^-./\\][^./\\=]*(=.*)?$", "WORD": r"[^-./\\][^./\\=]*(=|$)"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away. What an option of several values cannot take, as
    a picture's path after numbers, is left to the command: `--style-weight 5 CONTENT STYLE`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = self._several_last(sys.argv[1:] if args is None else list(args))
        parsed, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unknown argument{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}{self._near(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        if "required: CONTENT" in message or "required: STYLE" in message:
            message += "; give CONTENT and STYLE before the options that take several values"
        self.exit(2, f"fastnst: error: {message} (see {self.prog} --help)\n")

    def _near(self, unknown: list[str]) -> str:
        """The option that the first of the `unknown` words may have meant."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        close = difflib.get_close_matches(flags[0], known, n=1) if flags else []
        return f"; did you mean {close[0]}?" if close else ""

    def _several_last(self, words: list[str]) -> list[str]:
        """The same words, with the options of several values after all others: they would take paths that follow."""
        others: list[str] = []
        several: list[str] = []
        end = words.index("--") if "--" in words else len(words)
        at = 0
        while at < end:
            count = self._count_of_values(words[at:end])
            (several if count else others).extend(words[at : at + 1 + count])
            at += 1 + count
        return [*others, *several, *words[end:]]

    def _count_of_values(self, words: list[str]) -> int:
        """How many values an option of several that comes first in `words` takes: 0 where it is none, or none fits."""
        action = self._option_string_actions.get(words[0])
        if action is None or action.nargs != "+":
            return 0
        return sum(1 for _ in takewhile(lambda word: _fits(action, word), words[1:]))


def _fits(action: argparse.Action, word: str) -> bool:
    """Whether a value of `action` may look like `word`: any text that is no option where nothing says more."""
    if action.metavar in _LOOKS:
        return re.match(_LOOKS[action.metavar], word) is not None
    if action.type in (None, str):
        return re.match(r"-(?!\d|\.\d|$)", word) is None
    try:
        action.type(word)  # type: ignore[operator]
    except argparse.ArgumentTypeError:
        return False
    return True


def add_options(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = (), preset: str = "default") -> None:
    """Adds an argument for each field of `Options` but those to `leave_out`, under the headings of `GROUPS`. What is
    not given is absent from the parsed namespace; the help says the defaults of `preset`."""
    known = {option.name: option for option in fields(Options)}
    for heading, names in GROUPS.items():
        group = parser.add_argument_group(heading)
        for name in names:
            if name not in leave_out:
                add_option(group, known[name], preset)


def flag_of(option: "Field[Any]") -> str:
    """As the command has it: --style-weight."""
    return option.metadata["flag"] or "--" + option.name.replace("_", "-")


def add_option(group: "argparse._ActionsContainer", option: "Field[Any]", preset: str = "default") -> None:
    """Adds the argument of one field of `Options`, whose help says the default of `preset`. What is not given is absent
    from the parsed namespace."""
    facts = option.metadata
    group.add_argument(
        flag_of(option),
        dest=option.name,
        # One with a flag of its own is given once for each of its items.
        action="append" if facts["flag"] else "store",
        default=argparse.SUPPRESS,
        choices=facts["choices"] or None,
        metavar=facts["metavar"],
        nargs="+" if facts["many"] else None,
        type=parse_as(option),
        help=f"{facts['meaning']} (default: {describe_default(option, preset)})",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds -o and --config."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="the result: .png, .jpg, .webp, .tif or .npy; - writes it to stdout",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="options from a TOML file, by the same names; those of the command go before them",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the OUTPUT_ARGUMENTS. What is not given is absent from the parsed namespace."""
    group = parser.add_argument_group("output")
    for argument in OUTPUT_ARGUMENTS:
        flag = "--" + argument.name.replace("_", "-")
        if argument.kind is bool:
            group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argument.meaning)
            continue
        group.add_argument(
            flag,
            default=argparse.SUPPRESS,
            metavar=argument.metavar,
            choices=argument.choices or None,
            type=whole_number if argument.kind is int else str,
            help=argument.meaning,
        )


def add_input_places(parser: argparse.ArgumentParser) -> None:
    """Adds those that say where the inputs of a run of before are now."""
    parser.add_argument("--content", metavar="PATH", help="where its content is now")
    parser.add_argument("--styles", metavar="PATH", nargs="+", help="where its styles are now, all of them, in order")
    parser.add_argument("--init", metavar="PATH", help="where the picture is that it started from")
    parser.add_argument(
        "--mask",
        dest="masks",
        action="append",
        metavar="WORD",
        nargs="+",
        help="where its masks are now, all of them, in order, as for stylize",
    )


def option_value(name: str, words: Sequence[str]) -> Any:
    """The value of the option `name` with these words after its flag. Raises OptionError where the command would
    refuse them."""
    option = {option.name: option for option in fields(Options)}[name]
    parser = _OptionParser(add_help=False, allow_abbrev=False)
    add_option(parser, option)
    # After a sign of equality a value may begin with a dash.
    single = len(words) == 1 and not option.metadata["many"]
    line = [f"{flag_of(option)}={words[0]}"] if single else [flag_of(option), *words]
    return one_or_several(name, getattr(parser.parse_args(line), name))


class _OptionParser(argparse.ArgumentParser):
    """Raises what it would print."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message.removeprefix("argument "))


def given_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings`, as the command parsed them, that are fields of `Options`."""
    return {
        option.name: one_or_several(option.name, settings[option.name])
        for option in fields(Options)
        if option.name in settings
    }


def one_or_several(name: str, value: Any) -> Any:
    """The value where the command takes a list, and the function a list or what is alone in it."""
    return value[0] if name in _ONE_OR_SEVERAL and isinstance(value, list) and len(value) == 1 else value


def parse_as(option: "Field[Any]") -> Callable[[str], Any]:
    """What reads one word of an option's value, and raises ArgumentTypeError where it cannot."""
    if option.name == "scales":
        return _scale
    if option.name == "style_weights" or option.type in (float, float | None, StyleWeight):
        return _number
    return whole_number if option.type in (int, Iterations) else str


def whole_number(word: str) -> int:
    """The number that a word of the command line is. Raises ArgumentTypeError."""
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number; write 512") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number; write 0.5, and several with spaces") from None


def _scale(word: str) -> int | str:
    if word in ("auto", "none"):
        return word
    try:
        return int(word)
    except ValueError:
        hint = "write auto, none, a number of scales, or their long edges as in 128 256 512"
        raise argparse.ArgumentTypeError(f"{word!r} is not a scale; {hint}") from None


def describe_default(option: "Field[Any]", preset: str = "default") -> str:
    """The default as a user would type it: what `preset` sets, or else that of all."""
    values = {"preset": preset, **PRESETS[preset]}
    default: Any = values.get(option.name, option.metadata["shown"] or option.default)
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return " ".join(name for name, _ in default)
    return f"{default:g}" if isinstance(default, float) else str(default)
