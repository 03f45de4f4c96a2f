"""A visitor's picture: its file's bytes as they came, checked, with a small one to show."""

import io
import re
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from fastnst.app.web.limits import Limits
from fastnst.image.picture import Picture
from fastnst.image.read import load_image
from fastnst.image.resize import resize_picture
from fastnst.image.write import to_pil

_THUMBNAIL = 512  # px, long edge
_MOST_LETTERS = 100


class NamedBytes(io.BytesIO):
    """A file in memory, with the name that messages and metadata call it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture that can be read: its name, file, size in pixels, and a small one as a browser shows it."""

    name: str
    data: bytes = field(repr=False)
    width: int
    height: int
    thumbnail: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return len(self.data) + len(self.thumbnail)

    def opened(self) -> NamedBytes:
        """The file, as `load_image` reads it."""
        return NamedBytes(self.data, self.name)


def read_upload(name: str, data: bytes, limits: Limits, *, role: str = "content") -> Upload:
    """The picture in `data`, a file that its owner calls `name`.

    Raises ImageError for too many bytes or pixels, and as `load_image` does.
    """
    name = plain_name(name)
    limits.check_bytes(len(data), name)
    picture = load_image(NamedBytes(data, name), role=role, max_pixels=limits.pixels)
    return Upload(name, data, picture.width, picture.height, thumbnail(picture.rgb, picture.alpha))


def plain_name(name: str) -> str:
    """The last part of a path from anywhere, without control characters, of at most 100 letters."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable())[-_MOST_LETTERS:].strip() or "picture"


def thumbnail(rgb: Tensor, alpha: Tensor | None, long_edge: int = _THUMBNAIL) -> bytes:
    """A JPEG, or with alpha a PNG, of (3, H, W) in 0…1, its long edge no more than asked for."""
    edge = max(rgb.shape[-2:])
    picture = Picture(rgb, alpha, "")
    if edge > long_edge:
        picture = resize_picture(picture, long_edge)
    return shown(to_pil(picture.rgb, picture.alpha))


def shown(image: Image.Image) -> bytes:
    """An image as a browser shows it: JPEG, or with alpha PNG."""
    file = io.BytesIO()
    if image.mode == "RGBA":
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "JPEG", quality=88)
    return file.getvalue()
