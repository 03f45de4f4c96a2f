"""The options of a clip beside those of a picture, and options of the look that change along it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fastnst.errors import OptionError
from fastnst.options.keywords import OptionValues
from fastnst.options.options import Options
from fastnst.options.parse import option_field, parse_option
from fastnst.options.resolve import resolve_options

TRACKED = ("style_weight", "content_weight", "tv_weight", "style_scale", "style_weights")
"""The options that may be a track."""

_POINT = re.compile(r"([0-9]*\.?[0-9]+)s?:(.+)")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which frames of a clip are meant: those shown from `start` on and before `end`, in seconds, every n-th of them,
    after the clip was brought to `rate` frames a second, and no more than `max_frames`.

    Raises OptionError for what cannot be.
    """

    start: float = option_field(0.0, "begin at this second of the clip", metavar="SECONDS", minimum=0)
    end: float | None = option_field(None, "end before this second", metavar="SECONDS")
    every: int = option_field(1, "take only every N-th frame, and lower the frame rate to match", minimum=1)
    rate: float | None = option_field(
        None,
        "convert the clip to this many frames a second first",
        shown="its own; 24 for a folder",
        minimum=0.001,
        maximum=1000,
    )
    max_frames: int = option_field(1000, "refuse a clip with more frames than this", minimum=1)

    def __post_init__(self) -> None:
        for option in fields(self):
            if option.type in (int, float, int | None, float | None):
                object.__setattr__(self, option.name, parse_option(option, getattr(self, option.name), ""))
        if self.end is not None and not self.end > self.start:
            raise OptionError(f"end {self.end:g} is not after the start, {self.start:g}; give a later second")


@dataclass(frozen=True, kw_only=True)
class VideoOptions(Part):
    """How a clip is made, beside the `Options` of each of its frames. Raises OptionError for what cannot be."""

    sound: bool = option_field(True, "leave the clip's sound out")
    temporal_weight: float = option_field(
        4000.0,
        "let the temporal term count this much (δ): the mean of (x − last result, warped)² where that is known, in "
        "units of the loss of the scene's first frame",
        minimum=0,
    )
    look_back: Sequence[int] = option_field(
        (1,),
        "hold a frame to the nearest of the frames this far back in which a point is visible, such as 1 2 4 8",
        metavar="N",
        many=True,
    )
    later_iterations: int | None = option_field(
        None,
        "take at most this many steps for a frame after the first of its scene; it ends earlier when a step lowers "
        "the loss by less than --tolerance",
        shown="a tenth of the last scale's steps",
        minimum=1,
    )
    passes: int = option_field(
        1,
        "go over the clip this many times, every other time backwards, and blend in the result of the time before",
        minimum=1,
    )
    freeze: bool = option_field(False, "change a frame only where the frames before it do not show the same thing")
    cut: float = option_field(
        0.3,
        "begin a new scene if less than this part of a frame shows points of the frame before; 0 never begins one",
        minimum=0,
        maximum=1,
    )
    flow: str | None = option_field(
        None,
        "read the flow between frames i and j from forward_i_j.flo and backward_j_i.flo in this folder",
        metavar="FOLDER",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "look_back", _counts(self.look_back))


VIDEO_OPTIONS: Mapping[str, Any] = {option.name: option for option in fields(VideoOptions)}


class VideoValues(OptionValues, total=False):
    """The keyword arguments of `stylize_video` that are options."""

    start: float
    end: float | None
    every: int
    rate: float | None
    max_frames: int
    sound: bool
    temporal_weight: float
    look_back: int | Sequence[int]
    later_iterations: int | None
    passes: int
    freeze: bool
    cut: float
    flow: str | None


def _counts(value: Any) -> tuple[int, ...]:
    """How many frames back, growing: of a number, a sequence or a text of them."""
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    words = [words] if isinstance(words, int) else words
    try:
        counts = sorted({int(str(word)) for word in words})  # a half is no number of frames
    except (TypeError, ValueError):
        counts = []
    if not counts or counts[0] < 1:
        raise OptionError(f"look back {value!r} is not a list of whole numbers of frames, 1 or more; write 1,2,4,8")
    return tuple(counts)


@dataclass(frozen=True)
class Track:
    """A value, of one number or several, at moments in seconds from the first frame that is made; between two of them
    it goes in a straight line, before the first and after the last it stays."""

    times: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, seconds: float) -> float | tuple[float, ...]:
        value = tuple(float(np.interp(seconds, self.times, part)) for part in zip(*self.values, strict=True))
        return value[0] if len(value) == 1 else value


def read_track(name: str, value: Any, numbers: Callable[[Any], Sequence[Any]] | None = None) -> Track | None:
    """The track that an option's value is: `"0:1,0 5s:0,1"`, or a mapping from seconds to values; None for another one.

    `numbers` gives those of a moment; by default they stand between commas. Raises OptionError for a track that cannot
    be read.
    """
    spoken = name.replace("_", " ")
    if isinstance(value, str) and ":" in value:
        points = [_POINT.fullmatch(word) for word in re.split(r"\s+(?=[0-9]*\.?[0-9]+s?:)", value.strip())]
        if None in points:
            raise OptionError(f'{spoken} {value!r} cannot be read; write moments and values, such as "0:1 5s:20"')
        pairs: list[tuple[Any, Any]] = [(point[1], point[2]) for point in points if point is not None]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        return None
    try:
        known = sorted((float(time), tuple(map(float, (numbers or _numbers)(held)))) for time, held in pairs)
    except OptionError:
        raise
    except (TypeError, ValueError):
        known = []
    times, values = (tuple(part) for part in zip(*known, strict=True)) if known else ((), ())
    if not times or len(set(times)) < len(times) or len({len(held) for held in values}) > 1:
        raise OptionError(
            f"{spoken} {value!r} cannot be read; give numbers, as many at each moment, and each moment once, such as "
            '"0:1,0 5s:0,1"'
        )
    return Track(times, values)


def _numbers(held: Any) -> Sequence[Any]:
    if isinstance(held, str):
        return held.split(",")
    return held if isinstance(held, Sequence) else [held]


@dataclass(frozen=True, eq=False)
class Look:
    """The options of a clip's frames, which may be tracks; `at` gives those of a moment."""

    given: Mapping[str, Any]
    tracks: Mapping[str, Track]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Look":
        """Raises OptionError for a track of another option, or whose values are out of range somewhere."""
        tracks = {
            name: track for name, value in values.items() if name in TRACKED and (track := read_track(name, value))
        }
        look = cls({name: value for name, value in values.items() if name not in tracks}, tracks)
        for track in tracks.values():
            for time in track.times:
                look.at(time)
        look.at(0.0)
        return look

    def values_at(self, seconds: float) -> dict[str, Any]:
        return {**self.given, **{name: track.at(seconds) for name, track in self.tracks.items()}}

    def at(self, seconds: float) -> Options:
        return resolve_options(**self.values_at(seconds))
