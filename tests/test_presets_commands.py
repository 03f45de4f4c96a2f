"""Presets of other tools in the command, in config files and manifests, and made again from a result."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastnst.app.batch.manifest import read_manifest
from fastnst.app.cli import main
from fastnst.app.cli.arguments import read_config
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image

CONFIG = """
preset = "neural-style"
tv-kind = "absolute"
tv-reduction = "sum"
content_reduction = "root"
style-reduction = "mean"
style-loss = "covariance"
edge = "short"
scales = 2
scale-factor = 1.5
init = "grey"
"""
OTHERS = ("neural-style", "gatys-notebook", "style-transfer-pytorch")
SHALLOW = ["--style-layers", "conv1_1", "conv2_1", "--content-layers", "conv2_1", "--weights", "random"]


def pictures(folder: Path) -> tuple[str, str]:
    generator = np.random.default_rng(0)
    for name in ("content.png", "style.png"):
        coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / name)
    return str(folder / "content.png"), str(folder / "style.png")


def test_a_config_file_has_the_options(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    assert read_config(path) == {
        "preset": "neural-style",
        "tv_kind": "absolute",
        "tv_reduction": "sum",
        "content_reduction": "root",
        "style_reduction": "mean",
        "style_loss": "covariance",
        "edge": "short",
        "scales": 2,
        "scale_factor": 1.5,
        "init": "grey",
    }


def test_a_manifest_has_the_options(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("content,style,preset,init,tv-kind\na.png,b.png,gatys-notebook,style-mean,nine-point\n")
    (row,) = read_manifest(path)
    assert dict(row.options) == {"preset": "gatys-notebook", "init": "style-mean", "tv_kind": "nine-point"}


@pytest.mark.parametrize("preset", OTHERS)
def test_a_result_is_made_again(preset: str, tmp_path: Path) -> None:
    made, again = tmp_path / "made.png", tmp_path / "again.png"
    small: list[Any] = [*SHALLOW, "--size", 48, "--scales", "none", "--iterations", 2, "--device", "cpu", "--quiet"]
    given = [*pictures(tmp_path), "-o", made, "--preset", preset, *small]
    assert main(["stylize", *map(str, given)]) == 0
    options = read_parameters(made)["options"]
    assert (options["preset"], options["pooling"]) == (preset, "max")
    assert main(["rerun", str(made), "-o", str(again), "--quiet"]) == 0
    assert np.array_equal(load_image(again).rgb, load_image(made).rgb)
