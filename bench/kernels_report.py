"""What the compiler makes of the kernels, for every target, as a committed report that CI regenerates and compares.

python -m bench.kernels_report            writes bench/results/kernels.md and kernels.json
python -m bench.kernels_report --check    builds again and says what changed; exit code 1 if something did
python -m bench.kernels_report [--check] --target sm_90 …    does so for these targets and leaves the others

It needs triton, no GPU. Registers and instructions are compared where triton is of the report's version; with another
one only that every kernel is right for its target (see `fastnst kernels --help`).
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastnst_kernels.aot import Compiled, Job, compile_all, in_order, limits_of, plan_jobs
from fastnst_kernels.gpu import TARGETS
from tqdm import tqdm

from bench.page_tables import table

RESULTS = Path(__file__).parent / "results"
# Shapes and modes: each class of blocks about once. The others get the blocks of these, and what bfloat16 makes differs
# from float16 in the names of instructions: the command `fastnst kernels` builds them all.
CASES = (
    ("conv4_1", "float16"),
    ("conv4_1", "float32"),
    ("conv4_1", "tf32"),
    ("conv1_1", "float16"),
    ("odd", "float16"),
    ("image", "float32"),
    ("odd_image", "float32"),
)

Record = Mapping[str, Any]
Key = tuple[str, ...]


def report_jobs() -> list[Job]:
    """The builds of the report: at three channels, the kernels of the image's edge alone."""
    jobs = plan_jobs(tuple(TARGETS), CASES)
    return [job for job in jobs if job.shape.endswith("image") == (job.module in ("triton_image", "triton_adam"))]


def build(jobs: Sequence[Job], processes: int) -> list[Compiled]:
    """The builds of `jobs` in their order."""
    bar = tqdm(compile_all(jobs, processes), total=len(jobs), unit="kernel", disable=None, file=sys.stderr, leave=False)
    return in_order(list(bar), jobs)


def as_records(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """What the report keeps of each build."""
    return [
        {
            **{name: getattr(one.job, name) for name in ("target", "kernel", "mode", "layout", "shape")},
            "config": {name: value for name, value in one.config.items() if value is not False},
            "registers": one.registers,
            "spills": one.spills,
            "shared": one.shared,
            "warps": one.occupancy.warps if one.occupancy else 0,
            "matrix": dict(one.matrix_instructions),
            "loads": _widths(one, store=False),
            "stores": _widths(one, store=True),
            "problems": list(one.problems),
        }
        for one in compiled
    ]


def _widths(one: Compiled, *, store: bool) -> dict[str, list[Any]]:
    """For each argument of features whose rows are aligned: narrowest, widest, instructions."""
    return {
        width.argument: [width.narrowest, width.widest, *width.instructions]
        for width in one.features
        if width.store == store and width.aligned
    }


def compare(old: Iterable[Record], new: Iterable[Record]) -> list[str]:
    """One line for each field that differs in a build that both have, and for each build that one of them lacks."""
    before, after = _by_key(old), _by_key(new)
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        name = " ".join(part for part in key if part)
        if key not in after:
            lines.append(f"gone: {name}")
        elif key not in before:
            lines.append(f"new: {name}")
        else:
            lines += [
                f"{name}: {field} {before[key][field]} → {after[key][field]}"
                for field in before[key]
                if before[key][field] != after[key].get(field)
            ]
    return lines


def _by_key(records: Iterable[Record]) -> dict[Key, Record]:
    """Records by their names, switches and place among those of the same names and switches."""
    counts: Counter[Key] = Counter()
    result = {}
    for record in records:
        switches = [name for name, value in record["config"].items() if value is True]
        names = (*(record[name] for name in ("target", "kernel", "mode", "layout", "shape")), *switches)
        counts[names] += 1
        result[*names, f"#{counts[names]}"] = record
    return result


def problems(records: Iterable[Record]) -> list[str]:
    """One line for each thing that is wrong with a build."""
    return [f"{' '.join(key)}: {problem}" for key, one in _by_key(records).items() for problem in one["problems"]]


def check(report: Mapping[str, Any], processes: int, chosen: Callable[[Job], bool] = lambda job: True) -> list[str]:
    """What is wrong with the builds that are `chosen`, and how they differ from `report` (the JSON)."""
    jobs = report_jobs()
    built = as_records(build([job for job in jobs if chosen(job)], processes))
    lines = problems(built)
    if report["triton"] != version("triton"):
        return lines
    expected = {tuple(record[name] for name in ("target", "kernel", "mode", "layout", "shape")) for record in built}
    old = [
        record
        for record in report["kernels"]
        if tuple(record[name] for name in ("target", "kernel", "mode", "layout", "shape")) in expected
    ]
    planned = Counter((job.target, job.kernel, job.mode, job.layout, job.shape) for job in jobs)
    reported = Counter(
        tuple(record[name] for name in ("target", "kernel", "mode", "layout", "shape")) for record in report["kernels"]
    )
    lines += [f"the report lacks {count} of {' '.join(name)}" for name, count in (planned - reported).items()]
    lines += [f"the report has {count} too many of {' '.join(name)}" for name, count in (reported - planned).items()]
    return lines + compare(old, built)


def as_json(records: Sequence[Record]) -> str:
    """The report as JSON, a build to a line."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records)
    return f'{{"triton":"{version("triton")}","kernels":[\n{lines}\n]}}\n'


def as_markdown(records: Sequence[Record]) -> str:
    """The report as tables: one over the targets, then one for each."""
    wrong = problems(records)
    present = list(dict.fromkeys(one["target"] for one in records))
    parts = [
        "# The kernels ahead of time",
        f"What triton {version('triton')} makes of every kernel, for GPUs that need not be here. "
        "`python -m bench.kernels_report` writes it, `--check` compares it, as CI does; single builds are in "
        "`kernels.json`. Ranges are over switches, layouts and shapes "
        f"({', '.join(dict.fromkeys(shape for shape, _ in CASES))}). Warps are those that a multiprocessor holds at "
        "once; loads and stores are bytes of features by one instruction, where rows are aligned to 16 bytes.",
        f"{len(records)} builds, {sum(bool(one['problems']) for one in records)} of them with a problem (listed below)."
        if wrong
        else f"{len(records)} builds; none spills, none has a problem.",
        table(
            ["target", "builds", "right", "spills", "most registers", "most shared memory, bytes", "limit"],
            [_target_row(target, _of(records, target=target)) for target in present],
        ),
    ]
    for target in present:
        of_target = _of(records, target=target)
        parts += [
            f"## {target}",
            f"A multiprocessor has {'; '.join(limits_of(target)['words'])}.",
            table(
                ["kernel", "mode", "builds", "registers", "spills", "shared", "warps", "load", "store", "matrix"],
                [
                    _kernel_row(kernel, mode, _of(of_target, kernel=kernel, mode=mode))
                    for kernel, mode in sorted({(one["kernel"], one["mode"]) for one in of_target})
                ],
            ),
        ]
    if wrong:
        parts += ["## Problems", "\n".join(f"- {line}" for line in wrong)]
    return "\n\n".join(parts) + "\n"


def _of(records: Iterable[Record], **names: str) -> list[Record]:
    return [one for one in records if all(one[name] == value for name, value in names.items())]


def _target_row(target: str, records: Sequence[Record]) -> list[str]:
    return [
        target,
        str(len(records)),
        str(sum(not one["problems"] for one in records)),
        str(max(one["spills"] for one in records)),
        str(max(one["registers"] for one in records)),
        str(max(one["shared"] for one in records)),
        str(TARGETS[target].shared_limit),
    ]


def _kernel_row(kernel: str, mode: str, records: Sequence[Record]) -> list[str]:
    matrix = sorted({name for one in records for name in one["matrix"]})
    return [
        kernel,
        mode,
        str(len(records)),
        *(_range(one[name] for one in records) for name in ("registers", "spills", "shared", "warps")),
        *(
            _range(width for one in records for each in one[name].values() for width in each[:2])
            for name in ("loads", "stores")
        ),
        ", ".join(matrix) or "-",
    ]


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    if not found:
        return "-"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels_report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the report instead of writing it")
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="these targets alone")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="builds at once")
    options = parser.parse_args(arguments)
    if not options.check:
        return _write(options.target, options.jobs)
    report = json.loads((RESULTS / "kernels.json").read_text(encoding="utf-8"))
    lines = check(report, options.jobs, lambda job: job.target in options.target)
    if report["triton"] != version("triton"):
        print(
            f"the report is of triton {report['triton']} and this is {version('triton')}: "
            "checked that every kernel is right for its target; registers and instructions are not compared"
        )
    print("\n".join(lines) or "nothing changed, and every kernel is right for its target")
    return 1 if lines else 0


def _write(targets: Sequence[str], processes: int) -> int:
    """Writes the report with new records of `targets` and the old ones of the others; 1 if one has a problem."""
    path = RESULTS / "kernels.json"
    old: list[Record] = []
    if path.exists() and len(targets) < len(TARGETS):
        report = json.loads(path.read_text(encoding="utf-8"))
        old = report["kernels"] if report["triton"] == version("triton") else []
    new = as_records(build([job for job in report_jobs() if job.target in targets], processes))
    records = [
        one for target in TARGETS for one in (_of(new, target=target) if target in targets else _of(old, target=target))
    ]
    RESULTS.mkdir(exist_ok=True)
    path.write_text(as_json(records), encoding="utf-8")
    (RESULTS / "kernels.md").write_text(as_markdown(records), encoding="utf-8")
    for line in problems(records):
        print(line)
    return 1 if problems(records) else 0


if __name__ == "__main__":
    sys.exit(main())
