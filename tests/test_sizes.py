"""The size of a result as people say it: pixels, a box, a part of the content's, or the content's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn

import fastnst
from fastnst.app.batch.manifest import read_manifest
from fastnst.app.batch.tasks import make_tasks
from fastnst.app.cli import main
from fastnst.errors import FastnstWarning, OptionError
from fastnst.feedforward.applying import apply_network
from fastnst.feedforward.network import Architecture, StyleNetwork
from fastnst.image.metadata import read_parameters
from fastnst.image.picture import Picture, from_array
from fastnst.transfer.inputs import sized
from fastnst.transfer.scales import image_size

SMALL: dict[str, Any] = {"iterations": 1, "scales": None, "weights": "random", "style_layers": "conv1_1"}
SMALL |= {"content_layers": "conv1_1", "precision": "fp32"}
WORDS = ["--iterations", "1", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]
WORDS += ["--content-layers", "conv1_1", "--precision", "fp32"]


def photo(height: int = 48, width: int = 64) -> Picture:
    return from_array(np.random.default_rng(0).random((height, width, 3), dtype=np.float32), "photo")


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        (50, "long", 50),
        ("50", "long", 50),
        ("50px", "long", 50),
        ("50 pixels", "long", 50),
        ("content", "long", 64),
        ("content", "short", 48),
        ("50%", "long", 32),
        ("150 %", "short", 72),
        ("12.5%", "long", 8),
        ("128x96", "long", 128),
        ("128×96", "short", 96),
        ("128 * 96px", "long", 128),
        ("127x96", "long", 127),
    ],
)
def test_a_size_in_words_is_pixels_beside_a_content(size: Any, edge: str, expected: int) -> None:
    assert sized({"size": size, "edge": edge}, photo()) == {"size": expected, "edge": edge}


def test_a_preset_says_which_edge_a_size_in_words_measures() -> None:
    # A clip's options are among those of its frames.
    given = {"preset": "gatys-notebook", "look_back": (1,)}
    assert sized({"size": "50%", **given}, photo()) == {"size": 24, **given}


@pytest.mark.parametrize(("size", "wide"), [("1920x90", "120×90"), ("60x6000", "60×45"), ("32x32", "32×24")])
def test_a_box_of_other_proportions_is_filled_as_far_as_the_content_goes(size: str, wide: str) -> None:
    with pytest.warns(FastnstWarning, match=f"the content is 64×48 pixels, so the result is {wide} within"):
        options = sized({"size": size}, photo())
    height, width = image_size(photo(), options["size"], fastnst.Options())
    assert f"{width}×{height}" == wide


@pytest.mark.parametrize("size", ["", "big", "50 percent", "x1080", "-5%", "1920x", "1e3"])
def test_other_words_are_refused(size: str) -> None:
    with pytest.raises(OptionError, match=r"is not a size; write 512, 1920x1080 \(width by height\), 50% or content"):
        sized({"size": size}, photo())


def test_the_function_and_its_siblings_take_them() -> None:
    content, style = (photo().rgb, photo(60, 60).rgb)
    assert fastnst.stylize(content, style, size="50%", **SMALL).tensor.shape == (3, 24, 32)
    assert fastnst.reconstruct_content(
        content, "conv1_1", size="content", iterations=1, weights="random"
    ).tensor.shape == (3, 48, 64)
    assert fastnst.reconstruct_style(content, "conv1_1", size="32x24", iterations=1, weights="random").tensor.shape == (
        3,
        24,
        32,
    )
    with pytest.raises(OptionError, match="size 0 is too small"):
        fastnst.stylize(content, style, size="0%", **SMALL)


def test_the_commands_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, style = drawn(tmp_path, "content.png", "style.png")
    out = str(tmp_path / "out.png")
    assert main(["stylize", content, style, "-o", out, "--size", "50%", "--quiet", *WORDS]) == 0
    assert read_parameters(out)["options"]["size"] == 32
    assert main(["stylize", content, style, "-o", out, "--size", "40x40", "--quiet", *WORDS]) == 0
    assert "the result is 40×30 within 40×40" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text('size = "content"\n')
    assert main(["stylize", content, style, "-o", out, "--config", str(tmp_path / "run.toml"), "--quiet", *WORDS]) == 0
    assert read_parameters(out)["options"]["size"] == 64
    assert main(["plan", content, "--size", "50%", "--json", *WORDS[2:]]) == 0
    assert [scale["width"] for scale in json.loads(capsys.readouterr().out)["scales"]] == [32]
    with pytest.raises(SystemExit):
        main(["stylize", content, style, "-o", out, "--size", "large"])
    assert "'large' is not a size; write 512, 1920x1080" in capsys.readouterr().err


def test_each_row_of_a_batch_has_its_own(tmp_path: Path) -> None:
    drawn(tmp_path, "a.png", "c.png", "s.png")
    drawn(tmp_path, "b.png", size=(40, 30))
    (tmp_path / "rows.csv").write_text("content,style,size\na.png,s.png,content\nb.png,s.png,50%\nc.png,s.png,32x24\n")
    rows = read_manifest(tmp_path / "rows.csv")
    tasks = make_tasks(rows, {**SMALL, "size": 16}, folder=str(tmp_path / "out"))
    assert [task.options.size for task in tasks] == [64, 20, 32]


def test_a_stylizer_has_that_of_each_content() -> None:
    stylizer = fastnst.Stylizer(photo(60, 60).rgb, size="50%", **SMALL)
    contents = [photo(), photo(40, 80), photo(40, 80), photo()]
    shapes = [tuple(stylizer(content).tensor.shape[1:]) for content in contents]
    assert shapes == [(24, 32), (20, 40), (20, 40), (24, 32)]
    again = fastnst.Stylizer(photo(60, 60).rgb, size=32, **SMALL)(photo())
    assert (stylizer(photo()).tensor == again.tensor).all()
    # Prepared beside one another, each keeps its own.
    first, second = stylizer.prepare(photo()), stylizer.prepare(photo(40, 80))
    assert [tuple(run.run().tensor.shape[1:]) for run in (first, second)] == [(24, 32), (20, 40)]


def test_as_many_counts_as_scales_are_checked_beside_the_content() -> None:
    values: dict[str, Any] = {**SMALL, "scales": "auto", "iterations": (3, 2, 1)}
    fastnst.Stylizer(photo().rgb, size="1600%", **values).prepare(photo())
    with pytest.raises(OptionError, match="3 counts of iterations for 1 scale"):
        fastnst.Stylizer(photo().rgb, size="100%", **values).prepare(photo())
    with pytest.raises(OptionError, match="the last scale, 40, is not the size, 32"):
        fastnst.Stylizer(photo().rgb, size="50%", **{**SMALL, "scales": (20, 40)}).prepare(photo())


def test_a_grid_and_a_network_take_them(tmp_path: Path) -> None:
    content, style = drawn(tmp_path, "content.png", "style.png")
    out = str(tmp_path / "sheet.png")
    line = ["grid", content, style, "-o", out, "--down", "seed", "0", "--quiet", *WORDS]
    assert main([*line, "--across", "size", "content", "32x24"]) == 0
    cells = read_parameters(out)["cells"][0]
    assert [cell["options"]["size"] for cell in cells] == [64, 32]
    network = StyleNetwork(["a"], Architecture(channels=4, blocks=1))
    sizes = ("150%", "32x24", "content", 32)
    shapes = [apply_network(network, photo().rgb, size=size).tensor.shape[1:] for size in sizes]
    assert shapes == [(72, 96), (24, 32), (48, 64), (24, 32)]
    with pytest.raises(OptionError, match="size 'big' is not a size"):
        apply_network(network, photo().rgb, size="big")
