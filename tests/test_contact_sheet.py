"""Contact sheets: where the cells lie, what is written beside them, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.image.sheet import Look, contact_sheet

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
PLAIN = Look(letters=12, gap=10)


def filled(colour: tuple[float, float, float], height: int = 48, width: int = 64) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, height, width)


def box(pixels: np.ndarray, colour: tuple[float, ...]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what has this colour."""
    rows, columns = np.nonzero((pixels == np.array(colour) * 255).all(axis=2))
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


def ink(pixels: np.ndarray) -> np.ndarray:
    """Where there is text: what is neither paper nor a colour."""
    return (pixels.max(axis=2) < 120) & (np.ptp(pixels, axis=2) < 20)


def sheet_of(cells: Any, **options: Any) -> np.ndarray:
    return np.asarray(contact_sheet(cells, look=PLAIN, **options))


def test_cells_without_labels() -> None:
    sheet = sheet_of([[filled(RED), filled(BLUE)]], cell=32)
    assert sheet.shape == (10 + 24 + 10, 10 + 2 * (32 + 10), 3)
    assert box(sheet, RED) == (10, 10, 34, 42)
    assert box(sheet, BLUE) == (10, 52, 34, 84)
    assert not ink(sheet).any()
    # Aspects stay, and pictures lie in the middle.
    sheet = sheet_of([[filled(RED, 64, 32)], [filled(BLUE, 32, 64), None]], cell=40)
    assert box(sheet, RED) == (10, 20, 50, 40)
    assert box(sheet, BLUE) == (10 + 40 + 10 + 10, 10, 10 + 40 + 10 + 30, 50)
    assert sheet.shape == (2 * 50 + 10, 2 * 50 + 10, 3)


def test_labels_are_beside_their_rows_and_columns_and_captions_under_their_cells() -> None:
    cells = [[filled(RED), filled(RED)], [filled(BLUE), filled(BLUE)]]
    labels = {"row_labels": ["a", "b"], "column_labels": ["c", "d"], "title": "title"}
    sheet = sheet_of(cells, cell=64, captions=[["one two three four five six", ""], ["x", ""]], **labels)
    red, blue, marks = box(sheet, RED), box(sheet, BLUE), ink(sheet)
    half = (red[1] + red[3]) // 2
    assert marks[: red[0]].any()
    for place in (red, blue):
        assert marks[place[0] : place[2], : place[1]].any()
    for left, right in ((red[1], half), (half, red[3])):
        assert marks[25 : red[0], left:right].any()
    assert marks[red[2] : blue[0], red[1] : half].any()
    assert not marks[red[2] : blue[0], half:].any()
    assert marks[blue[2] :, blue[1] : half].any()


def test_captions_break_where_they_are_measured_to_end() -> None:
    """Letters of different widths: no line is cut at the edge of its cell."""
    sheet = sheet_of([[filled(RED)]], cell=80, captions=[["iiii.iiii iiii.iiii iiii WWWW WWWW WWWWWWW"]])
    red = box(sheet, RED)
    under = ink(sheet)[red[2] :]
    assert under.any()
    assert not under[:, red[3] - 1 :].any()


@pytest.mark.parametrize("text", ["word " * 200, "w" * 500, "α/β = 10⁻³ × Tübingen 夜 — …", "  ", "line\nbreak"])
def test_any_label_stays_in_its_place(text: str) -> None:
    labels: dict[str, Any] = {"row_labels": [text], "column_labels": [text, ""], "captions": [[text, ""]]}
    sheet = sheet_of([[filled(RED), filled(RED)]], cell=80, title=text, **labels)
    red, marks = box(sheet, RED), ink(sheet)
    assert red[1] <= 10 + 80 + 10
    assert not marks[red[2] :, red[1] + 80 :].any()
    assert not marks[:, -9:].any()
    lines = 4 * 15 + 10
    assert red[0] <= 10 + 2 * lines
    assert sheet.shape[0] <= red[2] + lines + 10


def test_a_font_from_a_file(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    plain, own = (
        contact_sheet([[filled(RED)]], column_labels=["αβ"], look=Look(font=chosen)) for chosen in (None, font)
    )
    assert plain.tobytes() != own.tobytes()
    (tmp_path / "a.ttf").write_bytes(b"no font")
    for path in (tmp_path / "a.ttf", tmp_path / "none.ttf"):
        with pytest.raises(OptionError, match=r"ttf' cannot be read"):
            contact_sheet([[filled(RED)]], look=Look(font=path))


@pytest.mark.parametrize(
    ("cells", "options", "said"),
    [
        ([], {}, "no picture was given for the sheet"),
        ([[None], []], {}, "no picture was given for the sheet"),
        ([[filled(RED)]], {"cell": 4}, "cells of 4 pixels are too small"),
        ([[filled(RED)]], {"row_labels": ["a", "b"]}, "2 row labels for 1 row;"),
        ([[filled(RED)]], {"column_labels": ["a", "b"]}, "2 column labels for 1 column;"),
        ([[filled(RED)]], {"captions": [["a", "b"]]}, "captions are not arranged like the cells"),
        ([[filled(RED)] * 30] * 30, {"cell": 2000}, "the sheet would be .* pixels; use smaller cells"),
    ],
)
def test_refused(cells: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        contact_sheet(cells, **options)
