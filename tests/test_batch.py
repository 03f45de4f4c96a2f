"""Batches: what is checked beforehand, who makes what, what becomes of a failure, and what is made again."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fastnst
from fastnst import batch_worker
from fastnst.batch import Event, Schedule, run_batch
from fastnst.batch_processes import ProcessPool
from fastnst.batch_ray import RayPool
from fastnst.batch_rows import grouped, make_tasks, missing_inputs, pair_rows, with_memory_shares
from fastnst.batch_task import Outcome, Task
from fastnst.batch_worker import KEPT_STYLES, Worker
from fastnst.commands import batch as command
from fastnst.errors import ImageError, OptionError
from fastnst.manifest import ManifestError, Row
from fastnst.objective import style_targets
from fastnst.options import resolve_options
from fastnst.output import read_parameters
from fastnst.weights import load_weights

SMALL: dict[str, Any] = {
    "size": 48,
    "scales": None,
    "iterations": 2,
    "weights": "random",
    "style_layers": ["conv1_1"],
    "content_layers": "conv2_1",
}
FAST = ["--size", "48", "--iterations", "2", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]
FAST += ["--content-layers", "conv2_1"]
ENDLESS = 10**8


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Contents a, b and styles x, y."""
    generator = np.random.default_rng(0)
    for name in ("contents/a.png", "contents/b.png", "styles/x.png", "styles/y.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return tmp_path


def all_pairs(folder: Path, **options: Any) -> list[Task]:
    rows = pair_rows([str(folder / "contents")], [str(folder / "styles")])
    return make_tasks(rows, {**SMALL, **options}, folder=str(folder / "out"))


def never() -> bool:
    return False


def dummy(number: int, group: str) -> Task:
    options = resolve_options(**SMALL)
    return Task(number, f"row {number}", "a.png", (group,), f"{number}.png", SMALL, options, "0")


# What is checked beforehand.


def test_each_content_goes_with_each_style(folders: Path) -> None:
    for name in ("notes.txt", ".hidden.png"):
        (folders / "contents" / name).touch()
    (folders / "contents" / "more.png").mkdir()
    rows = pair_rows([str(folders / "contents"), "else.tif"], [str(folders / "styles" / "y.png")])
    assert [(Path(row.content).name, Path(row.styles[0]).name) for row in rows] == [
        ("a.png", "y.png"),
        ("b.png", "y.png"),
        ("else.tif", "y.png"),
    ]
    with pytest.raises(ImageError, match=r"style folder '.*more\.png' has no pictures"):
        pair_rows(["a.png"], [str(folders / "contents" / "more.png")])


def test_tasks_have_names_and_folders(folders: Path) -> None:
    rows = [Row("one", "a.png", ("x.png", "y.png")), Row("two", "b.png", ("x.png",), "own/name.jpg", {"size": 64})]
    tasks = make_tasks(rows, SMALL, folder=str(folders / "new"), pattern="{style}/{number:03}-{content}.webp")
    assert [task.output for task in tasks] == [f"{folders}/new/x+y/001-a.webp", f"{folders}/new/own/name.jpg"]
    assert (folders / "new" / "own").is_dir()
    assert [task.options.size for task in tasks] == [48, 64]
    (task,) = make_tasks([Row("one", "a.png", ("x.png",), "o.png")], SMALL, folder=None, root=str(folders))
    assert task.output == f"{folders}/o.png"


def test_automatic_weights_become_what_they_mean(tmp_path: Path) -> None:
    with pytest.warns(fastnst.FastnstWarning, match="FASTNST_OFFLINE"):
        (task,) = make_tasks([Row("one", "a", ("x",))], {**SMALL, "weights": "auto"}, folder=str(tmp_path))
    assert task.given["weights"] == task.options.weights == "embedded"


REFUSED: dict[str, tuple[list[Row], str]] = {
    "range": ([Row("one", "a", ("x",), "o.png", {"size": 1})], "one: size 1 is too small"),
    "unknown option": ([Row("one", "a", ("x",), "o.png", {"szie": 1})], "one: unknown option 'szie'"),
    "counts": ([Row("one", "a", ("x",), "o.png", {"style_weights": [1, 2]})], "one: 2 style weights for 1 style"),
    "device": ([Row("one", "a", ("x",), "o.png", {"device": "gpu"})], "one: unknown device 'gpu'"),
    "weights": ([Row("one", "a", ("x",), "o.png", {"weights": "no.pth"})], r"one: weights file no\.pth does not exist"),
    "extension": ([Row("one", "a", ("x",), "o.xyz")], r"one: output .* has the unknown extension '\.xyz'"),
    "folder": ([Row("one", "a", ("x",), "/no/where/o.png")], "one: output .*'/no/where' does not exist"),
    "same output": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "b", ("x",), "./o.png")],
        "two: output .* is also that of one; name them apart",
    ),
    "same name": (
        [Row("one", "a.png", ("x",)), Row("two", "a.jpg", ("x",))],
        r"two: output '.*a_x\.png' is also that of one",
    ),
    "output is an input": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "{out}/o.png", ("x",), "p.png")],
        r"one: output .* is also an input \(two\) and would be overwritten",
    ),
    "output is a start": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "a", ("x",), "p.png", {"init": "{out}/o.png"})],
        r"one: output .* is also an input \(two\)",
    ),
    "several": (
        [Row("one", "a", ("x",), "o.png", {"size": 1}), Row("two", "a", ("x",), "p.png", {"size": 1})],
        r"one: size 1 .*\(and 1 more such row\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_run_are_refused(case: str, tmp_path: Path) -> None:
    rows, message = REFUSED[case]
    folder = str(tmp_path / "out")
    placed = [
        replace(
            row,
            content=row.content.format(out=folder),
            options={
                name: value.format(out=folder) if isinstance(value, str) else value
                for name, value in row.options.items()
            },
        )
        for row in rows
    ]
    with pytest.raises(ManifestError, match=message):
        make_tasks(placed, SMALL, folder=folder)


def test_an_output_needs_a_name_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="one: no output; write one into the row, or give a folder with -o"):
        make_tasks([Row("one", "a", ("x",))], SMALL, folder=None)
    for pattern, message in (
        ("{contents}.png", "unknown field"),
        ("{content.png", "cannot be read"),
        ("{}", "unknown"),
    ):
        with pytest.raises(OptionError, match=message):
            make_tasks([Row("one", "a", ("x",))], SMALL, folder=str(tmp_path), pattern=pattern)
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"the output folder '.*file' cannot be made"):
        make_tasks([Row("one", "a", ("x",))], SMALL, folder=str(tmp_path / "file"))


def test_missing_pictures_are_failures_of_their_rows(folders: Path) -> None:
    a, x = str(folders / "contents/a.png"), str(folders / "styles/x.png")
    rows = [
        Row("fine", a, (x,)),
        Row("content", "missing.png", (x,)),
        Row("style", a, (x, str(folders))),
        Row("init", a, (x,), None, {"init": "nowhere.png"}),
    ]
    tasks = make_tasks(rows, SMALL, folder=str(folders / "out"), pattern="{number}.png")
    lost = missing_inputs(tasks)
    assert [(outcome.task.where, outcome.status) for outcome in lost] == [
        ("content", "failed"),
        ("style", "failed"),
        ("init", "failed"),
    ]
    assert lost[0].error == "content image 'missing.png' does not exist; check the path"
    assert "is a directory" in str(lost[1].error)


def test_workers_on_a_cpu_share_its_memory(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnst.batch_rows.free_bytes", lambda _: 8_000_000_000)
    monkeypatch.setattr("fastnst.batch_rows.held_bytes", lambda _: 500_000_000)
    (limited, *_), tasks = all_pairs(folders, max_memory="1GB"), all_pairs(folders)
    assert with_memory_shares(tasks, 1) == tasks
    shared = with_memory_shares([limited, *tasks], 4)
    assert [task.options.max_memory for task in shared] == [1_000_000_000] + [2_300_000_000] * 4
    assert shared[1].given["max_memory"] == 2_300_000_000
    monkeypatch.setattr("fastnst.batch_rows.free_bytes", lambda _: None)
    assert with_memory_shares(tasks, 4) == tasks


# Who makes what.


def test_a_workers_next_task_has_its_style() -> None:
    tasks = [dummy(number, group) for number, group in enumerate("xyxyxzzzz")]
    assert [task.styles[0] for task in grouped(tasks)] == list("xxxyyzzzz")
    schedule = Schedule(grouped(tasks))
    taken: dict[int, str] = {0: "", 1: ""}
    for worker in (0, 1, 0, 1, 1, 1, 0, 0, 0):
        taken[worker] += schedule.take(worker).styles[0]
    # 1 has finished y and goes on to z; 0 has finished x and helps with what is left of z.
    assert taken == {0: "xxxzz", 1: "yyzz"}
    assert not schedule
    with pytest.raises(IndexError):
        schedule.take(0)


@given(
    groups=st.lists(st.sampled_from("uvwxyz"), max_size=30),
    workers=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_each_task_is_taken_once(groups: list[str], workers: list[int]) -> None:
    tasks = [dummy(number, group) for number, group in enumerate(groups)]
    schedule = Schedule(grouped(tasks))
    own: dict[int, str] = {}
    taken = []
    for worker in workers[: len(tasks)]:
        left = {task.styles[0] for task in tasks if task not in taken}
        task = schedule.take(worker)
        assert own.get(worker) not in left or task.styles[0] == own[worker]
        own[worker] = task.styles[0]
        taken.append(task)
    assert sorted(task.number for task in taken) == list(range(len(groups)))
    assert not schedule


class Pretence:
    """A pool without work: `happens` says what comes of each task; a worker can die."""

    def __init__(self, workers: int, happens: Callable[[Task], str]) -> None:
        self.happens, self.events = happens, [Event(worker) for worker in range(workers)]
        self.stopped = self.closed = False
        self.restarted: list[int] = []

    def submit(self, worker: int, task: Task) -> None:
        what = self.happens(task)
        if what == "dies":
            self.events.append(Event(worker, died="the worker was killed by SIGKILL"))
        elif what != "hangs":
            self.events.append(Event(worker, Outcome(task, what, 1.0)))

    def wait(self, seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def restart(self, worker: int) -> None:
        self.restarted.append(worker)
        self.events.append(Event(worker))

    def stop(self) -> None:
        self.stopped = True
        self.events.append(Event(0, Outcome(dummy(0, "x"), "interrupted", 1.0)))

    def close(self) -> None:
        self.closed = True


def test_a_task_whose_worker_dies_has_failed_and_the_others_go_on() -> None:
    tasks = [dummy(number, "x") for number in range(5)]
    pool = Pretence(2, lambda task: "dies" if task.number in (1, 4) else "done")
    outcomes = list(run_batch(tasks, pool))
    assert sorted((outcome.task.number, outcome.status) for outcome in outcomes) == [
        *((number, "failed" if number in (1, 4) else "done") for number in range(5))
    ]
    assert [outcome.error for outcome in outcomes if outcome.status == "failed"] == [
        "the worker was killed by SIGKILL"
    ] * 2
    assert len(pool.restarted) == 1
    assert pool.closed


def test_a_batch_that_is_stopped_gives_out_no_more() -> None:
    pool = Pretence(1, lambda _: "hangs")
    asked = iter([False, False, True])
    outcomes = list(run_batch([dummy(0, "x"), dummy(1, "x")], pool, lambda: next(asked)))
    assert [outcome.status for outcome in outcomes] == ["interrupted"]
    assert pool.stopped
    assert pool.closed


def test_a_batch_that_is_left_closes_its_workers() -> None:
    pool = Pretence(1, lambda _: "done")
    outcomes = run_batch([dummy(0, "x"), dummy(1, "x")], pool)
    next(outcomes)
    outcomes.close()
    assert pool.closed


# What becomes of a task.


def test_a_worker_makes_what_the_function_makes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, loaded = [], []

    def counted(*arguments: Any) -> Any:
        computed.append(arguments)
        return style_targets(*arguments)

    def counted_weights(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments)
        return load_weights(*arguments, **options)

    monkeypatch.setattr("fastnst.stylizer.style_targets", counted)
    monkeypatch.setattr("fastnst.stylizer.load_weights", counted_weights)
    tasks = all_pairs(folders)
    worker = Worker(never)
    outcomes = [worker.run(task) for task in grouped(tasks)]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    # Two styles at one scale, whatever the number of contents.
    assert len(computed) == 2
    assert len(loaded) == 1
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
    made: list[tuple[str, ...]] = []

    class Counted(fastnst.Stylizer):
        def __init__(self, style: Any, **options: Any) -> None:
            made.append(tuple(style))
            super().__init__(style, **options)

    monkeypatch.setattr(batch_worker, "Stylizer", Counted)
    worker = Worker(never)
    groups = [
        replace(task, options=replace(task.options, seed=seed), given={**task.given, "seed": seed})
        for seed, task in enumerate(all_pairs(folders)[:1] * (KEPT_STYLES + 1))
    ]
    for task in (*groups, groups[-1], groups[-2], groups[0]):
        assert worker.run(task).status == "done"
    assert len(made) == KEPT_STYLES + 2


def test_a_bad_picture_does_not_stop_the_rest(folders: Path) -> None:
    (folders / "contents" / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (3, 3)).save(folders / "contents" / "tiny.png")
    worker = Worker(never)
    found = [worker.run(task) for task in all_pairs(folders) if "x.png" in task.where]
    assert [(outcome.status, Path(outcome.task.output).exists()) for outcome in found] == [
        ("failed", False),
        ("done", True),
        ("done", True),
    ]
    assert "is not an image" in str(found[0].error)
    assert found[0].traceback is None


def test_faults_and_a_lack_of_memory_are_told_apart(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [KeyError("bug"), MemoryError(), fastnst.ImageError("the style is torn")]

    def broken(*_: Any, **__: Any) -> Any:
        raise errors.pop(0)

    monkeypatch.setattr(batch_worker, "open_picture", broken)
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

    monkeypatch.setattr(batch_worker, "open_picture", warned)
    assert Worker(never).run(all_pairs(folders)[0]).warnings == ("mind the gap",)


def test_a_picture_that_is_stopped_is_not_written(folders: Path) -> None:
    (task, *_) = all_pairs(folders)
    assert Worker(lambda: True).run(task).status == "interrupted"
    assert not Path(task.output).exists()


# What is made again.


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


# Processes.


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["batch", *arguments])


def test_the_command_makes_what_it_can(folders: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    Path("contents/bad.png").write_bytes(b"no picture")
    lines = ["content,style,output,style_weight", *(f"contents/{name}.png,styles/x.png,,7" for name in "abc")]
    Path("pairs.csv").write_text("\n".join([*lines, "contents/bad.png,styles/y.png,,"]))
    assert command.run(parsed("pairs.csv", "-o", "out", "--json", *FAST)) == 1
    printed = capsys.readouterr()
    results = [json.loads(line) for line in printed.out.splitlines()]
    assert sorted((line["row"], line["status"]) for line in results) == [
        (1, "done"),
        (2, "done"),
        (3, "failed"),
        (4, "failed"),
    ]
    failures = [json.loads(line) for line in Path("out/failures.jsonl").read_text().splitlines()]
    assert failures == [line for line in results if line["status"] == "failed"]
    assert all(failure["error"] and "seconds" in failure for failure in failures)
    assert "fastnst: failed: pairs.csv, line 4: content image 'contents/c.png' does not exist" in printed.err
    assert "fastnst: 2 done, 2 failed in " in printed.err
    assert read_parameters("out/a_x.png")["options"]["style_weight"] == 7

    shutil.copy("contents/a.png", "contents/c.png")
    shutil.copy("contents/b.png", "contents/bad.png")
    assert command.run(parsed("pairs.csv", "-o", "out", "--resume", "--quiet", *FAST)) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("out/failures.jsonl").read_text() == ""
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a_x.png", "b_x.png", "bad_y.png", "c_x.png"]


def test_a_worker_that_is_killed_costs_one_picture(folders: Path) -> None:
    first, second, *_ = all_pairs(folders)
    first = replace(first, given={**SMALL, "iterations": ENDLESS})
    pool = ProcessPool(1, threads=1)
    begun = time.monotonic()
    killed: list[bool] = []

    def kill() -> bool:
        worker = pool._workers[0]
        if worker.ready and not killed:
            assert worker.process.pid is not None
            os.kill(worker.process.pid, signal.SIGKILL)
            killed.append(True)
        assert time.monotonic() < begun + 120
        return False

    lost, made = run_batch([first, second], pool, kill)
    assert (lost.task.number, lost.status) == (first.number, "failed")
    assert str(lost.error).startswith("the worker was killed by SIGKILL; lower the size")
    assert (made.task.number, made.status) == (second.number, "done")
    assert not any(worker.process.is_alive() for worker in pool._workers)


def test_ctrl_c_ends_it_cleanly_and_it_can_be_gone_on_with(folders: Path) -> None:
    rows = [
        {"content": f"contents/{name}.png", "style": "styles/x.png", "output": f"{name}.png", "iterations": count}
        for name, count in (("a", 2), ("b", ENDLESS))
    ]
    (folders / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = [sys.executable, "-m", "fastnst", "batch", str(folders / "pairs.jsonl"), "--json", *FAST]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "done"
    time.sleep(0.5)
    # As a terminal does: to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["status"] == "interrupted"
    assert "stopping after the present iterations" in err
    assert "1 done, 1 not made" in err
    assert "Traceback" not in err
    names = sorted(path.name for path in folders.iterdir() if path.is_file())
    assert names == ["a.png", "pairs.failures.jsonl", "pairs.jsonl"]


def test_the_gpus_are_shared_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert command._gpus({"auto"}) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a")
    assert command._gpus({"auto", "cuda"}) == ["3", "GPU-5a"]
    assert command._gpus({"cuda:1"}) == command._gpus({"cpu"}) == []


def test_ray_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"--ray needs the package ray; install it \(pip install 'fastnst\[ray\]'\)"):
        RayPool(1, most=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:ray")
def test_ray_makes_the_same_and_outlives_a_lost_actor(folders: Path) -> None:
    ray = pytest.importorskip("ray")
    bad = folders / "contents" / "bad.png"
    bad.write_bytes(b"no picture")
    tasks = all_pairs(folders)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        pool = RayPool(2, most=len(tasks))
        outcomes = list(run_batch(grouped(tasks), pool))
        problems = [outcome.error for outcome in outcomes if "bad" not in outcome.task.where]
        assert problems == [None] * 4
        assert [outcome.status for outcome in outcomes].count("failed") == 2
        for task in tasks:
            if "bad" in task.where:
                continue
            expected = fastnst.stylize(task.content, list(task.styles), **SMALL)
            assert read_parameters(task.output)["final"]["total"] == pytest.approx(expected.losses[-1].total, rel=1e-4)

        lasting = replace(tasks[0], given={**SMALL, "iterations": ENDLESS})
        pool = RayPool(1, most=2)
        killed: list[bool] = []

        def kill() -> bool:
            if pool._ready and not killed:
                killed.append(True)
                ray.kill(pool._actors[0])
            return False

        lost, made = run_batch([lasting, replace(tasks[1], output=str(folders / "o.png"))], pool, kill)
        assert (lost.status, made.status) == ("failed", "done")
        assert str(lost.error).startswith("the worker was lost")

        pool = RayPool(1, most=1)
        (halted,) = run_batch([lasting], pool, lambda: bool(pool._ready))
        assert halted.status == "interrupted"
    finally:
        ray.shutdown()
