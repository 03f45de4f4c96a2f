"""How strong a style weight is with each style loss, in units of that of the Gram matrices.

python -m bench.loss_strength --size 256 --iterations 40
python -m bench.loss_strength --pairs content.jpg style.jpg --json strength.json

A style weight is as strong as it moves the content: a loss at the weight β has the strength k where its result has the
content term that the result of `gram` has at k·β, read from runs of `gram` at β/3, β and 3β. The table is what
`fastnst.loss.style_statistics.RELATIVE_FACTORS` was set by.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastnst
from bench.pairs import add_pair_arguments, pairs_of
from fastnst.options.options import Options

LOSSES = ("covariance", "mean-std", "wasserstein", "sliced")
_STEP = 3.0


def strengths(pair: tuple[Path, Path], options: dict[str, Any], weight: float) -> dict[str, float]:
    """The strength of each loss on one pair."""

    def content_term(loss: str, beta: float) -> float:
        result = fastnst.stylize(*pair, **options, style_loss=loss, style_weight=beta)
        return math.log(result.losses[-1].content)

    factors = [-math.log(_STEP), 0.0, math.log(_STEP)]
    known = [content_term("gram", weight * math.exp(factor)) for factor in factors]
    return {loss: math.exp(_read(content_term(loss, weight), known, factors)) for loss in LOSSES}


def _read(value: float, known: Sequence[float], factors: Sequence[float]) -> float:
    """Linear between the points and on beyond them."""
    index = 0 if value < known[1] else 1
    slope = (factors[index + 1] - factors[index]) / (known[index + 1] - known[index])
    return factors[1] + slope * (value - known[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_arguments(parser)
    parser.set_defaults(weights="original")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--style-weight", type=float, default=Options.style_weight)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)
    options: dict[str, Any] = {
        "size": given.size,
        "iterations": given.iterations,
        "weights": given.weights,
        "precision": given.precision,
        "scales": None,
    }
    rows = {}
    print("| " + " | ".join(("pair", *LOSSES)) + " |\n|---|" + "---:|" * len(LOSSES))
    for pair in pairs_of(parser, given):
        name = " × ".join(path.stem for path in pair)
        rows[name] = strengths(pair, options, given.style_weight)
        print(_line(name, rows[name]), flush=True)
    means = {loss: float(np.exp(np.mean([math.log(row[loss]) for row in rows.values()]))) for loss in LOSSES}
    print(_line("geometric mean", means))
    if given.json is not None:
        given.json.write_text(json.dumps({"options": options, "weight": given.style_weight, "strengths": rows}))
    return 0


def _line(name: str, row: dict[str, float]) -> str:
    return f"| {name} | " + " | ".join(f"{row[loss]:.2f}" for loss in LOSSES) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
