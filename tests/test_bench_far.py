"""The run of a picture far too large for the untiled step, in small."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import bench_far


def test_content_is_a_square(tmp_path: Path) -> None:
    bench_far.write_content(tmp_path / "a.png", 130)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (130, 130)
        assert np.asarray(image).std() > 20


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "160", "--max-memory", "900MB", "--json", str(tmp_path / "far.json"), "--folder", str(tmp_path)]
    assert bench_far.main(words) == 0
    assert "the untiled step would take" in capsys.readouterr().out
    report = json.loads((tmp_path / "far.json").read_text())
    assert report["size"] == 160
    assert 1e8 < report["peak_bytes"] < 2e9
