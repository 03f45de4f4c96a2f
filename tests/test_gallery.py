"""The gallery's settings are options that there are, and a sheet of them is made."""

from pathlib import Path

import pytest
from PIL import Image

from bench import gallery_settings, gallery_textures
from bench.gallery_settings import SHEETS
from fastnst.options.options import resolve_options


@pytest.mark.parametrize("name", SHEETS)
def test_settings_are_options(name: str) -> None:
    _, settings = SHEETS[name]
    assert len({resolve_options(**options) for options in settings}) == len(settings)


def test_a_sheet(tmp_path: Path) -> None:
    arguments = ["--size", "64", "--iterations", "1", "--only", "init", "--folder", str(tmp_path)]
    assert gallery_settings.main(arguments) == 0
    with Image.open(tmp_path / "gallery_init.jpg") as sheet:
        assert sheet.width > 2 * 64
    assert [path.name for path in tmp_path.iterdir()] == ["gallery_init.jpg"]


def test_captions_are_as_the_command_has_it() -> None:
    assert gallery_settings._caption({"style_weights": [0.3, 0.7]}) == "--style-weights 0.3 0.7"


def test_textures_have_their_sheet(tmp_path: Path) -> None:
    small = "--size 32 --iterations 1 --weights random --styles style_mosaic --output"
    gallery_textures.main([*small.split(), str(tmp_path)])
    with Image.open(tmp_path / "gallery_textures.jpg") as sheet:
        assert sheet.width > 3 * gallery_textures.CELL
