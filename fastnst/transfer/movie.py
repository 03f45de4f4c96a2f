"""A movie of the image as it forms: mp4, gif or webp, from frames on the disk."""

import importlib.util
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from PIL import Image

from fastnst.errors import ImageError, OptionError
from fastnst.image.files import check_place, real_target
from fastnst.image.resize import fitted_size
from fastnst.replacing import replacing

SUFFIXES = (".mp4", ".gif", ".webp")

_HELD_SECONDS = 1.5  # for the last frame, before a loop begins anew


def check_movie(path: Path) -> None:
    """Raises OptionError for a name that is no movie's or a missing package, ImageError as `check_place` does."""
    check_place(str(path), "movie", SUFFIXES)
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("av") is None:
        raise OptionError('an mp4 needs PyAV; install it with pip install "fastnst[movie]", or choose .gif or .webp')


def frame_size(path: Path, size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """The `size`, (height, width), reduced to that longest side, and made even for an mp4."""
    height, width = size if max(size) <= longest_side else fitted_size(*size, longest_side)
    is_mp4 = path.suffix.lower() == ".mp4"
    return (max(2, height // 2 * 2), max(2, width // 2 * 2)) if is_mp4 else (height, width)


def write_movie(path: Path, frames: Sequence[Path], rate: Fraction) -> None:
    """Writes pictures of one size, `rate` of them a second, as a movie that appears whole or not at all.

    The last one stays for a second and a half. Raises ImageError where it cannot be written.
    """
    form = path.suffix.lower()[1:]
    try:
        with replacing(real_target(str(path))) as file:
            if form == "mp4":
                _write_mp4(file, frames, rate)
            else:
                _write_pictures(file, form, frames, rate)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"movie {str(path)!r} could not be written ({reason}); free some space") from error


def _opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with Image.open(path) as frame:
            yield frame.convert("RGB")


def _write_pictures(file: IO[bytes], form: str, paths: Sequence[Path], rate: Fraction) -> None:
    """Writes a GIF with a palette of its own for each frame, or a WebP."""
    # GIF counts in hundredths of a second.
    milliseconds = max(10, round(1000 / rate / 10) * 10)
    durations = [milliseconds] * (len(paths) - 1) + [max(milliseconds, int(1000 * _HELD_SECONDS))]
    frames, options = _opened(paths), dict[str, Any](quality=90, method=4)
    if form == "gif":
        frames, options = (frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in frames), {"disposal": 1}
    first = next(frames)
    first.save(file, form, save_all=True, append_images=frames, duration=durations, loop=0, **options)


def _write_mp4(file: IO[bytes], paths: Sequence[Path], rate: Fraction) -> None:
    """Writes H.264 in yuv420p, which every player takes."""
    import av

    # By its name: through the file's methods PyAV prints a traceback where the disk is full.
    with av.open(str(file.name), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
        (stream.width, stream.height), stream.pix_fmt = next(_opened(paths)).size, "yuv420p"
        for number, frame in enumerate(_opened(paths), start=1):
            for _ in range(max(1, round(_HELD_SECONDS * rate)) if number == len(paths) else 1):
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
