"""Runs of 20 sizes under `ulimit -v` of 2 GB: each ends with its image, the large ones in tiles, and none is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn import drawn

from fastnst.image.read import load_image

if sys.platform != "linux" or torch.version.cuda:
    pytest.skip("the limit is Linux's, and less than the libraries of a GPU take", allow_module_level=True)
pytestmark = pytest.mark.slow
SIZES = range(300, 1260, 50)
SMALL = ["--weights", "random", "--style-layers", "conv1_1", "conv2_1", "--content-layers", "conv2_2"]


@pytest.mark.parametrize(("number", "size"), [*enumerate(SIZES)], ids=map(str, SIZES))
def test_a_run_ends_within_two_gigabytes_of_addresses(number: int, size: int, tmp_path: Path) -> None:
    content, style = drawn(tmp_path, "content.png", "style.png", size=(1280, 960))
    precision, threads = ("fp32", "winograd", "bf16")[number % 3], str(1 + number % 2)
    run = [*SMALL, "--size", str(size), "--precision", precision]

    def said(*words: str) -> str:
        limited = ["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", sys.executable, "-m", "fastnst", *words, *run]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run(limited, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    if size == SIZES[-1]:
        assert json.loads(said("plan", content, "--json"))["scales"][-1]["tile"] is not None
    said("stylize", content, style, "-o", "out.png", "--scales", "none", "--iterations", "2", "--quiet")
    assert load_image(tmp_path / "out.png").width == size
