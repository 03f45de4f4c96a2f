"""`fastnst batch`: many contents in many styles, on all the devices there are."""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastnst.app.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from fastnst.app.cli.arguments import add_options, given_options, whole_number
from fastnst.errors import FastnstError, Interrupted, OptionError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fastnst.app.batch.tasks import Outcome, Task


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "batch",
        help="render many pictures in many styles",
        usage="%(prog)s MANIFEST [-o FOLDER] [OPTION …]\n"
        "       %(prog)s --content PATH [PATH …] --style PATH [PATH …] -o FOLDER [OPTION …]",
        description="Renders each row of MANIFEST, or each of the contents in each of the styles. A picture that fails "
        "does not stop the rest; the exit code is 0 if all went well and 1 if some failed. The other options are those "
        "of stylize, for all rows that do not have their own.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        nargs="?",
        help="a CSV file (.csv) or JSON lines (.jsonl) with content, style, output and any option in each row; its "
        "paths are taken from its folder",
    )
    parser.add_argument("--content", metavar="PATH", nargs="+", help="pictures to render, or folders of them")
    parser.add_argument("--style", metavar="PATH", nargs="+", help="pictures whose style they get, or folders of them")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="where outputs go (default: the manifest's folder); made if missing"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        default="{content}_{style}.png",
        help="names the outputs that have no name, by {content}, {style} and {number} (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="leave out what is there, made from the same inputs")
    parser.add_argument(
        "--log", metavar="FILE", help="failures, as JSON lines (default: failures.jsonl in FOLDER, or by the manifest)"
    )
    parser.add_argument(
        "--part",
        metavar="K/N",
        type=_part,
        help="make every N-th row alone, from row K on: N such commands, wherever they run, make them all",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=whole_number,
        help="pictures at a time, each in a process of its own, with its own --max-memory (default: one for each GPU, "
        "or one on a CPU)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="work on a Ray cluster (fastnst[ray]): that at ADDRESS, or by RAY_ADDRESS, or one of this machine",
    )
    add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no closing line")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each result on stdout")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastnst.app.batch.tasks import grouped, missing_inputs
    from fastnst.app.cli.run import on_stop_signal

    began = time.perf_counter()
    if parsed.workers is not None and parsed.workers < 1:
        raise OptionError(f"--workers {parsed.workers} is too small; it must be 1 or more")
    log_path, tasks = _log_path(parsed), _tasks(parsed)
    signals, stopping = 0, False

    def count(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            raise KeyboardInterrupt

    def should_stop() -> bool:
        """The first Ctrl-C (or SIGTERM, SIGHUP) gives out no more rows and ends those at work; the second at once."""
        nonlocal stopping
        if signals and not stopping:
            stopping = True
            print("fastnst: stopping after the present iterations; once more stops at once", file=sys.stderr)
        return stopping

    try:
        log = log_path.open("w", encoding="utf-8")
    except OSError as error:
        problem = f"the log {log_path} cannot be written ({error.strerror})"
        raise FastnstError(f"{problem}; give another with --log") from error
    bar = tqdm(total=len(tasks), unit="image", disable=True if parsed.quiet else None, file=sys.stderr)
    with log, bar, on_stop_signal(count):
        report = _Report(log, bar, json=parsed.json)
        lost = missing_inputs(tasks)
        for outcome in lost:
            report.add(outcome)
        missing = {outcome.task.number for outcome in lost}
        left = grouped(task for task in tasks if task.number not in missing)
        try:
            if left:
                with closing(_outcomes(parsed, left, should_stop)) as outcomes:
                    for outcome in outcomes:
                        report.add(outcome)
        except KeyboardInterrupt:
            raise Interrupted(f"{report.summary()}; go on with --resume") from None
    failed = report.counts["failed"]
    if failed or signals or not parsed.quiet:
        more = (f"; see {log_path}" if failed else "") + ("; stopped, go on with --resume" if signals else "")
        print(f"fastnst: {report.summary()} in {time.perf_counter() - began:.1f} s{more}", file=sys.stderr)
    if signals:
        return EXIT_INTERRUPTED
    return EXIT_BAD_INPUT if failed else 0


def _part(word: str) -> tuple[int, int]:
    first, _, count = word.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{word!r} is no part of a batch; write K/N, from 1/N to N/N, as 2/8")
    return int(first), int(count)


def _tasks(parsed: argparse.Namespace) -> "list[Task]":
    from fastnst.app.batch.manifest import read_manifest
    from fastnst.app.batch.tasks import make_tasks, pair_rows

    if parsed.manifest is not None:
        rows, root = read_manifest(parsed.manifest), str(Path(parsed.manifest).parent)
    else:
        folder = os.path.realpath(parsed.output)
        if folder in map(os.path.realpath, (*parsed.content, *parsed.style)):
            raise OptionError(f"-o {parsed.output} has inputs in it, and outputs would become inputs; give another")
        rows, root = pair_rows(parsed.content, parsed.style), ""
    given, progress = given_options(vars(parsed)), not parsed.quiet
    tasks = make_tasks(rows, given, folder=parsed.output, root=root, pattern=parsed.name, progress=progress)
    first, count = parsed.part or (1, 1)
    return tasks[first - 1 :: count]


def _outcomes(parsed: argparse.Namespace, tasks: "list[Task]", should_stop: Callable[[], bool]) -> "Generator[Outcome]":
    """The outcomes of the tasks, from Ray or from processes of this machine, no more of them than there are tasks."""
    import torch

    from fastnst.app.batch.ray import run_on_ray
    from fastnst.app.batch.tasks import with_memory_shares
    from fastnst.app.batch.workers import ProcessPool, run_batch

    if parsed.ray is not None:
        workers = parsed.workers and min(parsed.workers, len(tasks))
        return run_on_ray(tasks, should_stop, workers=workers, address=parsed.ray or None, resume=parsed.resume)
    gpus = _gpus({task.options.device for task in tasks})
    workers = min(parsed.workers or len(gpus) or 1, len(tasks))
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPool(workers, threads=threads, gpus=gpus, resume=parsed.resume)
    return run_batch(with_memory_shares(tasks, workers), pool, should_stop)


def _gpus(devices: set[str]) -> list[str]:
    """The GPUs to be shared out, by their names in CUDA_VISIBLE_DEVICES; none where rows name one by its number."""
    import torch

    if not torch.cuda.is_available() or not devices <= {"auto", "cuda", "cpu"} or devices == {"cpu"}:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return [name.strip() for name in names[: torch.cuda.device_count()]]


def _log_path(parsed: argparse.Namespace) -> Path:
    """The file that failures are written to; each part of a batch has its own. Raises FastnstError for a name that will
    not do, and where the rows are given neither as MANIFEST nor as pictures, or as both."""
    from fastnst.image.files import check_place

    pairs = parsed.content is not None or parsed.style is not None
    if pairs == (parsed.manifest is not None):
        raise OptionError(
            "give either MANIFEST (before the options that take several values, or after --) or --content and --style"
        )
    if pairs and None in (parsed.content, parsed.style, parsed.output):
        raise OptionError("without MANIFEST, --content, --style and -o FOLDER are all needed")
    name = "failures.jsonl" if parsed.part is None else "failures.{}-of-{}.jsonl".format(*parsed.part)
    path = Path(parsed.manifest).with_suffix(f".{name}") if parsed.output is None else Path(parsed.output) / name
    if parsed.log is not None:
        path = Path(parsed.log)
        if path.suffix.lower() != ".jsonl":
            raise OptionError(f"--log {parsed.log} does not end in .jsonl; give the log such a name")
        if parsed.output is None or not path.resolve().is_relative_to(Path(parsed.output).resolve()):
            check_place(parsed.log, "log")
    if parsed.manifest is not None and os.path.realpath(path) == os.path.realpath(parsed.manifest):
        raise OptionError(f"the log {path} is also the manifest and would be overwritten; give another one with --log")
    return path


class _Report:
    def __init__(self, log: IO[str], bar: "tqdm[Any]", *, json: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._json, self._log, self._bar = json, log, bar
        self._warned: set[str] = set()

    def add(self, outcome: "Outcome") -> None:
        self.counts[outcome.status] += 1
        line, where = json.dumps(outcome.as_dict()), outcome.task.where
        if outcome.status == "failed":
            self._log.write(line + "\n")
            self._log.flush()
            self._bar.write(f"fastnst: failed: {where}: {outcome.error}", file=sys.stderr)
        for warning in outcome.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._bar.write(f"fastnst: warning: {where}: {warning}", file=sys.stderr)
        if self._json:
            print(line, flush=True)
        counts = {name: self.counts[name] for name in ("failed", "skipped") if self.counts[name]}
        self._bar.set_postfix(counts, refresh=False)
        self._bar.update()

    def summary(self) -> str:
        counts = {status: self.counts[status] for status in ("done", "skipped", "failed")}
        counts["not made"] = int(self._bar.total or 0) - sum(counts.values())
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no rows"
