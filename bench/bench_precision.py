"""How far from float32's final loss each arithmetic ends: what `precision="auto"` may choose.

python -m bench.bench_precision --size 96 --iterations 100 --json precision.json

Every run has the same objective, start and schedule, coarse to fine from 256 pixels on; the loss of its result is
computed in float32. As the least change of the content sends L-BFGS another way, to another ending, each arithmetic
runs from several: the picture as it is, and as other decoders may have rounded it, changed by up to half a step of
8 bits. An arithmetic's median is compared with float32's.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch
from fastnst_kernels.profiling.measure import conditions

import fastnst
from bench.pairs import add_pair_arguments, pairs_of
from fastnst.errors import FastnstError
from fastnst.image.read import load_image
from fastnst.options.keywords import OptionValues
from fastnst.options.resolve import resolve_options
from fastnst.transfer.run import Watch

EXACT = "fp32"
PRECISIONS = (EXACT, "winograd", "bf16")
HALF_STEP = 0.5 / 255
ALLOWED = 0.01
"""The most by which `auto` may end above float32's final loss, as a share of it."""


@dataclass(frozen=True)
class Endings:
    """The runs of one arithmetic: the float32 loss of each start's result, and by which share of float32's median their
    median is higher."""

    pair: str
    preset: str
    optimizer: str
    seed: int
    precision: str
    losses: list[float]
    above: float


def endings(
    pair: tuple[Path, Path], options: OptionValues, precisions: Sequence[str], *, starts: int
) -> Iterator[Endings]:
    content, style = (load_image(path).rgb for path in pair)
    known, exact = resolve_options(**options), math.nan
    for precision in dict.fromkeys((EXACT, *precisions)):
        losses = []
        for start in range(starts):
            noise = torch.rand(content.shape, generator=torch.Generator().manual_seed(start)) * 2 - 1
            rounded = content if start == 0 else (content + HALF_STEP * noise).clamp(0, 1)
            run: OptionValues = {**options, "precision": precision}
            result = fastnst.stylize(rounded, style, **run)
            looking: OptionValues = {**run, "precision": EXACT, "scales": None, "iterations": 1, "init": result.tensor}
            losses.append(fastnst.Stylizer(style, **looking).prepare(content).made(Watch()).losses[0].total)
        exact = median(losses) if precision == EXACT else exact
        name = " × ".join(path.stem for path in pair)
        above = median(losses) / exact - 1
        yield Endings(name, known.preset, known.optimizer, known.seed, precision, losses, above)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="long edge (default: 96)")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--presets", nargs="+", default=["default", "gatys"])
    parser.add_argument("--optimizers", nargs="+", default=["lbfgs", "adam"], choices=["lbfgs", "adam"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the noise that gatys starts from")
    parser.add_argument("--starts", type=int, default=1, help="contents that differ by their rounding (default: 1)")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    add_pair_arguments(parser)
    parsed = parser.parse_args(arguments)
    pairs = pairs_of(parser, parsed)
    size = {name: getattr(parsed, name) for name in ("size", "iterations", "starts")}
    facts = {**conditions(torch.device("cpu")), **size}
    finished: list[Endings] = []

    try:
        for pair, preset, optimizer, seed in product(pairs, parsed.presets, parsed.optimizers, parsed.seeds):
            if preset != "gatys" and seed != parsed.seeds[0]:
                continue
            options: OptionValues = {"preset": preset, "optimizer": optimizer, "seed": seed, "weights": parsed.weights}
            options |= {"size": parsed.size, "iterations": parsed.iterations, "scales": "auto", "device": "cpu"}
            for ending in endings(pair, options, parsed.precisions, starts=parsed.starts):
                key = f"{ending.pair:34}{ending.preset:9}{ending.optimizer:7}{ending.seed:3}  "
                low, middle, high = (f"{f(ending.losses):10.5g}" for f in (min, median, max))
                print(f"{key}{ending.precision:10}{low}{middle}{high}{ending.above:+9.2%}", flush=True)
                finished.append(ending)
            if parsed.json:
                report = {**facts, "endings": [asdict(ending) for ending in finished]}
                parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    except FastnstError as error:
        parser.error(str(error))
    print(f"\n{'above float32':14}{'median':>9}{'worst':>9}{'best':>9}{'runs':>6}")
    for precision in dict.fromkeys(ending.precision for ending in finished):
        above = [ending.above for ending in finished if ending.precision == precision]
        print(f"{precision:14}{median(above):+9.2%}{max(above):+9.2%}{min(above):+9.2%}{len(above):6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
