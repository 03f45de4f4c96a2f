"""Several pictures as one: a grid of cells with labels beside rows, above columns and under cells."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastnst.errors import OptionError, counted
from fastnst.image.metadata import blend_in
from fastnst.image.resize import fitted_size, resize
from fastnst.image.write import to_pil

_INK, _PAPER = (34, 34, 34), (255, 255, 255)
_MOST_PIXELS, _MOST_CELL = 400_000_000, 20_000
_MOST_LINES = 4


@dataclass(frozen=True, kw_only=True)
class Look:
    """Lengths in pixels; None follows the cell: letters of a twentieth of its width, gaps of half of that.

    font: the path of a TrueType or OpenType file; None for Pillow's own, which has little beyond ASCII.
    """

    letters: int | None = None
    gap: int | None = None
    font: str | os.PathLike[str] | None = None

    def sized(self, cell: int) -> tuple[int, int]:
        letters = self.letters if self.letters is not None else max(12, round(cell / 20))
        return letters, self.gap if self.gap is not None else max(4, letters // 2)


def check_look(look: Look, cell: int) -> None:
    """Raises OptionError for a font that cannot be read, or cells whose long edge is not 8 to 20,000 pixels."""
    if not 8 <= cell <= _MOST_CELL:
        size = "small" if cell < 8 else "large"
        raise OptionError(f"cells of {cell} pixels are too {size} for a picture; give 8 to {_MOST_CELL}")
    _Pen(look.sized(cell)[0], look.font)


def check_cells(count: int, size: tuple[int, int]) -> None:
    """Raises OptionError where so many cells of `size`, (height, width), have more than 400 million pixels."""
    height, width = size
    if count * height * width > _MOST_PIXELS:
        raise OptionError(
            f"the sheet would be of {count} cells of {width}×{height} pixels; use smaller cells or fewer of them"
        )


def contact_sheet(
    cells: Sequence[Sequence[Tensor | None]],
    *,
    cell: int = 256,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    look: Look | None = None,
) -> Image.Image:
    """A white RGB image of rows of cells.

    cells: rows of pictures, (3, H, W) float in 0…1, or None for an empty cell; rows may be of different lengths.
    cell: the long edge in pixels to which each picture is brought; its aspect stays. All cells are as large as the
    largest of them, and a picture lies in the middle of its cell.
    row_labels, column_labels: a label for each row or column, or none at all; `captions` are texts under the cells. One
    that is wider than its place is broken between words, and shortened after four lines.

    Raises OptionError where there are no pictures, or not as many labels or captions as there must be, and as
    `check_look` and `check_cells` do.
    """
    look = look or Look()
    check_look(look, cell)
    letters, gap = look.sized(cell)
    pen = _Pen(letters, look.font)
    sizes = [
        [None if picture is None else fitted_size(picture.shape[1], picture.shape[2], cell) for picture in row]
        for row in cells
    ]
    taken = [size for row in sizes for size in row if size is not None]
    if not taken:
        raise OptionError("no picture was given for the sheet; give at least one")
    columns = max(len(row) for row in cells)
    for what, labels, count in (("row", row_labels, len(cells)), ("column", column_labels, columns)):
        if labels and len(labels) != count:
            raise OptionError(
                f"you gave {counted(len(labels), f'{what} label')} for {counted(count, what)}; give "
                "one for each, or none"
            )
    if captions and [len(row) for row in captions] != [len(row) for row in cells]:
        raise OptionError("the captions are not arranged like the cells; give one for each cell, or none")

    height, width = (max(sides) for sides in zip(*taken, strict=True))
    beside = min(width, max((pen.width(label) for label in row_labels), default=0))
    left = gap + (beside + gap if row_labels else 0)
    check_cells(len(cells) * columns, (height, width))
    whole_width = left + columns * (width + gap)
    heading = pen.label(title, whole_width - 2 * gap)
    above = [pen.label(label, width) for label in column_labels]
    under = [[pen.label(caption, width) for caption in row] for row in captions] or [[]] * len(cells)
    top, room = gap + _room([heading], gap), _room(above, gap)
    row_heights = [height + _room(row, gap) + gap for row in under]

    sheet = Image.new("RGB", (whole_width, top + room + sum(row_heights)), _PAPER)
    sheet.paste(heading, (gap, gap))
    lefts = [left + column * (width + gap) for column in range(columns)]
    for label, x in zip(above, lefts, strict=False):
        sheet.paste(label, (x, top))
    y = top + room
    for index, row in enumerate(cells):
        if row_labels:
            sheet.paste(pen.label(row_labels[index], beside), (gap, y))
        for picture, size, x in zip(row, sizes[index], lefts, strict=False):
            if picture is not None and size is not None:
                place = (x + (width - size[1]) // 2, y + (height - size[0]) // 2)
                sheet.paste(to_pil(resize(picture.detach().float().cpu(), size=size)), place)
        for label, x in zip(under[index], lefts, strict=False):
            sheet.paste(label, (x, y + height + gap // 2))
        y += row_heights[index]
    return sheet


def _room(labels: Sequence[Image.Image], gap: int) -> int:
    """The height of the highest label and of the gap that follows it; 0 where all are empty."""
    height = max((label.height for label in labels), default=0)
    return height + gap if height else 0


class _Pen:
    """Text of one size. The font draws a box for a letter that it lacks."""

    def __init__(self, letters: int, font: str | os.PathLike[str] | None) -> None:
        self._line = round(1.25 * letters)
        try:
            self._font = ImageFont.load_default(letters) if font is None else ImageFont.truetype(font, letters)
        except (OSError, ValueError) as error:
            name = os.fspath(font or "")
            raise OptionError(f"font {name!r} cannot be read ({error}); give a .ttf or .otf file") from None

    def width(self, text: str) -> int:
        return math.ceil(self._font.getlength(" ".join(_writable(text).split())))

    def label(self, text: str, width: int) -> Image.Image:
        """`text` in four lines at most, cut where a word is wider than `width`; without height where it is empty."""
        lines = self._wrapped(_writable(text).split(), width)
        if len(lines) > _MOST_LINES:
            last = lines[_MOST_LINES - 1]
            while last and self.width(f"{last} ...") > width:
                last = last[:-1]
            lines = [*lines[: _MOST_LINES - 1], f"{last} ...".strip()]
        label = Image.new("RGB", (width, self._line * len(lines)), _PAPER)
        draw = ImageDraw.Draw(label)
        for index, line in enumerate(lines):
            draw.text((0, index * self._line), line, fill=_INK, font=self._font)
        return label

    def _wrapped(self, words: list[str], width: int) -> list[str]:
        """Lines of `words`, none wider than `width`, and no more than are needed to know that there are too many."""
        lines: list[str] = []
        while words and len(lines) <= _MOST_LINES:
            line, *words = words
            while words and self.width(f"{line} {words[0]}") <= width:
                line, *words = f"{line} {words[0]}", *words[1:]
            # No letter is narrower than a pixel.
            fitting = (count for count in range(min(len(line), width), 1, -1) if self.width(line[:count]) <= width)
            lines.append(line[: next(fitting, 1)])
            words = [rest, *words] if (rest := line[len(lines[-1]) :]) else words
        return lines


def _writable(text: str) -> str:
    """The text with a question mark for what is no Unicode, as a file's name may have it."""
    return text.encode(errors="replace").decode()


def in_rows(
    pictures: Sequence[Any], columns: int | None = None, *, width: float = 1.0, height: float = 1.0
) -> list[list[Any]]:
    """`pictures`, in order, in rows of `columns`; or of as many as make a sheet of cells of `width`×`height` nearest to
    a 4:3 screen."""
    count = len(pictures)

    def distance(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        return abs(math.log((columns * width) / (rows * height) / (4 / 3))) + 0.6 * (rows * columns - count), -columns

    step = columns or min(range(1, count + 1), key=distance, default=1)
    return [list(pictures[start : start + step]) for start in range(0, count, step)]


def differing_options(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several results' `parameters`, a caption of the options of which most others have the same other
    value, or each its own, and the final loss; of a network's picture, its styles.

    As `style_weight 100, optimizer adam; loss 0.52` and `mosaic 0.7, swirls 0.3`.
    """
    options = [record["options"] if isinstance(record.get("options"), Mapping) else {} for record in parameters]
    usual = {}
    for name in {name for values in options for name in values}:
        (value, most), *others = Counter(_said(values[name]) for values in options if name in values).most_common(2)
        usual[name] = value if not others or others[0][1] < most else None
    captions = []
    for record, values in zip(parameters, options, strict=True):
        said = [", ".join(f"{name} {share:.2g}".removesuffix(" 1") for name, share in blend_in(record).items())]
        said += [", ".join(f"{name} {_said(value)}" for name, value in values.items() if _said(value) != usual[name])]
        final = record.get("final")
        total = final.get("total") if isinstance(final, Mapping) else None
        if isinstance(total, int | float):
            said.append(f"loss {total:.4g}")
        captions.append("; ".join(filter(None, said)))
    return captions


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_said(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_said, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
