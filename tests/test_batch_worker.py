"""What becomes of a task: a picture, a failure that says why, or nothing where it is stopped."""

import warnings
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
from fastnst.app.batch.tasks import grouped
from fastnst.app.batch.workers import KEPT_STYLES, Worker
from fastnst.errors import ImageError
from fastnst.image.metadata import read_parameters
from fastnst.loss.targets import style_targets
from fastnst.network.weights import load_weights


def test_a_worker_makes_what_the_function_makes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, loaded = Mock(wraps=style_targets), Mock(wraps=load_weights)
    monkeypatch.setattr("fastnst.transfer.stylizer.style_targets", computed)
    monkeypatch.setattr("fastnst.transfer.stylizer.load_weights", loaded)
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


def test_a_bad_picture_does_not_stop_the_rest(folders: Path) -> None:
    (folders / "contents" / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (3, 3)).save(folders / "contents" / "tiny.png")
    worker = Worker(never)
    outcomes = [worker.run(task) for task in all_pairs(folders) if "x.png" in task.where]
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "done"]
    assert [Path(outcome.task.output).exists() for outcome in outcomes] == [False, True, True]
    assert "is not an image" in str(outcomes[0].error)
    assert outcomes[0].traceback is None


def test_faults_and_a_lack_of_memory_are_told_apart(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [KeyError("bug"), MemoryError(), fastnst.ImageError("the style is torn")]

    def broken(*_: Any, **__: Any) -> Any:
        raise errors.pop(0)

    monkeypatch.setattr(workers, "open_picture", broken)
    (task, *_) = all_pairs(folders)
    worker = Worker(never)
    fault, memory, refusal = (worker.run(task) for _ in range(3))
    assert fault.error == "KeyError: 'bug'"
    assert "raise errors.pop(0)" in fault.as_dict()["traceback"]
    assert str(memory.error).startswith("out of memory; lower its size")
    assert refusal.as_dict()["error"] == "the style is torn"
    assert "traceback" not in refusal.as_dict()


def test_warnings_come_with_the_outcome(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(path: str, **options: Any) -> Any:
        for _ in range(2):
            warnings.warn("mind the gap", fastnst.FastnstWarning, stacklevel=1)
        warnings.warn("someone else's", UserWarning, stacklevel=1)
        raise ImageError("no")

    monkeypatch.setattr(workers, "open_picture", warned)
    assert Worker(never).run(all_pairs(folders)[0]).warnings == ("mind the gap",)


def test_a_picture_that_is_stopped_is_not_written(folders: Path) -> None:
    (task, *_) = all_pairs(folders)
    assert Worker(lambda: True).run(task).status == "interrupted"
    assert not Path(task.output).exists()
