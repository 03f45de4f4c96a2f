"""Small batches: their options, pictures and tasks."""

from pathlib import Path
from typing import Any

from fastnst.app.batch.tasks import Task, make_tasks, pair_rows
from fastnst.options.resolve import resolve_options

SMALL: dict[str, Any] = {
    "size": 48,
    "scales": None,
    "iterations": 2,
    "weights": "random",
    "style_layers": ["conv1_1"],
    "content_layers": "conv2_1",
}

FAST = ["--size", "48", "--iterations", "2", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]

FAST += ["--content-layers", "conv2_1"]

ENDLESS = 10**8


def all_pairs(folder: Path, **options: Any) -> list[Task]:
    rows = pair_rows([str(folder / "contents")], [str(folder / "styles")])
    return make_tasks(rows, {**SMALL, **options}, folder=str(folder / "out"))


def never() -> bool:
    return False


def dummy(number: int, group: str) -> Task:
    options = resolve_options(**SMALL)
    return Task(number, f"row {number}", "a.png", (group,), f"{number}.png", options, "0")
