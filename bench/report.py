"""The tables of the kernels in docs/figures.md and the roofline plot, from the profiles under bench/results/.

python -m bench.report            prints the tables
python -m bench.report --write    writes them into docs/figures.md, and bench/results/roofline.png

A profile is what `fastnst profile --json` printed, in a file profile*.json at any depth.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnst_kernels.profiling.plot import Panel, Point, draw

from bench.page_tables import print_or_write, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "figures.md"
RESULTS = ROOT / "bench" / "results"
MODULE = "bench.report"
_NO_GPU = (
    "**No GPU figure exists yet**: the Triton kernels have been run in Triton's interpreter and compiled ahead of "
    "time, but not timed. `python -m bench.run_gpu` is the script for a machine that has a GPU."
)
_MEASURED = ("loss", "backward")
_FORMS = ("fastnst", "eager")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One precision of one profile: its conditions, and its records by (layer, operation, form)."""

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

    def seconds(self, layers: Sequence[str], operations: Sequence[str], form: str) -> float | None:
        """The sum of the medians; None where one was not timed."""
        records = [self.measurements.get((layer, operation, form), {}) for layer in layers for operation in operations]
        timings = [record.get("timing") for record in records]
        return None if None in timings else sum(timing["median"] for timing in timings if timing is not None)


def sections(folder: Path) -> list[Section]:
    """The profiles under `folder`, those of GPUs first."""
    listed = []
    for path in folder.rglob("profile*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        for precision in facts["ceilings"]:
            measurements, steps = (
                {
                    (record["layer"], record["operation"], record["implementation"]): record
                    for record in facts[part]
                    if record["precision"] == precision
                }
                for part in ("measurements", "steps")
            )
            listed.append(Section(path.relative_to(folder).as_posix(), facts, precision, measurements, steps))
    return sorted(listed, key=lambda section: (not section.on_gpu, section.name, section.precision))


def tables() -> dict[str, str]:
    """The part of the page between its marks."""
    return {"kernels": block(sections(RESULTS))}


def block(listed: Sequence[Section]) -> str:
    """The tables of all sections, and the plot."""
    parts = [] if any(section.on_gpu for section in listed) else [_NO_GPU]
    parts += ["\n\n".join([_conditions(section), _layers_table(section), *_steps_table(section)]) for section in listed]
    devices = ", ".join(dict.fromkeys(section.facts["device"] for section in listed))
    text = f"Roofline: TFLOP/s of the kernels over FLOP per byte, beneath the ceilings measured on {devices}"
    return "\n\n".join([*parts, f'<img src="../bench/results/roofline.png" alt="{text}" width="100%">'])


def _conditions(section: Section) -> str:
    facts = section.facts
    bandwidth, rate = section.ceilings
    where = f"CPU: {facts['device']}, {facts['machine']['threads']} threads"
    if section.on_gpu:
        gpu = facts["gpu"][0]
        clocks = f"{gpu['clocks.current.sm']} of {gpu['clocks.max.sm']}"
        where = f"GPU: {facts['device']}, driver {gpu['driver_version']}, {clocks}"
    mode = facts.get("compile_mode")
    return (
        f"{where}, {section.precision}, "
        f"{facts['size']} px, torch {facts['versions']['torch']}, triton {facts['versions']['triton']}, "
        f"{f'torch.compile in mode {mode}, ' if mode else ''}commit `{facts['commit']}`, {facts['date'][:10]} "
        f"(`bench/results/{section.name}`). Ceilings of the same run: "
        f"{bandwidth:.4g} GB/s, {rate:.3g} TFLOP/s; `roofline` is the share of them that is reached."
    )


def _layers_table(section: Section) -> str:
    layers = list(dict.fromkeys(layer for layer, _, _ in section.measurements))
    head = ["layer", "loss", "roofline", "backward", "roofline", "× eager", "× compile", "extra memory, ours / eager"]
    return table(head, [*(_row(section, layer, [layer]) for layer in layers), _row(section, "all", layers)])


def _row(section: Section, name: str, layers: Sequence[str]) -> list[str]:
    """The times of the layers together, their shares of the roofline, the other forms' times over them, and the peak
    memory of one layer; of several layers with its share of all their features."""
    cells = [name]
    for operation in _MEASURED:
        seconds = section.seconds(layers, [operation], "fastnst")
        least = sum(section.measurements[layer, operation, "fastnst"]["least_seconds"] for layer in layers)
        cells += ["-", "-"] if seconds is None else [_time(seconds), f"{least / seconds:.0%}"]
    ours = section.seconds(layers, _MEASURED, "fastnst")
    for form in ("eager", "compile"):
        other = section.seconds(layers, _MEASURED, form)
        cells.append("-" if ours is None or other is None else f"{other / ours:.2f}")
    features = sum(section.measurements[layer, "backward", "fastnst"]["features"] for layer in layers)
    peaks = []
    for form in _FORMS:
        peak = max(section.measurements[layer, "backward", form]["extra_bytes"] or 0 for layer in layers)
        share = f" ({peak / features:.1%} of the features)" if len(layers) > 1 else ""
        peaks.append(f"{peak / 1e6:.1f} MB{share}")
    return [*cells, " / ".join(peaks)]


def _steps_table(section: Section) -> list[str]:
    """The kernels that only move bytes, against the copy ceiling."""
    rows = []
    for layer, operation in dict.fromkeys((layer, operation) for layer, operation, _ in section.steps):
        ours, eager = (section.steps[layer, operation, form] for form in _FORMS)
        seconds = ours["timing"]["median"]
        cells = [operation, layer, _time(seconds), f"{ours['gigabytes_per_second']:.4g}"]
        cells += [f"{ours['least_seconds'] / seconds:.0%}", f"{eager['timing']['median'] / seconds:.2f}"]
        rows.append([*cells, " / ".join(f"{record['extra_bytes'] / 1e6:.1f} MB" for record in (ours, eager))])
    head = ["", "layer", "time", "GB/s", "of a copy", "× eager", "extra memory, ours / eager"]
    return [table(head, rows)] if rows else []


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


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
            if operation in _MEASURED and (seconds := section.seconds([layer], [operation], form)) is not None
        ]
        kind = "GPU" if section.on_gpu else "CPU"
        title = f"{kind}: {section.facts['device']}, {section.precision}, {section.facts['size']} px"
        drawn.append(Panel(title, bandwidth * 1e9, rate * 1e12, points))
    return drawn


if __name__ == "__main__" and print_or_write(__doc__, tables(), PAGE, MODULE):
    draw(
        panels(sections(RESULTS)), RESULTS / "roofline.png", "each point is a layer; ceilings measured in the same run"
    )
