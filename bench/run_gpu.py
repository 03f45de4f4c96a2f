"""Everything that needs a GPU, in one run of under nine minutes: correctness first, then speed.

python -m bench.run_gpu --out bench/results/gpu

runs the GPU tests at full size, the kernels under compute-sanitizer, equal runs, the profiles, the engine and the
search for launch parameters. It writes OUT/summary.json (conditions, and each step's exit code and seconds), for each
step OUT/STEP.json (its results) and OUT/STEP.log, and prints a short table last. A step that fails or takes too long
does not stop the others; the exit code is 1 if record did. `python -m bench.report` makes table and plot from OUT, and
`--tiny` runs the same steps at small sizes, on a CPU too.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 520.0
_NO_TESTS_COLLECTED = 5


@dataclass(frozen=True)
class Step:
    """One command: what follows `python -m`, and the most seconds that it may take. "{json}" stands for its results.

    `tool` is the program that runs Python, with its options, and `environment` is added to the process's.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float
    tool: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a step ended: `passed`, `failed`, `timed out`, `no time left`, or `absent`: its tool is not installed."""

    name: str
    status: str
    seconds: float
    exit_code: int | None = None


def steps(*, tiny: bool, on_gpu: bool) -> list[Step]:
    """The steps, the most wanted first."""
    if tiny:
        precision = "auto" if on_gpu else "fp32"
        return [
            Step("tests", ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/kernels"), 120),
            _sanitizer("memcheck", 120),
            Step("equal_runs", ("bench.equal_runs", "--small", "--runs", "2"), 120),
            Step("verify", ("fastnst", "verify", "--backend", "torch", "--size", "16", "--json"), 120),
            Step("profile_32", _profile(32, precision, "--no-compile", "--rounds", "2"), 120),
            Step("step", _step(["64"], ["tf32" if on_gpu else "fp32"], "--rounds", "2"), 120),
            Step("run", _run(["48"], "auto", "3", "--rounds", "1"), 120),
        ]
    return [
        Step("tests", ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"), 150),
        Step("profile_1024", _profile(1024, "auto"), 110),
        _sanitizer("memcheck", 60),
        Step("equal_runs", ("bench.equal_runs",), 60),
        Step("profile_1024_fp16", _profile(1024, "fp16", "--no-compile"), 40),
        Step("step", _step(["512", "1024"], ["tuned-bf16", "graphs-bf16", "tf32", "fp16", "bf16", "fp16+cudnn"]), 130),
        Step("run_fp16", _run(["512", "1024"], "fp16", "500"), 60),
        Step("run_auto", _run(["512"], "auto", "500"), 40),
        Step("profile_1024_autotune", _profile(1024, "bf16", "--compile-mode", "max-autotune"), 150),
        Step("verify", ("fastnst", "verify", "--json"), 120),
        Step("step_autotuned", _step(["1024"], ["autotuned-bf16", "fp16", "bf16"], "--no-memory"), 120),
        Step("profile_512", _profile(512, "auto"), 90),
        _sanitizer("racecheck", 60),
        Step("profile_1024_fp32", _profile(1024, "fp32", "--no-compile"), 60),
    ]


def _sanitizer(tool: str, limit: float) -> Step:
    """The small operations under compute-sanitizer; without torch's cache each allocation has its own bounds."""
    return Step(
        f"sanitizer_{tool}",
        ("bench.equal_runs", "--small", "--runs", "1"),
        limit,
        tool=("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"),
        environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),
    )


def _profile(size: int, precision: str, *more: str) -> tuple[str, ...]:
    return ("fastnst", "profile", "--size", str(size), "--precision", precision, "--json", *more)


def _step(sizes: Sequence[str], sides: Sequence[str], *more: str) -> tuple[str, ...]:
    return ("bench.bench_step", "--size", *sizes, "--sides", *sides, "--json", "{json}", *more)


def _run(sizes: Sequence[str], precision: str, iterations: str, *more: str) -> tuple[str, ...]:
    words = ("--precision", precision, "--iterations", iterations, "--json", "{json}", *more)
    return ("bench.bench_run", "--size", *sizes, *words)


def run_step(step: Step, out: Path, seconds_left: float) -> Outcome:
    """Runs one step; its standard output is its JSON where it has no file of its own."""
    limit = min(step.limit, seconds_left)
    if limit < 5:
        return Outcome(step.name, "no time left", 0.0)
    if step.tool and shutil.which(step.tool[0]) is None:
        return Outcome(step.name, "absent", 0.0)
    results, log = out / f"{step.name}.json", out / f"{step.name}.log"
    places = {"json": results.resolve()}
    words = [word.format(**places) for word in step.arguments]
    command = [*step.tool, sys.executable, "-m", *words]
    results.unlink(missing_ok=True)
    began = time.perf_counter()
    with log.open("w") as errors:
        # A session of its own: what the program has started ends with it.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment() | dict(step.environment),
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
    # compute-sanitizer writes its own lines around the program's.
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


def _environment() -> dict[str, str]:
    """Both packages are found whether or not they are installed."""
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def lines(out: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """The closing table: how each step ended, and the figures that matter of each."""
    table = []
    for outcome in outcomes:
        table.append(f"{outcome.name:20}{outcome.status:14}{outcome.seconds:7.1f} s")
        path = out / f"{outcome.name}.json"
        if path.exists():
            table += [f"    {line}" for line in _figures(json.loads(path.read_text()))]
        if outcome.status in ("failed", "timed out") or outcome.name in ("tests", "tune"):
            log = out / f"{outcome.name}.log"
            tail = log.read_text().strip().splitlines() if log.exists() else []
            table += [f"    {line}" for line in tail[-3:]]
    return table


def _figures(results: Mapping[str, Any]) -> list[str]:
    if "checks" in results:
        return [f"{results['passed']} checks passed, {results['failed']} failed", *map(_failed_check, _failed(results))]
    if "unequal" in results:
        return [f"{len(results['operations'])} operations, {results['runs']} runs each, {results['unequal']} not equal"]
    if "runs" in results and "operations" not in results:
        return [
            f"{row['what']:8}{row['size']:5} px{row['iterations']:5}{row['seconds']:9.2f} s" for row in results["runs"]
        ]
    if "measurements" in results:
        records = [*results["measurements"], *results.get("steps", [])]
        return [_layer_line(record, records) for record in _of(records, "fastnst")]
    return [
        f"{row['size']:5} px {row['side']:18}{row['timing']['median'] * 1e3:9.2f} ms/iteration"
        f"{(row['memory'] or 0) / 1e6:9.0f} MB"
        for row in results.get("rows", [])
    ]


def _failed(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [check for check in results["checks"] if not check["passed"]][:5]


def _failed_check(check: Mapping[str, Any]) -> str:
    names = ("op", "direction", "backend", "dtype", "precision", "layout", "layer", "error", "budget", "problem")
    return " ".join(str(check[name]) for name in names)


def _of(measurements: Sequence[Mapping[str, Any]], implementation: str) -> list[Mapping[str, Any]]:
    return [
        record for record in measurements if record["implementation"] == implementation and record["timing"] is not None
    ]


def _layer_line(ours: Mapping[str, Any], measurements: Sequence[Mapping[str, Any]]) -> str:
    key = (ours["layer"], ours["precision"], ours["operation"])
    line = (
        f"{key[0]:8}{key[1]:5}{key[2]:24}{ours['timing']['median'] * 1e6:9.1f} µs "
        f"{ours['gigabytes_per_second']:7.0f} GB/s {ours['teraflops_per_second']:6.1f} TFLOP/s "
        f"{ours['roofline_share']:4.0%} {(ours['extra_bytes'] or 0) / 1e6:6.1f} MB"
    )
    for name in ("eager", "compile"):
        for other in _of(measurements, name):
            if (other["layer"], other["precision"], other["operation"]) == key:
                line += f"  {other['timing']['median'] / ours['timing']['median']:.2f}× {name}"
    return line


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script itself; needs no GPU")
    parsed = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not parsed.tiny:
        parser.error("torch sees no GPU; --tiny tries the script without record")
    parsed.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    facts = conditions(torch.device("cuda" if on_gpu else "cpu"))
    outcomes: list[Outcome] = []
    for step in steps(tiny=parsed.tiny, on_gpu=on_gpu):
        print(f"{step.name} …", flush=True)
        outcomes.append(run_step(step, parsed.out, TOTAL_SECONDS - (time.perf_counter() - began)))
        report = {**facts, "steps": [asdict(outcome) for outcome in outcomes]}
        (parsed.out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    clocks = "; ".join(f"{gpu['clocks.current.sm']} of {gpu['clocks.max.sm']}" for gpu in facts["gpu"])
    print(f"\n{facts['device']}, torch {facts['versions']['torch']}, triton {facts['versions']['triton']}, {clocks}")
    print("\n".join(lines(parsed.out, outcomes)))
    return 0 if all(outcome.status in ("passed", "absent") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
