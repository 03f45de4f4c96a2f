"""The manifest of a batch: a CSV file, or JSON lines, with one content and its styles in each row."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastnst.app.cli.arguments import OPTIONS, SEPARATOR, read_option
from fastnst.errors import FastnstError, counted
from fastnst.options.masks import parse_masks
from fastnst.options.options import START_WORDS
from fastnst.options.parse import hint_for

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")

_COLUMNS = ("content", "style", "output")
# The words that these options take beside paths.
_WORDS = {"init": START_WORDS, "weights": ("auto", "original", "imagenet", "random")}

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_Record = dict[str, Any]
_Lines = list[tuple[int, Callable[[], _Record]]]


class ManifestError(FastnstError):
    """A manifest that cannot be read, or rows that cannot be run."""


@dataclass(frozen=True)
class Row:
    """One picture to make: `content` in the style of `styles`, written to `output`; None leaves its name open.

    `where` is the row's name in messages; `options` are those that it was given, before they are normalised.
    """

    where: str
    content: str
    styles: tuple[str, ...]
    output: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def read_manifest(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a manifest, in its order.

    A CSV file (`.csv`, `.tsv`; comma, semicolon or tab) has a header with the columns `content`, `style`, perhaps
    `output`, and any option by its name (`style_weight` or `style-weight`). Several styles are separated by `|`. The
    cell of an option holds what one would write after it on the command line, and that of `masks` one region after the
    other, separated by `|` too; an empty one leaves it as it is. JSON lines (`.jsonl`, `.ndjson`) have the same as the
    keys of an object, and a list for several styles.

    Contents, styles, masks, an init picture and a weights file are looked for from the manifest's folder. Raises
    ManifestError; the first row that is wrong is named, the others are counted.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in CSV_SUFFIXES + JSON_SUFFIXES:
        allowed = ", ".join(CSV_SUFFIXES + JSON_SUFFIXES)
        raise ManifestError(f"manifest {str(path)!r} has an unknown extension; use one of: {allowed}")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin with a byte order mark
    except OSError as error:
        raise ManifestError(f"manifest {str(path)!r} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest {str(path)!r} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    if suffix in CSV_SUFFIXES:
        lines = _csv_lines(text, path.name)
    else:
        numbered = enumerate(text.split("\n"), 1)
        lines = [(number, partial(_json_record, line)) for number, line in numbered if line.strip()]
    if not lines:
        raise ManifestError(f"manifest {str(path)!r} has no rows; write one for each picture")
    rows = [(f"{path.name}, line {number}", read) for number, read in lines]
    return for_each(rows, lambda row: row[0], lambda row: _row(row[0], row[1](), path.parent))


def for_each(items: Iterable[_Item], name: Callable[[_Item], str], make: Callable[[_Item], _Made]) -> list[_Made]:
    """The results of `make` for each item.

    Raises ManifestError with its first FastnstError, after the item's `name`, and counts the others.
    """
    made: list[_Made] = []
    errors: list[str] = []
    for item in items:
        try:
            made.append(make(item))
        except FastnstError as error:
            errors.append(f"{name(item)}: {error}")
    if errors:
        others = len(errors) - 1
        more = f" (and {counted(others, 'more such row')})" if others else ""
        raise ManifestError(f"{errors[0]}{more}")
    return made


def _csv_lines(text: str, name: str) -> _Lines:
    header_line = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ManifestError(f"{name}, line {reader.line_num}: {error}; check the quotes") from error
    if not lines:
        return []
    (first, header), *rest = lines
    while not header[-1].strip():  # a spreadsheet's column without anything
        header.pop()
    (columns,) = for_each(
        [header], lambda _: f"{name}, line {first}", lambda cells: _named([(cell.strip(), None) for cell in cells])
    )
    return [(number, partial(_csv_record, list(columns), cells)) for number, cells in rest]


def _csv_record(columns: list[str], cells: list[str]) -> _Record:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ManifestError(f"the row has {len(cells)} cells for {len(columns)} columns; quote commas")
    texts = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    record: _Record = {name: read_option(name, text) if name in OPTIONS else text for name, text in texts.items()}
    if "style" in record:
        record["style"] = [style.strip() for style in record["style"].split(SEPARATOR)]
    return record


def _json_record(line: str) -> _Record:
    try:
        entries = json.loads(line, object_pairs_hook=_once)
    except ManifestError:
        raise
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError(f"this is not JSON ({reason}); write one object in each line") from error
    if not isinstance(entries, dict):
        raise ManifestError(f'{line.strip()[:40]!r} is not an object; write {{"content": …, "style": …}}')
    return _named(list(entries.items()))


def _once(pairs: list[tuple[str, Any]]) -> _Record:
    """The pairs as a mapping, names with underscores. Raises ManifestError where a name is there twice."""
    record: _Record = {}
    for name, value in pairs:
        if (plain := name.replace("-", "_")) in record:
            raise ManifestError(f"{plain!r} is given twice; keep one of them")
        record[plain] = value
    return record


def _named(pairs: list[tuple[str, Any]]) -> _Record:
    """The pairs as `_once` has them. Raises ManifestError for a name that is neither a column nor an option."""
    record = _once(pairs)
    for name in record:
        if name not in _COLUMNS and name not in OPTIONS:
            hint = hint_for(name, [*_COLUMNS, *OPTIONS], f"use {', '.join(_COLUMNS)} and the options")
            raise ManifestError(f"unknown column {name!r}; {hint}")
    return record


def _row(where: str, record: _Record, folder: Path) -> Row:
    styles = record.get("style")
    content = _path("content", record.get("content"))
    paths = [_path("style", style) for style in (styles if isinstance(styles, list) and styles else [styles])]
    output = None if record.get("output") is None else _path("output", record["output"])
    options = {name: value for name, value in record.items() if name in OPTIONS}
    for name, words in _WORDS.items():
        value = _path(name, options.get(name, words[0]))
        if value not in words and os.path.isfile(folder / value):  # noqa: PTH113 - a long text would raise
            options[name] = str(folder / value)
    if options.get("masks") is not None:
        masks = parse_masks(options["masks"]) or ()
        options["masks"] = [mask.mapped(lambda source: str(folder / _path("a mask", source))) for mask in masks]
    return Row(where, str(folder / content), tuple(str(folder / path) for path in paths), output, options)


def _path(role: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{role} is {value!r}; give the path of a file")
    if "\0" in value:
        raise ManifestError(f"{value!r} is not a valid path; take the null character out of it")
    return value
