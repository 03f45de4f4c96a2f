"""A clip to read: a video, a moving GIF, WebP or PNG, or a folder of frames, upright, as RGB of square pixels."""

import itertools
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageSequence

from fastnst.errors import ImageError, OptionError, check_package, warn
from fastnst.image.decode import MIN_SIDE, about, open_image, unread_format
from fastnst.image.files import PICTURE_SUFFIXES, check_apart, has_content, is_in_folder, pictures_at
from fastnst.image.read import load_image, open_picture
from fastnst.image.write import to_pil
from fastnst.transfer.movie import FILMS as WRITTEN
from fastnst.transfer.movie import Sound, reason_of
from fastnst.video.flow import Frame
from fastnst.video.options import Part

FILMS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".flv"),
    *(".ogv", ".mjpeg", ".y4m"),
)
"""Names of videos end so, as a rule: FFmpeg reads others too."""
ANIMATIONS = (".gif", ".webp", ".png", ".apng")
_FORMATS = ("GIF", "WEBP", "PNG")  # Pillow opens others too, of which EPS starts another program
FOLDER_RATE = Fraction(24)

_GIVE_A_CLIP = "give a video, a GIF, a WebP or a folder of frames"

# The shown time of a frame of an even rate differs by less than this part from the others', rounding apart.
_UNEVEN = 0.5
_HIGH_DEFINITION = 720  # lines from which a video that does not say so has the colours of BT.709
_HIGH_RANGE = (16, 18)  # transfer characteristics of ITU-T H.273: PQ and HLG


class BrokenFrameError(ImageError):
    """A frame amid a clip cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip whose headers are read; `open_clip` makes one.

    Attributes:
        name: its path.
        size: the (height, width) of its upright frames, in square pixels.
        rate: frames a second.
        indices: the numbers of the frames that are meant, of all that the file has, growing; some may be there twice.
        span: the first moment that is meant and the one after the last, in seconds.
        decode: gives all frames of the file, by their order.
        sound: the name of the codec of its sound, or None.
    """

    name: str
    size: tuple[int, int]
    rate: Fraction
    indices: Sequence[int]
    span: tuple[Fraction, Fraction]
    decode: Callable[[], Iterator[Frame]]
    sound: str | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def sound_for(self, target: Path, frames: int | None = None) -> Sound | None:
        """The part of its sound that a film of so many frames, or all, gets; pictures and folders have none."""
        if self.sound is None or target.suffix.lower() not in WRITTEN:
            return None
        start, end = self.span
        return Sound(self.name, start, end if frames is None else min(end, start + frames / self.rate))

    def check_apart(self, target: Path, inputs: Iterable[object] = ()) -> None:
        """Raises OptionError where a film at `target` would replace this clip or one of the `inputs`, or be a frame of
        this folder the next time. (A folder that is a target is a new one.)"""
        if target.suffix:
            check_apart([target], (self.name, *inputs))
        if target.suffix.lower() in PICTURE_SUFFIXES and is_in_folder(target, self.name):
            raise OptionError(f"output {str(target)!r} is among the frames of the clip; give another folder")

    def frames(self) -> Iterator[Frame]:
        """The frames that are meant, in order. Raises BrokenFrameError, with the number of the frame in the file."""
        times, decoded = Counter(self.indices), self.decode()
        for number in range(max(times) + 1):
            try:
                frame = next(decoded, None)
            except Exception as error:  # PyAV and Pillow have a dozen for what is broken
                raise BrokenFrameError(
                    f"frame {number + 1} of clip {self.name!r} cannot be decoded ({reason_of(error)})"
                ) from error
            if frame is None:
                raise BrokenFrameError(f"clip {self.name!r} ends before its frame {number + 1}")
            yield from itertools.repeat(frame, times[number])


@dataclass(frozen=True, eq=False)
class _File:
    """A clip as the file has it: when each frame begins, in seconds from the first, and how long they last in all."""

    size: tuple[int, int]
    times: Sequence[Fraction]
    duration: Fraction
    decode: Callable[[], Iterator[Frame]]
    sound: str | None = None


def moves(path: str | os.PathLike[str]) -> bool:
    """True for the path of a clip, False for that of one picture; where the suffix is no one's, by what it holds."""
    name = os.fspath(path)
    suffix = Path(name).suffix.lower()
    if suffix in FILMS or not os.path.isfile(name):  # noqa: PTH113
        return suffix in FILMS or os.path.isdir(name)  # noqa: PTH112
    if suffix in (*ANIMATIONS, *PICTURE_SUFFIXES):
        return suffix in ANIMATIONS and about(name)[0] > 1
    with suppress(OSError):  # what reads the picture says why
        try:
            open_image(name, "picture")
        except ImageError:
            return unread_format(name) in (None, "a video")
    return False


def open_clip(path: str | os.PathLike[str], part: Part | None = None) -> Clip:
    """The frames of the clip at `path` that `part` means.

    Raises ImageError for what is no clip, has no frames there, frames of several sizes or of uneven times, and
    OptionError where there are more than `max_frames`.
    """
    part, name = part or Part(), os.fspath(path)
    if os.path.isdir(name):  # noqa: PTH112 - Path("") would be the current directory
        file = _folder(name, Fraction(part.rate).limit_denominator(1001) if part.rate is not None else FOLDER_RATE)
    else:
        if not has_content(name, f"clip {name!r}"):
            raise ImageError(f"clip {name!r} is an empty file; {_GIVE_A_CLIP}")
        file = _animation(name) or _film(name)
    if min(file.size) < MIN_SIDE:
        raise ImageError(f"clip {name!r} is {file.size[1]}×{file.size[0]} pixels; give at least {MIN_SIDE}×{MIN_SIDE}")
    rate, indices = _at_rate(name, file, part.rate)
    start, end = Fraction(part.start), None if part.end is None else Fraction(part.end)
    # A moment that was rounded means the frame next to it.
    slack = 1 / (4 * rate)
    first = -((slack - start) * rate // 1)
    last = len(indices) if end is None else min(len(indices), int(-((slack - end) * rate // 1)))
    chosen = indices[max(0, int(first)) : last : part.every]
    if not chosen:
        length, until = float(len(indices) / rate), "" if part.end is None else f" to {part.end:g} s"
        raise ImageError(f"clip {name!r} has no frames from {part.start:g} s{until}; it lasts {length:.3g} s")
    if len(chosen) > part.max_frames:
        raise OptionError(
            f"clip {name!r} has {len(chosen)} frames, more than the {part.max_frames} of max frames; take a part with "
            f"start and end, fewer with every {-(-len(chosen) // part.max_frames)}, or raise --max-frames"
        )
    return Clip(name, file.size, rate / part.every, chosen, (first / rate, last / rate), file.decode, file.sound)


def _at_rate(name: str, file: _File, wanted: float | None) -> tuple[Fraction, Sequence[int]]:
    """The rate of a file, and the frames that it shows at that rate; at the `wanted` one if there is one."""
    count = len(file.times)
    own = Fraction(count) / file.duration
    if wanted is None:
        # The last frame's time is often a guess.
        lasting = [float(b - a) for a, b in itertools.pairwise(file.times)] or [float(file.duration)]
        usual = median(lasting)
        if max(abs(seconds - usual) for seconds in lasting) > _UNEVEN * usual:
            raise ImageError(
                f"clip {name!r} has a variable frame rate (frames of {min(lasting):.3g} to {max(lasting):.3g} s); "
                f"give the rate at which to take its frames, such as --rate {max(1, round(1 / usual))}"
            )
        return own.limit_denominator(1001), range(count)
    rate = Fraction(wanted).limit_denominator(1001)
    moments = ((number + Fraction(1, 4)) / rate for number in range(max(1, round(file.duration * rate))))
    return rate, [bisect_right(file.times, moment) - 1 for moment in moments]


def _folder(name: str, rate: Fraction) -> _File:
    paths = sorted(pictures_at(name, "clip"), key=_numbered)
    first = open_picture(paths[0], role="clip")
    for path in paths[1:]:
        try:
            frame = open_picture(path, role="clip")
        except ImageError:  # what is broken is found when its turn comes
            continue
        if (frame.height, frame.width) != (first.height, first.width):
            raise ImageError(
                f"clip {name!r} has frames of different sizes: {Path(path).name} is {frame.width}×{frame.height}, "
                f"{Path(paths[0]).name} {first.width}×{first.height} pixels; bring them to one size"
            )

    def decode() -> Iterator[Frame]:
        for path in paths:
            picture = load_image(path, role="clip")
            yield np.asarray(_over_white(to_pil(picture.rgb, picture.alpha)))

    times = [index / rate for index in range(len(paths))]
    return _File((first.height, first.width), times, len(paths) / rate, decode)


def _numbered(path: str) -> list[str | int]:
    """A key that sorts frame 2 before frame 10, with or without zeros before the number."""
    return [int(part) if part.isascii() and part.isdecimal() else part for part in re.split("([0-9]+)", path)]


def _animation(name: str) -> _File | None:
    """The frames of a moving picture that Pillow reads; None for another file."""
    if Path(name).suffix.lower() not in ANIMATIONS:
        return None
    try:
        with Image.open(name, formats=_FORMATS) as image:
            (width, height), lasting = image.size, []
            for frame in ImageSequence.Iterator(image):
                frame.load()  # it says how long it lasts once it is read
                lasting.append(Fraction(frame.info.get("duration") or 100) / 1000)
    except Exception as error:  # Pillow has a dozen for what is broken
        raise ImageError(
            f"clip {name!r} is damaged, or not a moving picture ({reason_of(error)}); export it again"
        ) from error

    def decode() -> Iterator[Frame]:
        with Image.open(name, formats=_FORMATS) as image:
            for frame in ImageSequence.Iterator(image):
                yield np.asarray(_over_white(frame))

    times = [Fraction(0), *itertools.accumulate(lasting)]
    return _File((height, width), times[:-1], times[-1], decode)


def _over_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _film(name: str) -> _File:
    """The first video stream of a file that FFmpeg reads; what its packets say of times, without decoding them."""
    check_package("av", "video", "video")
    import av

    try:
        with av.open(name) as container:
            if not container.streams.video:
                raise ImageError(f"clip {name!r} has no video stream; {_GIVE_A_CLIP}")
            stream = container.streams.video[0]
            audio = container.streams.audio[0].codec_context.name if container.streams.audio else None
            if getattr(stream.codec_context, "color_trc", None) in _HIGH_RANGE:
                warn(
                    f"clip {name!r} is in HDR and is read as if it were not, so that its colours come out pale; "
                    "convert it to SDR first (ffmpeg's filters zscale and tonemap do)"
                )
            base, assumed = stream.time_base or Fraction(1, 1000), stream.guessed_rate or stream.average_rate
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            times = sorted(packet.pts * base for packet in packets if packet.pts is not None)
            last = max((packet.duration or 0 for packet in packets[-1:]), default=0) * base
        if packets and len(times) < len(packets):
            if not assumed:
                raise ImageError(f"clip {name!r} does not say when its frames are shown; put it into an .mp4 first")
            times = [index / Fraction(assumed) for index in range(len(packets))]
        first = next(_decoded(name), None) if times else None
    except av.FFmpegError as error:
        raise ImageError(f"clip {name!r} cannot be read as a video ({reason_of(error)}); {_GIVE_A_CLIP}") from error
    if first is None:
        raise ImageError(f"clip {name!r} has no frames; export it again")
    if len(times) > 1:
        last = Fraction(times[-1] - times[0]) / (len(times) - 1)
    last = last or 1 / Fraction(assumed or 25)
    begun = [time - times[0] for time in times]
    return _File(first.shape[:2], begun, begun[-1] + last, lambda: _decoded(name), audio)


def _decoded(name: str) -> Iterator[Frame]:
    """The frames of the first video stream: turned as they are to be shown, with square pixels."""
    import av
    from av.video.reformatter import Colorspace

    with av.open(name) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        aspect = stream.sample_aspect_ratio or Fraction(1)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError("its data is damaged")
            untagged = frame.colorspace in (2, None) and not frame.format.name.startswith(("rgb", "gbr", "bgr"))
            space = Colorspace.ITU709 if frame.height >= _HIGH_DEFINITION else Colorspace.ITU601
            shown = frame.reformat(format="rgb24", src_colorspace=space if untagged else None)
            width = max(1, round(frame.width * aspect))
            if width != frame.width:
                shown = shown.reformat(width=width, height=frame.height)
            yield np.ascontiguousarray(np.rot90(shown.to_ndarray(), round(frame.rotation / 90) % 4))
