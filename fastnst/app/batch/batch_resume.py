"""Whether a task of a batch is done: its output is there and says that it was made from the same, in the same way."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastnst.app.batch.batch_task import Task
from fastnst.errors import ImageError
from fastnst.image.metadata import read_parameters, to_json
from fastnst.options.masks import mask_hashes
from fastnst.options.options import START_WORDS, Options

# Where, in which memory, or by which words a run is made; weights, init and masks are compared by themselves.
_UNCOMPARED = frozenset({"preset", "device", "tile", "max_memory", "max_pixels", "weights", "init", "masks"})


def is_done(task: Task, sha256_of: Callable[[str, str], str]) -> bool:
    """Whether the task's output was made by a run like the task's that came to its end.

    Content, styles, weights and options must be the same, but for those that say where and in how much memory the run
    happens. `sha256_of(path, role)` is a picture's fingerprint as it is recorded; it is not asked for before all else
    agrees. An init picture has none: it must be the file that is recorded, and no newer than the output. An output
    whose parameters are absent or cannot be read is not done.

    Raises ImageError where a picture cannot be read.
    """
    if not Path(task.output).is_file():
        return False
    try:
        found = read_parameters(task.output)
    except ImageError:
        return False
    return (
        found.get("stopped") in (None, "time")
        and _options_agree(task.options, found.get("options"))
        and _init_agrees(task, found)
        and _part(found, "weights").get("sha256") == task.weights_sha256
        and _part(found, "content").get("sha256") == sha256_of(task.content, "content")
        and _styles(found) == [sha256_of(style, "style") for style in task.styles]
        and mask_hashes(found.get("masks")) == _mask_hashes(task, sha256_of)
    )


def _options_agree(options: Options, found: object) -> bool:
    if not isinstance(found, dict):
        return False
    names = [option.name for option in fields(Options) if option.name not in _UNCOMPARED]
    return all(name in found and _plain(name, found[name]) == _plain(name, getattr(options, name)) for name in names)


def _plain(name: str, value: Any) -> Any:
    """`value` as it comes back from a file."""
    return json.loads(to_json(dict(value) if name.endswith("_layers") and isinstance(value, tuple) else value))


def _init_agrees(task: Task, found: dict[str, Any]) -> bool:
    init = task.options.init
    recorded = _part(found, "options").get("init")
    if init in START_WORDS:
        return bool(recorded == init)
    try:
        if not isinstance(recorded, str) or not Path(recorded).samefile(init):
            return False
        return Path(init).stat().st_mtime <= Path(task.output).stat().st_mtime
    except (OSError, ValueError):
        return False


def _mask_hashes(task: Task, sha256_of: Callable[[str, str], str]) -> list[dict[str, str | None]]:
    return [
        {name: None if source is None else sha256_of(source, "mask") for name, source in mask.as_dict().items()}
        for mask in task.options.masks or ()
    ]


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _styles(found: dict[str, Any]) -> list[Any]:
    styles = found.get("styles")
    return [style.get("sha256") for style in styles if isinstance(style, dict)] if isinstance(styles, list) else []
