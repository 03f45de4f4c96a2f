"""Runs on pictures that are read some rows at a time, against the same runs on pictures that are read whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastnst
from fastnst.image import read
from fastnst.image.metadata import read_parameters
from fastnst.loss import networks

SMALL: dict[str, Any] = {
    "iterations": 1,
    "scales": [24, 48],
    "weights": "random",
    "precision": "fp32",
    "optimizer": "adam",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": "conv2_2",
}


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """A content with alpha and a style, larger than the run."""
    generator = np.random.default_rng(0)
    for name, shape in (("content.png", (90, 70, 4)), ("style.tif", (80, 100, 3))):
        coarse = generator.integers(0, 255, (6, 6, shape[2]), dtype=np.uint8)
        Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC).save(tmp_path / name)
    return tmp_path / "content.png", tmp_path / "style.tif"


def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "STREAMED_PIXELS", 100)
    monkeypatch.setattr(read, "PART_PIXELS", 900)


@pytest.mark.filterwarnings(r"ignore:init image .* is stretched")
@pytest.mark.parametrize(
    "options",
    [{}, {"preserve_color": "luminance"}, {"preserve_color": "histogram"}, {"init": "style"}, {"init": "noise"}],
    ids=str,
)
def test_the_same_run(pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    content, style = pictures
    if options.get("init") == "style":
        options = {"init": style}
    # What has alpha is once the content, once the style.
    whole = fastnst.stylize(content, style, **SMALL, **options)
    other = None if options else fastnst.stylize(style, content, **SMALL)
    stream(monkeypatch)
    streamed = fastnst.stylize(content, style, **SMALL, **options)
    for record, expected in zip(streamed.losses, whole.losses, strict=True):
        assert record.total == pytest.approx(expected.total, rel=1e-3)
    for name in ("content", "styles"):
        assert streamed.parameters[name] == whole.parameters[name]
    assert whole.alpha is not None
    assert streamed.alpha is not None
    assert (streamed.alpha - whole.alpha).abs().max() < 1e-6
    # What is transparent has no colour that can be compared.
    assert ((streamed.tensor - whole.tensor) * whole.alpha).abs().mean() < 1e-3
    if other is not None:
        streamed = fastnst.stylize(style, content, **SMALL)
        assert streamed.losses[0].total == pytest.approx(other.losses[0].total, rel=1e-3)


def test_checkpoint_and_rows_out(pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream(monkeypatch)
    options = {**SMALL, "iterations": 2}
    expected = fastnst.stylize(*pictures, **options)
    saved = tmp_path / "run.ckpt"
    fastnst.stylize(*pictures, callback=lambda iterate: iterate.record.iteration < 3, checkpoint=saved, **options)
    result = fastnst.resume(saved)
    assert torch.equal(result.tensor, expected.tensor)
    result.save(tmp_path / "out.tif", bit_depth=16)
    assert read_parameters(tmp_path / "out.tif")["content"]["name"] == str(pictures[0])


@pytest.mark.parametrize("role", ["content", "style", "init"])
def test_damage_shows_before_the_network_is_loaded(
    role: str, pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture too that has to be decoded whole."""
    for source, other, name in ((*pictures, "style"), (*pictures[::-1], "content")):
        with pytest.raises(fastnst.ImageError, match=rf"{name} image .* than the limit of 7000 pixels; .*max_pixels"):
            fastnst.stylize(source, other, **SMALL, max_pixels=7000)
    stream(monkeypatch)
    path = tmp_path / "damaged.jpg"
    with Image.open(pictures[1]) as image:
        image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(networks, "load_weights", lambda *arguments, **options: pytest.fail("loaded"))
    content, style = path if role == "content" else pictures[0], path if role == "style" else pictures[1]
    init = {"init": path} if role == "init" else {}
    with pytest.raises(fastnst.ImageError, match="damaged or truncated"):
        fastnst.stylize(content, style, **SMALL, **init)
