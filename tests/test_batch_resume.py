"""What is made again, and what is left as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_samples import SMALL, never
from PIL import Image

import fastnst
from fastnst.app.batch.manifest import Row
from fastnst.app.batch.tasks import Task, make_tasks
from fastnst.app.batch.workers import Worker


def task_of(folder: Path, *styles: str, output: str = "o.png", **options: Any) -> Task:
    paths = tuple(str(folder / "styles" / style) for style in styles or ("x.png",))
    row = Row("first", str(folder / "contents/a.png"), paths, output, options)
    return make_tasks([row], SMALL, folder=str(folder))[0]


def outcome(task: Task, *, resume: bool = True) -> str:
    return Worker(never, resume=resume).run(task).status


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_what_is_done_is_skipped(suffix: str, folders: Path) -> None:
    options: dict[str, Any] = {"style_weights": [1.0, 3.0], "scales": [24, 48], "iterations": [2, 1]}
    task = task_of(folders, "x.png", "y.png", output=f"o{suffix}", tolerance=0.001, **options)
    assert outcome(task) == "done"
    before = Path(task.output).stat().st_mtime_ns
    assert outcome(task) == "skipped"
    assert Path(task.output).stat().st_mtime_ns == before
    assert outcome(task, resume=False) == "done"


def repaint(path: Path) -> dict[str, Any]:
    Image.new("RGB", (64, 48), "teal").save(path)
    return {}


def damage(path: Path) -> dict[str, Any]:
    path.write_bytes(b"nothing")
    return {}


CHANGES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "an option": lambda *_: {"seed": 1},
    "the layers": lambda *_: {"style_layers": ["conv1_2"]},
    "the network": lambda *_: {"network": "vgg16", "content_layers": "conv2_1"},
    "the start": lambda *_: {"init": "noise"},
    "the content": lambda folder, _: repaint(folder / "contents/a.png"),
    "the style": lambda folder, _: repaint(folder / "styles/x.png"),
    "a damaged output": lambda _, output: damage(output),
    "another's output": lambda _, output: repaint(output),
}
SAME: dict[str, dict[str, Any]] = {
    "the device": {"device": "cpu"},
    "the memory": {"max_memory": "8GB"},
    "the spelling": {"style_layers": "conv1_1=1"},
    "the preset's name": {"preset": "default"},
}


@pytest.mark.parametrize("change", [*CHANGES, *SAME])
def test_what_has_changed_is_made_again(change: str, folders: Path) -> None:
    task = task_of(folders)
    assert outcome(task) == "done"
    given = SAME[change] if change in SAME else CHANGES[change](folders, Path(task.output))
    assert outcome(task_of(folders, **given)) == ("skipped" if change in SAME else "done")


def test_a_run_that_did_not_end_is_made_again(folders: Path) -> None:
    task = task_of(folders)
    fastnst.stylize(task.content, list(task.styles), callback=lambda _: False, **SMALL).save(task.output)
    assert outcome(task) == "done"


def test_a_start_picture_is_known_by_what_it_shows(folders: Path) -> None:
    start, copy = folders / "contents/b.png", folders / "copy.png"
    assert outcome(task_of(folders, init=str(start))) == "done"
    shutil.copy(start, copy)
    assert outcome(task_of(folders, init=str(copy))) == "skipped"
    repaint(copy)
    assert outcome(task_of(folders, init=str(copy))) == "done"
