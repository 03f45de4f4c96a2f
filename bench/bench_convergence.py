"""Seconds until the loss that 300 iterations of the tutorials' loop reach: the engine's schedules beside that loop.

python -m bench.bench_convergence --size 256 --json convergence.json
python -m bench.bench_convergence --pairs content.jpg style.jpg --schedules "scales=2 iterations=400" "optimizer=adam"

The loop is `bench.plain_loop` with `torch.optim.LBFGS` and its history of 100, from the content image at the final
size. A schedule is a run of `fastnst.Stylizer` with the options that it names, and ends once it is there. All minimise
the same objective at the final size, which is checked at the first image; losses of coarser scales are no part of it,
their seconds are. The clock of both begins before their targets are computed, with pictures and network loaded. The
reference is the lowest loss that the loop comes to, `lowest` a side's own over it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fastnst_kernels.profiling.measure import conditions

from bench.pairs import add_pair_arguments, pairs_of
from bench.plain_loop import Form, Task, make_task, plain_iteration, plain_loss
from bench.sides import PLAIN, TOLERANCES
from fastnst import DivergedError, Stylizer
from fastnst.errors import FastnstError
from fastnst.image.read import load_image
from fastnst.network.runtime import is_out_of_memory, resolve_runtime
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options
from fastnst.transfer.result import Iterate

SCHEDULES = ("scales=none iterations=600", "scales=2 iterations=300", "scales=3 iterations=300")
READYING_SIZE = 64


@dataclass(frozen=True)
class Curve:
    """The losses of one side at the final size, and the seconds since its run began at which each was known.

    `reached` is the index of the first loss that is no higher than the reference, or None.
    """

    pair: str
    side: str
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    reached: int | None

    @property
    def time(self) -> float | None:
        return None if self.reached is None else self.seconds[self.reached]


def schedule_options(base: Options, schedule: str) -> Options:
    """`base` with what the words of `schedule` say, such as "scales=2 iterations=300"; JSON where it can be read so."""
    given = {option.name: getattr(base, option.name) for option in fields(Options)}
    for word in schedule.split():
        name, _, text = word.partition("=")
        try:
            given[name] = json.loads(text)
        except ValueError:
            given[name] = text
    return resolve_options(**given)


def plain_curve(pair: str, task: Task, iterations: int) -> Curve:
    began = time.perf_counter()
    iterate = plain_iteration(plain_loss(task, Form()), task.start, "lbfgs", Form())
    seconds, losses = [], []
    for _ in range(iterations + 1):
        losses.append(iterate().item())
        seconds.append(time.perf_counter() - began)
    return Curve(pair, PLAIN, tuple(seconds), tuple(losses), losses.index(min(losses)))


def engine_curve(pair: str, sources: tuple[Path, Path], options: Options, side: str, reference: float) -> Curve:
    def goes_on(iterate: Iterate) -> bool:
        return iterate.record.scale != options.size or iterate.record.total > reference

    stylizer = ready_stylizer(sources[1], options)
    try:
        # Losses are read back as in a run that nobody watches; what a batch holds beyond the reference is not counted.
        result = stylizer(sources[0], callback=goes_on, callback_every=None)
    except DivergedError as error:
        result = error.result
    records = [record for record in result.losses if record.scale == options.size]
    losses = tuple(record.total for record in records)
    reached = next((index for index, loss in enumerate(losses) if loss <= reference), None)
    return Curve(pair, side, tuple(record.seconds for record in records), losses, reached)


def ready_stylizer(style: Path, options: Options) -> Stylizer:
    """A stylizer of these options whose network is loaded."""
    stylizer = Stylizer(style, **{option.name: getattr(options, option.name) for option in fields(Options)})
    stylizer.load(progress=False)
    return stylizer


def check_objective(sources: tuple[Path, Path], options: Options, expected: float) -> None:
    """Raises SystemExit where the engine's loss at the first image is not the plain loop's, `expected`."""
    stylizer = ready_stylizer(sources[1], replace(options, scales=None, iterations=1))
    measured = stylizer(sources[0], callback=lambda _: False).losses[0].total
    error, allowed = abs(measured - expected) / expected, TOLERANCES[stylizer.runtime.precision][0]
    if not error <= allowed:
        raise SystemExit(f"the loss of {sources[0].name} is {measured}, the plain loop's {expected}: {error:.1e} off")


def measure(sources: tuple[Path, Path], base: Options, schedules: Sequence[str], iterations: int) -> list[Curve]:
    """The plain loop's curve, then one for each schedule; what memory is too small for is left out, with a line."""
    pair = " × ".join(path.stem for path in sources)

    def plain_side() -> Curve:
        return plain_curve(pair, make_task(base, *sources), iterations)

    plain = _unless_out_of_memory(plain_side, f"{pair} at {base.size} px")
    if plain is None:
        return []
    reference = min(plain.losses)
    curves = [plain]
    for schedule in schedules:
        options = schedule_options(base, schedule)

        def engine_side(options: Options = options, schedule: str = schedule) -> Curve:
            check_objective(sources, options, plain.losses[0])
            return engine_curve(pair, sources, options, schedule, reference)

        curve = _unless_out_of_memory(engine_side, f"{schedule} for {pair} at {base.size} px")
        curves += [curve] if curve is not None else []
    return curves


def _unless_out_of_memory(side: Callable[[], Curve], name: str) -> Curve | None:
    try:
        return side()
    except (RuntimeError, MemoryError, FastnstError) as error:
        if not is_out_of_memory(error.__cause__ or error):
            raise
    print(f"{name} is left out: out of memory", flush=True)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="long edge (default: 256)")
    parser.add_argument("--iterations", type=int, default=300, help="of the plain loop (default: 300)")
    add_pair_arguments(parser)
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES, metavar="OPTIONS", help='"name=value …" for each')
    parser.add_argument("--device", default="auto")
    parsed = parser.parse_args(arguments)
    pairs = pairs_of(parser, parsed)
    try:
        given = {name: getattr(parsed, name) for name in ("size", "weights", "device")}
        base = resolve_options(**given, scales=None, init="content")
        for schedule in parsed.schedules:
            schedule_options(base, schedule)
        for path in (path for pair in pairs for path in pair):
            load_image(path)
    except FastnstError as error:
        parser.error(str(error))
    facts = {
        **conditions(resolve_runtime(base.device, base.precision, base.backend).device),
        "size": base.size,
        "preset": base.preset,
    }
    print(
        f"{facts['device']}, torch {facts['versions']['torch']}, {facts['machine']['threads']} threads, "
        f"load {facts['machine']['load']}, commit {facts['commit']}, {facts['date']}"
    )
    # What libraries set up at their first use is timed on no side.
    measure(pairs[0], replace(base, size=READYING_SIZE), ["iterations=1"], 1)
    curves: list[Curve] = []
    for content, style in pairs:
        measured = measure((content, style), base, parsed.schedules, parsed.iterations)
        _print_curves(measured)
        curves += measured
        if parsed.json:
            report: dict[str, Any] = {**facts, "curves": [asdict(curve) for curve in curves]}
            parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    if not curves:
        raise SystemExit(f"memory is too small for the plain loop at {base.size} px; give a smaller --size")
    return 0


def _print_curves(curves: Sequence[Curve]) -> None:
    if not curves:
        return
    plain = curves[0]
    reference = min(plain.losses)
    print(f"\n{curves[0].pair}, reference {reference:.5g}")
    width = max(len(curve.side) for curve in curves)
    print(f"{'':{width}}{'seconds':>9}{'of plain':>10}{'steps':>7}{'lowest':>9}")
    for curve in curves:
        ratio = "-" if curve.time is None or plain.time is None else f"{curve.time / plain.time:.3f}"
        when = "-" if curve.time is None else f"{curve.time:.1f}"
        steps = "-" if curve.reached is None else str(curve.reached)
        print(f"{curve.side:{width}}{when:>9}{ratio:>10}{steps:>7}{min(curve.losses) / reference:9.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
