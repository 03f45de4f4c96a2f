"""Several pictures as one: a grid of cells with labels beside rows, above columns and under cells."""

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.output import to_pil
from fastnst.resizing import fitted_size, resize

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK, _PAPER = (34, 34, 34), (255, 255, 255)
_MOST_PIXELS = 400_000_000
# Pillow's own font has ASCII and little more.
_SPELLED = {"α": "alpha", "β": "beta", "γ": "gamma", "×": "x", "–": "-", "—": "-", "…": "...", "·": ".", "−": "-"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """Lengths in pixels; None follows the cell: letters of a twentieth of its width, gaps of half of that.

    font: the path of a TrueType or OpenType file; None for Pillow's own, in which what is beyond ASCII is spelled.
    """

    letters: int | None = None
    gap: int | None = None
    font: str | os.PathLike[str] | None = None

    def sized(self, cell: int) -> tuple[int, int]:
        """Letters and gap for a cell whose longer side is `cell` pixels."""
        letters = self.letters if self.letters is not None else max(12, round(cell / 20))
        return letters, self.gap if self.gap is not None else max(4, letters // 2)


def check_look(look: Look, cell: int) -> None:
    """Raises OptionError for a font that cannot be read, or cells whose long edge is less than 8 pixels."""
    if cell < 8:
        raise OptionError(f"cells of {cell} pixels are too small for a picture; give 8 or more")
    _Pen(look.sized(cell)[0], look.font)


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
    row_labels, column_labels: one for each row or column, or none at all.
    captions: for each cell a text under it, in rows as the cells are, or none at all.

    A label that is wider than its place is broken between words, and shortened after four lines.

    Raises OptionError where there are no pictures, where the numbers of labels or captions are others than those of
    rows, columns or cells, and for a sheet of more than 400 million pixels or a font that cannot be read.
    """
    columns = max((len(row) for row in cells), default=0)
    if not any(picture is not None for row in cells for picture in row):
        raise OptionError("a sheet without pictures was asked for; give at least one")
    look = look or Look()
    check_look(look, cell)
    _check_count("row labels", row_labels, len(cells), "rows")
    _check_count("column labels", column_labels, columns, "columns")
    if captions and [len(row) for row in captions] != [len(row) for row in cells]:
        raise OptionError("the captions are not in rows as the cells are; give one for each cell, or none")
    letters, gap = look.sized(cell)
    pen = _Pen(letters, look.font)
    sizes = [_size_of(picture, cell) for row in cells for picture in row if picture is not None]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)

    beside = min(width, max((pen.width(label) for label in row_labels), default=0))
    left = gap + (beside + gap if row_labels else 0)
    whole_width = left + columns * (width + gap)
    heading = pen.lines(title, whole_width - 2 * gap)
    above = [pen.lines(label, width) for label in column_labels]
    under = [[pen.lines(caption, width) for caption in row] for row in captions]
    row_heights = [height + pen.height(max((len(lines) for lines in row), default=0), gap) for row in under]
    row_heights = row_heights or [height] * len(cells)
    top = gap + pen.height(len(heading), gap)
    first = top + pen.height(max((len(lines) for lines in above), default=0), gap)
    whole_height = first + sum(row_height + gap for row_height in row_heights)
    if whole_height * whole_width > _MOST_PIXELS:
        raise OptionError(f"the sheet would be {whole_width}×{whole_height} pixels; use smaller cells or fewer of them")

    sheet = Image.new("RGB", (whole_width, whole_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    pen.write(draw, heading, (gap, gap))
    for column, lines in enumerate(above):
        pen.write(draw, lines, (left + column * (width + gap), top))
    y = first
    for index, row in enumerate(cells):
        if row_labels:
            pen.write(draw, pen.lines(row_labels[index], beside), (gap, y))
        for column, picture in enumerate(row):
            x = left + column * (width + gap)
            if picture is not None:
                size = _size_of(picture, cell)
                place = (x + (width - size[1]) // 2, y + (height - size[0]) // 2)
                sheet.paste(to_pil(resize(picture.detach().float().cpu(), size=size)), place)
            if captions:
                pen.write(draw, under[index][column], (x, y + height + gap // 2))
        y += row_heights[index] + gap
    return sheet


def _size_of(picture: Tensor, cell: int) -> tuple[int, int]:
    """(height, width) of a picture in its cell."""
    _, height, width = picture.shape
    return fitted_size(height, width, cell)


def in_rows(pictures: Sequence[Any], *, width: float = 1.0, height: float = 1.0) -> list[list[Any]]:
    """`pictures`, in order, in the rows that make a sheet of cells of `width`×`height` nearest to a 4:3 screen."""
    count = len(pictures)

    def distance(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        empty = rows * columns - count
        return abs(math.log((columns * width) / (rows * height) / (4 / 3))) + 0.6 * empty, -columns

    columns = min(range(1, count + 1), key=distance, default=1)
    return [list(pictures[start : start + columns]) for start in range(0, count, columns)]


def differing_options(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several results' `parameters`, a caption of the options in which they differ, and the final loss.

    As `style_weight 100, optimizer adam; loss 0.52`. Options that only some of them have count as different.
    """
    options = [one["options"] if isinstance(one.get("options"), Mapping) else {} for one in parameters]
    names = list(dict.fromkeys(name for one in options for name in one))
    differing = [name for name in names if any(one.get(name) != options[0].get(name) for one in options)]
    captions = []
    for one, values in zip(parameters, options, strict=True):
        said = ", ".join(f"{name} {_said(values[name])}" for name in differing if name in values)
        final = one.get("final")
        total = final.get("total") if isinstance(final, Mapping) else None
        loss = f"loss {total:.4g}" if isinstance(total, int | float) else ""
        captions.append("; ".join(part for part in (said, loss) if part))
    return captions


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_said(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_said(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


class _Pen:
    """Text of one size."""

    def __init__(self, letters: int, font: str | os.PathLike[str] | None) -> None:
        self.letters = letters
        self._spells = font is None
        try:
            self._font: Font = ImageFont.load_default(letters) if font is None else ImageFont.truetype(font, letters)
        except (OSError, ValueError) as error:
            raise OptionError(
                f"font {os.fspath(font or '')!r} cannot be read ({error}); give a .ttf or .otf file"
            ) from None

    def width(self, text: str) -> int:
        return math.ceil(self._font.getlength(self._written(text)))

    def height(self, lines: int, gap: int) -> int:
        """Of so many lines and the gap that follows them; 0 for none."""
        return lines * self._line + gap if lines else 0

    @property
    def _line(self) -> int:
        return round(1.25 * self.letters)

    def lines(self, text: str, width: int) -> list[str]:
        """`text` broken between words, each line as wide as `width` at most, in four lines at most."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.width(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        shortened = [*lines[:3], f"{lines[3]} ..."] if len(lines) > 4 else lines
        return [self._shortened(line, width) for line in shortened]

    def _shortened(self, line: str, width: int) -> str:
        if self.width(line) <= width:
            return line
        kept = line.removesuffix(" ...")
        while kept and self.width(kept + "...") > width:
            kept = kept[:-1]
        return kept + "..."

    def write(self, draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int]) -> None:
        for index, line in enumerate(lines):
            draw.text((place[0], place[1] + index * self._line), self._written(line), fill=_INK, font=self._font)

    def _written(self, text: str) -> str:
        """`text` with the letters that the font has."""
        if not self._spells:
            return text
        bare = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
        plain = "".join(_SPELLED.get(letter, letter) for letter in bare)
        return plain.encode("ascii", "replace").decode()


def _check_count(what: str, labels: Sequence[str], count: int, of: str) -> None:
    if labels and len(labels) != count:
        raise OptionError(f"{len(labels)} {what} for {count} {of}; give one for each, or none")
