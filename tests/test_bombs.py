"""Picture bombs: each is read or refused in one line, within 5 s and four times its bytes + 20 B a pixel + 150 MB."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bombs import BOMBS

from fastnst.errors import ImageError
from fastnst.image.read import load_image

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="needs fork and /proc")
# Those that take less than a third of a second each, together.
QUICK = [name for name in BOMBS if not name.endswith(("pixels", "grey", "strips", "float", "jp2", "webp", "little"))]


def told(*names: str) -> str:
    script = Path(__file__).with_name("bombs.py")
    done = subprocess.run([sys.executable, str(script), *names], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("names", [QUICK, pytest.param([*BOMBS], marks=pytest.mark.slow)], ids=["quick", "all"])
def test_bombs_take_little(names: list[str]) -> None:
    lines = told(*names).splitlines()
    assert len(lines) == len(names) > 20
    assert [line for line in lines if line.startswith("BAD")] == []


def test_tags_that_overlap_are_named() -> None:
    make, _ = BOMBS["tiff tags"]
    data = make()
    with pytest.raises(ImageError, match="its tags claim more than the file holds"):
        load_image(io.BytesIO(data))
    with pytest.raises(ImageError, match="a side may have at most 1000000"):
        load_image(io.BytesIO(BOMBS["png row"][0]()))
    assert load_image(np.zeros((2, 1_100_000), np.uint8)).width == 1_100_000
