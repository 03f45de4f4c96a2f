"""The roofline as a picture: rate over arithmetic intensity, with a point for each layer, operation and contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

# Colours that are told apart with any colour vision (Okabe and Ito), and in grey by the marks beside them.
_COLOURS = {"fastnst": "#0072B2", "compile": "#009E73", "eager": "#D55E00"}
_MARKS = {"forward": "s", "loss": "o", "backward": "^"}


@dataclass(frozen=True)
class Point:
    """`intensity` in FLOP per byte, `rate` in FLOP per second; `label` stands beside the fastest of a place."""

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
    from matplotlib.ticker import LogLocator, NullFormatter

    ridge = panel.rate / panel.bandwidth
    intensities = [point.intensity for point in panel.points] + [ridge]
    left, right = min(intensities) / 2, max(intensities) * 3
    ceiling = f"{panel.bandwidth / 1e9:.4g} GB/s and {panel.rate / 1e12:.4g} TFLOP/s"
    rates = [left * panel.bandwidth / 1e12, panel.rate / 1e12, panel.rate / 1e12]
    axes.plot([left, ridge, right], rates, color="black", lw=1.5, label=ceiling)
    axes.set(xscale="log", yscale="log", xlim=(left, right), title=panel.title, ylabel="TFLOP/s")
    axes.set(xlabel="FLOP per byte, of the least that must be multiplied and moved")
    axes.grid(which="both", color="#dddddd", lw=0.5)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    for name in dict.fromkeys(point.implementation for point in panel.points):
        axes.scatter([], [], color=_COLOURS[name], label=name)
    for name in dict.fromkeys(point.operation for point in panel.points):
        axes.scatter([], [], color="white", edgecolor="black", marker=_MARKS[name], label=name)
    by_place = sorted(panel.points, key=lambda point: (point.operation, point.intensity, point.label, point.rate))
    for _, group in groupby(by_place, key=lambda point: (point.operation, point.intensity, point.label)):
        points = list(group)
        axes.plot([points[0].intensity] * len(points), [p.rate / 1e12 for p in points], color="#aaaaaa", lw=0.8)
        for point in points:
            look = {"marker": _MARKS[point.operation], "edgecolor": "white", "lw": 0.6, "s": 42, "zorder": 3}
            axes.scatter(point.intensity, point.rate / 1e12, color=_COLOURS[point.implementation], **look)
        where = {"xytext": (6, -9), "textcoords": "offset points"}
        axes.annotate(points[-1].label, (points[-1].intensity, points[-1].rate / 1e12), fontsize=7, **where)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, fontsize=8, frameon=False)
