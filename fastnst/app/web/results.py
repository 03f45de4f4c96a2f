"""The page's pictures: uploads as they came, results with all that made them, and the most of each."""

import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fastnst.errors import FastnstError, ImageError, OptionError
from fastnst.image.decode import check_size
from fastnst.image.metadata import read_parameters
from fastnst.image.picture import Picture
from fastnst.image.read import load_image
from fastnst.image.resize import resize_picture
from fastnst.image.write import save_image, to_pil
from fastnst.options.options import Options
from fastnst.options.parse import in_words
from fastnst.transfer.inputs import Canvas
from fastnst.transfer.result import Result
from fastnst.video.clip import FILMS, moves, open_clip
from fastnst.video.flow import as_planes
from fastnst.video.options import Part

SUFFIXES: Mapping[str, str] = MappingProxyType({"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"})
"""The formats that a result can be had in."""

_THUMBNAIL = 512  # px, long edge
_MOST_LETTERS = 100


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that may be asked of the page: of each picture (`upload_bytes`, `pixels`), of the long edge of a result
    and of a style at the scale that it is read at (`size`), of a run's styles and `seconds`, of the history with its
    pictures, and of a clip's frames. Raises OptionError for less than 1 of anything, and for a size under 64 pixels.
    """

    upload_bytes: int = 32_000_000
    pixels: int = 50_000_000
    size: int = 2048
    styles: int = 4
    seconds: int = 6 * 3600
    results: int = 24
    history_bytes: int = 512_000_000
    frames: int = 300

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, least = getattr(self, limit.name), 64 if limit.name == "size" else 1
            if value < least:
                raise OptionError(
                    f"a limit of {value} for {limit.name.replace('_', ' ')} is too small; give {least} or more"
                )

    def check_bytes(self, count: int, name: str) -> None:
        """Raises ImageError where a file called `name` is longer than it may be."""
        if count > self.upload_bytes:
            raise ImageError(
                f"{name} is larger than {in_words(self.upload_bytes)}, the most that this page takes; reduce it first"
            )

    def check_size(self, size: int, edge: str, content: tuple[int, int]) -> None:
        """Raises OptionError where `edge` of a picture of this width and height may not be so long."""
        most = self.size / _stretch(edge, content)
        if size > most:
            raise OptionError(f"size {size} is more than this page makes; give {int(most)} or less")

    def check_options(self, options: Options, content: tuple[int, int], styles: Sequence[tuple[int, int]]) -> None:
        """Raises OptionError where the options make larger pictures than there may be of a content and styles of these
        widths and heights."""
        self.check_size(options.size, options.edge, content)
        most = self.size / max(_stretch(options.edge, style) for style in styles) / options.size
        if options.style_scale > most:
            raise OptionError(
                f"style scale {options.style_scale:g} at size {options.size} makes the style larger than the "
                f"{self.size} pixels that this page allows; give {most:.3g} or less"
            )


class NamedBytes(io.BytesIO):
    """A file in memory, with the name that messages and metadata call it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture that can be read: its name, file, size in pixels, and a small one as a browser shows it; `sha256` is
    that of its pixels. A clip has so many `frames`, and the first of them is shown."""

    name: str
    data: bytes = field(repr=False)
    width: int
    height: int
    thumbnail: bytes = field(repr=False)
    frames: int = 0
    sha256: str = ""

    @property
    def size_bytes(self) -> int:
        return len(self.data) + len(self.thumbnail)

    def opened(self) -> NamedBytes:
        """The file, as `load_image` reads it."""
        return NamedBytes(self.data, self.name)


def blank(side: int) -> Upload:
    """The stand-in for the content of a texture, which has none: it has a size alone."""
    grey = Canvas(side, side).picture.rgb
    return Upload("texture", b"", side, side, thumbnail(grey, None))


def read_upload(name: str, data: bytes, limits: Limits, *, role: str = "content") -> Upload:
    """The picture in `data`, a file that its owner calls `name`. Raises ImageError as `load_image` does."""
    name = plain_name(name)
    limits.check_bytes(len(data), name)
    if role == "content" and Path(name).suffix.lower() in (*FILMS, ".gif"):
        upload = _read_clip(name, data, limits)
        if upload is not None:
            return upload
    picture = load_image(NamedBytes(data, name), role=role, max_pixels=limits.pixels)
    small = thumbnail(picture.rgb, picture.alpha)
    return Upload(name, data, picture.width, picture.height, small, sha256=picture.sha256)


def _read_clip(name: str, data: bytes, limits: Limits) -> Upload | None:
    """The clip in `data`; None where that is a single picture. Raises ImageError, or OptionError for a longer one."""
    with clip_file(name, data) as path:
        if not moves(path):
            return None
        clip = open_clip(path, Part(max_frames=limits.frames))
        check_size(*clip.size, f"clip {name!r}", limits.pixels)
        first = as_planes(next(clip.frames()))[0]
    return Upload(name, data, clip.size[1], clip.size[0], thumbnail(first, None), len(clip))


@contextmanager
def clip_file(name: str, data: bytes) -> Iterator[Path]:
    """The file of a clip, which errors call `name`, in a folder that is gone with the block: decoders want a path."""
    with tempfile.TemporaryDirectory(prefix="fastnst-clip-") as folder:
        path = Path(folder) / f"clip{Path(name).suffix.lower()}"
        path.write_bytes(data)
        try:
            yield path
        except FastnstError as error:
            error.args = (str(error).replace(str(path), name), *error.args[1:])
            raise


def plain_name(name: str) -> str:
    """The last part of a path from anywhere, without control characters, of at most 100 letters."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable())[-_MOST_LETTERS:].strip() or "picture"


def thumbnail(rgb: Tensor, alpha: Tensor | None, long_edge: int = _THUMBNAIL) -> bytes:
    """A JPEG, or with alpha a PNG, of (3, H, W) in 0…1, its long edge no more than asked for."""
    picture, file = Picture(rgb, alpha, ""), io.BytesIO()
    if max(rgb.shape[-2:]) > long_edge:
        picture = resize_picture(picture, long_edge)
    image = to_pil(picture.rgb, picture.alpha)
    image.save(file, "PNG" if image.mode == "RGBA" else "JPEG", compress_level=1, quality=88)
    return file.getvalue()


def large(upload: Upload, limits: Limits) -> bytes:
    """The picture of an upload as a browser shows it, as large as the page's results may be."""
    if upload.frames or not upload.data:
        return upload.thumbnail
    picture = load_image(upload.opened(), role="content", max_pixels=limits.pixels)
    return thumbnail(picture.rgb, picture.alpha, limits.size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A run that is asked for: pictures, the options that the form gave, and the form itself to fill it again.

    It `begins` with one of `START_WORDS`, or the number of a result, which is `start` until the run is over.
    """

    number: int
    content: Upload
    styles: tuple[Upload, ...]
    options: Mapping[str, Any]
    form: Mapping[str, str]
    begins: str = "content"
    start: "Kept | None" = None
    mask: Upload | None = None

    @property
    def uploads(self) -> tuple[Upload, ...]:
        return (self.content, *self.styles, *([] if self.mask is None else [self.mask]))

    @property
    def name(self) -> str:
        stems = [re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(upload.name).stem) for upload in (self.content, self.styles[0])]
        # As file systems and headers take it.
        return "-".join([*(stem[:40].strip("-.") or "picture" for stem in stems), str(self.number)])


class Kept:
    """A result for the history: its PNG with all metadata, a small one to show, its losses as the page draws them, and
    its request; with the clip whose first frame it is. Raises ImageError where it cannot be written as a picture."""

    def __init__(self, result: Result, request: Request, losses: Mapping[str, Any], film: bytes | None = None) -> None:
        file = io.BytesIO()
        result.save(file, format="png")
        # Without what it started from: a chain of results would never be given up.
        self.request, self.losses, self.film = replace(request, start=None), losses, film
        self.png, self.thumbnail = file.getvalue(), thumbnail(result.tensor, result.alpha)
        self.height, self.width = result.tensor.shape[-2:]
        self.parameters = result.parameters

    @property
    def id(self) -> str:
        return str(self.request.number)

    @property
    def size_bytes(self) -> int:
        return len(self.png) + len(self.thumbnail) + len(self.film or b"")

    @property
    def suffixes(self) -> Mapping[str, str]:
        """The formats that it can be had in; of a clip the first frame in those of a picture."""
        return SUFFIXES if self.film is None else {"mp4": ".mp4", **SUFFIXES}

    def opened(self) -> NamedBytes:
        """The PNG under the name that it is downloaded with, so that metadata name it so."""
        return NamedBytes(self.png, self.request.name + SUFFIXES["png"])

    def file(self, format: str) -> bytes:
        """The picture in another format, with the same metadata. Raises OptionError for one that there is not."""
        if format not in self.suffixes:
            raise OptionError(f"unknown format {format[:20]!r}; choose one of: {', '.join(self.suffixes)}")
        if format == "mp4" and self.film is not None:
            return self.film
        if format == "png":
            return self.png
        picture, file = load_image(self.opened()), io.BytesIO()
        save_image(file, picture.rgb, picture.alpha, parameters=read_parameters(self.opened()), format=format)
        return file.getvalue()


def oldest_first(results: Sequence[Kept], most: int, most_bytes: int) -> list[Kept]:
    """The newest of the results that are no more than `most`, nor with their pictures than `most_bytes`; of any, the
    newest one stays."""
    kept: list[Kept] = []
    pictures: set[Upload] = set()
    total = 0
    for result in reversed(results):
        new = set(result.request.uploads) - pictures
        total += result.size_bytes + sum(upload.size_bytes for upload in new)
        if kept and (len(kept) >= most or total > most_bytes):
            break
        kept.append(result)
        pictures |= new
    return kept[::-1]


def _stretch(edge: str, size: tuple[int, int]) -> float:
    """The long edge of a picture of `size` over its `edge`."""
    return max(size) / min(size) if edge == "short" else 1.0
