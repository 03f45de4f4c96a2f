"""Textures: images of the styles alone, from noise; the function, the command, and what comes after a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastnst
from fastnst.app.cli import main
from fastnst.app.cli.arguments import Outputs
from fastnst.app.cli.job import Job
from fastnst.image.metadata import read_parameters
from fastnst.transfer.inputs import Canvas, parse_canvas

SMALL: dict[str, Any] = {
    "iterations": 4,
    "scales": None,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
}
FLAGS = ["--iterations", "3", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1", "conv2_1"]


def picture(seed: int = 0, height: int = 30, width: int = 44) -> np.ndarray:
    """Blocks and noise, uint8 (height, width, 3)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST), dtype=np.int16)
    return np.clip(image + generator.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


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


@pytest.mark.parametrize("size", ["", "x", "axb", "40x", "40x30x3", "-4x4", "4.5", "1e3", None, True, (3,), 4.0, "٣x٣"])
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(fastnst.OptionError, match="write 512x384"):
        parse_canvas(size)


@pytest.mark.parametrize("size", ["0x10", "10x1", "70000x9", (0, 5), (5.0, 5), (True, 5), 1])
def test_a_side_out_of_range_is_refused(size: Any) -> None:
    with pytest.raises(fastnst.OptionError, match="each side must be a whole number of 2 to 65535"):
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
    found = fastnst.synthesize_texture([picture(), picture(1)], size="48x32", style_weights=[1, 3], **SMALL)
    options = {**SMALL, "preset": "texture", "size": 48, "style_weights": [1, 3]}
    grey = fastnst.stylize(np.full((32, 48, 3), 128, np.uint8), [picture(), picture(1)], **options)
    assert torch.equal(found.tensor, grey.tensor)


def test_scales_and_tiles_and_other_presets_work() -> None:
    options: dict[str, Any] = {**SMALL, "iterations": 2, "scales": [32, 64], "tile": 16}
    result = fastnst.synthesize_texture(picture(), size=(48, 64), preset="gatys", **options)
    assert [record.scale for record in result.losses] == [32, 32, 32, 64, 64, 64]
    assert result.parameters["options"]["objective"] == "paper"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"content_weight": 1}, "content weight 1 was given for a texture"),
        ({"init": "content"}, "no content picture to start from"),
        ({"preserve_color": "luminance"}, "preserve color luminance needs a content picture"),
        ({"size": 6, "style_layers": "conv5_1"}, "output image would be 6×6 pixels .* at least 16"),
        ({"style_weight": 0}, "both 0"),
    ],
)
def test_what_needs_a_content_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(fastnst.FastnstError, match=problem):
        fastnst.synthesize_texture(picture(), **{**SMALL, "size": 32, **options})


def test_a_stylizer_with_a_content_weight_wants_a_content() -> None:
    with pytest.raises(fastnst.OptionError, match="content weight 1 needs a content picture"):
        fastnst.Stylizer(picture(), size=32, init="noise", weights="random")(Canvas(32, 32))


def test_a_checkpoint_of_a_texture_is_gone_on_with(tmp_path: Path, style: str) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {**SMALL, "iterations": 6}
    whole = fastnst.synthesize_texture(style, size=(32, 40), **options)

    def stop(iterate: fastnst.Iterate) -> bool:
        return iterate.record.iteration < 3

    fastnst.synthesize_texture(style, size=(32, 40), callback=stop, checkpoint=path, **options)
    resumed = fastnst.resume(path)
    assert torch.equal(resumed.tensor, whole.tensor)
    with pytest.raises(fastnst.CheckpointError, match="no content picture"):
        fastnst.Stylizer(style, size=40, **{**SMALL, "content_layers": "conv1_1"}).resume(path, picture())


def test_the_command_makes_a_texture(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, again, checkpoint = (str(tmp_path / name) for name in ("out.png", "again.png", "run"))
    assert main(["texture", style, "-o", out, "--size", "40x32", *FLAGS, "--checkpoint", checkpoint, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["content"] is None
    assert printed["sizes"] == [{"width": 40, "height": 32}]
    assert size_of(out) == (40, 32)
    assert read_parameters(out)["options"]["preset"] == "texture"
    assert main(["resume", checkpoint, "-o", again, "--quiet"]) == 0
    assert Path(again).exists()
    capsys.readouterr()
    assert main(["rerun", out, "-o", again]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    assert main(["info", out]) == 0


def test_the_command_reads_a_config(tmp_path: Path, style: str) -> None:
    config = tmp_path / "texture.toml"
    config.write_text('size = 32\niterations = 2\nscales = "none"\nweights = "random"\nstyle-layers = "conv1_1"\n')
    out = str(tmp_path / "out.png")
    assert main(["texture", style, "-o", out, "--config", str(config), "--quiet"]) == 0
    assert size_of(out) == (32, 32)
    config.write_text("content-weight = 1.0\n")
    assert main(["texture", style, "-o", out, "--config", str(config), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ("0x10", "size 0x10 (width by height) is not possible"),
        ("10", "output image would be 10×10 pixels"),
        ("64x12", "output image would be 64×12 pixels"),
        ("axb", "size 'axb' is no size"),
    ],
)
def test_a_size_that_will_not_do_ends_in_one_line(
    size: str, problem: str, tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["texture", style, "-o", str(tmp_path / "out.png"), "--size", size, "--weights", "random"]) == 1
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_the_picture_is_not_overwritten(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["texture", style, "-o", style]) == 1
    assert "also an input" in capsys.readouterr().err


def test_a_job_says_what_it_makes() -> None:
    outputs = Outputs(output="out.png")
    assert Job(Canvas(2, 2), ["a/b.png", "c.png"], {}, outputs).title == "a texture of b.png, c.png"
    assert Job("a.png", ["b.png"], {}, outputs).title == "a.png in the style of b.png"
    assert Job("a.png", [], {}, outputs).title == "a.png reconstructed"
