"""The roofline as a picture: rate over arithmetic intensity, with a point for each layer, operation and contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Colours that are told apart with any colour vision (Okabe and Ito), and in grey by the marks beside them.
_COLOURS = {"fastnst": "#0072B2", "compile": "#009E73", "eager": "#D55E00"}
_OTHER_COLOUR = "#666666"
_MARKS = {"forward": "s", "loss": "o", "backward": "^"}


@dataclass(frozen=True)
class Point:
    """`intensity` in FLOP per byte, `rate` in FLOP per second; `label` stands beside the fastest of its intensity."""

    label: str
    implementation: str
    operation: str
    intensity: float
    rate: float


@dataclass(frozen=True)
class Panel:
    """One pair of ceilings, bytes and FLOP per second, and the points beneath them."""

    title: str
    bandwidth: float
    rate: float
    points: Sequence[Point]


def draw(panels: Sequence[Panel], path: Path, note: str) -> None:
    """Writes the panels, side by side, with `note` beneath them; its name decides the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5 * len(panels), 6.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    figure.supxlabel(note, fontsize=8, color="#444444")
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ridge = panel.rate / panel.bandwidth
    intensities = [point.intensity for point in panel.points] + [ridge]
    left, right = min(intensities) / 2, max(intensities) * 3
    axes.plot([left, ridge, right], [left * panel.bandwidth / 1e12, *[panel.rate / 1e12] * 2], color="black", lw=1.5)
    axes.set(xscale="log", yscale="log", xlim=(left, right), title=panel.title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("FLOP per byte, of the least that must be multiplied and moved")
    axes.set_ylabel("TFLOP/s")
    axes.grid(which="both", color="#dddddd", lw=0.5)
    axes.set_axisbelow(True)
    ceiling = f"{panel.bandwidth / 1e9:.4g} GB/s and {panel.rate / 1e12:.4g} TFLOP/s"
    axes.plot([], [], color="black", lw=1.5, label=ceiling)
    for implementation in dict.fromkeys(point.implementation for point in panel.points):
        axes.scatter([], [], color=_COLOURS.get(implementation, _OTHER_COLOUR), label=implementation)
    for operation in dict.fromkeys(point.operation for point in panel.points):
        axes.scatter([], [], color="white", edgecolor="black", marker=_MARKS.get(operation, "D"), label=operation)
    for point in panel.points:
        axes.scatter(
            point.intensity,
            point.rate / 1e12,
            s=42,
            marker=_MARKS.get(point.operation, "D"),
            color=_COLOURS.get(point.implementation, _OTHER_COLOUR),
            edgecolor="white",
            lw=0.6,
            zorder=3,
        )
    _join(axes, panel)
    _label(axes, panel)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, fontsize=8, frameon=False)


def _join(axes: Any, panel: Panel) -> None:
    """Draws a line through the rates that the contenders reach at one layer in one operation."""
    rates: dict[tuple[str, str, float], list[float]] = {}
    for point in panel.points:
        rates.setdefault((point.label, point.operation, point.intensity), []).append(point.rate / 1e12)
    for (_, _, intensity), reached in rates.items():
        axes.plot([intensity] * 2, [min(reached), max(reached)], color="#aaaaaa", lw=0.8, zorder=2)


def _beside(point: Point, other: Point) -> bool:
    return max(point.intensity / other.intensity, point.rate / other.rate, other.rate / point.rate) < 1.1


def _label(axes: Any, panel: Panel) -> None:
    """Names the fastest point of each layer and operation; neighbours in the picture share one label."""
    best: dict[tuple[str, str], Point] = {}
    for point in sorted(panel.points, key=lambda point: point.rate):
        best[point.label, point.operation] = point
    groups: list[list[Point]] = []
    for point in sorted(best.values(), key=lambda point: (point.operation, point.intensity)):
        near = groups and groups[-1][0].operation == point.operation
        if near and _beside(point, groups[-1][0]):
            groups[-1].append(point)
        else:
            groups.append([point])
    for group in groups:
        top = max(group, key=lambda point: point.rate)
        names = ", ".join(point.label for point in group)
        axes.annotate(
            names,
            (top.intensity, top.rate / 1e12),
            xytext=(6, -9),
            textcoords="offset points",
            fontsize=7,
        )
