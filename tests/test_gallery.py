"""The gallery's settings are options that there are, and a sheet of them is made."""

from pathlib import Path

import pytest
from PIL import Image

from bench import gallery, gallery_settings, gallery_textures
from bench.gallery_settings import SHEETS
from fastnst.options.options import resolve_options


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


def test_the_page_has_the_content_over_two_columns() -> None:
    content, style, result = (Image.new("RGB", (80, 60), colour) for colour in ("red", "green", "blue"))
    page = gallery.page(content, [(style, result)], 40)
    assert page.size == (80 + gallery.GAP, 52 + gallery.GAP + 30)
    assert page.getpixel((3, 3)) == (255, 0, 0)
    assert page.getpixel((3, page.height - 3)) == (0, 128, 0)
    assert page.getpixel((page.width - 3, page.height - 3)) == (0, 0, 255)


def test_captions_are_as_the_command_has_it() -> None:
    assert gallery_settings.caption({"style_weights": [0.3, 0.7]}) == "--style-weights 0.3,0.7"


def test_textures_have_their_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PICTURES", tmp_path / "pictures")
    small = "--size 32 --iterations 1 --weights random --styles style_mosaic --output"
    gallery_textures.main([*small.split(), str(tmp_path)])
    with Image.open(tmp_path / "gallery_textures.jpg") as sheet:
        assert sheet.width > 3 * gallery_textures.CELL
