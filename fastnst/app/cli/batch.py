"""`fastnst batch`: many contents in many styles, on all the devices there are."""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fastnst.app.batch.manifest import read_manifest
from fastnst.app.batch.ray import run_on_ray
from fastnst.app.batch.tasks import Outcome, Task, grouped, make_tasks, missing_inputs, pair_rows, with_memory_shares
from fastnst.app.batch.workers import ProcessPool, run_batch
from fastnst.app.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED, say
from fastnst.app.cli.arguments import given_options
from fastnst.app.cli.run import Stop, on_stop_signal
from fastnst.errors import FastnstError, Interrupted, OptionError, counted
from fastnst.image.files import check_place

_BAR = "{desc}: {n_fmt}/{total_fmt} images{postfix} |{bar}| {elapsed}"


def run(parsed: argparse.Namespace) -> int:
    began = time.perf_counter()
    if parsed.workers is not None and parsed.workers < 1:
        raise OptionError(f"--workers {parsed.workers} is too small; it must be 1 or more")
    log_path, tasks = _log_path(parsed), _tasks(parsed)
    stop, stopping = Stop(), False

    def should_stop() -> bool:
        """The first Ctrl-C (or SIGTERM, SIGHUP) gives out no more rows and ends those at work; the second at once."""
        nonlocal stopping
        report.show()
        if stop.asked and not stopping:
            stopping = True
            say("each picture stops after its present iteration; press Ctrl-C again to stop at once")
        return stopping

    facts: dict[str, Any] = {"disable": True if parsed.quiet else None, "file": sys.stderr, "bar_format": _BAR}
    with _log(log_path), tqdm(total=len(tasks), unit="image", **facts) as bar, on_stop_signal(stop):
        report = _Report(log_path, bar, json=parsed.json)
        lost = missing_inputs(tasks)
        for outcome in lost:
            report.add(outcome)
        missing = {outcome.task.number for outcome in lost}
        left = grouped(task for task in tasks if task.number not in missing)
        try:
            if left:
                with closing(_outcomes(parsed, left, should_stop, report)) as outcomes:
                    for outcome in outcomes:
                        report.add(outcome)
        except KeyboardInterrupt:
            raise Interrupted(f"{report.summary(_place_of(tasks))}; to continue, repeat it with --resume") from None
    failed = report.counts["failed"]
    if failed or stop.asked or not parsed.quiet:
        more = f"; see {log_path}" if failed else ""
        more += "; to continue, repeat it with --resume" if stop.asked else ""
        say(f"{report.summary(_place_of(tasks))} in {time.perf_counter() - began:.1f} s{more}")
    if stop.asked:
        return EXIT_INTERRUPTED
    return EXIT_BAD_INPUT if failed else 0


def _tasks(parsed: argparse.Namespace) -> list[Task]:
    if parsed.manifest is not None:
        rows, root = read_manifest(parsed.manifest), str(Path(parsed.manifest).parent)
    else:
        folder = os.path.realpath(parsed.output)
        if folder in map(os.path.realpath, (*parsed.content, *parsed.style)):
            raise OptionError(
                f"the folder -o {parsed.output} also holds inputs, so the next run would read the outputs as inputs; "
                "give another folder"
            )
        rows, root = pair_rows(parsed.content, parsed.style), ""
    given, progress = given_options(vars(parsed)), not parsed.quiet
    tasks = make_tasks(rows, given, folder=parsed.output, root=root, pattern=parsed.name, progress=progress)
    first, count = parsed.part or (1, 1)
    return tasks[first - 1 :: count]


@contextmanager
def _log(path: Path) -> Iterator[None]:
    """Empties the log, and removes it where it is empty in the end. Raises FastnstError where it cannot be written."""
    try:
        path.write_text("")
    except OSError as error:
        problem = f"the log {path} cannot be written ({error.strerror})"
        raise FastnstError(f"{problem}; give another log with --log") from error
    try:
        yield
    finally:
        with suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _place_of(tasks: Sequence[Task]) -> str:
    """The folder that all outputs are in, or in the folders of."""
    return os.path.relpath(os.path.commonpath([Path(task.output).resolve().parent for task in tasks])) if tasks else ""


def _outcomes(
    parsed: argparse.Namespace, tasks: list[Task], should_stop: Callable[[], bool], report: "_Report"
) -> Generator[Outcome]:
    """The outcomes of the tasks, from Ray or from processes of this machine, no more of them than there are tasks."""
    if parsed.ray is not None:
        workers = parsed.workers and min(parsed.workers, len(tasks))
        report.say("starting Ray, or joining its cluster")
        return run_on_ray(tasks, should_stop, workers=workers, address=parsed.ray or None, resume=parsed.resume)
    gpus = _gpus({task.options.device for task in tasks})
    workers = min(parsed.workers or len(gpus) or 1, len(tasks))
    threads = max(1, torch.get_num_threads() // workers)
    report.say(f"starting {counted(workers, 'worker')}")
    pool = ProcessPool(workers, threads=threads, gpus=gpus, resume=parsed.resume)
    report.share = pool.share
    return run_batch(with_memory_shares(tasks, workers), pool, should_stop)


def _gpus(devices: set[str]) -> list[str]:
    """The GPUs to be shared out, by their names in CUDA_VISIBLE_DEVICES; none where rows name one by its number."""
    if not torch.cuda.is_available() or not devices <= {"auto", "cuda", "cpu"} or devices == {"cpu"}:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return [name.strip() for name in names[: torch.cuda.device_count()]]


def _log_path(parsed: argparse.Namespace) -> Path:
    """The file that failures are written to; each part of a batch has its own. Raises FastnstError for a name that will
    not do, and where the rows are given neither as MANIFEST nor as pictures, or as both."""
    pairs = parsed.content is not None or parsed.style is not None
    if pairs == (parsed.manifest is not None):
        raise OptionError(
            "give either MANIFEST (before the options that take several values, or after --) or --content and --style"
        )
    if pairs and None in (parsed.content, parsed.style, parsed.output):
        raise OptionError("without a MANIFEST, you must give --content, --style and -o FOLDER")
    name = "failures.jsonl" if parsed.part is None else "failures.{}-of-{}.jsonl".format(*parsed.part)
    path = Path(parsed.manifest).with_suffix(f".{name}") if parsed.output is None else Path(parsed.output) / name
    if parsed.log is not None:
        path = Path(parsed.log)
        if path.suffix.lower() != ".jsonl":
            raise OptionError(f"--log {parsed.log} does not end in .jsonl; give it a name that does")
        if parsed.output is None or not path.resolve().is_relative_to(Path(parsed.output).resolve()):
            check_place(parsed.log, "log")
    if parsed.manifest is not None and os.path.realpath(path) == os.path.realpath(parsed.manifest):
        raise OptionError(f"the log {path} is also the manifest and would be overwritten; give another log with --log")
    return path


class _Report:
    def __init__(self, log: Path, bar: "tqdm[Any]", *, json: bool) -> None:
        self.counts: Counter[str] = Counter()
        # The part of the rows at work that is done, in rows.
        self.share: Callable[[], float] = lambda: 0.0
        self._began = time.perf_counter()
        self._json, self._log, self._bar = json, log, bar
        self._warned: set[str] = set()

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        line, where = json.dumps(outcome.as_dict()), outcome.task.where
        if outcome.status == "failed":
            try:
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(line + "\n")
            except OSError as error:
                self._bar.write(f"fastnst: warning: the log cannot be written ({error.strerror})", file=sys.stderr)
            self._bar.write(f"fastnst: failed: {where}: {outcome.error}", file=sys.stderr)
        for warning in outcome.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._bar.write(f"fastnst: warning: {where}: {warning}", file=sys.stderr)
        if self._json:
            print(line, flush=True)
        self._bar.update()
        self.show()

    def say(self, text: str) -> None:
        """Writes a line where a bar is shown."""
        if not self._bar.disable:
            self._bar.write(f"fastnst: {text}", file=sys.stderr)

    def show(self) -> None:
        """Brings the bar up to date, with the time that is left for all rows."""
        made = self.counts["done"] + self.share()
        left = int(self._bar.total or 0) - sum(self.counts.values()) - self.share()
        if made > 0:
            seconds = (time.perf_counter() - self._began) / made * left
            self._bar.set_description_str(f"{self._bar.format_interval(seconds)} left", refresh=False)
        counts = {name: self.counts[name] for name in ("failed", "skipped") if self.counts[name]}
        self._bar.set_postfix(counts, refresh=True)

    def summary(self, place: str) -> str:
        counts = {status: self.counts[status] for status in ("skipped", "failed")}
        saved = self.counts["done"]
        if not self._bar.total:
            return "there were no rows"
        counts["not made"] = int(self._bar.total or 0) - saved - sum(counts.values())
        first = f"saved {counted(saved, 'picture')}" + (f" to {place}" if saved else "")
        return ", ".join([first, *(f"{count} {status}" for status, count in counts.items() if count)])
