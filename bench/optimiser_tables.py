"""The tables of `docs/optimisers.md`, from the results of the benchmarks that it names.

python -m bench.optimiser_tables            prints them
python -m bench.optimiser_tables --write    writes them into the page
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "optimisers.md"
RESULTS = ROOT / "bench" / "results"
_BLOCK = "<!-- {0}: begin (python -m bench.optimiser_tables --write) -->\n\n{1}\n\n<!-- {0}: end -->"


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
    return _table(["iterations until", *(f"{within:g} ×" for within in report["within"])], rows)


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
    return _table(["", *(_side(side) for side in sides)], rows)


def precision_table(report: Mapping[str, Any]) -> str:
    """For each precision the median and the worst distance from float32's loss, by optimiser."""
    found: dict[str, dict[str, list[float]]] = {}
    for ending in report["endings"]:
        if ending["precision"] != "fp32":
            found.setdefault(ending["precision"], {}).setdefault(ending["optimizer"], []).append(abs(ending["above"]))
    rows = []
    for precision, by_optimizer in found.items():
        cells = [f"{median(by_optimizer[one]):.2%}, {max(by_optimizer[one]):.2%}" for one in ("lbfgs", "adam")]
        rows.append([f"`{precision}`", *cells])
    return _table(["", "L-BFGS", "Adam"], rows)


def with_tables(text: str) -> str:
    """`text` with each table between its marks. Raises ValueError where a pair of marks is missing."""
    for name, table in tables().items():
        pattern = re.compile(rf"<!-- {name}: begin .*?<!-- {name}: end -->", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{PAGE} has no marks of the table {name!r}; add them")
        block = _BLOCK.format(name, table)
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them into docs/optimisers.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(tables().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
