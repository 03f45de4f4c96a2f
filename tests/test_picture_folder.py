"""A folder of styles: its pictures, in order, for the function and the command, and what is wrong with one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import drawn

import fastnst
from fastnst.app.batch.tasks import pair_rows
from fastnst.app.cli import main
from fastnst.image.files import pictures_at
from fastnst.image.metadata import read_parameters

SMALL: dict[str, Any] = {"size": 32, "iterations": 2, "scales": None, "weights": "random", "style_layers": "conv1_1"}
WITH_CONTENT = {**SMALL, "content_layers": "conv1_2"}
FLAGS = ["--size", "32", "--iterations", "2", "--scales", "none", "--weights", "random", "--quiet"]
FLAGS += ["--style-layers", "conv1_1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and what is none."""
    drawn(tmp_path / "styles", "b.png", "A.PNG")
    (tmp_path / "styles" / "notes.txt").write_text("no picture")
    (tmp_path / "styles" / ".hidden.png").write_bytes(b"")
    (tmp_path / "styles" / "more.png").mkdir()
    (tmp_path / "styles" / "itself.png").symlink_to("itself.png")
    return tmp_path / "styles"


@pytest.fixture
def content(tmp_path: Path) -> str:
    return drawn(tmp_path, "content.png")[0]


def test_the_function_takes_a_folder(folder: Path, content: str) -> None:
    expected = [str(folder / "A.PNG"), str(folder / "b.png")]
    assert pictures_at(folder, "style") == pictures_at(str(folder), "style") == expected
    assert pictures_at("elsewhere.png", "style") == ["elsewhere.png"]
    result = fastnst.stylize(content, folder, **WITH_CONTENT)
    styles = [(Path(style["name"]).name, style["weight"]) for style in result.parameters["styles"]]
    assert styles == [("A.PNG", 0.5), ("b.png", 0.5)]
    assert torch.equal(result.tensor, fastnst.stylize(content, expected, **WITH_CONTENT).tensor)
    with pytest.raises(fastnst.OptionError, match="3 style weights for 2 style images"):
        fastnst.stylize(content, str(folder), style_weights=[1, 2, 3], **WITH_CONTENT)


def test_the_command_takes_a_folder(folder: Path, content: str, tmp_path: Path) -> None:
    out, remade = str(tmp_path / "out.png"), str(tmp_path / "remade.png")
    arguments = [
        "stylize",
        content,
        str(folder),
        "-o",
        out,
        "--style-weights",
        "3",
        "1",
        *FLAGS,
        "--content-layers",
        "conv1_2",
    ]
    assert main([*arguments, "--checkpoint", str(tmp_path / "run")]) == 0
    assert [style["weight"] for style in read_parameters(out)["styles"]] == [0.75, 0.25]
    assert main(["rerun", out, "-o", remade, "--quiet"]) == 0
    assert main(["resume", str(tmp_path / "run"), "-o", remade, "--quiet"]) == 0
    assert main(["texture", str(folder), "-o", out, *FLAGS]) == 0
    assert len(read_parameters(out)["styles"]) == 2


def test_batch_and_stylize_say_the_same_of_a_folder(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(fastnst.ImageError) as from_function:
        fastnst.stylize(content, empty)
    with pytest.raises(fastnst.ImageError) as from_batch:
        pair_rows([content], [str(empty)])
    assert str(from_function.value) == str(from_batch.value)
    assert main(["stylize", content, str(empty), "-o", str(tmp_path / "out.png")]) == 1
    assert str(from_function.value) in capsys.readouterr().err
    assert "has no pictures; pictures end in .png" in str(from_function.value)


def test_a_picture_that_cannot_be_read_is_named(
    folder: Path, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The output does not become a style.
    for name in ("out.png", "b.png"):
        assert main(["stylize", content, str(folder), "-o", str(folder / name), *FLAGS]) == 1
        assert "the next run would read the output" in capsys.readouterr().err
    (folder / "c.jpg").write_bytes(b"no picture")
    assert main(["stylize", content, str(folder), "-o", str(tmp_path / "out.png"), *FLAGS]) == 1
    said = capsys.readouterr().err
    assert f"style image {str(folder / 'c.jpg')!r}" in said
    assert said.count("\n") == 1
