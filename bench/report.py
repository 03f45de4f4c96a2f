"""The tables of the kernels in docs/figures.md and the roofline plot, from the profiles under bench/results/.

python -m bench.report            prints the table
python -m bench.report --write    writes it into docs/figures.md, and bench/results/roofline.png
python -m bench.report --check    exit code 1 if docs/figures.md says something else

A profile is what `fastnst profile --json` printed, in a file profile*.json at any depth.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnst_kernels.profiling.plot import Panel, Point, draw

from bench.page_tables import replaced

ROOT = Path(__file__).resolve().parent.parent
_NO_GPU = (
    "**No GPU figure exists yet**: the Triton kernels have been run in Triton's interpreter and compiled ahead of "
    "time, but not timed. `python -m bench.run_gpu` is the script for a machine that has a GPU."
)
_NONE = "No profile exists yet."

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One precision of one profile: its conditions, its ceilings and its measurements by (layer, operation, form)."""

    name: str
    facts: Record
    precision: str
    measurements: Mapping[tuple[str, str, str], Record]
    steps: Mapping[tuple[str, str, str], Record]

    @property
    def on_gpu(self) -> bool:
        """True if a GPU was timed; on a machine that has a GPU, the CPU may have been."""
        return bool(self.facts["gpu"]) and self.facts["device"] != self.facts["machine"]["cpu"]

    @property
    def ceilings(self) -> tuple[float, float]:
        """GB/s of a copy and TFLOP/s of a product, measured in the same run."""
        listed = self.facts["ceilings"][self.precision]
        return listed["gigabytes_per_second"], listed["teraflops_per_second"]

    @property
    def layers(self) -> list[str]:
        """The layers, in the network's order."""
        return list(dict.fromkeys(layer for layer, _, _ in self.measurements))

    def seconds(self, layer: str, operation: str, form: str) -> float | None:
        """The median, or None where it was not timed."""
        timing = self.measurements.get((layer, operation, form), {}).get("timing")
        return None if timing is None else float(timing["median"])


def sections(folder: Path) -> list[Section]:
    """The measured profiles under `folder`, those of GPUs first. Raises SystemExit for a file that is none."""
    listed = []
    for path in sorted(folder.rglob("profile*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if not facts["measurements"]:
                raise ValueError("no measurements")
            measured, steps = (_by_precision(facts.get(name, [])) for name in ("measurements", "steps"))
            name = path.relative_to(folder).as_posix()
            listed += [
                Section(name, facts, precision, rows, steps.get(precision, {})) for precision, rows in measured.items()
            ]
            _ = [(section.on_gpu, section.ceilings) for section in listed]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SystemExit(f"{path} is not what fastnst profile --json prints ({error!r}); write it again") from None
    return sorted(listed, key=lambda section: (not section.on_gpu, section.name, section.precision))


def _by_precision(measurements: Sequence[Record]) -> dict[str, dict[tuple[str, str, str], Record]]:
    listed: dict[str, dict[tuple[str, str, str], Record]] = {}
    for record in measurements:
        listed.setdefault(record["precision"], {})[record["layer"], record["operation"], record["implementation"]] = (
            record
        )
    return listed


def block(listed: Sequence[Section], plot: Path | None = None) -> str:
    """The text of docs/figures.md between its marks; `plot` is a part of it where it is given."""
    parts = [] if any(section.on_gpu for section in listed) else [_NO_GPU]
    parts += [_table(section) for section in listed] or [_NONE]
    if plot is not None:
        devices = ", ".join(dict.fromkeys(section.facts["device"] for section in listed))
        text = f"Roofline: TFLOP/s of the kernels over FLOP per byte, beneath the ceilings measured on {devices}"
        parts.append(f'<img src="{plot.as_posix()}" alt="{text}" width="100%">')
    return "\n\n".join(parts)


def _table(section: Section) -> str:
    facts = section.facts
    bandwidth, rate = section.ceilings
    kind = "GPU" if section.on_gpu else "CPU"
    clocks = "".join(f", {gpu['clocks.current.sm']} of {gpu['clocks.max.sm']}" for gpu in facts["gpu"][:1])
    where = f"{facts['machine']['threads']} threads" if kind == "CPU" else f"driver {facts['gpu'][0]['driver_version']}"
    head = (
        f"{kind}: {facts['device']}, {where}{clocks if kind == 'GPU' else ''}, {section.precision}, "
        f"{facts['size']} px, torch {facts['versions']['torch']}, triton {facts['versions']['triton']}, "
        f"{_compiled(facts)}commit `{facts['commit']}`, {facts['date'][:10]} (`bench/results/{section.name}`). "
        "Ceilings of the same run: "
        f"{bandwidth:.4g} GB/s, {rate:.3g} TFLOP/s; `roofline` is the share of them that is reached."
    )
    lines = [
        head,
        "",
        "| layer | loss | roofline | backward | roofline | × eager | × compile | extra memory, ours / eager |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layer in section.layers:
        cells = [layer]
        for operation in ("loss", "backward"):
            seconds = section.seconds(layer, operation, "fastnst")
            least = section.measurements[layer, operation, "fastnst"]["least_seconds"]
            cells += ["-", "-"] if seconds is None else [_time(seconds), f"{least / seconds:.0%}"]
        cells += [_ratio(section, [layer], form) for form in ("eager", "compile")]
        cells.append(_pair(*(_memory(section, layer, form) for form in ("fastnst", "eager"))))
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("| " + " | ".join(_whole(section)) + " |")
    return "\n".join([*lines, *_step_lines(section)])


def _compiled(facts: Record) -> str:
    mode = facts.get("compile_mode")
    return f"torch.compile in mode {mode}, " if mode else ""


def _step_lines(section: Section) -> list[str]:
    """The kernels that only move bytes, against the copy ceiling."""
    if not section.steps:
        return []
    lines = ["", "| | layer | time | GB/s | of a copy | × eager | extra memory, ours / eager |", "| --- " * 7 + "|"]
    for (layer, operation, form), ours in section.steps.items():
        if form != "fastnst":
            continue
        eager, seconds = section.steps[layer, operation, "eager"], ours["timing"]["median"]
        cells = [operation, layer, _time(seconds), f"{ours['gigabytes_per_second']:.4g}"]
        cells += [f"{ours['least_seconds'] / seconds:.0%}", f"{eager['timing']['median'] / seconds:.2f}"]
        cells.append(_pair(*(f"{record['extra_bytes'] / 1e6:.1f} MB" for record in (ours, eager))))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _whole(section: Section) -> list[str]:
    """The row of all layers: sums of times, the share of the summed least times, the peak memory of one layer."""
    cells = ["all"]
    for operation in ("loss", "backward"):
        seconds = [section.seconds(layer, operation, "fastnst") for layer in section.layers]
        least = sum(section.measurements[layer, operation, "fastnst"]["least_seconds"] for layer in section.layers)
        known = [record for record in seconds if record is not None]
        cells += [_time(sum(known)), f"{least / sum(known):.0%}"] if len(known) == len(seconds) else ["-", "-"]
    cells += [_ratio(section, section.layers, form) for form in ("eager", "compile")]
    peaks = []
    for form in ("fastnst", "eager"):
        extra = [section.measurements.get((layer, "backward", form), {}).get("extra_bytes") for layer in section.layers]
        known_bytes = [record for record in extra if record is not None]
        features = sum(
            section.measurements[layer, "backward", "fastnst"].get("features", 0) for layer in section.layers
        )
        share = f" ({max(known_bytes) / features:.1%} of the features)" if known_bytes and features else ""
        peaks.append(f"{max(known_bytes) / 1e6:.1f} MB{share}" if known_bytes else "-")
    return [*cells, _pair(*peaks)]


def _pair(ours: str, other: str) -> str:
    return "-" if ours == other == "-" else f"{ours} / {other}"


def _ratio(section: Section, layers: Sequence[str], form: str) -> str:
    """The other form's loss and backward over ours."""
    times = {
        name: [section.seconds(layer, operation, name) for layer in layers for operation in ("loss", "backward")]
        for name in (form, "fastnst")
    }
    if any(record is None for listed in times.values() for record in listed):
        return "-"
    ours, theirs = (sum(record or 0.0 for record in times[name]) for name in ("fastnst", form))
    return f"{theirs / ours:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def _memory(section: Section, layer: str, form: str) -> str:
    extra = section.measurements.get((layer, "backward", form), {}).get("extra_bytes")
    return "-" if extra is None else f"{extra / 1e6:.1f} MB"


def panels(listed: Sequence[Section]) -> list[Panel]:
    """One panel for each section; with figures of a GPU, those alone."""
    on_gpu = [section for section in listed if section.on_gpu]
    drawn = []
    for section in (on_gpu or list(listed))[:4]:
        bandwidth, rate = section.ceilings
        points = [
            Point(
                layer,
                form,
                operation,
                record["work"]["flops"] / record["work"]["bytes"],
                record["work"]["flops"] / seconds,
            )
            for (layer, operation, form), record in section.measurements.items()
            if operation != "forward" and (seconds := section.seconds(layer, operation, form)) is not None
        ]
        kind = "GPU" if section.on_gpu else "CPU"
        title = f"{kind}: {section.facts['device']}, {section.precision}, {section.facts['size']} px"
        drawn.append(Panel(title, bandwidth * 1e9, rate * 1e12, points))
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write the table into docs/figures.md, and the plot")
    what.add_argument("--check", action="store_true", help="exit code 1 if docs/figures.md says something else")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="where docs and bench/results are")
    parsed = parser.parse_args(arguments)
    results, page = parsed.root / "bench" / "results", parsed.root / "docs" / "figures.md"
    plot = results / "roofline.png"
    listed = sections(results)
    if parsed.write and listed:
        draw(panels(listed), plot, "each point is record layer; ceilings measured in the same run")
    written = block(listed, Path("..") / plot.relative_to(parsed.root) if plot.exists() else None)
    if not parsed.write and not parsed.check:
        print(written)
        return 0
    text = page.read_text(encoding="utf-8")
    try:
        new = replaced(text, {"kernels": written}, "bench.report")
    except ValueError as error:
        raise SystemExit(f"{page}: {error}") from None
    if parsed.check and new != text:
        print(
            "docs/figures.md does not say what bench/results/ does; run python -m bench.report --write", file=sys.stderr
        )
        return 1
    if parsed.write:
        page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
