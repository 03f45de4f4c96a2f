"""Seconds of whole runs, as a user has them: a second call of a `Stylizer`, and the command from its start.

python -m bench.bench_run --size 512 --iterations 500 --precision fp16 --json run.json

`run`: one scale of so many iterations with a loaded network, after one run that readied the device (a GPU's kernels
are built and chosen then; the graph is captured anew in each run, in its seconds). `command`: the process that does one
iteration, from its start to its written image, and `fastnst --help`; the network is in the cache. Medians of
`--rounds`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions, synchronise

from fastnst import Stylizer
from fastnst.errors import FastnstError
from fastnst.examples import example
from fastnst.network.runtime import resolve_runtime


@dataclass(frozen=True)
class Row:
    """`seconds` is the median; `peak` the bytes allocated at the peak of a run on a GPU, or None."""

    what: str
    size: int
    optimizer: str
    precision: str
    iterations: int
    seconds: float
    peak: int | None = None


def run_row(size: int, optimizer: str, parsed: argparse.Namespace) -> Row:
    stylizer = Stylizer(
        example("style_swirls"),
        size=size,
        scales=None,
        iterations=parsed.iterations,
        optimizer=optimizer,
        precision=parsed.precision,
        device=parsed.device,
        weights=parsed.weights,
    )
    device = stylizer.runtime.device
    seconds = []
    for index in range(parsed.rounds + 1):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        result = stylizer(example("content"))
        synchronise(device)
        if index > 0:
            seconds.append(time.perf_counter() - began)
    totals = [record.total for record in result.losses]
    if not min(totals) < totals[0]:
        raise SystemExit(f"the loss at {size} px did not fall: {totals[0]} to {min(totals)}")
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Row("run", size, optimizer, stylizer.runtime.precision, parsed.iterations, median(seconds), peak)


def command_rows(parsed: argparse.Namespace) -> list[Row]:
    precision = resolve_runtime(parsed.device, parsed.precision).precision
    rows = [Row("--help", 0, "", "", 0, _command_seconds(["--help"], parsed.rounds))]
    with tempfile.TemporaryDirectory() as folder:
        words = ["stylize", str(example("content")), str(example("style_swirls")), "-o", f"{folder}/out.png", "--quiet"]
        words += ["--size", "256", "--scales", "none", "--iterations", "1", "--weights", parsed.weights]
        words += ["--device", parsed.device, "--precision", parsed.precision]
        rows.append(Row("command", 256, "lbfgs", precision, 1, _command_seconds(words, parsed.rounds)))
    return rows


def _command_seconds(words: list[str], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "fastnst", *words], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - began)
        if done.returncode != 0:
            raise SystemExit(f"fastnst {' '.join(words)} failed: {done.stderr.strip()}")
    # The first one reads the files from the disk.
    return median(seconds[1:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256], metavar="PX", help="long edges (default: 256)")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--optimizer", nargs="+", default=["lbfgs"], choices=["lbfgs", "adam"])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-command", action="store_true", help="leave out the seconds of the command")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parsed = parser.parse_args(arguments)
    try:
        device = resolve_runtime(parsed.device, parsed.precision).device
        facts = conditions(device)
        print(f"{facts['device']}, torch {facts['versions']['torch']}, commit {facts['commit']}, {facts['date']}")
        rows = [] if parsed.no_command else command_rows(parsed)
        rows += [run_row(size, optimizer, parsed) for size in parsed.size for optimizer in parsed.optimizer]
    except FastnstError as error:
        parser.error(str(error))
    for row in rows:
        each = f"{1e3 * row.seconds / row.iterations:9.2f} ms/iteration" if row.iterations > 1 else ""
        memory = "" if row.peak is None else f"{row.peak / 1e6:9.0f} MB"
        name = f"{row.what:8}{row.size:6} px  {row.optimizer:6}{row.precision:9}{row.iterations:5} iterations"
        print(
            f"{row.what:8}{row.seconds:46.2f} s"
            if row.what == "--help"
            else f"{name}{row.seconds:9.2f} s{each}{memory}"
        )
    if parsed.json:
        report: dict[str, Any] = {**facts, "runs": [asdict(row) for row in rows]}
        parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
