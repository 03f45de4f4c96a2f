"""What a visitor of the page may ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from fastnst.errors import ImageError, OptionError
from fastnst.options.options import Options
from fastnst.options.parse import in_words


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most of everything.

    upload_bytes: of one picture's file.
    pixels: of one picture.
    size: long edge in pixels of a result, and of a style at the scale that it is read at.
    styles: style pictures of one run.
    results: in one visit's history; the oldest go first.
    visit_bytes: of a visit's results with the pictures that they are made of; the oldest go first.
    visits: at one time.

    Raises OptionError for less than 1 of anything, and for a size under 64 pixels.
    """

    upload_bytes: int = 32_000_000
    pixels: int = 50_000_000
    size: int = 2048
    styles: int = 4
    results: int = 24
    visit_bytes: int = 512_000_000
    visits: int = 8

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, least = getattr(self, limit.name), 64 if limit.name == "size" else 1
            if value < least:
                raise OptionError(f"a limit of {value} for {limit.name.replace('_', ' ')} is too small; give {least}")

    def check_bytes(self, count: int, name: str) -> None:
        """Raises ImageError where a file called `name` is longer than it may be."""
        if count > self.upload_bytes:
            raise ImageError(
                f"{name} has more than {in_words(self.upload_bytes)}, the most that this page takes; reduce it first"
            )

    def check_options(self, options: Options, content: tuple[int, int], styles: Sequence[tuple[int, int]]) -> None:
        """Raises OptionError where the options make larger pictures than there may be of a content and styles of these
        widths and heights."""
        most = self.size / _stretch(options, content)
        if options.size > most:
            raise OptionError(f"size {options.size} is more than this page makes; give {int(most)} or less")
        most = self.size / max(_stretch(options, style) for style in styles) / options.size
        if options.style_scale > most:
            raise OptionError(
                f"style scale {options.style_scale:g} at size {options.size} makes the style larger than the "
                f"{self.size} pixels that this page allows; give {most:.3g} or less"
            )


def _stretch(options: Options, size: tuple[int, int]) -> float:
    """The long edge of a picture of `size` over the one that the options measure."""
    return max(size) / min(size) if options.edge == "short" else 1.0
