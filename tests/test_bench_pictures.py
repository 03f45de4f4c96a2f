"""Large pictures take the memory of some of their rows."""

import json
from pathlib import Path

import pytest

from bench import bench_pictures


@pytest.mark.slow
def test_pictures_are_read_and_written_by_rows(tmp_path: Path) -> None:
    # In float32 the picture has 201 MB.
    assert bench_pictures.main(["--size", "4096", "--json", str(tmp_path / "a.json"), "--folder", str(tmp_path)]) == 0
    pictures = json.loads((tmp_path / "a.json").read_text())["pictures"]
    assert len(pictures) == 8
    for picture in pictures:
        assert picture["peak_mb"] < 400, picture
        assert picture["peak_mb"] - picture["rest_mb"] < 160, picture
