"""What is made again, and what is left as it is."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_samples import SMALL, never
from PIL import Image

import fastnst
from fastnst.app.batch.manifest import Row
from fastnst.app.batch.tasks import make_tasks
from fastnst.app.batch.workers import Worker


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_what_is_done_is_skipped(suffix: str, folders: Path) -> None:
    options = {"style_weights": [1.0, 3.0], "scales": [24, 48], "iterations": [2, 1], "tolerance": 0.001}
    styles = tuple(str(folders / "styles" / name) for name in ("x.png", "y.png"))
    row = Row("one", str(folders / "contents/a.png"), styles, f"o{suffix}", options)
    (task,) = make_tasks([row], SMALL, folder=str(folders))
    assert Worker(never, resume=True).run(task).status == "done"
    before = Path(task.output).stat().st_mtime_ns
    assert Worker(never, resume=True).run(task).status == "skipped"
    assert Path(task.output).stat().st_mtime_ns == before
    assert Worker(never).run(task).status == "done"


CHANGES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "an option": lambda *_: {"seed": 1},
    "the layers": lambda *_: {"style_layers": ["conv1_2"]},
    "the network": lambda *_: {"network": "vgg16", "content_layers": "conv2_1"},
    "the start": lambda *_: {"init": "noise"},
    "the content": lambda folder, _: repaint(folder / "contents/a.png"),
    "the style": lambda folder, _: repaint(folder / "styles/x.png"),
    "a damaged output": lambda _, output: overwrite(output, b"nothing"),
    "another's output": lambda _, output: repaint(output),
}


SAME: dict[str, dict[str, Any]] = {
    "the device": {"device": "cpu"},
    "the memory": {"max_memory": "8GB"},
    "the spelling": {"style_layers": "conv1_1=1"},
    "the preset's name": {"preset": "default"},
}


def overwrite(path: Path, contents: bytes) -> dict[str, Any]:
    path.write_bytes(contents)
    return {}


def repaint(path: Path) -> dict[str, Any]:
    Image.new("RGB", (64, 48), "teal").save(path)
    return {}


@pytest.mark.parametrize("change", [*CHANGES, *SAME])
def test_what_has_changed_is_made_again(change: str, folders: Path) -> None:
    row = Row("one", str(folders / "contents/a.png"), (str(folders / "styles/x.png"),), "o.png")
    (task,) = make_tasks([row], SMALL, folder=str(folders))
    assert Worker(never, resume=True).run(task).status == "done"
    given = SAME[change] if change in SAME else CHANGES[change](folders, Path(task.output))
    (again,) = make_tasks([row], {**SMALL, **given}, folder=str(folders))
    assert Worker(never, resume=True).run(again).status == ("skipped" if change in SAME else "done")


def test_a_run_that_did_not_end_is_made_again(folders: Path) -> None:
    row = Row("one", str(folders / "contents/a.png"), (str(folders / "styles/x.png"),), "o.png")
    (task,) = make_tasks([row], SMALL, folder=str(folders))
    fastnst.stylize(task.content, list(task.styles), callback=lambda _: False, **SMALL).save(task.output)
    assert Worker(never, resume=True).run(task).status == "done"


def test_a_start_picture_is_known_by_its_place_and_age(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    row = Row("one", "contents/a.png", ("styles/x.png",), "o.png")
    (task,) = make_tasks([row], {**SMALL, "init": "contents/b.png"}, folder=str(folders))
    assert Worker(never, resume=True).run(task).status == "done"
    (absolute,) = make_tasks([row], {**SMALL, "init": str(folders / "contents/b.png")}, folder=str(folders))
    assert Worker(never, resume=True).run(absolute).status == "skipped"
    (other,) = make_tasks([row], {**SMALL, "init": "styles/y.png"}, folder=str(folders))
    assert Worker(never, resume=True).run(other).status == "done"
    assert Worker(never, resume=True).run(other).status == "skipped"
    later = time.time() + 100
    os.utime("styles/y.png", (later, later))
    assert Worker(never, resume=True).run(other).status == "done"
