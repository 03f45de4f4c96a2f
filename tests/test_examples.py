"""The example pictures, shipped and clean, and the gallery that is made of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import gallery, gallery_settings, gallery_textures
from bench.gallery_settings import SHEETS
from fastnst.errors import OptionError
from fastnst.examples import NAMES, example
from fastnst.options.resolve import resolve_options

SIZES = {
    **dict.fromkeys(NAMES, (512, 512)),
    "content": (768, 576),
    "style_mosaic": (640, 512),
    "style_swirls": (640, 512),
    "style_woodcut": (640, 512),
}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_picture(name: str) -> None:
    with Image.open(example(name)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == SIZES[name]
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp", "comment"} & image.info.keys()
        pixels = np.asarray(image, dtype=np.float64)
    # Watercolour is pale by nature.
    assert pixels.std() > (30 if name == "style_watercolour" else 40)
    assert np.abs(np.diff(pixels, axis=1)).mean() > 5


def test_they_are_small_together() -> None:
    sizes = {name: example(name).stat().st_size for name in NAMES}
    assert sum(sizes[name] for name in ("content", "style_mosaic", "style_swirls", "style_woodcut")) < 900_000
    assert sum(sizes.values()) < 1_600_000
    assert example("content.jpg") == example("content")


@pytest.mark.parametrize("name", ["", "style", "../errors", "content.png"])
def test_unknown_example_lists_the_names(name: str) -> None:
    with pytest.raises(OptionError, match=r"choose one of content, style_charcoal, .*, style_woodcut"):
        example(name)


@pytest.mark.parametrize("name", SHEETS)
def test_settings_are_options(name: str) -> None:
    _, settings = SHEETS[name]
    assert len({resolve_options(**options) for options in settings}) == len(settings)


def test_a_sheet_is_made_of_pictures_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PICTURES", tmp_path / "pictures")
    arguments = ["--size", "64", "--iterations", "1", "--only", "init", "--folder", str(tmp_path / "sheets")]
    assert gallery_settings.main(arguments) == 0
    with Image.open(tmp_path / "sheets" / "gallery_init.jpg") as sheet:
        assert sheet.width > 2 * 64
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    assert len(made) == len(SHEETS["init"][1])
    assert gallery_settings.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()} == made


def test_textures_have_their_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PICTURES", tmp_path / "pictures")
    small = "--size 32 --iterations 1 --weights random --styles style_mosaic --output"
    gallery_textures.main([*small.split(), str(tmp_path)])
    with Image.open(tmp_path / "gallery_textures.jpg") as sheet:
        assert sheet.width > 3 * gallery_textures.CELL
