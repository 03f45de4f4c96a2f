"""What becomes of a task: a picture, a failure that says why, or nothing where it is done already or stopped."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from batch_samples import SMALL, all_pairs, never
from PIL import Image

import fastnst
from fastnst.app.batch import workers
from fastnst.app.batch.manifest import Row
from fastnst.app.batch.tasks import Task, grouped, make_tasks
from fastnst.app.batch.workers import KEPT_STYLES, Worker
from fastnst.image.metadata import read_parameters
from fastnst.loss.targets import style_targets
from fastnst.network.weights import load_weights


def test_a_worker_makes_what_the_function_makes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, loaded = Mock(wraps=style_targets), Mock(wraps=load_weights)
    monkeypatch.setattr("fastnst.transfer.prepared.style_targets", computed)
    monkeypatch.setattr("fastnst.loss.networks.load_weights", loaded)
    tasks = all_pairs(folders)
    worker = Worker(never)
    outcomes = [worker.run(task) for task in grouped(tasks)]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    # Two styles at one scale, whatever the number of contents.
    assert (computed.call_count, loaded.call_count) == (2, 1)
    for task in tasks:
        expected = fastnst.stylize(task.content, list(task.styles), **SMALL)
        with Image.open(task.output) as image:
            assert np.array_equal(np.asarray(image), np.asarray(expected.image))
    assert outcomes[0].as_dict() == {
        **{"row": 1, "where": "a.png × x.png", "content": tasks[0].content, "style": list(tasks[0].styles)},
        **{"output": tasks[0].output, "status": "done", "seconds": round(outcomes[0].seconds, 3)},
        **{"width": 48, "height": 36, "iterations": 2},
        "loss": read_parameters(tasks[0].output)["final"]["total"],
    }


def test_a_worker_keeps_few_stylizers(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mock(wraps=fastnst.Stylizer)
    monkeypatch.setattr(workers, "Stylizer", made)
    worker = Worker(never)
    (task, *_) = all_pairs(folders)
    groups = [replace(task, options=replace(task.options, seed=seed)) for seed in range(KEPT_STYLES + 1)]
    for task in (*groups, groups[-1], groups[-2], groups[0]):
        assert worker.run(task).status == "done"
    assert made.call_count == KEPT_STYLES + 2


def test_faults_a_lack_of_memory_and_refusals_are_told_apart(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [KeyError("bug"), MemoryError(), fastnst.ImageError("the style is torn")]

    def broken(*_: Any, **__: Any) -> Any:
        for text, category in (*[("mind the gap", fastnst.FastnstWarning)] * 2, ("someone else's", UserWarning)):
            warnings.warn(text, category, stacklevel=1)
        raise errors.pop(0)

    tasks = all_pairs(folders)
    worker = Worker(never)
    with monkeypatch.context() as context:
        context.setattr(workers, "open_picture", broken)
        fault, memory, refusal = (worker.run(tasks[0]) for _ in range(3))
    assert fault.error == "KeyError: 'bug'"
    assert "raise errors.pop(0)" in fault.as_dict()["traceback"]
    assert str(memory.error).startswith("it ran out of memory; lower its size")
    assert refusal.as_dict()["error"] == "the style is torn"
    assert "traceback" not in refusal.as_dict()
    assert refusal.warnings == ("mind the gap",)
    # None of them stops the rest.
    assert [worker.run(task).status for task in tasks] == ["done"] * 4


def test_a_picture_that_is_stopped_is_not_written(folders: Path) -> None:
    (task, *_) = all_pairs(folders)
    assert Worker(lambda: True).run(task).status == "interrupted"
    assert not Path(task.output).exists()


def task_of(folder: Path, *styles: str, output: str = "o.png", **options: Any) -> Task:
    paths = tuple(str(folder / "styles" / style) for style in styles or ("x.png",))
    row = Row("first", str(folder / "contents/a.png"), paths, output, options)
    return make_tasks([row], SMALL, folder=str(folder))[0]


def status_of(task: Task, *, resume: bool = True) -> str:
    return Worker(never, resume=resume).run(task).status


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_what_is_done_is_skipped(suffix: str, folders: Path) -> None:
    options: dict[str, Any] = {"style_weights": [1.0, 3.0], "scales": [24, 48], "iterations": [2, 1]}
    task = task_of(folders, "x.png", "y.png", output=f"o{suffix}", tolerance=0.001, **options)
    assert status_of(task) == "done"
    before = Path(task.output).stat().st_mtime_ns
    assert status_of(task) == "skipped"
    assert Path(task.output).stat().st_mtime_ns == before
    assert status_of(task, resume=False) == "done"
    data = Path(task.output).read_bytes()
    for part in (0.9, 0.5):
        Path(task.output).write_bytes(data[: int(len(data) * part)])
        assert status_of(task) == "done", part


def repaint(path: Path) -> None:
    Image.new("RGB", (64, 48), "teal").save(path)


# Options of the second run, or what happens to the folder before it.
CHANGES: dict[str, dict[str, Any] | Callable[[Path], object]] = {
    "an option": {"seed": 1},
    "the layers": {"style_layers": ["conv1_2"]},
    "the network": {"network": "vgg16", "content_layers": "conv2_1"},
    "the start": {"init": "noise"},
    "the content": lambda folder: repaint(folder / "contents/a.png"),
    "the style": lambda folder: repaint(folder / "styles/x.png"),
    "a damaged output": lambda folder: (folder / "o.png").write_bytes(b"nothing"),
    "another's output": lambda folder: repaint(folder / "o.png"),
}
SAME: dict[str, dict[str, Any]] = {
    "the device": {"device": "cpu"},
    "the memory": {"max_memory": "8GB"},
    "the spelling": {"style_layers": "conv1_1=1"},
    "the preset's name": {"preset": "default"},
}


@pytest.mark.parametrize("change", [*CHANGES, *SAME])
def test_what_has_changed_is_made_again(change: str, folders: Path) -> None:
    assert status_of(task_of(folders)) == "done"
    given = {**CHANGES, **SAME}[change]
    if callable(given):
        given(folders)
    task = task_of(folders) if callable(given) else task_of(folders, **given)
    assert status_of(task) == ("skipped" if change in SAME else "done")


def test_a_run_that_did_not_end_is_made_again(folders: Path) -> None:
    task = task_of(folders)
    fastnst.stylize(task.content, list(task.styles), callback=lambda _: False, **SMALL).save(task.output)
    assert status_of(task) == "done"


def test_a_start_picture_is_known_by_what_it_shows(folders: Path) -> None:
    start, copy = folders / "contents/b.png", folders / "copy.png"
    assert status_of(task_of(folders, init=str(start))) == "done"
    shutil.copy(start, copy)
    assert status_of(task_of(folders, init=str(copy))) == "skipped"
    repaint(copy)
    assert status_of(task_of(folders, init=str(copy))) == "done"
