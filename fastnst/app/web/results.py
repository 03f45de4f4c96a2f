"""A result in a visit's history: the image as its file, and all that made it."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastnst.app.web.uploads import NamedBytes, Upload, thumbnail
from fastnst.errors import OptionError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image
from fastnst.transfer.result import Result

SUFFIXES: Mapping[str, str] = MappingProxyType({"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"})
"""The formats that a result can be had in."""

MEDIA: Mapping[str, str] = MappingProxyType(
    {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "tiff": "image/tiff"}
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a visitor asks for: pictures, the options that the form gave, and the form itself to fill it again.

    number: 1 for the visit's first request, and so on.
    begins: what it starts from: one of `START_WORDS`, or the number of a result.
    start: that result, until the run is over.
    """

    number: int
    content: Upload
    styles: tuple[Upload, ...]
    options: Mapping[str, Any]
    form: Mapping[str, str]
    begins: str = "content"
    start: "Kept | None" = None

    @property
    def name(self) -> str:
        """The name of the result's file, without its suffix."""
        parts = [_word(Path(upload.name).stem) for upload in (self.content, self.styles[0])]
        return "-".join([*parts, str(self.number)])


@dataclass(frozen=True, eq=False)
class Kept:
    """A result: its PNG with all metadata, a small one to show, its losses as the page draws them, and the request that
    it came from."""

    request: Request
    png: bytes = field(repr=False)
    thumbnail: bytes = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    losses: Mapping[str, Any] = field(repr=False)
    width: int
    height: int

    @property
    def id(self) -> str:
        return str(self.request.number)

    @property
    def size_bytes(self) -> int:
        return len(self.png) + len(self.thumbnail)

    def opened(self) -> NamedBytes:
        """The PNG under the name that it is downloaded with, so that metadata name it so."""
        return NamedBytes(self.png, self.request.name + SUFFIXES["png"])

    def file(self, format: str) -> bytes:
        """The picture in another format, with the same metadata. Raises OptionError for one that there is not."""
        if format not in SUFFIXES:
            raise OptionError(f"unknown format {format[:20]!r}; choose one of: {', '.join(SUFFIXES)}")
        if format == "png":
            return self.png
        picture, file = load_image(io.BytesIO(self.png)), io.BytesIO()
        parameters = read_parameters(io.BytesIO(self.png))
        save_image(file, picture.rgb, picture.alpha, parameters=parameters, format=format)
        return file.getvalue()


def keep(result: Result, request: Request, losses: Mapping[str, Any]) -> Kept:
    """The result for the history. Raises ImageError where it cannot be written as a picture."""
    file = io.BytesIO()
    result.save(file, format="png")
    height, width = result.tensor.shape[-2:]
    small = thumbnail(result.tensor, result.alpha)
    # Without what it started from: a chain of results would never be given up.
    return Kept(replace(request, start=None), file.getvalue(), small, result.parameters, losses, width, height)


def oldest_first(results: Sequence[Kept], most: int, most_bytes: int) -> list[Kept]:
    """The newest of the results that are no more than `most`, nor with their pictures than `most_bytes`; of any, the
    newest one stays."""
    kept: list[Kept] = []
    pictures: set[Upload] = set()
    total = 0
    for result in reversed(results):
        new = {result.request.content, *result.request.styles} - pictures
        total += result.size_bytes + sum(upload.size_bytes for upload in new)
        if kept and (len(kept) >= most or total > most_bytes):
            break
        kept.append(result)
        pictures |= new
    return kept[::-1]


def _word(text: str) -> str:
    """What file systems and headers take: letters, digits, dashes and dots, at most 40."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:40].strip("-.") or "picture"
