"""An image that is made without a content picture: all that is known of it beforehand is its size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from fastnst.errors import OptionError
from fastnst.image.files import MAX_PIXELS
from fastnst.image.picture import AnyPicture, Picture, StreamedPicture
from fastnst.image.read import Source, open_picture

_LONGEST = 65_535


@dataclass(frozen=True)
class Canvas:
    """What stands in place of a content picture: the height and width in pixels, each 2 to 65535.

    Raises OptionError for others.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if isinstance(side, bool) or not isinstance(side, Integral) or not 2 <= side <= _LONGEST:
                raise OptionError(
                    f"size {self.width}x{self.height} (width by height) is not possible; each side must be a whole "
                    f"number of 2 to {_LONGEST} pixels"
                )

    @property
    def long_edge(self) -> int:
        return max(self.height, self.width)

    @property
    def picture(self) -> Picture:
        """An even grey of this size, of one sample that all pixels share."""
        return Picture(
            torch.full((3, 1, 1), 0.5, dtype=torch.float32).expand(3, self.height, self.width), None, "canvas"
        )


def parse_canvas(size: Any) -> Canvas:
    """The canvas of "512x384" (width by height), of a (height, width), or of one number for a square.

    Raises OptionError for anything else.
    """
    if isinstance(size, tuple | list) and len(size) == 2:
        return Canvas(*size)
    if isinstance(size, str):
        match = re.fullmatch(r"([0-9]{1,9})(?:[x×]([0-9]{1,9}))?", size.strip())
        if match is not None:
            return Canvas(int(match[2] or match[1]), int(match[1]))
    elif isinstance(size, Integral) and not isinstance(size, bool):
        return Canvas(int(size), int(size))
    raise OptionError(f"size {size!r} is no size in pixels; write 512x384 (width by height), or 512 for a square")


def recorded_canvas(parameters: Mapping[str, Any]) -> Canvas | None:
    """The canvas of the run whose `parameters` these are; None where it had a content picture."""
    if parameters["content"] is not None:
        return None
    last = parameters["sizes"][-1]
    return Canvas(last["height"], last["width"])


def opened(content: Source | AnyPicture | Canvas, max_pixels: int = MAX_PIXELS) -> AnyPicture | Canvas:
    """What a run is given to start from, read if it is to be read. Raises ImageError as `open_picture` does."""
    if isinstance(content, Picture | StreamedPicture | Canvas):
        return content
    return open_picture(content, role="content", max_pixels=max_pixels)
