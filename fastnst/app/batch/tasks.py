"""The rows of a batch made ready, before the work begins: checked all together, named, and known when they are done."""

import json
import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastnst.app.batch.manifest import ManifestError, Row, for_each
from fastnst.errors import ImageError, OptionError
from fastnst.image.files import contents, make_folder, pictures_at
from fastnst.image.metadata import read_parameters, to_json
from fastnst.image.write import check_output_path
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.options.masks import mask_hashes
from fastnst.options.options import START_WORDS, Options, resolve_options
from fastnst.plan.machine import USABLE, free_bytes, held_bytes

NAME_PATTERN = "{content}_{style}.png"
_FIELDS = ("content", "style", "number")
# They say where, in which memory, or by which words a run is made; weights, init and masks are compared by themselves.
_UNCOMPARED = frozenset({"preset", "device", "tile", "max_memory", "max_pixels", "weights", "init", "masks"})


@dataclass(frozen=True)
class Task:
    """One picture to make, checked.

    `number` counts the rows from 1, `where` is the row's name in messages, `given` are the options to make a
    `Stylizer` with, `options` the same resolved. `weights_sha256` is the fingerprint of the network's weights.
    """

    number: int
    where: str
    content: str
    styles: tuple[str, ...]
    output: str
    given: Mapping[str, Any]
    options: Options
    weights_sha256: str

    @property
    def group(self) -> tuple[tuple[str, ...], Options]:
        """Tasks of equal groups share the targets of their styles."""
        return self.styles, self.options


@dataclass(frozen=True)
class Outcome:
    """The end of a task.

    `status` is done, skipped (it was there already), failed or interrupted; `error` says why it failed, `traceback`
    where, if that is a fault of the program's. `seconds` is the time it took; `facts` are size, iterations and loss of
    the picture; `warnings` are those that came up.
    """

    task: Task
    status: str
    seconds: float
    error: str | None = None
    traceback: str | None = None
    facts: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As one line of JSON holds it."""
        task = self.task
        known = {
            "row": task.number,
            "where": task.where,
            "content": task.content,
            "style": list(task.styles),
            "output": task.output,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        optional = {"error": self.error, "traceback": self.traceback, **(self.facts or {})}
        return {**known, **{name: value for name, value in optional.items() if value is not None}}


def pair_rows(contents: Sequence[str], styles: Sequence[str]) -> list[Row]:
    """Each content with each style; a folder stands for the pictures in it, by name, not for those in its folders.

    Raises ImageError for a folder without pictures, or one that cannot be read.
    """
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
    {number}, that of the row. Missing folders below `folder`, and itself, are made. Weights are loaded once, which
    fetches them where that is needed; `auto` becomes what it means, so that all rows have the same network.

    Raises ManifestError, with the first row that is wrong and the number of others: options that are unknown or out of
    range, or that this machine lacks, weights that are not to be had, outputs that cannot be written, that two rows
    would write, or that are inputs. OptionError: a pattern that will not do. Pictures are not looked at.
    """
    _check_pattern(pattern)
    runtime = cache(_runtime)

    @cache
    def weights(source: str, network: str, taps: Any, scaling: Any) -> tuple[str, str]:
        loaded = load_weights(source, network, taps=taps, filter_scaling=scaling, progress=progress)
        return loaded.source, loaded.sha256

    def task(numbered: tuple[int, Row]) -> Task:
        number, row = numbered
        given = {**base, **row.options}
        options = resolve_options(**given)
        count = len(options.style_weights or row.styles)
        if count != len(row.styles):
            raise OptionError(f"{count} style weights for {len(row.styles)} style images; give one for each image")
        runtime(options)
        source, sha256 = weights(options.weights, options.network, options.taps, options.filter_scaling)
        if options.weights == "auto":
            given["weights"] = source
            options = replace(options, weights=source)
        return Task(
            number=number,
            where=row.where,
            content=row.content,
            styles=row.styles,
            output=_output(row, number, folder, root=root, pattern=pattern),
            given=given,
            options=options,
            weights_sha256=sha256,
        )

    tasks = for_each(enumerate(rows, 1), lambda numbered: numbered[1].where, task)
    _check_collisions(tasks)
    if folder is not None:
        _make_folders(folder, tasks)
    for_each(tasks, lambda task: task.where, lambda task: check_output_path(task.output))
    return tasks


def grouped(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of the same styles and options one after the other, in the order of their first."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.group, []).append(task)
    return [task for group in groups.values() for task in group]


def with_memory_shares(tasks: Iterable[Task], workers: int) -> list[Task]:
    """The tasks for `workers` that begin together: on a CPU those without `max_memory` get equal parts of what is free.

    Each would plan with all of it else.
    """
    free = free_bytes(torch.device("cpu"))
    if workers == 1 or free is None:
        return list(tasks)
    share = held_bytes(torch.device("cpu")) + int(USABLE * free / workers)
    runtime = cache(_runtime)

    def shared(task: Task) -> Task:
        if task.options.max_memory is not None or runtime(task.options).device.type != "cpu":
            return task
        given = {**task.given, "max_memory": share}
        return replace(task, given=given, options=replace(task.options, max_memory=share))

    return [shared(task) for task in tasks]


def is_done(task: Task, sha256_of: Callable[[str, str], str]) -> bool:
    """Says if the task's output was made by a run like the task's that came to its end.

    Content, styles, weights and options must be the same, but for those that say where and in how much memory the run
    happens. `sha256_of(path, role)` is a picture's fingerprint as it is recorded; it is not asked for before all else
    agrees. An init picture has none: it must be the file that is recorded, and no newer than the output. An output
    whose parameters are absent or cannot be read is not done.

    Raises ImageError where a picture cannot be read.
    """
    if not Path(task.output).is_file():
        return False
    try:
        record = read_parameters(task.output)
    except ImageError:
        return False
    return (
        record.get("stopped") in (None, "time")
        and _options_agree(task.options, record.get("options"))
        and _init_agrees(task, record)
        and _part(record, "weights").get("sha256") == task.weights_sha256
        and _part(record, "content").get("sha256") == sha256_of(task.content, "content")
        and _styles(record) == [sha256_of(style, "style") for style in task.styles]
        and mask_hashes(record.get("masks")) == _mask_hashes(task, sha256_of)
    )


def missing_inputs(tasks: Iterable[Task]) -> list[Outcome]:
    """A failure for each task one of whose pictures is no readable file."""
    problem = cache(_problem)
    missing = []
    for task in tasks:
        errors = [error for role, path in _inputs(task) if (error := problem(role, path)) is not None]
        if errors:
            missing.append(Outcome(task, "failed", 0.0, errors[0]))
    return missing


def _inputs(task: Task) -> list[tuple[str, str]]:
    """The roles of the task's pictures, and their paths."""
    init = task.options.init
    starts = [] if init in START_WORDS else [("init", init)]
    masks = [("mask", source) for mask in task.options.masks or () for source in mask.sources]
    return [("content", task.content), *(("style", style) for style in task.styles), *starts, *masks]


def _problem(role: str, path: str) -> str | None:
    try:
        contents(path, f"{role} image {path!r}")
        return None
    except ImageError as error:
        return str(error)


def _check_pattern(pattern: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        if set(names) <= set(_FIELDS):
            pattern.format(content="content", style="style", number=1)
            return
    except (ValueError, LookupError) as error:
        raise OptionError(f"the name {pattern!r} cannot be read ({error}); write it like {NAME_PATTERN!r}") from error
    allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
    raise OptionError(f"the name {pattern!r} has an unknown field; those are {allowed}")


def _output(row: Row, number: int, folder: str | None, *, root: str, pattern: str) -> str:
    if row.output is not None:
        return os.path.join(root if folder is None else folder, row.output)  # noqa: PTH118 - as given, "./a" too
    if folder is None:
        raise ManifestError("no output; write one into the row, or give a folder with -o")
    styles = "+".join(Path(style).stem for style in row.styles)
    return os.path.join(folder, pattern.format(content=Path(row.content).stem, style=styles, number=number))  # noqa: PTH118


def _check_collisions(tasks: Sequence[Task]) -> None:
    """Raises ManifestError where two tasks write one file, or one writes what one reads."""
    real = cache(os.path.realpath)
    inputs = {real(path): task.where for task in tasks for _, path in _inputs(task)}
    writers: dict[str, Task] = {}

    def check(task: Task) -> None:
        target = real(task.output)
        if target in inputs:
            raise ManifestError(f"output {task.output!r} is also an input ({inputs[target]}) and would be overwritten")
        if target in writers:
            raise ManifestError(
                f"output {task.output!r} is also that of {writers[target].where}; name them apart, as by {{number}}"
            )
        writers[target] = task

    for_each(tasks, lambda task: task.where, check)


def _make_folders(folder: str, tasks: Sequence[Task]) -> None:
    root = os.path.realpath(folder)
    parents = dict.fromkeys(os.path.dirname(os.path.realpath(task.output)) for task in tasks)  # noqa: PTH120
    below = [parent for parent in parents if Path(parent).is_relative_to(root)]
    for path in (root, *below):
        make_folder(path)


def _options_agree(options: Options, record: object) -> bool:
    if not isinstance(record, dict):
        return False
    names = [option.name for option in fields(Options) if option.name not in _UNCOMPARED]
    return all(name in record and _plain(name, record[name]) == _plain(name, getattr(options, name)) for name in names)


def _plain(name: str, value: Any) -> Any:
    """`value` as it comes back from a file."""
    return json.loads(to_json(dict(value) if name.endswith("_layers") and isinstance(value, tuple) else value))


def _init_agrees(task: Task, record: dict[str, Any]) -> bool:
    init = task.options.init
    made_from = _part(record, "options").get("init")
    if init in START_WORDS:
        return bool(made_from == init)
    try:
        if not isinstance(made_from, str) or not Path(made_from).samefile(init):
            return False
        return Path(init).stat().st_mtime <= Path(task.output).stat().st_mtime
    except (OSError, ValueError):
        return False


def _mask_hashes(task: Task, sha256_of: Callable[[str, str], str]) -> list[dict[str, str | None]]:
    return [
        {name: None if source is None else sha256_of(source, "mask") for name, source in mask.as_dict().items()}
        for mask in task.options.masks or ()
    ]


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _styles(record: dict[str, Any]) -> list[Any]:
    styles = record.get("styles")
    return [style.get("sha256") for style in styles if isinstance(style, dict)] if isinstance(styles, list) else []


def _runtime(options: Options) -> Runtime:
    return resolve_runtime(options.device, options.precision, options.backend)
