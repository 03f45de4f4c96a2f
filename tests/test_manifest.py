"""Manifests: what their rows come to, and how a wrong one is refused."""

import json
from pathlib import Path

import pytest
from fuzzing import soon

from fastnst.app.batch.manifest import ManifestError, read_manifest
from fastnst.app.cli.arguments import read_option
from fastnst.errors import OptionError
from fastnst.options.resolve import resolve_options


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


CSV = """content,style,output,size,style-weight,style_layers,scales,iterations
a.jpg,x.png,one.png,256,7.5,"conv1_1=2 conv2_1",none,

b c.jpg, x.png | y.png ,,,,,"64,128",20 10
"""
LINES = """{"content": "a.jpg", "style": "x.png", "output": "one.png", "size": 256, "style-weight": 7.5,\
 "style_layers": ["conv1_1=2", "conv2_1"], "scales": "none"}

{"content": "b c.jpg", "style": ["x.png", "y.png"], "output": null, "scales": [64, 128], "iterations": "20,10"}
"""


def test_a_row_of_many_names_is_refused_soon(tmp_path: Path) -> None:
    row = json.dumps({f"name{number}": 1 for number in range(200_000)})
    with soon(), pytest.raises(ManifestError, match="unknown column 'name0'"):
        read_manifest(written(tmp_path, "a.jsonl", row))


@pytest.mark.parametrize(("name", "text", "lines"), [("a.csv", CSV, (2, 4)), ("a.jsonl", LINES, (1, 3))])
def test_csv_and_json_lines_say_the_same(name: str, text: str, lines: tuple[int, int], tmp_path: Path) -> None:
    first, second = read_manifest(written(tmp_path, name, text.replace("\\\n", "")))
    assert (first.where, second.where) == tuple(f"{name}, line {line}" for line in lines)
    assert [Path(path) for path in (first.content, *first.styles)] == [tmp_path / "a.jpg", tmp_path / "x.png"]
    assert (first.output, Path(second.content), second.output) == ("one.png", tmp_path / "b c.jpg", None)
    assert [Path(style) for style in second.styles] == [tmp_path / "x.png", tmp_path / "y.png"]
    layers = ["conv1_1=2", "conv2_1"]
    meant = resolve_options(size=256, style_weight=7.5, style_layers=layers, scales=None)
    assert resolve_options(**first.options) == meant
    assert resolve_options(**second.options, size=128) == resolve_options(
        size=128, scales=[64, 128], iterations=[20, 10]
    )


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_spreadsheets_write_is_read(delimiter: str, tmp_path: Path) -> None:
    rows = [["content", "style", "size"], ["Größe, groß.png", "x.png", "64"], ["", "", ""]]
    # Columns without anything, as a sheet has that was wider once.
    text = "\r\n".join(delimiter.join([*cells, "", ""]) for cells in rows)
    (row,) = read_manifest(written(tmp_path, "pairs.tsv", "\ufeff".encode() + text.encode()))
    assert (Path(row.content).name, row.options) == ("Größe, groß.png", {"size": 64})


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").touch()
    (tmp_path / "noise").touch()
    row = {"content": "/abs/a.png", "style": "../x.png", "init": "noise", "weights": "own.safetensors"}
    (found,) = read_manifest(written(tmp_path, "p.ndjson", json.dumps(row)))
    assert Path(found.content).parts[1:] == ("abs", "a.png")
    assert [Path(style) for style in found.styles] == [tmp_path / "../x.png"]
    assert (found.options["init"], Path(found.options["weights"])) == ("noise", tmp_path / "own.safetensors")
    (found,) = read_manifest(written(tmp_path, "p.ndjson", json.dumps({**row, "init": "a" * 300})))
    assert found.options["init"] == "a" * 300


# The table of bad input has what is not here.
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON lines": ("pairs.jsonl", "\n\n", "has no rows"),
    "far from any": ("pairs.csv", "content,style,qqq\na,b,1\n", "unknown column 'qqq'; use content, style, output and"),
    "column twice": ("pairs.csv", "content,style,style\na,b,c\n", "line 1: 'style' is given twice"),
    "option twice": ("pairs.csv", "content,style,tv-weight,tv_weight\na,b,1,2\n", "'tv_weight' is given twice"),
    "no content": ("pairs.csv", "content,style\n,b\n", "line 2: content is None; give the path of a file"),
    "empty style": ("pairs.csv", "content,style\na,b|\n", "line 2: style is ''; give the path of a file"),
    "too many cells": ("pairs.csv", "content,style\na,b,c\n", "line 2: the row has 3 cells for 2 columns; quote"),
    "no object": ("pairs.jsonl", '["a", "b"]', r"line 1: '\[\"a\", \"b\"\]' is not an object"),
    "key twice": ("pairs.jsonl", '{"content": "a", "content": "b", "style": "x"}', "1: 'content' is given twice"),
    "content is a list": ("pairs.jsonl", '{"content": ["a"], "style": "x"}', r"content is \['a'\]"),
    "style is a number": ("pairs.jsonl", '{"content": "a", "style": 3}', "style is 3"),
    "no styles": ("pairs.jsonl", '{"content": "a", "style": []}', r"style is \[\]"),
    "output is a number": ("pairs.jsonl", '{"content": "a", "style": "x", "output": 1}', "output is 1"),
    "init is a list": ("pairs.jsonl", '{"content": "a", "style": "x", "init": [1]}', r"init is \[1\]"),
    "too deep": ("pairs.jsonl", "[" * 100_000, "line 1: this is not JSON"),
    "several": ("pairs.csv", "content,style\na,\nb,x\n,y\n,z\n", r"line 2: style is None.*\(and 2 more such rows\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_manifest_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, text, message = REFUSED[case]
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(written(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_a_cell_is_what_the_command_line_takes() -> None:
    for name, text, value in (("size", "64", 64), ("tv_weight", "-1", -1.0), ("scales", "64, 128", "64, 128")):
        assert read_option(name, text) == value
    with pytest.raises(OptionError, match="scales '64 --size 12' is not possible; give auto"):
        resolve_options(scales=read_option("scales", "64 --size 12"))
