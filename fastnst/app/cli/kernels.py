"""`fastnst kernels`: every kernel built ahead of time for GPUs that need not be here, as a table or as JSON."""

import argparse
import importlib.util
import json
import os
import sys
from importlib.metadata import version
from itertools import product
from typing import TYPE_CHECKING, Any

from fastnst.errors import OptionError

if TYPE_CHECKING:
    from fastnst_kernels.aot import Compiled


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import whole_number

    parser = commands.add_parser(
        "kernels",
        help="build every kernel for a GPU that need not be here",
        description="Builds each kernel × dtype × layout × shape class ahead of time and shows what the compiler made "
        "of it: registers, spills, shared memory, occupancy, matrix instructions, widths of loads and stores. The exit "
        "code is 1 if one spills, needs more shared memory than there is, leaves the matrix unit idle, or reads or "
        "writes aligned features less than 16 bytes at a time.",
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        nargs="+",
        required=True,
        help="sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, gfx942, gfx1100, or all",
    )
    parser.add_argument("--kernel", metavar="NAME", nargs="+", help="these kernels alone, as partial_gram")
    parser.add_argument("--shapes", metavar="SHAPE", nargs="+", help="these shape classes alone, as conv1_1 odd")
    parser.add_argument("--modes", metavar="MODE", nargs="+", help="float32, tf32, float16, bfloat16 (default: all)")
    parser.add_argument(
        "--jobs", metavar="N", type=whole_number, help="builds at once (default: the number of processors)"
    )
    parser.add_argument("--json", action="store_true", help="print the builds as one JSON object on stdout")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    if sys.platform != "linux" or importlib.util.find_spec("triton") is None:
        raise OptionError("kernels are built by the package triton, which is not here; pip install triton, on Linux")
    from fastnst_kernels import aot
    from fastnst_kernels.gpu import TARGETS
    from tqdm import tqdm

    targets = list(TARGETS) if "all" in parsed.target else list(dict.fromkeys(parsed.target))
    processes = len(os.sched_getaffinity(0)) if parsed.jobs is None else parsed.jobs
    if processes < 1:
        raise OptionError(f"jobs {processes} is less than 1; give a number of processes, 1 or more")
    try:
        cases = list(product(parsed.shapes or aot.SHAPES, parsed.modes or aot.MODES))
        jobs = aot.plan_jobs(targets, cases, kernels=parsed.kernel or [])
        built = aot.compile_all(jobs, processes)
        records = list(tqdm(built, total=len(jobs), unit="kernel", disable=None, file=sys.stderr, leave=False))
    except (ValueError, RuntimeError) as error:
        raise OptionError(str(error)) from None
    records = aot.in_order(records, jobs)
    if parsed.json:
        report = {
            "triton": version("triton"),
            "limits": {target: aot.limits_of(target) for target in targets},
            "kernels": [record.as_dict() for record in records],
        }
        print(json.dumps(report))
    else:
        for target in targets:
            _print_target(target, [record for record in records if record.job.target == target])
    return 0 if all(record.ok for record in records) else 1


def _print_target(target: str, records: "list[Compiled]") -> None:
    from fastnst_kernels import aot

    facts = aot.limits_of(target)
    print(f"{target}, triton {version('triton')}; a multiprocessor has " + ", ".join(facts["words"]))
    wide = max([6, *(len(record.job.kernel) for record in records)]) + 2
    print(
        f"{'kernel':{wide}}{'mode':9} {'layout':14}{'shape':8} {'blocks':>13}{'warps':>6}{'stages':>7}{'registers':>10}"
        f"{'spills':>7}{'shared':>8}{'occupancy':>16}  load/store  matrix and memory instructions (switches)"
    )
    for record in records:
        print(_row(record, wide))
    right = sum(record.ok for record in records)
    print(f"{right} of {len(records)} right on {target}\n")


def _row(record: "Compiled", wide: int) -> str:
    blocks = "×".join(str(value) for key, value in record.config.items() if "BLOCK" in key or key == "TILE")
    occupancy = record.occupancy
    held = (
        f"{occupancy.blocks} × {record.config['num_warps']} = {occupancy.warps}/{occupancy.max_warps}"
        if occupancy
        else "-"
    )
    names = [f"{name} {count}" for name, count in record.matrix_instructions.items()]
    names += dict.fromkeys(name for width in record.features for name in width.instructions)
    switches = f" ({' '.join(record.switches)})" if record.switches else ""
    row = (
        f"{record.job.kernel:{wide}}{record.job.mode:9} {record.job.layout:14}{record.job.shape:8} {blocks:>13}"
        f"{record.config['num_warps']:>6}{record.config['num_stages']:>7}{record.registers:>10}{record.spills:>7}"
        f"{record.shared:>8}{held:>16}  {widths(record, False):>4}/{widths(record, True):<6} "
        f"{', '.join(names) or '-'}{switches}"
    )
    return "\n".join([row, *(f"    FAIL: {problem}" for problem in record.problems)])


def widths(record: "Compiled", store: bool) -> str:
    """The bytes that one instruction loads (or stores) of features, at least–at most; "-" where it does neither."""
    found = [width for width in record.features if width.store == store]
    if not found:
        return "-"
    low, high = min(width.narrowest for width in found), max(width.widest for width in found)
    return str(low) if low == high else f"{low}–{high}"
