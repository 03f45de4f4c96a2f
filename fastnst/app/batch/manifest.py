"""The manifest of a batch: a CSV file, or JSON lines, with one content and its styles in each row."""

import csv
import difflib
import io
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastnst.app.cli.arguments import option_value
from fastnst.errors import FastnstError, OptionError
from fastnst.options.masks import parse_masks
from fastnst.options.options import START_WORDS, Options

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
STYLE_SEPARATOR = "|"

_COLUMNS = ("content", "style", "output")
_OPTIONS = {option.name: option for option in fields(Options)}
_DELIMITERS = ",;\t"
# What these options can be beside paths.
_WORDS = {"init": START_WORDS, "weights": ("auto", "original", "imagenet", "random")}

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_Record = Mapping[str, Any]


class ManifestError(FastnstError):
    """A manifest that cannot be read, or rows that cannot be run."""


@dataclass(frozen=True)
class Row:
    """One picture to make: `content` in the style of `styles`, written to `output`; None leaves its name open.

    `where` is what messages call the row; `options` are those that it was given, before they are normalised.
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
    other, separated by `|` too; an empty one leaves it as it is. JSON
    lines (`.jsonl`, `.ndjson`) have the same as the keys of an object, and a list for several styles.

    Contents, styles, masks, an init picture and a weights file are looked for from the manifest's folder.

    Raises ManifestError: no readable file of UTF-8, an unknown extension or column, a row without content or style, a
    value that cannot be read, no rows. The first row that is wrong is named, the others are counted.
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
    records = _csv_records(text, path.name) if suffix in CSV_SUFFIXES else _json_records(text, path.name)
    if not records:
        raise ManifestError(f"manifest {str(path)!r} has no rows; write one for each picture")
    return for_each(records, lambda record: _row(record[0], record[1](), path.parent))


def for_each(items: Iterable[_Item], function: Callable[[_Item], _Made]) -> list[_Made]:
    """What `function` makes of each item. Raises ManifestError with its first FastnstError, and counts the others."""
    made: list[_Made] = []
    errors: list[FastnstError] = []
    for item in items:
        try:
            made.append(function(item))
        except FastnstError as error:
            errors.append(error)
    if errors:
        others = len(errors) - 1
        more = f" (and {others} more such row{'s' if others > 1 else ''})" if others else ""
        raise ManifestError(f"{errors[0]}{more}") from errors[0]
    return made


def _csv_records(text: str, name: str) -> list[tuple[str, Callable[[], _Record]]]:
    """Where each row is, and how to read it. Raises ManifestError where that cannot be told, or for a bad header."""
    header_line = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ManifestError(f"{name}, line {reader.line_num}: {error}; check the quotes") from error
    if not lines:
        return []
    header = [cell.strip() for cell in lines[0][1]]
    columns = [_column(cell, f"{name}, line {lines[0][0]}") for cell in header]
    for column, cell in zip(columns, header, strict=True):
        if columns.count(column) > 1:
            raise ManifestError(f"{name}: the column {cell!r} is there twice; keep one")
    places = [(f"{name}, line {line}", cells) for line, cells in lines[1:]]
    return [(where, partial(_csv_record, where, columns, cells)) for where, cells in places]


def _csv_record(where: str, columns: list[str], cells: list[str]) -> _Record:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ManifestError(f"{where}: {len(cells)} cells for {len(columns)} columns; put quotes around a comma")
    texts = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    record: dict[str, Any] = {}
    for column, cell in texts.items():
        if column in _COLUMNS:
            record[column] = cell
        else:
            try:
                record[column] = parse_option(column, cell)
            except OptionError as error:
                raise ManifestError(f"{where}: {error}") from error
    if "style" in record:
        record["style"] = [style.strip() for style in record["style"].split(STYLE_SEPARATOR)]
    return record


def _json_records(text: str, name: str) -> list[tuple[str, Callable[[], _Record]]]:
    lines = [(f"{name}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, partial(_json_record, where, line)) for where, line in lines]


def _json_record(where: str, line: str) -> _Record:
    try:
        found = json.loads(line, object_pairs_hook=partial(_object, where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError(f"{where}: no JSON ({reason}); write one object in each line") from error
    if not isinstance(found, dict):
        raise ManifestError(f'{where}: {line.strip()[:40]!r} is no object; write {{"content": …, "style": …}}')
    return {_column(key, where): value for key, value in found.items()}


def _object(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name.replace("-", "_") for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{where}: {name!r} is there twice; keep one")
    return dict(pairs)


def _column(name: str, where: str) -> str:
    """The column, or the option, that is called `name`."""
    column = name.replace("-", "_")
    known = [*_COLUMNS, *_OPTIONS]
    if column not in known:
        near = difflib.get_close_matches(column, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(_COLUMNS)} and the options"
        raise ManifestError(f"{where}: unknown column {name!r}; {hint}")
    return column


def _row(where: str, record: _Record, folder: Path) -> Row:
    content, output, styles = record.get("content"), record.get("output"), record.get("style")
    styles = [styles] if isinstance(styles, str) else styles
    if not isinstance(content, str) or not content:
        raise ManifestError(f"{where}: content is {content!r}; give the path of a picture")
    if not isinstance(styles, list) or not styles or not all(isinstance(style, str) and style for style in styles):
        raise ManifestError(f"{where}: style is {record.get('style')!r}; give the path of a picture, or several")
    if output is not None and (not isinstance(output, str) or not output):
        raise ManifestError(f"{where}: output is {output!r}; give a path, or leave it out")
    for path in (content, *styles, output or ""):
        if "\0" in path:
            raise ManifestError(f"{where}: {path!r} is not a valid path; take the null character out of it")
    options = {name: value for name, value in record.items() if name not in _COLUMNS}
    for name, words in _WORDS.items():
        value = options.get(name, words[0])
        if not isinstance(value, str) or "\0" in value:
            raise ManifestError(f"{where}: {name} is {value!r}; give a word or a path")
        if value not in words and (folder / value).is_file():
            options[name] = str(folder / value)
    if options.get("masks") is not None:
        options["masks"] = _masks(where, options["masks"], folder)
    return Row(where, str(folder / content), tuple(str(folder / style) for style in styles), output, options)


def _masks(where: str, value: Any, folder: Path) -> list[dict[str, Any]]:
    """The masks with their pictures as they are found from the manifest's folder."""
    try:
        masks = parse_masks(value) or ()
    except OptionError as error:
        raise ManifestError(f"{where}: {error}") from error
    for source in (source for mask in masks for source in mask.sources):
        if not isinstance(source, str) or "\0" in source:
            raise ManifestError(f"{where}: a mask is {source!r}; give the path of a picture")
    return [
        {name: None if source is None else str(folder / source) for name, source in mask.as_dict().items()}
        for mask in masks
    ]


def parse_option(name: str, text: str) -> Any:
    """The value of an option as it is written on the command line. Raises OptionError for what it would refuse."""
    if name == "masks":
        return [words for region in text.split(STYLE_SEPARATOR) for words in option_value(name, _words(region))]
    return option_value(name, text.split() if _OPTIONS[name].metadata["many"] else [text])


def _words(region: str) -> list[str]:
    try:
        return shlex.split(region)
    except ValueError as error:
        raise OptionError(f"--mask: {region!r} cannot be read ({error}); close its quotes") from None
