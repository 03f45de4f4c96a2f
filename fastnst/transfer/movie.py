"""A movie of the image as it forms: mp4, gif or webp, frame by frame as the frames come."""

import importlib.util
import secrets
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fastnst.errors import ImageError, OptionError
from fastnst.image.files import check_place
from fastnst.image.resize import fitted_size, resize
from fastnst.image.write import to_pil

SUFFIXES = (".mp4", ".gif", ".webp")

_HELD_SECONDS = 1.5  # for the last frame, before a loop begins anew


def check_movie(path: Path) -> None:
    """Raises OptionError for a name that is no movie's or a missing package, ImageError as `check_place` does."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"{path} is not a movie's name; end it in {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("av") is None:
        raise OptionError('an mp4 needs PyAV; install it with pip install "fastnst[movie]", or choose .gif or .webp')
    check_place(str(path), "movie")


class MovieWriter:
    """Frames to a movie, which appears at `path` when it is closed: whole or not at all, like every file of fastnst's.

        movie = MovieWriter(Path("run.gif"), size=(512, 384))
        movie.add(image)
        movie.close()

    Args:
        path: ends in .mp4 (H.264, for which PyAV must be there), .gif or .webp.
        size: (height, width) of the frames; larger ones are reduced to a long edge of `longest_side`, and an mp4's
            sides are made even. Frames of other sizes are resampled to it.
        frames_per_second: more than 0 and up to 100. The last frame stays for a second and a half.
        longest_side: in pixels.

    Raises OptionError and ImageError as `check_movie` does, and where writing fails.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        *,
        frames_per_second: float = 12.0,
        longest_side: int = 1280,  # what screens and players take without effort
    ) -> None:
        check_movie(path)
        if not 0 < frames_per_second <= 100:
            raise OptionError(f"{frames_per_second} frames per second are out of range; give more than 0, up to 100")
        if longest_side < 2:
            raise OptionError(f"longest side {longest_side} is too small; it must be 2 pixels or more")
        height, width = size if max(size) <= longest_side else fitted_size(*size, longest_side)
        self._is_mp4 = path.suffix.lower() == ".mp4"
        self.size = (max(2, height // 2 * 2), max(2, width // 2 * 2)) if self._is_mp4 else (height, width)
        self._path = path
        self._rate = Fraction(frames_per_second).limit_denominator(1000)
        # Frames wait on the disk: the formats of pictures are written in one go.
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._frames: list[Path] = []

    def add(self, image: Tensor) -> None:
        """Adds a frame: (3, H, W), float in 0…1."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fastnst-movie-")
        frame = Path(self._folder.name) / f"{len(self._frames):06d}.png"
        try:
            to_pil(resize(image.detach().float().cpu(), size=self.size)).save(frame, compress_level=1)
        except OSError as error:
            raise ImageError(
                f"a frame of {self._path} could not be kept ({error.strerror}); free some space"
            ) from error
        self._frames.append(frame)

    def close(self) -> None:
        """Writes the movie, if there is a frame, and removes what was kept of them. A second call does nothing."""
        if self._folder is None:
            return
        # Beside its target, to be moved into place.
        temporary = self._path.with_name(f".fastnst-{secrets.token_hex(8)}{self._path.suffix}")
        try:
            (self._write_mp4 if self._is_mp4 else self._write_pictures)(temporary)
            temporary.replace(self._path)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ImageError(f"movie {str(self._path)!r} could not be written ({reason}); free some space") from error
        finally:
            temporary.unlink(missing_ok=True)
            self._folder.cleanup()
            self._folder, self._frames = None, []

    def _kept(self) -> Iterator[Image.Image]:
        for path in self._frames:
            with Image.open(path) as frame:
                yield frame.convert("RGB")

    def _write_pictures(self, path: Path) -> None:
        """GIF with a palette of its own for each frame, or WebP."""
        # GIF counts in hundredths of a second.
        milliseconds = max(10, round(1000 / self._rate / 10) * 10)
        durations = [milliseconds] * (len(self._frames) - 1) + [max(milliseconds, int(1000 * _HELD_SECONDS))]
        frames = self._kept()
        options: dict[str, Any] = {"quality": 90, "method": 4}
        if path.suffix.lower() == ".gif":
            frames, options = (frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in frames), {"disposal": 1}
        first = next(frames)
        first.save(path, save_all=True, append_images=frames, duration=durations, loop=0, **options)

    def _write_mp4(self, path: Path) -> None:
        """H.264 in yuv420p, which every player takes."""
        import av

        height, width = self.size
        held = max(1, round(_HELD_SECONDS * self._rate))
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=self._rate, options={"crf": "18", "preset": "medium"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number, frame in enumerate(self._kept(), start=1):
                for _ in range(held if number == len(self._frames) else 1):
                    container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode())
