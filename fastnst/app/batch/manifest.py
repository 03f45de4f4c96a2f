"""The manifest of a batch: a CSV file, or JSON lines, with one content and its styles in each row."""

import csv
import difflib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastnst.app.cli.arguments import OPTIONS, SEPARATOR, file_value, read_option
from fastnst.errors import FastnstError
from fastnst.options.masks import parse_masks
from fastnst.options.options import START_WORDS

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")

_COLUMNS = ("content", "style", "output")
_DELIMITERS = ",;\t"
# The words that these options take beside paths.
_WORDS = {"init": START_WORDS, "weights": ("auto", "original", "imagenet", "random")}

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_Record = dict[str, Any]


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
    read: Callable[[Any], _Record]
    lines: Sequence[tuple[int, Any]]
    if suffix in CSV_SUFFIXES:
        read, lines = _csv_lines(text, path.name)
    else:
        read, lines = _json_record, [line for line in enumerate(text.split("\n"), 1) if line[1].strip()]
    if not lines:
        raise ManifestError(f"manifest {str(path)!r} has no rows; write one for each picture")

    def where(line: tuple[int, Any]) -> str:
        return f"{path.name}, line {line[0]}"

    return for_each(lines, where, lambda line: _row(where(line), read(line[1]), path.parent))


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
        more = f" (and {others} more such row{'s' if others > 1 else ''})" if others else ""
        raise ManifestError(f"{errors[0]}{more}")
    return made


def _csv_lines(text: str, name: str) -> tuple[Callable[[list[str]], _Record], list[tuple[int, list[str]]]]:
    """The reader of a line's cells, and the lines by their numbers. Raises ManifestError for a bad header or quote."""
    header_line = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=header_line.count), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ManifestError(f"{name}, line {reader.line_num}: {error}; check the quotes") from error
    if not lines:
        return partial(_csv_record, []), []
    (first, header), *rest = lines
    try:
        columns = [column for column, _ in _named((cell.strip(), None) for cell in header)]
    except ManifestError as error:
        raise ManifestError(f"{name}, line {first}: {error}") from None
    return partial(_csv_record, columns), rest


def _csv_record(columns: list[str], cells: list[str]) -> _Record:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ManifestError(f"{len(cells)} cells for {len(columns)} columns; put quotes around a comma")
    texts = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    record: _Record = {name: read_option(name, text) if name in OPTIONS else text for name, text in texts.items()}
    if "style" in record:
        record["style"] = [style.strip() for style in record["style"].split(SEPARATOR)]
    return record


def _json_record(line: str) -> _Record:
    try:
        entries = json.loads(line, object_pairs_hook=_object)
    except ManifestError:
        raise
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError(f"no JSON ({reason}); write one object in each line") from error
    if not isinstance(entries, dict):
        raise ManifestError(f'{line.strip()[:40]!r} is no object; write {{"content": …, "style": …}}')
    return {name: file_value(name, value) if name in OPTIONS else value for name, value in _named(entries.items())}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name.replace("-", "_") for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{name!r} is there twice; keep one")
    return dict(pairs)


def _named(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The pairs with the columns, or the options, that their names mean."""
    known = [*_COLUMNS, *OPTIONS]
    named = []
    for name, value in _object(list(pairs)).items():
        column = name.replace("-", "_")
        if column not in known:
            near = difflib.get_close_matches(column, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(_COLUMNS)} and the options"
            raise ManifestError(f"unknown column {name!r}; {hint}")
        named.append((column, value))
    return named


def _row(where: str, record: _Record, folder: Path) -> Row:
    content, output, styles = record.get("content"), record.get("output"), record.get("style")
    styles = [styles] if isinstance(styles, str) else styles
    if not isinstance(content, str) or not content:
        raise ManifestError(f"content is {content!r}; give the path of a picture")
    if not isinstance(styles, list) or not styles or not all(isinstance(style, str) and style for style in styles):
        raise ManifestError(f"style is {record.get('style')!r}; give the path of a picture, or several")
    if output is not None and (not isinstance(output, str) or not output):
        raise ManifestError(f"output is {output!r}; give a path, or leave it out")
    for path in (content, *styles, output or ""):
        if "\0" in path:
            raise ManifestError(f"{path!r} is not a valid path; take the null character out of it")
    options = {name: value for name, value in record.items() if name in OPTIONS}
    for name, words in _WORDS.items():
        value = options.get(name, words[0])
        if not isinstance(value, str) or "\0" in value:
            raise ManifestError(f"{name} is {value!r}; give a word or a path")
        if value not in words and (folder / value).is_file():
            options[name] = str(folder / value)
    if options.get("masks") is not None:
        options["masks"] = _masks(options["masks"], folder)
    return Row(where, str(folder / content), tuple(str(folder / style) for style in styles), output, options)


def _masks(value: Any, folder: Path) -> list[dict[str, Any]]:
    """The masks with their pictures as they are found from the manifest's folder."""
    masks = parse_masks(value) or ()
    for source in (source for mask in masks for source in mask.sources):
        if not isinstance(source, str) or "\0" in source:
            raise ManifestError(f"a mask is {source!r}; give the path of a picture")
    return [
        {name: None if source is None else str(folder / source) for name, source in mask.as_dict().items()}
        for mask in masks
    ]
