"""`fastnst grid` and `fastnst compare`: which runs they make, what stands on the sheet, what they refuse."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from drawn import drawn
from PIL import Image

from fastnst.app import cli
from fastnst.app.cli import grid
from fastnst.image import sheet
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.transfer.stylizer import Stylizer

FAST = ["--size", "24", "--iterations", "2", "--scales", "none", "--weights", "random", "--quiet"]
SHALLOW = ["--style-layers", "conv1_1", "--content-layers", "conv2_1"]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, str]:
    content, style = drawn(tmp_path, "content.png", "style.png", size=(32, 24))
    return content, style


def test_a_grid_of_two_options(tmp_path: Path, pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Mock(wraps=sheet.contact_sheet)
    monkeypatch.setattr(grid, "contact_sheet", watched)
    out, keep = tmp_path / "grid.png", tmp_path / "cells"
    axes = ["--down", "style_weight", "1", "100", "--across", "init", "content", "noise", "--keep", str(keep)]
    assert cli.main(["grid", *pictures, "-o", str(out), *axes, *FAST, *SHALLOW]) == 0
    assert watched.call_args.kwargs["row_labels"] == ["style weight 1", "style weight 100"]
    assert watched.call_args.kwargs["column_labels"] == ["init content", "init noise"]
    made = read_parameters(out)
    assert made["down"] == {"option": "style_weight", "values": ["1", "100"]}
    assert made["across"] == {"option": "init", "values": ["content", "noise"]}
    assert sorted(path.name for path in keep.iterdir()) == ["1_1.png", "1_2.png", "2_1.png", "2_2.png"]
    for row, weight in enumerate((1, 100)):
        for column, init in enumerate(("content", "noise")):
            options = made["cells"][row][column]["options"]
            assert (options["style_weight"], options["init"]) == (weight, init)
            cell = keep / f"{row + 1}_{column + 1}.png"
            assert read_parameters(cell)["options"] == options
            pixels = load_image(cell).rgb
            windows = load_image(out).rgb.unfold(1, 18, 1).unfold(2, 24, 1)
            assert (windows == pixels[:, None, None]).all(dim=(0, 3, 4)).sum() == 1


def test_a_grid_that_is_stopped_leaves_what_it_has(
    tmp_path: Path, pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Mock(side_effect=[None, None, KeyboardInterrupt])

    class Stopped(Stylizer):
        def __call__(self, *args: Any, **values: Any) -> Any:
            calls()
            return super().__call__(*args, **values)

    monkeypatch.setattr(grid, "Stylizer", Stopped)
    out, whole = tmp_path / "grid.png", tmp_path / "whole.png"
    axes = ["--down", "style_weight", "1", "100", "--across", "seed", "1", "2"]
    assert cli.main(["grid", *pictures, "-o", str(out), *axes, *FAST, *SHALLOW]) == cli.EXIT_INTERRUPTED
    calls.side_effect = None
    assert cli.main(["grid", *pictures, "-o", str(whole), *axes, *FAST, *SHALLOW]) == 0
    assert "interrupted" in capsys.readouterr().err
    assert [len(row) for row in read_parameters(out)["cells"]] == [2]
    # The first row is that of the whole sheet, the second has its label and no pictures.
    stopped, full = load_image(out).rgb, load_image(whole).rgb
    assert stopped.shape == full.shape
    differs = (stopped != full).any(0).any(1).nonzero()
    assert differs.min() > full.shape[1] // 2
    assert (stopped[:, differs.min() :] == 1).float().mean() > 0.8


@pytest.mark.parametrize(("axis", "shape"), [("--down", (2, 1)), ("--across", (1, 2))])
def test_a_grid_with_one_axis(axis: str, shape: tuple[int, int], tmp_path: Path, pictures: tuple[str, str]) -> None:
    out, keep = tmp_path / "grid.tif", tmp_path / "cells"
    words = [axis, "seed", "1", "2", "--keep", str(keep), "--title", "seeds"]
    assert cli.main(["grid", *pictures, "-o", str(out), *words, "--init", "noise", *FAST, *SHALLOW]) == 0
    cells = read_parameters(out)["cells"]
    assert (len(cells), len(cells[0])) == shape
    assert sorted(path.name for path in keep.iterdir()) == ["1.png", "2.png"]


def test_a_cell_that_diverges_costs_no_other(tmp_path: Path, pictures: tuple[str, str], capsys: Any) -> None:
    out = tmp_path / "grid.png"
    words = ["--across", "learning_rate", "1", "1e38", "--hessian", "scalar", *FAST, *SHALLOW, "--iterations", "4"]
    assert cli.main(["grid", *pictures, "-o", str(out), *words]) == 0
    said = capsys.readouterr().err
    assert "warning: picture 2 of 2: the loss became" in said
    assert "the sheet has the best image before that" in said
    assert len(read_parameters(out)["cells"][0]) == 2


def test_a_sheet_that_cannot_be_written_there_is_saved_elsewhere(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, place = tmp_path / "here", tmp_path / "place"
    here.mkdir()
    place.mkdir()
    monkeypatch.chdir(here)

    def made(*words: Any, **facts: Any) -> Image.Image:
        shutil.rmtree(place)
        return sheet.contact_sheet(*words, **facts)

    monkeypatch.setattr(grid, "contact_sheet", made)
    assert cli.main(["compare", *pictures, "-o", str(place / "sheet.jpg")]) == 1
    (rescued,) = here.iterdir()
    assert f"; the sheet is saved in {rescued}" in capsys.readouterr().err
    assert read_parameters(rescued) == {"compared": list(pictures)}


def test_the_papers_grid(tmp_path: Path, pictures: tuple[str, str]) -> None:
    out = tmp_path / "grid.jpg"
    assert cli.main(["grid", *pictures, "-o", str(out), *FAST, "--iterations", "1", "--size", "75%"]) == 0
    made = read_parameters(out)
    assert made["down"]["values"][4].split() == [f"conv{block}_1" for block in range(1, 6)]
    assert made["across"] == {"option": "style_weight", "values": ["100000", "10000", "1000", "100"]}
    with Image.open(out) as image:
        assert (image.width > 4 * 24, image.height > 5 * 18) == (True, True)


def test_compare(tmp_path: Path, pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for weight in ("1", "50"):
        results.append(str(tmp_path / f"{weight}.png"))
        assert cli.main(["stylize", *pictures, "-o", results[-1], "--style-weight", weight, *FAST, *SHALLOW]) == 0
    watched = Mock(wraps=sheet.contact_sheet)
    monkeypatch.setattr(grid, "contact_sheet", watched)
    out = tmp_path / "sheet.png"
    assert cli.main(["compare", *results, pictures[0], "-o", str(out), "--cell", "64", "--columns", "2"]) == 0
    (first, second), (third,) = watched.call_args.kwargs["captions"]
    assert "style_weight 1; loss " in first
    assert "style_weight 50; loss " in second
    assert third == "content.png"
    assert read_parameters(out) == {"compared": [*results, pictures[0]]}
    applied = str(tmp_path / "applied.png")
    style = ["--blend", "swirls=0.3", "mosaic=0.7", "--size", "64", "--quiet"]
    assert cli.main(["apply", pictures[0], "-o", applied, *style]) == 0
    assert cli.main(["compare", results[0], *results, applied, "-o", str(out), "--columns", "4"]) == 0
    ((_, first, second, third),) = watched.call_args.kwargs["captions"]
    # What most have goes without saying.
    assert first.startswith("1.png: loss ")
    assert second.startswith("50.png: style_weight 50; loss ")
    assert third == "applied.png: mosaic 0.7, swirls 0.3"
    labels = ["--labels", "a", "b", "--title", "two"]
    assert cli.main(["compare", *results, "-o", str(out), *labels]) == 0
    assert watched.call_args.kwargs["captions"] == [["a", "b"]]
    assert watched.call_args.kwargs["title"] == "two"


def test_a_sheet_on_stdout(pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, write_through=True))
    assert cli.main(["compare", *pictures, "-o", "-"]) == 0
    assert load_image(io.BytesIO(written.getvalue())).width > 700
