"""The rows of a batch made ready, before the work begins: checked all together, named, and known when they are done."""

import json
import os
import string
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastnst.app.batch.manifest import ManifestError, Row, for_each
from fastnst.errors import ImageError, OptionError
from fastnst.image.files import contents, make_folder, pictures_at
from fastnst.image.metadata import read_parameters, to_json
from fastnst.image.read import open_picture
from fastnst.image.write import check_output_path
from fastnst.loss.targets import style_shares
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.options.options import START_WORDS, Options
from fastnst.options.resolve import resolve_options
from fastnst.plan.machine import room_on
from fastnst.transfer.inputs import Canvas, changed_inputs, sized
from fastnst.transfer.movie import FILMS, SUFFIXES, check_target
from fastnst.video.clip import FILMS as CLIPS
from fastnst.video.clip import open_clip

NAME_PATTERN = "{content}_{style}.png"
_FIELDS = ("content", "style", "number")
# They say where, in which memory, or by which words a run is made; weights and pictures are compared by fingerprint.
_UNCOMPARED = frozenset({"preset", "device", "tile", "max_memory", "max_pixels", "weights", "masks"})


@dataclass(frozen=True)
class Task:
    """One picture to make, checked. `number` counts the rows from 1, `where` is the row's name in messages."""

    number: int
    where: str
    content: str
    styles: tuple[str, ...]
    output: str
    options: Options
    weights_sha256: str

    @property
    def is_clip(self) -> bool:
        """True where a video, or a GIF, is to be made."""
        return is_film(self.content) or Path(self.output).suffix.lower() in (*FILMS, ".gif")

    @property
    def group(self) -> tuple[tuple[str, ...], Options]:
        """Tasks of equal groups share the targets of their styles."""
        return self.styles, self.options


@dataclass(frozen=True)
class Outcome:
    """The end of a task after `seconds`: done, skipped (it was there already), failed or interrupted.

    `error` says why it failed, `traceback` where, if that is a fault of the program's; `facts` are size, iterations and
    loss of the picture; `warnings` are those that came up.
    """

    task: Task
    status: str
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None
    facts: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        task = self.task
        known = {"row": task.number, "where": task.where, "content": task.content, "style": list(task.styles)}
        known |= {"output": task.output, "status": self.status, "seconds": round(self.seconds, 3)}
        optional = {"error": self.error, "traceback": self.traceback, **(self.facts or {})}
        return {**known, **{name: value for name, value in optional.items() if value is not None}}


def pair_rows(contents: Sequence[str], styles: Sequence[str]) -> list[Row]:
    """Each content with each style; a folder stands for the pictures in it, by name, not for those in its folders."""
    pictures = [path for content in contents for path in pictures_at(content, "content")]
    models = [path for style in styles for path in pictures_at(style, "style")]
    return [
        Row(f"{Path(picture).name} × {Path(model).name}", picture, (model,)) for model in models for picture in pictures
    ]


def make_tasks(
    rows: Sequence[Row],
    base: Mapping[str, Any],
    *,
    folder: str | None,
    root: str = "",
    pattern: str = NAME_PATTERN,
    progress: bool = False,
) -> list[Task]:
    """The rows as tasks: options over those of `base`, outputs in `folder` (else, if they have a name, in `root`).

    `pattern` names outputs that have no name, by {content} and {style}, the names of the files without extension, and
    {number}, that of the row. Missing folders below `folder`, and itself, are made. Weights are loaded once; `auto`
    becomes what it means, so that all rows have the same network. Pictures are not looked at.

    Raises ManifestError, which names the first row that is wrong and counts the others, and OptionError for `pattern`.
    """
    _check_pattern(pattern)
    runtime = cache(resolve_runtime)

    @cache
    def weights(source: str, network: str, taps: Any, scaling: Any) -> tuple[str, str]:
        loaded = load_weights(source, network, taps=taps, filter_scaling=scaling, progress=progress)
        return loaded.source, loaded.sha256

    def task(numbered: tuple[int, Row]) -> Task:
        number, row = numbered
        given = {**base, **row.options}
        is_measured = isinstance(given.get("size"), str) and is_film(row.content)
        content = Canvas(*open_clip(row.content).size) if is_measured else row.content
        options = resolve_options(**sized(given, content))
        style_shares(options.style_weights, len(row.styles))
        runtime(options.device, options.precision, options.backend)
        source, sha256 = weights(options.weights, options.network, options.taps, options.filter_scaling)
        if options.weights == "auto":
            options = replace(options, weights=source)
        output = _output(row, number, folder, root=root, pattern=pattern)
        return Task(number, row.where, row.content, row.styles, output, options, weights_sha256=sha256)

    tasks = for_each(enumerate(rows, 1), lambda numbered: numbered[1].where, task)
    _check_collisions(tasks)
    if folder is not None:
        place = Path(os.path.realpath(folder))
        parents = dict.fromkeys(Path(os.path.realpath(task.output)).parent for task in tasks)
        for path in (place, *parents):
            if path.is_relative_to(place):
                make_folder(str(path))
    for_each(tasks, lambda task: task.where, _check_place)
    return tasks


def _check_place(task: Task) -> None:
    if task.is_clip:
        check_target(Path(task.output), None)
    else:
        check_output_path(task.output)


def grouped(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of the same styles and options one after the other, in the order of their first."""
    places: dict[Any, int] = {}
    return sorted(tasks, key=lambda task: places.setdefault(task.group, len(places)))


def with_memory_shares(tasks: Iterable[Task], workers: int) -> list[Task]:
    """The tasks for `workers` that begin together: on a CPU those without `max_memory` get equal parts of what is free.

    Each would plan with all of it else.
    """
    share = room_on(torch.device("cpu"), 0, workers).limit
    if workers == 1 or share is None:
        return list(tasks)

    def shared(task: Task) -> Task:
        options = task.options
        runtime = resolve_runtime(options.device, options.precision, options.backend)
        on_cpu = options.max_memory is None and runtime.device.type == "cpu"
        return replace(task, options=replace(options, max_memory=share)) if on_cpu else task

    return [shared(task) for task in tasks]


def is_done(task: Task, sha256_of: Callable[[str, str], str]) -> bool:
    """Says if the picture that is a task's output is whole, and was made by a run like the task's that came to its end.

    Pictures, weights and options must be the same, but for those that say where and in how much memory the run happens.
    `sha256_of(role, path)` is a picture's `fingerprint`; it is not asked for before all else agrees.
    """
    try:
        record = read_parameters(task.output)
    except ImageError:
        return False
    options, recorded, weights = task.options, record.get("options"), record.get("weights")
    plain = json.loads(to_json(options.as_dict()))  # as it comes back from a file
    # A picture to start from is compared with the others.
    compared = plain.keys() - _UNCOMPARED - ({"init"} if options.init not in START_WORDS else set())
    return (
        record.get("stopped") in (None, "time")
        and isinstance(recorded, dict)
        and all(name in recorded and recorded[name] == plain[name] for name in compared)
        and isinstance(weights, dict)
        and weights.get("sha256") == task.weights_sha256
        and not any(changed_inputs(record, task.content, task.styles, options, sha256_of))
        and _is_whole(task.output)
    )


def _is_whole(path: str) -> bool:
    """True for a picture that can be read to its last row: metadata come before the pixels."""
    try:
        deque(open_picture(path, role="output", max_pixels=sys.maxsize).parts(), maxlen=0)
    except ImageError:
        return False
    return True


def missing_inputs(tasks: Iterable[Task]) -> list[Outcome]:
    """A failure for each task one of whose pictures is no readable file."""

    @cache
    def problem(role: str, path: str) -> str | None:
        try:
            contents(path, f"{role} image {path!r}")
            return None
        except ImageError as error:
            return str(error)

    problems = [(task, [text for picture in _inputs(task) if (text := problem(*picture))]) for task in tasks]
    return [Outcome(task, "failed", error=texts[0]) for task, texts in problems if texts]


def _inputs(task: Task) -> list[tuple[str, str]]:
    init = task.options.init
    starts = [] if init in START_WORDS else [("init", init)]
    masks = [("mask", source) for mask in task.options.masks or () for source in mask.sources]
    return [("content", task.content), *(("style", style) for style in task.styles), *starts, *masks]


def _check_pattern(pattern: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        if set(names) <= set(_FIELDS):
            pattern.format(content="content", style="style", number=1)
            return
    except (ValueError, LookupError) as error:
        raise OptionError(f"the name {pattern!r} cannot be read ({error}); write it like {NAME_PATTERN!r}") from error
    allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
    raise OptionError(f"the name {pattern!r} has an unknown field; you can use {allowed}")


def is_film(path: str) -> bool:
    return Path(path).suffix.lower() in CLIPS


def _output(row: Row, number: int, folder: str | None, *, root: str, pattern: str) -> str:
    if row.output is not None:
        return os.path.join(root if folder is None else folder, row.output)  # noqa: PTH118 - as given, "./a" too
    if folder is None:
        raise ManifestError("the row names no output; write one into it, or give a folder with -o")
    styles = "+".join(Path(style).stem for style in row.styles)
    name = pattern.format(content=Path(row.content).stem, style=styles, number=number)
    if is_film(row.content) and Path(name).suffix.lower() not in SUFFIXES:
        name = str(Path(name).with_suffix(".mp4"))
    return os.path.join(folder, name)  # noqa: PTH118


def _check_collisions(tasks: Sequence[Task]) -> None:
    """Raises ManifestError where two tasks write one file, or one writes what one reads."""
    real = cache(lambda path: os.path.normcase(os.path.realpath(path)))  # on Windows a.png is A.png
    inputs = {real(path): task.where for task in tasks for _, path in _inputs(task)}
    writers: dict[str, Task] = {}

    def check(task: Task) -> None:
        target = real(task.output)
        if target in inputs:
            raise ManifestError(
                f"output {task.output!r} is also an input ({inputs[target]}) and would be "
                "overwritten; give another output"
            )
        if target in writers:
            raise ManifestError(
                f"output {task.output!r} is also the output of {writers[target].where}; give each a name of its own, "
                f"for example with {{number}}"
            )
        writers[target] = task

    for_each(tasks, lambda task: task.where, check)
