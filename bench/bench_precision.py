"""How far from float32's final loss each arithmetic ends: what `precision="auto"` may choose.

python -m bench.bench_precision --size 96 --iterations 100 --json precision.json

Every run has the same objective, start and schedule, coarse to fine from 256 pixels on; the loss of its result is
computed in float32. As rounding alone sends L-BFGS another way, `fp32'` is the float32 run of a content changed by
1e-6: what differs by no more than that is chance.
"""

import argparse
import json
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
from fastnst.network import winograd
from fastnst.options.keywords import OptionValues
from fastnst.options.resolve import resolve_options
from fastnst.transfer.run import Watch

EXACT, AGAIN = "fp32", "fp32'"
PERTURBATION = 1e-6
ALLOWED = 0.01
"""The most by which `auto` may end above float32's final loss, as a share of it."""


@dataclass(frozen=True)
class Ending:
    """One run: the float32 loss of its result, and by which share of float32's it is higher."""

    pair: str
    preset: str
    optimizer: str
    seed: int
    precision: str
    loss: float
    above: float


def precisions_here() -> list[str]:
    return [EXACT, AGAIN, *(["winograd"] if winograd.available() else []), "bf16"]


def endings(pair: tuple[Path, Path], options: OptionValues, precisions: Sequence[str]) -> Iterator[Ending]:
    content, style = (load_image(path).rgb for path in pair)
    noise = PERTURBATION * torch.randn(content.shape, generator=torch.Generator().manual_seed(1))
    known, exact = resolve_options(**options), None
    for precision in dict.fromkeys((EXACT, *precisions)):
        run: OptionValues = {**options, "precision": "fp32" if precision == AGAIN else precision}
        result = fastnst.stylize((content + noise).clamp(0, 1) if precision == AGAIN else content, style, **run)
        looking: OptionValues = {**run, "precision": "fp32", "scales": None, "iterations": 1, "init": result.tensor}
        looker = fastnst.Stylizer(style, **looking)
        loss = looker.prepare(content).made(Watch()).losses[0].total
        exact = loss if exact is None else exact
        name = " × ".join(path.stem for path in pair)
        yield Ending(name, known.preset, known.optimizer, known.seed, precision, loss, loss / exact - 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="long edge (default: 96)")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--presets", nargs="+", default=["default", "gatys"])
    parser.add_argument("--optimizers", nargs="+", default=["lbfgs", "adam"], choices=["lbfgs", "adam"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the noise that gatys starts from")
    parser.add_argument("--precisions", nargs="+", default=precisions_here(), choices=precisions_here())
    add_pair_arguments(parser)
    parsed = parser.parse_args(arguments)
    pairs = pairs_of(parser, parsed)
    facts = {**conditions(torch.device("cpu")), "size": parsed.size, "iterations": parsed.iterations}
    finished: list[Ending] = []

    try:
        for pair, preset, optimizer, seed in product(pairs, parsed.presets, parsed.optimizers, parsed.seeds):
            if preset != "gatys" and seed != parsed.seeds[0]:
                continue
            options: OptionValues = {"preset": preset, "optimizer": optimizer, "seed": seed, "weights": parsed.weights}
            options |= {"size": parsed.size, "iterations": parsed.iterations, "scales": "auto", "device": "cpu"}
            for ending in endings(pair, options, parsed.precisions):
                key = f"{ending.pair:34}{ending.preset:9}{ending.optimizer:7}{ending.seed:3}  "
                print(f"{key}{ending.precision:10}{ending.loss:12.5g}{ending.above:+9.2%}", flush=True)
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
