"""Plot a training log: `python -m bench.embedded.plot training/log.csv training.png` (needs matplotlib)."""

import argparse
import csv
from pathlib import Path

from bench.embedded.train import COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    draw(given.log, given.output)


def draw(log: Path, output: Path) -> None:
    """The loss, and the parts that are answered right, over the crops seen."""
    # Only here: the training has no need of it.
    from matplotlib.figure import Figure

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    crops = [int(row["crops"]) for row in rows]
    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(crops, [float(row["loss"]) for row in rows])
    upper.set_ylabel("loss")
    for column in COLUMNS[COLUMNS.index("structure") :]:
        lower.plot(crops, [float(row[column]) for row in rows], label=column)
    lower.set_ylabel("part right, or of the variance")
    lower.set_xlabel("crops")
    lower.set_ylim(0, 1)
    lower.legend()
    figure.savefig(output)


if __name__ == "__main__":
    main()
