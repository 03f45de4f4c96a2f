"""How strong a style weight is with each style loss, by how far from the content its result ends.

python -m bench.loss_strength --size 256 --iterations 40
python -m bench.loss_strength --pairs content.jpg style.jpg --json strength.json

For each pair the table has the content term of the result with `gram`, and by how much that of the other losses' is
higher or lower with the same weight. `fastnst.loss.statistics.RELATIVE_FACTORS` was set by it. A weight twice
as high raises the content term by about a fifth.
"""

import argparse
import json
from collections.abc import Sequence
from statistics import geometric_mean

import fastnst
from bench.pairs import add_pair_arguments, pairs_of
from fastnst.options.options import Options

LOSSES = ("gram", "covariance", "mean-std", "wasserstein", "sliced")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_arguments(parser)
    parser.set_defaults(weights="original")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--style-weight", type=float, default=Options.style_weight)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)
    options = {name: getattr(given, name) for name in ("size", "iterations", "weights", "precision", "style_weight")}
    options["scales"] = None
    rows = {}
    print("| " + " | ".join(("pair", *LOSSES)) + " |\n|---|" + "---:|" * len(LOSSES))
    for pair in pairs_of(parser, given):
        name = " × ".join(path.stem for path in pair)
        rows[name] = {loss: fastnst.stylize(*pair, **options, style_loss=loss).losses[-1].content for loss in LOSSES}
        print(_line(name, rows[name]), flush=True)
    means = {loss: geometric_mean(row[loss] for row in rows.values()) for loss in LOSSES}
    print(_line("geometric mean", means))
    if given.json is not None:
        given.json.write_text(json.dumps({"options": options, "content_terms": rows}, indent=1))
    return 0


def _line(name: str, row: dict[str, float]) -> str:
    others = (f"{row[loss] / row['gram'] - 1:+.0%}" for loss in LOSSES[1:])
    return f"| {name} | {row['gram']:.3f} | " + " | ".join(others) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
