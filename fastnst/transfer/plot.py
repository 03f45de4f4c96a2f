"""The losses of a run as a picture: each weighted term over the iterations, and where the scales begin."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fastnst.errors import OptionError, check_package
from fastnst.image.files import check_place, real_target
from fastnst.replacing import replacing
from fastnst.transfer.result import LossRecord
from fastnst.transfer.scales import by_scale

# Told apart with any colour vision (Okabe and Ito), and in grey by their dashes.
_LINES = {
    "total": ("total", "#000000", "-"),
    "style": ("β · style", "#D55E00", "--"),
    "content": ("α · content", "#0072B2", "-."),
    "tv": ("γ · total variation", "#009E73", ":"),
}
_RANGE = 1e-6  # the lowest point of the axis over the highest, at least
FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raises OptionError where matplotlib is missing or `path` is no plot's, ImageError as `check_place` does."""
    check_package("matplotlib", "--plot", "plot")
    check_place(str(path), "plot", FORMATS)


def draw_losses(records: Sequence[LossRecord], path: Path, parameters: Mapping[str, Any], *, note: str = "") -> None:
    """Writes the plot, a .png, .svg or .pdf, of `records`; `parameters` are those of the run's result.

    The terms are multiplied by their weights, so that they sum to the total; one that is 0 throughout is left out.
    Raises OptionError where matplotlib is missing, `path` cannot be written or there is nothing to draw.
    """
    check_plot(path)
    if not records:
        raise OptionError(f"there are no losses to draw in {path}, because the run made no evaluation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    largest = max(record.total for record in records)
    for term, (name, colour, dashes) in _LINES.items():
        weights = _weights(records, 1.0 if term == "total" else parameters["options"][f"{term}_weight"], parameters)
        values = [weight * getattr(record, term) for weight, record in zip(weights, records, strict=True)]
        if not any(value > 0 for value in values):
            continue
        label: str | None = name
        for _, group in groupby(zip(records, values, strict=True), lambda pair: pair[0].scale):
            points = [(record.iteration, value if value > 0 else float("nan")) for record, value in group]
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 2 if term == "total" else 1.5}
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) == 1 else None, **look)
            label = None
    axes.set_yscale("log")
    # A term that begins at 0, as the content's does where the run starts from it, would take all the height.
    axes.set_ylim(bottom=max(_RANGE * largest, 0.5 * axes.get_ylim()[0]) if largest > 0 else None)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss, weighted")
    axes.grid(color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _mark_scales(axes, records)
    if note:
        # Of the names of files: a dollar is no formula, and what is no Unicode cannot be drawn.
        text = note.encode(errors="replace").decode()
        figure.supxlabel(text, fontsize=8, color="#444444", parse_math=False)
    try:
        with replacing(real_target(str(path))) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)
    except OSError as error:
        raise OptionError(f"{path} could not be written ({error.strerror}); choose another folder") from error


def _weights(records: Sequence[LossRecord], weight: Any, parameters: Mapping[str, Any]) -> list[float]:
    """The weight that applied to each record: one weight for all, or one for each scale of the run, coarse first."""
    measure = min if parameters["options"]["edge"] == "short" else max
    edges = list(dict.fromkeys(measure(size["height"], size["width"]) for size in parameters["sizes"]))
    weights = by_scale(tuple(map(float, weight)) if isinstance(weight, list | tuple) else float(weight), len(edges))
    # A result that tiles is a little larger or smaller than its edge.
    nearest = [min(range(len(edges)), key=lambda index: abs(edges[index] - record.scale)) for record in records]
    return [weights[index] for index in nearest]


def _mark_scales(axes: Any, records: Sequence[LossRecord]) -> None:
    """Draws a line where each scale begins, and its long edge above the axes."""
    starts = [next(group) for _, group in groupby(records, lambda record: record.scale)]
    if len(starts) == 1:
        return
    for record in starts:
        axes.axvline(record.iteration, color="#999999", linewidth=0.8)
        look = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": 9, "color": "#444444"}
        axes.text(record.iteration, 1.01, f"{record.scale} px", **look)
