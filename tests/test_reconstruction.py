"""Reconstructions from layers: of content, of style, and the figure of both."""

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
from fastnst.transfer.inputs import Canvas
from fastnst.transfer.stylizer import Stylizer
from fastnst.transfer.variants import content_options, style_options

SMALL: dict[str, Any] = {"size": 40, "iterations": 3, "weights": "random"}
FLAGS = ["--size", "40", "--iterations", "3", "--weights", "random", "--quiet"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    Image.fromarray(picture()).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_a_layer_near_the_pixels_gives_the_picture_again() -> None:
    image = picture(0, 32, 48)
    result = fastnst.reconstruct_content(image, "conv1_1", size=48, iterations=50, weights="random")
    expected = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert (result.tensor - expected).abs().mean() < 0.01
    assert result.parameters["styles"] == []
    options = result.parameters["options"]
    assert (options["preset"], options["style_weight"], options["init"]) == ("reconstruction", 0.0, "grey")
    assert options["content_layers"] == {"conv1_1": 1.0}


def test_the_options_of_a_reconstruction() -> None:
    for given, start in (({}, "grey"), ({"init": "noise"}, "noise"), ({"preset": "gatys"}, "noise")):
        assert content_options("conv1_1", given)["init"] == start
    assert style_options("conv1_1", {})["init"] == "noise"
    # Deeper layers have more total variation.
    for layers, weight in (("conv1_2", 0.01), ({"conv1_1": 1, "relu3_1": 2}, 0.1), (["conv1_1", "conv5_1=2"], 1.0)):
        assert style_options(layers, {})["tv_weight"] == pytest.approx(5 * weight)
        assert content_options(layers, {"preset": "reconstruction"})["tv_weight"] == pytest.approx(weight)
    assert content_options("conv5_1", {"tv_weight": 0.0})["tv_weight"] == 0
    assert "tv_weight" not in content_options("conv5_1", {"preset": "gatys"})


def test_the_style_of_more_layers_has_their_gram_matrices() -> None:
    result = fastnst.reconstruct_style(picture(), ["conv1_1", "conv2_1"], **{**SMALL, "iterations": 30})
    assert result.tensor.shape == (3, 27, 40)
    assert result.losses[-1].style < 0.05 * result.losses[0].style
    assert result.parameters["content"] is None
    assert result.parameters["options"]["style_layers"] == {"conv1_1": 0.5, "conv2_1": 0.5}


@pytest.mark.parametrize(
    ("make", "options", "problem"),
    [
        (fastnst.reconstruct_content, {"style_weight": 2}, "style weight 2 has no effect on a reconstruction"),
        (fastnst.reconstruct_content, {"content_layers": "conv1_1"}, "content_layers was given beside the layers"),
        (fastnst.reconstruct_content, {"init": "warm"}, "does not exist"),
        (fastnst.reconstruct_content, {"layers": "conv9_9"}, "unknown layer 'conv9_9'"),
        (fastnst.reconstruct_style, {"layers": "conv1_1", "content_weight": 1}, "of style alone"),
        (fastnst.reconstruction_figure, {"layers": []}, "not a list of layers"),
        (fastnst.reconstruction_figure, {"layers": "conv1_1"}, "not a list of layers"),
        (fastnst.reconstruction_figure, {"layers": ["conv1_1", "conv9_9"], "made": pytest.fail}, "unknown layer"),
        (Stylizer, {"iterations": 3}, "no style image was given"),
        (Stylizer, {"style_weight": 0, "style_weights": [1, 2]}, "2 style weights for 0 style images"),
    ],
)
def test_what_is_no_reconstruction_is_refused(make: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(fastnst.FastnstError, match=problem):
        make([] if make is Stylizer else picture(), **{**SMALL, **options})


def test_the_figure_has_both_rows() -> None:
    made: list[fastnst.Result] = []
    figure = fastnst.reconstruction_figure(picture(), ["conv1_1", "conv1_2"], made=made.append, **SMALL)
    assert made == [*figure.style, *figure.content]
    layers = [list(result.parameters["options"]["style_layers"]) for result in figure.style]
    assert layers == [["conv1_1"], ["conv1_1", "conv1_2"]]
    layers = [list(result.parameters["options"]["content_layers"]) for result in figure.content]
    assert layers == [["conv1_1"], ["conv1_2"]]
    assert figure.original.shape == made[0].tensor.shape
    alone = fastnst.reconstruct_content(picture(), "conv1_2", **SMALL)
    assert torch.equal(figure.content[1].tensor, alone.tensor)
    sheet = figure.sheet(cell=40)
    assert sheet.width > 3 * 40
    assert sheet.height > 2 * 30


@pytest.mark.parametrize("what", [["--layer", "conv1_1"], ["--style-layers", "conv1_1", "conv1_2"]])
def test_the_command_reconstructs(
    what: list[str], tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, remade = str(tmp_path / "out.png"), str(tmp_path / "again.png")
    assert main(["reconstruct", path, *what, "-o", out, *FLAGS, "--checkpoint", str(tmp_path / "run")]) == 0
    with Image.open(out) as image:
        assert image.size == (40, 27)
    assert read_parameters(out)["options"]["preset"] == "reconstruction"
    assert main(["rerun", out, "-o", remade]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "run"), "-o", remade, "--quiet"]) == 0


def test_the_command_makes_the_figure(tmp_path: Path, path: str) -> None:
    out, kept = tmp_path / "figure.png", tmp_path / "kept"
    arguments = ["reconstruct", path, "--figure", "--layer", "conv1_1", "conv1_2", "-o", str(out), "--cell", "32"]
    assert main([*arguments, "--keep", str(kept), *FLAGS]) == 0
    assert sorted(file.name for file in kept.iterdir()) == [
        f"{kind}_{layer}.png" for kind in ("content", "style") for layer in ("conv1_1", "conv1_2")
    ]
    recorded = read_parameters(out)
    assert recorded["layers"] == ["conv1_1", "conv1_2"]
    assert [len(row) for row in recorded["cells"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --layer"),
        (["--layer", "conv1_1", "--style-layers", "conv1_1"], "give --layer"),
        (["--figure", "--style-layers", "conv1_1"], "name the layers of the figure with --layer"),
        (["--figure", "--movie", "x.gif"], "--movie works for one run"),
        (["--figure", "--cell", "3"], "cells of 3 pixels are too small"),
        (["--figure", "--font", "none.ttf"], "font 'none.ttf' cannot be read"),
        (["--layer", "conv1_9"], "unknown layer 'conv1_9'"),
        (["--layer", "conv1_1", "--style-weight", "1"], "style weight 1 has no effect"),
    ],
)
def test_arguments_that_contradict_each_other_end_in_one_line(
    arguments: list[str], problem: str, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconstruct", path, "-o", str(tmp_path / "out.png"), *arguments]) == 1
    said = capsys.readouterr().err
    assert problem in said
    assert said.count("\n") == 1


def test_a_picture_with_alpha_is_flattened_for_its_style() -> None:
    image = np.dstack([picture(), np.full((30, 44), 128, np.uint8)])
    result = fastnst.reconstruct_style(image, "conv1_1", **SMALL)
    assert result.alpha is None
    options = {**SMALL, "preset": "reconstruction", "content_weight": 0, "style_layers": "conv1_1", "tv_weight": 0.05}
    assert torch.equal(result.tensor, Stylizer(image, **options)(Canvas(30, 44)).tensor)
