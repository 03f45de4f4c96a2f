"""The options of a run as words: an argument for each, from its one definition, and the same names in a TOML file."""

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fastnst.errors import OptionError, check_choice
from fastnst.options.options import GROUPS, Options
from fastnst.options.parse import hint_for, option_field, parse_option, parse_size, picture_of
from fastnst.options.presets import PRESETS

if TYPE_CHECKING:
    from fastnst.image.write import Form

OPTIONS: Mapping[str, "Field[Any]"] = {option.name: option for option in fields(Options)}

STANDARD = "-"
"""Stands for the standard input or output."""

HOST_OPTIONS = ("network", "weights", "device", "max_memory", "backend")
"""Decided by the one who starts the page, for all its runs."""

NETWORK_OPTIONS = (
    *("style_weight", "content_weight", "tv_weight", "style_scale", "content_layers", "style_layers", "pooling"),
    *("network", "weights", "device", "precision"),
)
"""Options of a run that the training of a network takes too."""

SEPARATOR = "|"
"""Stands between several styles, or several regions, in one cell of a table."""

# Named here too, for the command's help must not wait for what the writers of pictures import.
FORMATS = ("png", "jpeg", "webp", "tiff", "avif", "npy")

_METAVARS: Mapping[Any, str] = {int: "N", int | None: "N", float: "X", float | None: "X"}

# More than a thousand times what all options take.
_MOST_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that a run writes and the lines that it prints; nothing here changes the picture."""

    output: str
    format: str | None = option_field(
        None, "write OUT in this format, whatever its name is", shown="the name's own, and png for -", choices=FORMATS
    )
    bit_depth: int | None = option_field(None, "write this many bits per channel: 8, or 16 for png and tiff", shown="8")
    quality: int | None = option_field(
        None, "compress JPEG, WebP or AVIF at this quality, 1 to 100", shown="jpeg 95, avif 90, webp lossless"
    )
    save_every: int | None = option_field(
        None, "also write the image every N iterations, beside OUT, with the iteration in its name"
    )
    preview: str | None = option_field(
        None, "also keep the newest image in this file, which is written once a second", metavar="FILE"
    )
    plot: str | None = option_field(None, "also draw the losses: .png, .svg or .pdf (fastnst[plot])", metavar="FILE")
    movie: str | None = option_field(
        None, "also make a movie of the run: .gif, .webp or .mp4 (fastnst[movie])", metavar="FILE"
    )
    movie_every: int = option_field(10, "leave this many iterations between two frames of the movie")
    checkpoint: str | None = option_field(
        None, "also save the run in this file, so that fastnst resume can continue", metavar="FILE"
    )
    checkpoint_every: int = option_field(60, "leave this many seconds between two checkpoints")
    quiet: bool = option_field(False, "show no progress bar and no closing line")
    json: bool = option_field(False, "print losses and parameters as one JSON object on stdout")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Outputs":
        return cls(**{output.name: settings[output.name] for output in fields(cls) if output.name in settings})

    @property
    def target(self) -> str | IO[bytes]:
        return sys.stdout.buffer if self.output == STANDARD else self.output

    @property
    def paths(self) -> list[str]:
        """All files but those that --save-every numbers."""
        paths = (self.output, self.preview, self.plot, self.movie, self.checkpoint)
        return [path for path in paths if path is not None and path != STANDARD]

    @property
    def label(self) -> str:
        return "the standard output" if self.output == STANDARD else self.output

    @property
    def form(self) -> "Form":
        return {"format": self.format, "bit_depth": self.bit_depth, "quality": self.quality}


OUTPUTS: Mapping[str, "Field[Any]"] = {output.name: output for output in fields(Outputs) if output.name != "output"}
"""The arguments that a `--config` file may hold beside the options."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage is a `--help` away. Options are given by their whole names."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(allow_abbrev=False, **facts)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers is None:
            flags = {word.partition("=")[0] for word in args or ()} - self._option_string_actions.keys()
            if {picture_of(flag) for flag in flags} >= {"content", "style"}:
                self.error("give both pictures without names: fastnst stylize CONTENT STYLE -o OUT")
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}{self._near(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        if re.search("required: [A-Z]", message):
            message += "; give them before the options that take several values, or after --"
        self.exit(2, f"fastnst: error: {message} (see {self.prog} --help)\n")

    def _near(self, unknown: list[str]) -> str:
        """The option that the first of the `unknown` words may have meant."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        # Other programs write -image_size; a number below 0 is no name.
        flags = [word.partition("=")[0] for word in unknown if re.match("--?[a-z]", word)]
        hint = hint_for(flags[0], known, "") if flags else ""
        if flags and flags[0] in map(flag_of, OPTIONS.values()):
            hint = f"{flags[0]} belongs to stylize"
            if self.prog.endswith(" apply") and flags[0] == "--style-weight":
                hint += "; a network's strength is set by its training, and --blend mixes its styles"
        return f"; {hint}" if hint else ""


class Several(argparse.Action):
    """Joins the words after a flag to one text: `--scales 256 512` and `--scales 256,512` are the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, " ".join(values))


def add_options(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = (), preset: str = "default") -> None:
    """Adds an argument for each field of `Options` but those to `leave_out`, under the headings of `GROUPS`."""
    for heading, names in GROUPS.items():
        group = parser.add_argument_group(heading)
        for name in names:
            if name not in leave_out:
                add_option(group, OPTIONS[name], preset)


def flag_of(option: "Field[Any]") -> str:
    no = "no-" if option.type is bool and option.default else ""
    return option.metadata["flag"] or f"--{no}{option.name.replace('_', '-')}"


def add_option(
    group: "argparse._ActionsContainer",
    option: "Field[Any]",
    preset: str = "default",
    *,
    prefix: str = "",
    many: bool = False,
) -> None:
    """Adds the argument of one option, whose help says the default of `preset`; what is not given is not parsed."""
    facts, default = option.metadata, describe_default(option, preset)
    meaning, many = f"{prefix}{facts['meaning']}", many or bool(facts["many"])
    if option.type is bool:
        action = "store_false" if option.default else "store_true"
        group.add_argument(flag_of(option), dest=option.name, action=action, default=argparse.SUPPRESS, help=meaning)
        return
    group.add_argument(
        flag_of(option),
        dest=option.name,
        action="append" if facts["flag"] else Several if many else "store",
        default=argparse.SUPPRESS,
        choices=facts["choices"] or None,
        metavar=facts["metavar"] or _METAVARS.get(option.type),
        nargs="+" if many else None,
        type=str if many else _parser_of(option),
        help=f"{meaning} (default: {default})" if default else meaning,
    )


def add_word(parser: Any, words: str, meaning: str, default: Any = None, **facts: Any) -> None:
    """Adds the argument that `words` show, such as "--cell PX" or "CONTENT"; the last word gives its type, and the help
    says the default."""
    name, _, metavar = words.partition(" ")
    if not name.startswith("-"):
        name, metavar = name.lower(), name
    if metavar in _NUMBERS and "nargs" not in facts:
        facts = {"type": _NUMBERS[metavar], **facts}
    if default is not None:
        facts = {"default": default, **facts}
        meaning += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
    parser.add_argument(name, help=meaning, **({"metavar": metavar} if metavar else {}), **facts)


def add_switch(parser: Any, flag: str, meaning: str) -> None:
    parser.add_argument(flag, action="store_true", help=meaning)


def add_styles(parser: argparse.ArgumentParser, meaning: str = "render it in the style of these pictures") -> None:
    meaning += ", or of those in these folders"
    parser.add_argument("styles", metavar="STYLE", nargs="+", help=meaning)


def add_quiet(parser: Any, without: str = "progress bar and no closing line") -> None:
    add_switch(parser, "--quiet", f"show no {without}")


def add_json(parser: Any, what: str) -> None:
    add_switch(parser, "--json", f"print {what} as one JSON object on stdout")


def add_run(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = (), preset: str = "default") -> None:
    """Adds all that a new run takes beside its pictures: -o, --config, the options and the output arguments."""
    add_output(parser, "write the result here: .png, .jpg, .webp, .avif, .tif or .npy; - writes it to stdout")
    add_word(parser, "--config FILE", "read options from this TOML file, by the same names; options of the command win")
    add_options(parser, leave_out=leave_out, preset=preset)
    _add_output_arguments(parser)


def add_earlier_run(parser: argparse.ArgumentParser) -> None:
    """Adds all that an earlier run takes to go on or be made again: -o, where its inputs are now, and the outputs."""
    add_output(parser, "write the image here, as for stylize")
    parser.add_argument("--content", metavar="PATH", help="find its content here")
    parser.add_argument("--styles", metavar="PATH", nargs="+", help="find its styles here: give all of them, in order")
    parser.add_argument("--init", metavar="PATH", help="find the picture that the run started from here")
    masks = "find its masks here: give all of them, in order, as for stylize"
    parser.add_argument("--mask", dest="masks", action="append", metavar="WORD", nargs="+", help=masks)
    _add_output_arguments(parser)


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=meaning)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    for argument in OUTPUTS.values():
        add_option(group, argument)


def check_heeded(needed: str, flags: Mapping[str, bool]) -> None:
    """Raises OptionError for the first of the flags that is given, where `needed` is not, beside which alone they have
    an effect."""
    for flag in (flag for flag, is_given in flags.items() if is_given):
        raise OptionError(f"{flag} has no effect without {needed}; add {needed}, or leave it out")


def given_options(settings: Mapping[str, Any], names: Iterable[str] = OPTIONS) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def read_option(name: str, text: str) -> Any:
    """The value of the option `name` that the text of a cell or a field gives; several regions stand apart by |.

    Raises OptionError where the command would refuse it as one word.
    """
    if OPTIONS[name].metadata["flag"]:
        return text.split(SEPARATOR)
    try:
        return _parser_of(OPTIONS[name])(text)
    except argparse.ArgumentTypeError as error:
        raise OptionError(f"{name.replace('_', ' ')}: {error}") from None


def _read(kind: Callable[[str], Any], meaning: str, word: str) -> Any:
    """The number that a word of the command line is. Raises ArgumentTypeError."""
    try:
        return kind(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not {meaning}") from None


whole_number = partial(_read, int, "a whole number; write one such as 7")
number = partial(_read, float, "a number; write one such as 0.5")
_NUMBERS = {"N": whole_number, "PX": whole_number, "X": number, "SECONDS": number}


def standard_input() -> IO[bytes]:
    """The bytes of a pipe. Raises OptionError where the standard input is closed or a terminal."""
    if sys.stdin is None or not hasattr(sys.stdin, "buffer"):
        raise OptionError("the standard input is closed, so - has no picture to read; give a path")
    if sys.stdin.isatty():
        raise OptionError("the standard input is a terminal, so - has no picture to read; pipe one in, or give a path")
    return sys.stdin.buffer


def describe_default(option: "Field[Any]", preset: str = "default") -> str:
    """The default as a user would type it: what `preset` sets, or else that of all; empty where there is none."""
    values = {"preset": preset, **PRESETS[preset]}
    return typed(option.name, values.get(option.name, option.metadata["shown"] or option.default))


def typed(name: str, value: Any) -> str:
    """The value of the option `name` as one types it: the inverse of `read_option`."""
    if value is None:
        return "none" if name == "scales" else ""
    if name.endswith("_layers") and isinstance(value, tuple):
        plain = all(weight == 1 / len(value) for _, weight in value)
        return ",".join(layer if plain else f"{layer}={weight:.6g}" for layer, weight in value)
    if isinstance(value, tuple):
        return ",".join(typed("", item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options of `stylize`, and the arguments that say where output goes, that a TOML file sets by the same names,
    with dashes or underscores. Raises OptionError, with the file's name."""
    name = os.fsdecode(path)
    settings = dict[str, Any]()
    try:
        for key, value in _toml(name).items():
            setting = key.replace("-", "_")
            if setting not in OPTIONS and setting not in OUTPUTS:
                hint = hint_for(setting, [*OPTIONS, *OUTPUTS], "see fastnst stylize --help for the names")
                raise OptionError(f"unknown option {key!r}; {hint}")
            if setting in settings:
                raise OptionError(f"{setting} is set twice, with a dash and with an underscore; keep one")
            if setting in OUTPUTS:
                _check_output(OUTPUTS[setting], value)
            settings[setting] = value
        given = given_options(settings)
        if isinstance(given.get("size"), str):
            # What it means is known beside a content.
            read_option("size", given.pop("size"))
        network = parse_option(OPTIONS["network"], given.get("network", Options.network), "")
        # Each alone: what they mean together is known beside the command's.
        for option, value in given.items():
            parse_option(OPTIONS[option], value, network)
    except OptionError as error:
        raise OptionError(f"config {name!r}: {error}") from None
    return settings


def _toml(name: str) -> dict[str, Any]:
    try:
        with Path(name).open("rb") as file:
            data = file.read(_MOST_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OptionError(f"it cannot be read ({getattr(error, 'strerror', None) or error}); check the path") from None
    if len(data) > _MOST_CONFIG_BYTES:
        raise OptionError("it is far larger than a file of options; check the path")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise OptionError("it is not text in UTF-8; save it as UTF-8") from None
    except RecursionError:
        raise OptionError("it nests too deeply to be read as TOML; check the path") from None
    except ValueError as error:  # TOMLDecodeError, and what Python says of a number of thousands of digits
        raise OptionError(f"it is not TOML: {error}; see toml.io for how it is written") from None


def _check_output(argument: "Field[Any]", value: Any) -> None:
    words = {bool: "true or false", int: "a whole number", str: 'a text such as "out.png"'}
    kind, choices = next(kind for kind in words if argument.type in (kind, kind | None)), argument.metadata["choices"]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise OptionError(f"{argument.name} {value!r} is not possible; give {words[kind]}")
    if choices:
        check_choice(argument.name, value, choices)


def _parser_of(option: "Field[Any]") -> Callable[[str], Any]:
    """Reads a word of the command as a number where the option is one alone; raises ArgumentTypeError for no number."""
    if option.metadata["many"] or option.name == "max_memory":
        return str
    if option.name == "size":
        return size_word
    return _NUMBERS.get(_METAVARS.get(option.type, ""), str)


def size_word(word: str) -> int | str:
    """A number of pixels, or words that mean one beside a content; see `fastnst.transfer.inputs.sized`."""
    with suppress(ValueError):
        return int(word)
    try:
        parse_size(word)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("size ")) from None
    return word
