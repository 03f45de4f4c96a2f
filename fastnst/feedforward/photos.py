"""The photographs that a network is trained on: a folder's pictures, shuffled, cropped and mirrored by a seed alone."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.feedforward.network import SMALLEST
from fastnst.image.files import pictures_at
from fastnst.image.picture import opaque
from fastnst.image.read import open_picture
from fastnst.image.resize import at_size, fitted_size, resize

# A crop shows up to so many times the pixels of its size a side.
_ZOOM = 2
# Photographs of three by four, the last that were used, are kept in so many bytes.
_KEPT_BYTES = 1 << 29
# Prime, so that seeds and numbers of crops do not meet soon.
_STRIDE = 1_000_003


class Photos:
    """Crops of pictures of a folder, or of the paths given: crop `number` is a function of it, the seed and the files.

    Pictures that cannot be read, or whose short side is less than a crop's, are left out, and another takes their
    place; `skipped` has the reason by the path. Safe in several threads.

    Raises ImageError for a folder without pictures, or a path where nothing is; `crop` where none of them can be used.
    """

    def __init__(self, photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], size: int, seed: int) -> None:
        given = [photos] if isinstance(photos, str | os.PathLike) else list(photos)
        self.paths = [path for place in given for path in pictures_at(place, "photo")]
        if not self.paths:
            raise ImageError("no photographs were given; give a folder of pictures")
        for place in map(os.fsdecode, given):
            if not os.path.exists(place):  # noqa: PTH110 - as it was given
                raise ImageError(f"photo {place!r} does not exist; check the path")
        self.size, self.seed = size, seed
        self.skipped: dict[str, str] = {}
        self._picture: Callable[[str], Tensor | None] = lru_cache(_KEPT_BYTES // (4 * (_ZOOM * size) ** 2))(self._read)

    @property
    def names(self) -> list[str]:
        return [os.path.basename(path) for path in self.paths]  # noqa: PTH119 - as they were given

    def crop(self, number: int) -> Tensor:
        """(3, size, size) float32 in 0…1: in each round of all pictures each has one, of a random part, scale and
        side."""
        count = len(self.paths)
        order = torch.randperm(count, generator=self._generator(-1 - number // count))
        generator = self._generator(number)
        # All of them where the picture whose turn it is cannot be used, in an order of its own.
        turns = [int(order[number % count]), *torch.randperm(count, generator=generator).tolist()]
        picture = next((picture for index in turns if (picture := self._picture(self.paths[index])) is not None), None)
        if picture is None:
            path, reason = next(iter(self.skipped.items()))
            raise ImageError(f"none of the {count} photographs can be used; the first, {path!r}: {reason}")
        height, width = picture.shape[1:]

        def below(most: int) -> int:
            return int(torch.randint(most + 1, (), generator=generator))

        side = self.size + below(min(height, width) - self.size)
        top, left = below(height - side), below(width - side)
        crop = resize(picture[:, top : top + side, left : left + side].float() / 255, self.size)
        return crop.flip(2) if below(1) else crop

    def whole(self, count: int) -> list[Tensor]:
        """The first `count` pictures that can be used and are wide enough for a network, (3, H, W) float32, their long
        side that of a crop."""
        pictures: list[Tensor] = []
        for path in self.paths:
            if len(pictures) < count and (picture := self._picture(path)) is not None:
                whole = resize(picture.float() / 255, self.size)
                pictures += [whole] if min(whole.shape[1:]) >= SMALLEST else []
        return pictures

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * _STRIDE + number) % (1 << 63))

    def _read(self, path: str) -> Tensor | None:
        """The picture, (3, H, W) in 8 bits, its short side at most `_ZOOM` crops; None where it cannot be used."""
        try:
            photo = open_picture(path, role="photo")
            short = min(photo.height, photo.width)
            if short < self.size:
                raise ImageError(
                    f"photo {path!r} is {photo.width}×{photo.height} pixels, and a crop has {self.size} on each side; "
                    "lower the size"
                )
            size = fitted_size(photo.height, photo.width, min(short, _ZOOM * self.size), "short")
            picture = opaque(at_size(photo, size))
        except ImageError as error:
            self.skipped[path] = str(error)
            return None
        return (picture.rgb * 255).round().byte()
