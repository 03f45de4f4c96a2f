"""The rows of a batch made ready: what can be checked before the work is checked here, for all of them."""

import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastnst.app.batch.batch_task import Outcome, Task
from fastnst.app.batch.manifest import ManifestError, Row, for_each
from fastnst.errors import FastnstError, ImageError, OptionError
from fastnst.image.files import contents, pictures_at
from fastnst.image.write import check_output_path
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.options.options import START_WORDS, Options, resolve_options
from fastnst.plan.machine import USABLE, free_bytes, held_bytes

NAME_PATTERN = "{content}_{style}.png"
_FIELDS = ("content", "style", "number")


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
    weights = cache(
        lambda spec, network, taps, scaling: _facts(
            load_weights(spec, network, taps=taps, filter_scaling=scaling, progress=progress)
        )
    )
    runtime = cache(resolve_runtime)

    def task(numbered: tuple[int, Row]) -> Task:
        number, row = numbered
        given = {**base, **row.options}
        try:
            options = resolve_options(**given)
            _check_counts(options, row.styles)
            runtime(options)
            source, sha256 = weights(options.weights, options.network, options.taps, options.filter_scaling)
            if options.weights == "auto":
                given["weights"] = source
                options = replace(options, weights=source)
            output = _output(row, number, folder, root, pattern)
        except FastnstError as error:
            raise ManifestError(f"{row.where}: {error}") from error
        return Task(number, row.where, row.content, row.styles, output, given, options, sha256)

    tasks = for_each(enumerate(rows, 1), task)
    _check_collisions(tasks)
    if folder is not None:
        _make_folders(folder, tasks)
    for_each(tasks, _located(lambda task: check_output_path(task.output)))
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
    runtime = cache(resolve_runtime)

    def shared(task: Task) -> Task:
        if task.options.max_memory is not None or runtime(task.options).device.type != "cpu":
            return task
        given = {**task.given, "max_memory": share}
        return replace(task, given=given, options=replace(task.options, max_memory=share))

    return [shared(task) for task in tasks]


def missing_inputs(tasks: Iterable[Task]) -> list[Outcome]:
    """A failure for each task one of whose pictures is no readable file."""
    problem = cache(_problem)
    found = []
    for task in tasks:
        errors = [error for role, path in _inputs(task) if (error := problem(role, path)) is not None]
        if errors:
            found.append(Outcome(task, "failed", 0.0, errors[0]))
    return found


def _inputs(task: Task) -> list[tuple[str, str]]:
    """What the task's pictures are for, and where they are."""
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


def _facts(weights: Weights) -> tuple[str, str]:
    return weights.source, weights.sha256


def _located(function: Callable[[Task], None]) -> Callable[[Task], None]:
    """`function`, its errors with the row that they are about."""

    def located(task: Task) -> None:
        try:
            function(task)
        except FastnstError as error:
            raise ManifestError(f"{task.where}: {error}") from error

    return located


def _check_counts(options: Options, styles: Sequence[str]) -> None:
    weights = options.style_weights
    if weights is not None and len(weights) != len(styles):
        raise OptionError(f"{len(weights)} style weights for {len(styles)} style images; give one for each image")


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


def _output(row: Row, number: int, folder: str | None, root: str, pattern: str) -> str:
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

    for_each(tasks, _located(check))


def _make_folders(folder: str, tasks: Sequence[Task]) -> None:
    root = os.path.realpath(folder)
    parents = dict.fromkeys(os.path.dirname(os.path.realpath(task.output)) for task in tasks)  # noqa: PTH120
    below = [parent for parent in parents if Path(parent).is_relative_to(root)]
    try:
        for path in (root, *below):
            Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"the output folder {error.filename!r} cannot be made ({error.strerror}); choose another"
        ) from error
