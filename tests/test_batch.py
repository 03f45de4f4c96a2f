"""A batch: the command, who makes what whatever becomes of a worker, its processes and its signals."""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batch_samples import ENDLESS, FAST, SMALL, all_pairs, dummy
from processes import PATIENCE

import fastnst
from fastnst.app.batch.ray import _resources, run_on_ray
from fastnst.app.batch.tasks import Outcome, Task, grouped
from fastnst.app.batch.workers import ProcessPool, run_batch
from fastnst.app.cli import batch as command
from fastnst.app.cli import build_parser
from fastnst.errors import FastnstError, OptionError
from fastnst.image.metadata import read_parameters


def parsed(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["batch", *arguments])


def test_the_command_makes_what_it_can(folders: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    Path("contents/bad.png").write_bytes(b"no picture")
    lines = ["content,style,output,style_weight", *(f"contents/{name}.png,styles/x.png,,7" for name in "abc")]
    Path("pairs.csv").write_text("\n".join([*lines, "contents/bad.png,styles/y.png,,"]))
    assert command.run(parsed("pairs.csv", "-o", "out", "--json", *FAST)) == 1
    printed = capsys.readouterr()
    results = [json.loads(line) for line in printed.out.splitlines()]
    statuses = {line["row"]: line["status"] for line in results}
    assert statuses == {1: "done", 2: "done", 3: "failed", 4: "failed"}
    failures = [json.loads(line) for line in Path("out/failures.jsonl").read_text().splitlines()]
    assert failures == [line for line in results if line["status"] == "failed"]
    assert all(failure["error"] and "seconds" in failure for failure in failures)
    assert "fastnst: failed: pairs.csv, line 4: content image 'contents/c.png' does not exist" in printed.err
    assert "fastnst: saved 2 pictures to out, 2 failed in " in printed.err
    assert read_parameters("out/a_x.png")["options"]["style_weight"] == 7

    shutil.copy("contents/a.png", "contents/c.png")
    shutil.copy("contents/b.png", "contents/bad.png")
    assert command.run(parsed("pairs.csv", "-o", "out", "--resume", "--quiet", *FAST)) == 0
    assert capsys.readouterr() == ("", "")
    assert not Path("out/failures.jsonl").exists()
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a_x.png", "b_x.png", "bad_y.png", "c_x.png"]


@pytest.mark.posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_on_a_full_disk_costs_no_report(folders: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    Path("pairs.csv").write_text("content,style\nnone.png,styles/x.png")
    Path("out").mkdir()
    Path("out/failures.jsonl").symlink_to("/dev/full")
    assert command.run(parsed("pairs.csv", "-o", "out", *FAST)) == 1
    said = capsys.readouterr().err
    assert "the log cannot be written (No space left on device)" in said
    assert "fastnst: saved 0 pictures, 1 failed in " in said


class Pretence(ProcessPool):
    """A pool without processes: `happens` says what comes of a task at its first, second … try."""

    def __init__(self, workers: int, happens: Callable[[Task, int], str]) -> None:
        self.workers, self.happens = workers, happens
        self.tries: list[int] = []
        self.at_work: list[tuple[Task, Future[Outcome]]] = []
        self.renewed = 0
        self.stopped = self.closed = False

    def submit(self, task: Task) -> Future[Outcome]:
        assert len([future for _, future in self.at_work if not future.done()]) < self.workers
        self.tries.append(task.number)
        future: Future[Outcome] = Future()
        self.at_work.append((task, future))
        what = self.happens(task, self.tries.count(task.number))
        if what == "dies":
            for _, other in self.at_work:
                if not other.done():
                    other.set_exception(BrokenProcessPool())
        elif what != "hangs":
            future.set_result(Outcome(task, what, 1.0))
        return future

    def renew(self) -> None:
        self.renewed += 1

    def stop(self) -> None:
        self.stopped = True
        for task, future in self.at_work:
            if not future.done():
                future.set_result(Outcome(task, "interrupted", 1.0))

    def close(self) -> None:
        self.closed = True


def statuses(outcomes: list[Outcome]) -> list[tuple[int, str]]:
    return sorted((outcome.task.number, outcome.status) for outcome in outcomes)


def test_tasks_of_a_style_come_one_after_the_other() -> None:
    tasks = [dummy(number, group) for number, group in enumerate("xyxyxzzzz")]
    assert [task.styles[0] for task in grouped(tasks)] == list("xxxyyzzzz")
    pool = Pretence(2, lambda *_: "done")
    assert statuses(list(run_batch(grouped(tasks), pool))) == [(number, "done") for number in range(9)]
    assert pool.tries == [task.number for task in grouped(tasks)]
    assert pool.closed
    left = Pretence(1, lambda *_: "done")
    outcomes = run_batch(tasks, left)
    next(outcomes)
    outcomes.close()
    assert left.closed


def test_the_tasks_beside_one_that_kills_its_worker_are_made() -> None:
    # 0 works until its neighbour, 1, kills the worker; 1 does so again when it works alone.
    happens = {(0, 1): "hangs", (1, 1): "dies", (1, 2): "dies"}
    pool = Pretence(2, lambda task, attempt: happens.get((task.number, attempt), "done"))
    outcomes = list(run_batch([dummy(number, "x") for number in range(4)], pool))
    assert statuses(outcomes) == [(0, "done"), (1, "failed"), (2, "done"), (3, "done")]
    assert [str(outcome.error)[:22] for outcome in outcomes if outcome.error] == ["its worker died twice,"]
    assert pool.renewed == 2
    assert pool.closed


def test_a_batch_that_is_stopped_gives_out_no_more() -> None:
    pool = Pretence(1, lambda *_: "hangs")
    asked = iter([False, False, True])
    outcomes = list(run_batch([dummy(0, "x"), dummy(1, "x")], pool, lambda: next(asked)))
    assert statuses(outcomes) == [(0, "interrupted")]
    assert pool.stopped
    assert pool.closed


def test_a_worker_that_is_killed_twice_costs_one_picture(folders: Path) -> None:
    first, second, *_ = all_pairs(folders)
    first = replace(first, options=replace(first.options, iterations=ENDLESS))
    pool = ProcessPool(1, threads=1)
    begun = time.monotonic()
    killed: set[int | None] = set()

    def kill() -> bool:
        for worker in multiprocessing.active_children():
            if pool._start.started.is_set() and len(killed | {worker.pid}) <= 2:
                killed.add(worker.pid)
                worker.kill()
        assert time.monotonic() < begun + PATIENCE
        return False

    lost, made = run_batch([first, second], pool, kill)
    assert len(killed) == 2
    assert (lost.task.number, lost.status) == (first.number, "failed")
    assert str(lost.error).startswith("its worker died twice, the second time while it worked alone")
    assert (made.task.number, made.status) == (second.number, "done")
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_while_it_starts_loses_no_row(folders: Path) -> None:
    tasks = grouped(all_pairs(folders))
    pool = ProcessPool(2, threads=1)
    killed = False

    def kill() -> bool:
        nonlocal killed
        for worker in [] if killed else multiprocessing.active_children():
            killed = True
            worker.kill()
        return False

    outcomes = list(run_batch(tasks, pool, kill))
    assert killed
    assert statuses(outcomes) == [(number, "done") for number in range(1, 5)]
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_start_fails_the_rows(folders: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnst.app.batch.workers._MOST_STILLBORN", 1)
    outcomes = list(run_batch(all_pairs(folders), ProcessPool(1, threads=0)))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 4
    assert outcomes[-1].error == "a worker could not start; read its message above, or lower --workers"
    assert "set_num_threads expects a positive integer" in capfd.readouterr().err


def test_parts_make_each_row_once(folders: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    pairs = ["--content", "contents", "--style", "styles", "-o", "out", "--json", *FAST]
    made = []
    for part in ("1/3", "2/3", "3/3"):
        assert command.run(parsed(*pairs, "--part", part)) == 0
        made.append([json.loads(line)["row"] for line in capsys.readouterr().out.splitlines()])
    assert made == [[1, 4], [2], [3]]
    assert len(list(Path("out").glob("*.png"))) == 4
    assert not list(Path("out").glob("*.jsonl"))
    assert command.run(parsed(*pairs, "--part", "5/5")) == 0
    assert "no rows" in capsys.readouterr().err


@pytest.mark.posix
def test_ctrl_c_ends_it_cleanly_and_it_can_be_gone_on_with(folders: Path) -> None:
    rows = [
        {"content": f"contents/{name}.png", "style": "styles/x.png", "output": f"{name}.png", "iterations": count}
        for name, count in (("a", 2), ("b", ENDLESS))
    ]
    (folders / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = [sys.executable, "-m", "fastnst", "batch", str(folders / "pairs.jsonl"), "--json", *FAST]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, **pipes, start_new_session=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "done"
    # Until the second one has begun.
    time.sleep(1)
    # As a terminal does: to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert json.loads(out)["status"] == "interrupted"
    assert "each picture stops after its present iteration" in err
    assert "saved 1 picture to " in err
    assert ", 1 not made" in err
    assert "Traceback" not in err
    names = sorted(path.name for path in folders.iterdir() if path.is_file())
    assert names == ["a.png", "pairs.jsonl"]


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
        next(run_on_ray([]))


def test_a_cluster_without_processors_is_told() -> None:
    nodes = [{"Alive": False, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"memory": 1.0}}]
    with pytest.raises(FastnstError, match="no machine of the Ray cluster offers a CPU"):
        _resources(SimpleNamespace(nodes=lambda: nodes), 2, on_gpu=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:ray")
def test_ray_makes_the_same_and_stops(folders: Path) -> None:
    ray = pytest.importorskip("ray")
    bad = folders / "contents" / "bad.png"
    bad.write_bytes(b"no picture")
    tasks = all_pairs(folders)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        outcomes = list(run_on_ray(grouped(tasks), workers=2))
        assert [outcome.error for outcome in outcomes if "bad" not in outcome.task.where] == [None] * 4
        assert [outcome.status for outcome in outcomes].count("failed") == 2
        for task in tasks:
            if "bad" not in task.where:
                expected = fastnst.stylize(task.content, list(task.styles), **SMALL).losses[-1].total
                assert read_parameters(task.output)["final"]["total"] == pytest.approx(expected, rel=1e-4)
        lasting = replace(tasks[0], options=replace(tasks[0].options, iterations=ENDLESS))
        (halted,) = run_on_ray([lasting], lambda: True)
        assert halted.status == "interrupted"
    finally:
        ray.shutdown()
