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
from fastnst.transfer import stylizer

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


@pytest.fixture
def _streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream(monkeypatch)


def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "STREAMED_PIXELS", 100)
    monkeypatch.setattr(read, "PART_PIXELS", 900)


@pytest.mark.parametrize(
    "options",
    [{}, {"preserve_color": "luminance"}, {"preserve_color": "histogram"}, {"init": "style"}, {"init": "noise"}],
    ids=str,
)
def test_the_same_run(pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    content, style = pictures
    if options.get("init") == "style":
        options = {"init": style}
    whole = fastnst.stylize(content, style, **SMALL, **options)
    stream(monkeypatch)
    streamed = fastnst.stylize(content, style, **SMALL, **options)
    for one, other in zip(whole.losses, streamed.losses, strict=True):
        assert other.total == pytest.approx(one.total, rel=1e-3)
    for name in ("content", "styles"):
        assert streamed.parameters[name] == whole.parameters[name]
    assert whole.alpha is not None
    assert streamed.alpha is not None
    assert (streamed.alpha - whole.alpha).abs().max() < 1e-6
    # What is transparent has no colour that can be compared.
    assert ((streamed.tensor - whole.tensor) * whole.alpha).abs().mean() < 1e-3


@pytest.mark.usefixtures("_streamed")
def test_a_style_with_alpha(pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = pictures
    streamed = fastnst.stylize(style, content, **SMALL)
    monkeypatch.undo()
    whole = fastnst.stylize(style, content, **SMALL)
    assert streamed.losses[0].total == pytest.approx(whole.losses[0].total, rel=1e-3)


@pytest.mark.usefixtures("_streamed")
def test_checkpoint_and_rows_out(pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SMALL, "iterations": 2}
    expected = fastnst.stylize(*pictures, **options)
    saved = tmp_path / "run.ckpt"
    fastnst.stylize(*pictures, callback=lambda iterate: iterate.record.iteration < 3, checkpoint=saved, **options)
    result = fastnst.resume(saved)
    assert torch.equal(result.tensor, expected.tensor)
    result.save(tmp_path / "out.tif", bit_depth=16)
    assert read_parameters(tmp_path / "out.tif")["content"]["name"] == str(pictures[0])


def test_pictures_beyond_the_limit_are_refused(pictures: tuple[Path, Path]) -> None:
    content, style = pictures
    for one, other, role in ((content, style, "style"), (style, content, "content")):
        with pytest.raises(fastnst.ImageError, match=rf"{role} image .* than the limit of 7000 pixels; .*max_pixels"):
            fastnst.stylize(one, other, **SMALL, max_pixels=7000)


@pytest.mark.usefixtures("_streamed")
@pytest.mark.parametrize("role", ["content", "style", "init"])
def test_damage_shows_before_the_network_is_loaded(
    role: str, pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture too that has to be decoded whole."""
    path = tmp_path / "damaged.jpg"
    with Image.open(pictures[1]) as picture:
        picture.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(stylizer, "load_weights", lambda *arguments, **options: pytest.fail("loaded"))
    content, style = (path if role == name else one for name, one in zip(("content", "style"), pictures, strict=True))
    init = {"init": path} if role == "init" else {}
    with pytest.raises(fastnst.ImageError, match="damaged or truncated"):
        fastnst.stylize(content, style, **SMALL, **init)
