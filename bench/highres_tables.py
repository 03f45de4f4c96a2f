"""The tables of `docs/high-resolution.md`, from the results of the benchmarks that it names.

python -m bench.highres_tables            prints them
python -m bench.highres_tables --write    writes them into the page
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.page_tables import print_or_write, table
from fastnst.options.parse import in_words

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "high-resolution.md"
RESULTS = ROOT / "bench" / "results"
MODULE = "bench.highres_tables"
_LEVELS = {"kept": "kept", "recompute": "recomputed", "whole": "the whole image"}


def tables() -> dict[str, str]:
    """Each table by its mark in the page."""
    far = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("far_*_cpu.json")]
    sizes = json.loads((RESULTS / "highres_cpu.json").read_text(encoding="utf-8"))
    return {"sizes": sizes_table(sizes), "far": far_table(far)}


def sizes_table(report: Mapping[str, Any]) -> str:
    """For each size and side the peak of memory and the time of an iteration, and the time over that of others; where a
    side is a single tile, which is the untiled step, it has no row."""
    seconds = {(row["size"], row["side"]): row["seconds"] for row in report["rows"]}
    rows = []
    for row in report["rows"]:
        if row["tiles"] == 1 and row["side"] != "whole":
            continue
        size, side = f"{row['width']}×{row['height']}", _side(row["side"])
        if row["problem"] is not None:
            rows.append([size, side, "", row["problem"], *[""] * 4])
            continue
        pixels = row["width"] * row["height"]
        others = (seconds.get((row["size"], other)) for other in ("whole", "published"))
        rows.append(
            [
                size,
                side,
                f"{row['tiles']} ({row['overhead']:.2f} × the pixels)" if row["tiles"] > 1 else "-",
                f"{in_words(row['peak_bytes'])} ({row['added_bytes'] / pixels:.0f} B)",
                f"{row['seconds']:.2f} s" + (f" ± {row['spread'] / 2:.0%}" if report["rounds"] > 1 else ""),
                f"{row['seconds'] / pixels * 1e6:.2f} µs",
                *("-" if other is None else f"{row['seconds'] / other:.2f}" for other in others),
            ]
        )
    head = ["pixels", "", "tiles", "peak (added a pixel)", "an iteration", "a pixel", "of whole", "of published"]
    return _conditions(report) + "\n\n" + table(head, rows)


def far_table(reports: Iterable[Mapping[str, Any]]) -> str:
    """Whole runs of the command far beyond the untiled step, by size."""
    rows = [
        [
            f"{far['size']}×{far['size']}",
            in_words(far["max_memory"]),
            f"{far['tile']} px, {_LEVELS[far['level']]}",
            in_words(far["planned_bytes"]),
            in_words(far["peak_bytes"]),
            in_words(far["untiled_bytes"]),
            f"{far['seconds'] / 60:.0f} min",
            f"{far['date'][:10]}, `{far['commit']}`",
        ]
        for far in sorted(reports, key=lambda far: far["size"])
    ]
    head = ["pixels", "allowed", "tiles", "planned", "measured peak", "untiled", "with two evaluations", "when"]
    return table(head, rows)


def _conditions(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    several = f"medians of {report['rounds']} rounds and half of their spread"
    rounds = several if report["rounds"] > 1 else "one round"
    return (
        f"{report['device']}, {machine['threads']} threads, load {machine['load']:g} before, `{report['precision']}`, "
        f"{report['optimizer'].capitalize()}, torch {report['versions']['torch']}, {report['date'][:10]}, commit "
        f"`{report['commit']}`; {rounds}."
    )


def _side(name: str) -> str:
    kind, _, edge = name.partition(":")
    words = {"whole": "untiled", "published": "published blocks", "auto": "planned for"}.get(kind) or _LEVELS[kind]
    return f"{words} {edge}".strip() + (" px" if edge.isdecimal() else "")


if __name__ == "__main__":
    print_or_write(__doc__, tables(), PAGE, MODULE)
