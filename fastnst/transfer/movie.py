"""Frames on the disk as a movie of a run or as a clip: MP4, MOV, MKV, WebM, GIF, WebP or a folder of PNG, whole or not
at all."""

import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from fastnst.errors import ImageError, OptionError, check_package
from fastnst.image.files import check_place
from fastnst.replacing import replacing, sync, sync_folder

FILMS = {
    ".mp4": ("mp4", "libx264", {"crf": "16", "preset": "medium"}),
    ".mov": ("mov", "libx264", {"crf": "16", "preset": "medium"}),
    ".mkv": ("matroska", "libx264", {"crf": "16", "preset": "medium"}),
    ".webm": ("webm", "libvpx-vp9", {"crf": "20", "b:v": "0", "row-mt": "1"}),
}
"""By its suffix: the format of a film, its encoder, and what that is told."""
_NOTES = {".gif": "comment", ".webp": "xmp"}
SUFFIXES = (*FILMS, *_NOTES)
_MOVIES = (".mp4", *_NOTES)

# Frames of the clip that a GIF's palette, the same for all, is made of, and the pixels taken of each.
_PALETTE_FRAMES, _PALETTE_EDGE = 16, 128


@dataclass(frozen=True)
class Sound:
    """The sound of the clip at `path`, from the moment `start` on and before `end`, in seconds of its video."""

    path: str
    start: Fraction
    end: Fraction


def reason_of(error: Exception) -> str:
    text: Any = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")


def check_movie(path: Path) -> None:
    """Raises OptionError for a name that is no movie's or a missing package, ImageError as `check_place` does."""
    check_place(str(path), "movie", _MOVIES)
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("av") is None:
        raise OptionError('an mp4 needs PyAV; install it with pip install "fastnst[movie]", or choose .gif or .webp')


def even(target: Path, size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) in which a target takes frames of `size`: even, for a film halves its colours' resolution."""
    if target.suffix.lower() not in FILMS:
        return size
    return max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)


def check_target(
    target: Path, sound: Sound | None, size: tuple[int, int] = (64, 64), rate: Fraction = Fraction(25)
) -> None:
    """Raises FastnstError where no clip could be written to `target`, or the sound not be copied into it."""
    suffix = target.suffix.lower()
    if not suffix:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ImageError(
                f"output {str(target)!r} is there already; give a new folder, or a name such as {target}.mp4"
            )
        if not target.absolute().parent.is_dir():
            raise ImageError(
                f"output {str(target)!r} cannot be written, because the folder {str(target.parent)!r} "
                "does not exist; create it"
            )
        return
    check_place(str(target), "clip", SUFFIXES)
    if suffix not in FILMS:
        return
    check_package("av", "video", "video")
    import av

    form, encoder, _ = FILMS[suffix]
    if encoder not in av.codecs_available:
        raise OptionError(f"the FFmpeg that is installed has no {encoder}, which {suffix} needs; choose another suffix")
    try:
        # What a muxer takes it says when it is asked to.
        with io.BytesIO() as trial:
            _write_film(trial, suffix, iter([np.zeros((*size, 3), np.uint8)]), rate, sound, size=size, trial=True)
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        if sound is None:
            raise OptionError(
                f"{form} cannot hold {size[1]}×{size[0]} pixels at {rate} frames a second "
                f"({reason_of(error)}); choose another size, rate or suffix"
            ) from error
        raise OptionError(
            f"the sound of {sound.path!r} cannot be copied into {suffix} ({reason_of(error)}); choose another "
            "suffix, such as .mkv, or leave it out with --no-sound (sound=False)"
        ) from error


def write_clip(
    target: Path, frames: Sequence[Path], rate: Fraction, sound: Sound | None = None, *, note: str = "", held: float = 0
) -> None:
    """Writes PNG files of one size, `rate` of them a second, the last for `held` seconds at least, the sound, and a
    `note` into the metadata of a file.

    Raises ImageError where that fails.
    """
    suffix = target.suffix.lower()
    try:
        if not suffix:
            _copy(frames, target)
            return
        with replacing(Path(os.path.realpath(target))) as file:
            if suffix in FILMS:
                with Image.open(frames[0]) as first:
                    size = first.size[::-1]
                repeated = [*frames, *[frames[-1]] * (round(held * rate) - 1)]
                _write_film(file, suffix, map(np.asarray, _opened(repeated)), rate, sound, size=size, note=note)
            else:
                _write_pictures(file, suffix, frames, rate, note, held)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"{str(target)!r} could not be written ({reason_of(error)}); free some space") from error


def _copy(frames: Sequence[Path], folder: Path) -> None:
    """Makes the folder of the frames, where there is none or an empty one."""
    with tempfile.TemporaryDirectory(prefix=".fastnst-", dir=folder.absolute().parent) as place:
        whole = Path(place) / folder.name
        whole.mkdir()
        for frame in frames:
            with (whole / frame.name).open("wb") as copy:
                copy.write(frame.read_bytes())
                copy.flush()
                sync(copy.fileno())
        sync_folder(whole)
        if folder.is_dir():
            folder.rmdir()
        whole.replace(folder)
        sync_folder(folder.absolute().parent)


def note_of(path: Path) -> str | None:
    """The note that `write_clip` left in a file; None where there is none, or no such file."""
    try:
        if path.suffix.lower() in FILMS:
            import av

            with av.open(str(path)) as container:
                notes = {name.lower(): note for name, note in container.metadata.items()}
                return notes.get("comment")
        with Image.open(path) as image:
            note: bytes | None = image.info.get(_NOTES[path.suffix.lower()])
            return None if note is None else note.decode()
    except (OSError, ValueError, LookupError):  # av's errors are OSError or ValueError
        return None


def _write_film(
    file: IO[bytes],
    suffix: str,
    frames: Iterator[Any],
    rate: Fraction,
    sound: Sound | None,
    *,
    size: tuple[int, int],
    note: str = "",
    trial: bool = False,
) -> None:
    """Writes 4:2:0 in the colours of BT.709, which every player takes, with each second's sound beside its frames."""
    import av
    from av.video.reformatter import Colorspace

    form, encoder, options = FILMS[suffix]
    movflags = {"movflags": "faststart"} if form in ("mp4", "mov") and not trial else {}
    # By its name: through the file's methods PyAV prints a traceback where the disk is full.
    with av.open(file if trial else str(file.name), "w", format=form, options=movflags) as container:
        container.metadata["comment"] = note
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        context = stream.codec_context
        context.time_base, context.colorspace, context.color_range = 1 / rate, 1, 1
        context.color_primaries = context.color_trc = 1
        copied = _copied(container, sound) if sound is not None else iter(())
        ahead = next(copied, None)
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
            while ahead is not None and ahead.pts * ahead.time_base <= (number + 1) / rate:
                container.mux(ahead)
                ahead = None if trial else next(copied, None)
        container.mux(stream.encode())
        while ahead is not None:
            container.mux(ahead)
            ahead = None if trial else next(copied, None)


def _copied(container: Any, sound: Sound) -> Iterator[Any]:
    """The packets of the sound, as they are, for a stream of the container that begins when its first frame does."""
    import av

    with av.open(sound.path) as source:
        audio, video = source.streams.audio[0], source.streams.video[0]
        stream = container.add_stream_from_template(audio)
        base, first = audio.time_base, (video.start_time or 0) * video.time_base
        shift = round((sound.start + first) / base)
        for packet in source.demux(audio):
            if packet.pts is None or packet.dts is None:
                continue
            begins = packet.pts * base - first
            if begins + (packet.duration or 0) * base <= sound.start or begins >= sound.end:
                continue
            packet.pts, packet.dts = max(packet.pts - shift, 0), max(packet.dts - shift, 0)
            packet.stream = stream
            yield packet


def _write_pictures(
    file: IO[bytes], suffix: str, paths: Sequence[Path], rate: Fraction, note: str, held: float
) -> None:
    """Writes a GIF, whose frames share one palette so that what stands still keeps its colour, or a WebP."""
    is_gif = suffix == ".gif"
    # GIF counts in hundredths of a second, WebP in thousandths: the sum is kept, not each.
    unit = 10 if is_gif else 1
    ends = [round(1000 * (number + 1) / rate / unit) * unit for number in range(len(paths))]
    durations = [max(2 * unit, end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    durations[-1] = max(durations[-1], int(1000 * held))
    frames, options = _opened(paths), dict[str, Any](quality=92, method=4)
    if is_gif:
        palette = _palette(paths)
        frames = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
        options = {"disposal": 1}
    options[_NOTES[suffix]] = note.encode()
    first = next(frames)
    first.save(file, suffix[1:], save_all=True, append_images=frames, duration=durations, loop=0, **options)


def _palette(paths: Sequence[Path]) -> Image.Image:
    some = paths[:: -(-len(paths) // _PALETTE_FRAMES)]
    small = [frame.resize((_PALETTE_EDGE, _PALETTE_EDGE), Image.Resampling.NEAREST) for frame in _opened(some)]
    sheet = Image.new("RGB", (_PALETTE_EDGE, _PALETTE_EDGE * len(small)))
    for row, frame in enumerate(small):
        sheet.paste(frame, (0, row * _PALETTE_EDGE))
    return sheet.quantize(256, Image.Quantize.MEDIANCUT)


def _opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with Image.open(path) as frame:
            yield frame.convert("RGB")
