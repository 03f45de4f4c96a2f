"""The tables of `docs/optimisers.md`, from the results of the benchmarks that it names.

python -m bench.optimiser_tables            prints them
python -m bench.optimiser_tables --write    writes them into the page
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.page_tables import print_or_write, replaced, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "optimisers.md"
RESULTS = ROOT / "bench" / "results"
MODULE = "bench.optimiser_tables"


def tables() -> dict[str, str]:
    """Each table by its mark in the page."""
    return {
        "schedule 128": schedule_table(_read("schedule_128.json")),
        "schedule 192": schedule_table(_read("schedule_192.json")),
        "convergence": convergence_table(_read("convergence_cpu.json")),
        "precision": precision_table(_read("precision_cpu.json")),
    }


def schedule_table(report: Mapping[str, Any]) -> str:
    """For each side the mean over the pairs of the iterations that it took; "never" where a pair never came there."""
    sides: dict[str, list[list[float | None]]] = {}
    for count in report["counts"]:
        sides.setdefault(count["side"], []).append(count["counts"])
    rows = []
    for side, pairs in sides.items():
        columns = zip(*pairs, strict=True)
        rows.append([_side(side), *(_iterations(column) for column in columns)])
    return table(["iterations until", *(f"{within:g} ×" for within in report["within"])], rows)


def convergence_table(report: Mapping[str, Any]) -> str:
    """For each pair the seconds until the reference loss, and their share of the plain loop's."""
    pairs: dict[str, dict[str, float | None]] = {}
    for curve in report["curves"]:
        reached = curve["reached"]
        seconds = None if reached is None else curve["seconds"][reached]
        pairs.setdefault(curve["pair"], {})[curve["side"]] = seconds
    sides = list(next(iter(pairs.values())))
    rows = []
    for pair, by_side in pairs.items():
        plain = by_side["plain"]
        rows.append([pair.replace("_", " "), *(_seconds(by_side[side], plain) for side in sides)])
    return table(["", *(_side(side) for side in sides)], rows)


def precision_table(report: Mapping[str, Any]) -> str:
    """For each precision the median and the worst distance from float32's loss, by optimiser."""
    distances: dict[str, dict[str, list[float]]] = {}
    for ending in report["endings"]:
        if ending["precision"] != "fp32":
            distances.setdefault(ending["precision"], {}).setdefault(ending["optimizer"], []).append(
                abs(ending["above"])
            )
    rows = []
    for precision, by_optimizer in distances.items():
        cells = [f"{median(by_optimizer[name]):.2%}, {max(by_optimizer[name]):.2%}" for name in ("lbfgs", "adam")]
        rows.append([f"`{precision}`", *cells])
    return table(["", "L-BFGS", "Adam"], rows)


def with_tables(text: str) -> str:
    """`text` with each table between its marks. Raises ValueError where a pair of marks is missing."""
    return replaced(text, tables(), MODULE)


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _side(name: str) -> str:
    return "the plain loop" if name == "plain" else f"`{name.replace('=[', '=').replace(']', '')}`"


def _iterations(column: Sequence[float | None]) -> str:
    counts = [count for count in column if count is not None]
    return (
        f"{mean(counts):.0f}"
        if len(counts) == len(column)
        else f"never for {len(column) - len(counts)} of {len(column)}"
    )


def _seconds(seconds: float | None, plain: float | None) -> str:
    if seconds is None or plain is None:
        return "never"
    return f"{seconds:.0f} s" if seconds == plain else f"{seconds:.0f} s ({seconds / plain:.2f} ×)"


if __name__ == "__main__":
    sys.exit(print_or_write(None, __doc__, tables, PAGE, MODULE))
