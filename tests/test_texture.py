"""Textures: images of the styles alone, from noise; the function, the command, and what comes after a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_samples import blocks as picture
from PIL import Image

import fastnst
from fastnst.app.cli import main
from fastnst.image.metadata import read_parameters
from fastnst.transfer.inputs import Canvas, parse_canvas

SMALL: dict[str, Any] = {
    "iterations": 4,
    "scales": None,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
}


@pytest.fixture
def style(tmp_path: Path) -> str:
    Image.fromarray(picture()).save(tmp_path / "style.png")
    return str(tmp_path / "style.png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("40x30", (30, 40)), ("40×30", (30, 40)), ("32", (32, 32)), (32, (32, 32)), ((30, 40), (30, 40))],
)
def test_a_size_is_read(size: Any, expected: tuple[int, int]) -> None:
    assert parse_canvas(size) == Canvas(*expected)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        *((size, "write 512x384") for size in ("", "x", "axb", "40x", "40x30x3", "-4x4", "4.5", "1e3", "٣x٣")),
        *((size, "write 512x384") for size in (None, True, (3,), 4.0)),
        *((size, "each side must be a whole number of 2 to 65535") for size in ("0x10", "10x1", "70000x9", 1)),
        *((size, "each side must be a whole number of 2 to 65535") for size in ((0, 5), (5.0, 5), (True, 5))),
    ],
)
def test_what_is_no_size_is_refused(size: Any, said: str) -> None:
    with pytest.raises(fastnst.OptionError, match=said):
        parse_canvas(size)


def test_a_texture_has_the_size_and_nears_the_style() -> None:
    result = fastnst.synthesize_texture(picture(), size=(32, 48), **{**SMALL, "iterations": 25})
    assert result.tensor.shape == (3, 32, 48)
    assert result.losses[-1].style < 0.05 * result.losses[0].style
    assert {record.content for record in result.losses} == {0.0}
    assert result.parameters["content"] is None
    assert result.parameters["sizes"] == [{"width": 48, "height": 32}]
    options = result.parameters["options"]
    assert (options["preset"], options["content_weight"], options["init"]) == ("texture", 0.0, "noise")


def test_it_is_the_run_of_a_stylizer_without_content() -> None:
    run: dict[str, Any] = {**SMALL, "style_weights": [1, 3], "scales": [24, 48], "tile": 16}
    texture = fastnst.synthesize_texture([picture(), picture(1)], size="48x32", preset="gatys", **run)
    assert [record.scale for record in texture.losses] == [24] * 5 + [48] * 5
    options = {**run, "preset": "gatys", "size": 48, "content_weight": 0, "init": "noise"}
    grey = fastnst.stylize(np.full((32, 48, 3), 128, np.uint8), [picture(), picture(1)], **options)
    assert torch.equal(texture.tensor, grey.tensor)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"content_weight": 1}, "content weight 1 has no effect on a texture"),
        ({"init": "content"}, "no content picture to start from"),
        ({"preserve_color": "luminance"}, "preserve color luminance needs a content picture"),
        ({"size": 6, "style_layers": "conv5_1"}, "output image would be 6×6 pixels .* at least 16"),
        ({"style_weight": 0}, "both 0"),
    ],
)
def test_what_needs_a_content_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(fastnst.FastnstError, match=problem):
        fastnst.synthesize_texture(picture(), **{**SMALL, "size": 32, **options})
    with pytest.raises(fastnst.OptionError, match="content weight 1 needs a content picture"):
        fastnst.Stylizer(picture(), size=32, init="noise", weights="random")(Canvas(32, 32))


def test_a_checkpoint_of_a_texture_is_gone_on_with(tmp_path: Path, style: str) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {**SMALL, "iterations": 6}
    whole = fastnst.synthesize_texture(style, size=(32, 40), **options)

    def stop(iterate: fastnst.Iterate) -> bool:
        return iterate.record.iteration < 3

    sides = (np.int64(32), np.int64(40))
    fastnst.synthesize_texture(style, size=sides, callback=stop, checkpoint=path, **options)  # type: ignore[arg-type]
    with pytest.raises(fastnst.OptionError, match="content has no effect, because the run was made without"):
        fastnst.resume(path, content=style)
    resumed = fastnst.resume(path)
    assert torch.equal(resumed.tensor, whole.tensor)
    with pytest.raises(fastnst.CheckpointError, match="no content picture"):
        fastnst.Stylizer(style, size=40, **{**SMALL, "content_layers": "conv1_1"}).resume(path, picture())


def test_the_command_makes_a_texture(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, remade, checkpoint = (str(tmp_path / name) for name in ("out.png", "remade.png", "run"))
    (tmp_path / "texture.toml").write_text('iterations = 3\nscales = "none"\nweights = "random"\n')
    flags = ["--config", str(tmp_path / "texture.toml"), "--style-layers", "conv1_1", "conv2_1"]
    assert main(["texture", style, "-o", out, "--size", "40x32", *flags, "--checkpoint", checkpoint, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["content"] is None
    assert printed["sizes"] == [{"width": 40, "height": 32}]
    with Image.open(out) as image:
        assert image.size == (40, 32)
    assert read_parameters(out)["options"]["preset"] == "texture"
    assert main(["resume", checkpoint, "-o", remade, "--quiet"]) == 0
    assert Path(remade).exists()
    capsys.readouterr()
    assert main(["rerun", out, "-o", remade]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    assert main(["info", out]) == 0
    capsys.readouterr()
    bad = str(tmp_path / "bad.png")
    for words, problem in (
        (["-o", style], "also an input"),
        (["-o", bad, "--size", "0x10"], "size 0x10 (width by height) is not possible"),
        (["-o", bad, "--size", "64x12"], "output image would be 64×12 pixels"),
        (["-o", bad, "--size", "axb"], "size 'axb' is not a size"),
    ):
        assert main(["texture", style, *words, "--weights", "random"]) == 1
        said = capsys.readouterr().err
        assert problem in said
        assert said.count("\n") == 1
    assert not Path(bad).exists()
