"""The iterations that schedules need, whatever the machine: what chose the defaults of the optimiser and the pyramid.

python -m bench.bench_schedule --size 192 --iterations 150 --pairs content.jpg style.jpg --json schedule.json

As `bench.bench_convergence`, but counted, not timed: an iteration at a coarse scale counts as its share of the final
size's pixels. For each schedule the table has the count until the loss at the final size is within 1.1, 1.05, 1.02 and
1 times the lowest of the plain loop's L-BFGS, "-" where it never is. A single run says little: rounding alone leads
L-BFGS to losses up to 3 % apart, and the last hundredth takes as long as all before it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from fastnst_kernels.profiling.measure import conditions

from bench.bench_convergence import check_objective, plain_curve, ready_stylizer, schedule_options
from bench.bench_step import PLAIN
from bench.pairs import add_pair_arguments, add_schedule_arguments, base_options, pairs_of
from bench.plain_loop import make_task
from fastnst import DivergedError
from fastnst.errors import FastnstError
from fastnst.network.runtime import resolve_runtime
from fastnst.options.options import Options
from fastnst.transfer.result import Iterate

SCHEDULES = (
    "scales=none hessian=scalar history=100",
    "scales=none hessian=scalar",
    "scales=none",
    "scales=none history_precision=bf16",
    "scales=2 iterations=[50,300]",
)
WITHIN = (1.1, 1.05, 1.02, 1.0)


@dataclass(frozen=True)
class Count:
    """Iterations until the loss was within each of `WITHIN` times the reference, None where it never was; `lowest` is
    the lowest loss over the reference."""

    pair: str
    side: str
    counts: tuple[float | None, ...]
    lowest: float


def count(pair: str, side: str, losses: Sequence[float], before: float, reference: float) -> Count:
    """`before` counts the iterations of the scales before that of `losses`."""
    measured = [next((i for i, loss in enumerate(losses) if loss <= factor * reference), None) for factor in WITHIN]
    counts = tuple(None if index is None else before + index for index in measured)
    return Count(pair, side, counts, min(losses) / reference)


def counted_run(pair: str, sources: tuple[Path, Path], options: Options, side: str, reference: float) -> Count:
    def goes_on(iterate: Iterate) -> bool:
        return iterate.record.scale != options.size or iterate.record.total > reference

    try:
        result = ready_stylizer(sources[1], options)(sources[0], callback=goes_on)
    except DivergedError as error:
        result = error.result
    scales = [record.scale for record in result.losses]
    # The first loss of a scale is that of the image it begins with.
    before = sum((scales.count(edge) - 1) * (edge / options.size) ** 2 for edge in set(scales) - {options.size})
    losses = [record.total for record in result.losses if record.scale == options.size]
    return count(pair, side, losses, before, reference)


def measure(sources: tuple[Path, Path], base: Options, schedules: Sequence[str], iterations: int) -> list[Count]:
    """The counts of the plain loop, then those of each schedule."""
    pair = " × ".join(path.stem for path in sources)
    plain = plain_curve(pair, make_task(base, *sources), iterations).losses
    reference = min(plain)
    counts = [count(pair, PLAIN, plain, 0, reference)]
    for schedule in schedules:
        options = schedule_options(base, schedule)
        check_objective(sources, options, plain[0])
        counts.append(counted_run(pair, sources, options, schedule, reference))
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, metavar="PX", help="long edge (default: 192)")
    parser.add_argument("--iterations", type=int, default=150, help="of the plain loop, and at most (default: 150)")
    add_pair_arguments(parser)
    add_schedule_arguments(parser, SCHEDULES)
    parser.add_argument("--init", default="content")
    parsed = parser.parse_args(arguments)
    pairs = pairs_of(parser, parsed)
    try:
        base = base_options(parsed, iterations=parsed.iterations, init=parsed.init)
        for schedule in parsed.schedules:
            schedule_options(base, schedule)
    except FastnstError as error:
        parser.error(str(error))
    facts = {
        **conditions(resolve_runtime(base.device, base.precision, base.backend).device),
        "size": base.size,
        "preset": base.preset,
        "within": WITHIN,
    }
    counts: list[Count] = []
    for content, style in pairs:
        measured = measure((content, style), base, parsed.schedules, parsed.iterations)
        _print_counts(measured)
        counts += measured
        if parsed.json:
            report = {**facts, "counts": [asdict(each) for each in counts]}
            parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    _print_means(counts)
    return 0


def _print_counts(counts: Sequence[Count]) -> None:
    width = max(len(each.side) for each in counts)
    print(f"\n{counts[0].pair}\n{'within':{width}}" + "".join(f"{factor:8g}" for factor in WITHIN) + "  lowest")
    for each in counts:
        cells = "".join(f"{'-' if measured is None else f'{measured:.0f}':>8}" for measured in each.counts)
        print(f"{each.side:{width}}{cells}{each.lowest:8.4f}", flush=True)


def _print_means(counts: Sequence[Count]) -> None:
    """The counts over the plain loop's, as means of those pairs that came there."""
    plain = {each.pair: each.counts for each in counts if each.side == PLAIN}
    print("\nof the plain loop's, in the mean (pairs that came there)")
    for side in dict.fromkeys(each.side for each in counts):
        cells = []
        for index in range(len(WITHIN)):
            pairs = [(each.counts[index], plain[each.pair][index]) for each in counts if each.side == side]
            ratios = [measured / most for measured, most in pairs if measured is not None and most]
            cells.append(f"{mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
        print(f"{side}: {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
