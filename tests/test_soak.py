"""Many runs in one process: memory, tensors, files and threads are no more after them than after the first few."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_samples import photo

import fastnst
from fastnst.image.read import load_image

SMALL: dict[str, Any] = {
    "size": 32,
    "iterations": 3,
    "scales": 2,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": ["conv2_1"],
}
KINDS: list[dict[str, Any]] = [
    {},
    {"optimizer": "adam", "average": 0.9},
    {"tile": 16},
    {"precision": "fp32", "line_search": "strong_wolfe"},
    {"precision": "bf16", "preserve_color": "luminance", "init": "noise"},
]
# What malloc keeps differs by some megabytes; a picture and its history that stayed would be 0.3 MB a run.
MOST_GROWTH = 24_000_000


class Broken(Exception):
    """An error that a callback raises."""


def stylize_once(number: int, folder: Path) -> None:
    """One run of a kind, some with a checkpoint, every seventh broken off, its picture written and read."""

    def callback(iterate: fastnst.Iterate) -> None:
        if number % 7 == 6:
            raise Broken

    options = {**SMALL, **KINDS[number % len(KINDS)], "checkpoint": folder / "run.st" if number % 2 else None}
    try:
        result = fastnst.stylize(photo(), photo(1), callback=callback, **options)
    except Broken:
        return
    result.save(folder / "out.png")
    load_image(folder / "out.png")


def held() -> dict[str, int]:
    """Resources of the process besides memory, where the system tells."""
    gc.collect()
    counts = {"tensors": sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())}
    counts["threads"] = threading.active_count()
    for name, place in (("files", Path("/proc/self/fd")), ("tasks", Path("/proc/self/task"))):
        if place.is_dir():
            counts[name] = len(list(place.iterdir()))
    return counts


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.parametrize("runs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_runs_hold_no_more_than_a_few(runs: int, tmp_path: Path) -> None:
    for number in range(10):
        stylize_once(number, tmp_path)
    before, resident = held(), resident_bytes()
    for number in range(runs):
        stylize_once(number, tmp_path)
    after = held()
    assert all(after[what] <= count for what, count in before.items()), (before, after)
    assert resident_bytes() < resident + MOST_GROWTH
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "run.st"]
