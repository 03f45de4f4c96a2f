"""Manifests: what their rows come to, and how a wrong one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastnst.app.batch.manifest import ManifestError, Row, for_each, read_manifest
from fastnst.app.cli.arguments import read_option
from fastnst.errors import OptionError
from fastnst.options.options import resolve_options


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        "pairs.csv",
        "content,style,output,size,style-weight,style_layers,scales,iterations\n"
        'a.jpg,x.png,one.png,256,7.5,"conv1_1=2 conv2_1",none,\n'
        "\n"
        'b c.jpg, x.png | y.png ,,,,,"64,128",20 10\n',
    )
    lines = written(
        tmp_path,
        "pairs.jsonl",
        '{"content": "a.jpg", "style": "x.png", "output": "one.png", "size": 256, "style-weight": 7.5,'
        ' "style_layers": ["conv1_1=2", "conv2_1"], "scales": "none"}\n\n'
        '{"content": "b c.jpg", "style": ["x.png", "y.png"], "output": null, "scales": [64, 128],'
        ' "iterations": "20,10"}',
    )
    here = str(tmp_path)
    expected = [
        Row(
            "pairs.csv, line 2",
            f"{here}/a.jpg",
            (f"{here}/x.png",),
            "one.png",
            {"size": 256, "style_weight": 7.5, "style_layers": ["conv1_1=2", "conv2_1"], "scales": "none"},
        ),
        Row(
            "pairs.csv, line 4",
            f"{here}/b c.jpg",
            (f"{here}/x.png", f"{here}/y.png"),
            None,
            {"scales": [64, 128], "iterations": [20, 10]},
        ),
    ]
    assert read_manifest(table) == expected
    found = read_manifest(lines)
    assert [row.where for row in found] == ["pairs.jsonl, line 1", "pairs.jsonl, line 3"]
    for row, other in zip(found, expected, strict=True):
        assert (row.content, row.styles, row.output) == (other.content, other.styles, other.output)
        assert resolve_options(**row.options) == resolve_options(**other.options)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_spreadsheets_write_is_read(delimiter: str, tmp_path: Path) -> None:
    rows = [["content", "style", "size"], ["Größe, groß.png", "x.png", "64"], ["", "", ""]]
    text = "\r\n".join(delimiter.join(cells) for cells in rows)
    found = read_manifest(written(tmp_path, "pairs.tsv", "\ufeff".encode() + text.encode()))
    assert [(Path(row.content).name, row.options) for row in found] == [("Größe, groß.png", {"size": 64})]


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").touch()
    (tmp_path / "noise").touch()
    row = {"content": "/abs/a.png", "style": "../x.png", "init": "noise", "weights": "own.safetensors"}
    (found,) = read_manifest(written(tmp_path, "p.ndjson", json.dumps(row)))
    assert found.content == "/abs/a.png"
    assert found.styles == (f"{tmp_path}/../x.png",)
    assert found.options == {"init": "noise", "weights": f"{tmp_path}/own.safetensors"}


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "extension": ("pairs.txt", "", r"'.*pairs\.txt' has an unknown extension; use one of: \.csv, .*\.ndjson"),
    "empty": ("pairs.csv", "", "has no rows"),
    "header alone": ("pairs.csv", "content,style\n", "has no rows"),
    "no JSON lines": ("pairs.jsonl", "\n\n", "has no rows"),
    "Latin-1": ("pairs.csv", "content,style\nä,b\n".encode("latin-1"), r"is not UTF-8 .*; save it as UTF-8"),
    "unknown column": (
        "pairs.csv",
        "content,style,szie\na,b,1\n",
        "line 1: unknown column 'szie'; did you mean 'size'",
    ),
    "far from any": ("pairs.csv", "content,style,qqq\na,b,1\n", "unknown column 'qqq'; use content, style, output and"),
    "column twice": ("pairs.csv", "content,style,style\na,b,c\n", "line 1: 'style' is there twice"),
    "option twice": ("pairs.csv", "content,style,tv-weight,tv_weight\na,b,1,2\n", "'tv_weight' is there twice"),
    "no content": ("pairs.csv", "content,style\n,b\n", "line 2: content is None; give the path of a picture"),
    "no style": ("pairs.csv", "content,style\na,\n", "line 2: style is None"),
    "empty style": ("pairs.csv", "content,style\na,b|\n", "line 2: style is .*give the path of a picture, or several"),
    "too many cells": ("pairs.csv", "content,style\na,b,c\n", "line 2: 3 cells for 2 columns; put quotes"),
    "open quote": ("pairs.csv", 'content,style\n"a,b\n', "line 2: .*; check the quotes"),
    "no number": ("pairs.csv", "content,style,size\na,b,big\n", "line 2: size: 'big' is not a whole number"),
    "no JSON": ("pairs.jsonl", '{"content": "a"', r"line 1: no JSON \(.*\); write one object in each line"),
    "no object": ("pairs.jsonl", '["a", "b"]', r"line 1: '\[\"a\", \"b\"\]' is no object"),
    "key twice": ("pairs.jsonl", '{"content": "a", "content": "b", "style": "x"}', "'content' is there twice"),
    "content is a list": ("pairs.jsonl", '{"content": ["a"], "style": "x"}', r"content is \['a'\]"),
    "style is a number": ("pairs.jsonl", '{"content": "a", "style": 3}', "style is 3"),
    "no styles": ("pairs.jsonl", '{"content": "a", "style": []}', r"style is \[\]"),
    "output is a number": ("pairs.jsonl", '{"content": "a", "style": "x", "output": 1}', "output is 1"),
    "init is a list": ("pairs.jsonl", '{"content": "a", "style": "x", "init": [1]}', r"init is \[1\]"),
    "too deep": ("pairs.jsonl", "[" * 100_000, "line 1: no JSON"),
    "several": ("pairs.csv", "content,style\na,\nb,x\n,y\n,z\n", r"line 2: style is None.*\(and 2 more such rows\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_manifest_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, text, message = REFUSED[case]
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(written(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        folder = path.with_suffix(".csv")
        with pytest.raises(ManifestError, match="cannot be read"):
            read_manifest(folder)
        folder.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "64", 64),
        ("tv_weight", "-1", -1.0),
        ("scales", "3", 3),
        ("scales", "64 128", [64, 128]),
        ("scales", "64, 128", [64, 128]),
        ("style_layers", "conv1_1,conv2_1=0.5", ["conv1_1", "conv2_1=0.5"]),
        ("style_weights", "1 2.5", [1.0, 2.5]),
        ("init", "a picture.png", "a picture.png"),
        ("weights", "-odd-.pth", "-odd-.pth"),
    ],
)
def test_a_cell_is_what_the_command_line_takes(name: str, text: str, value: Any) -> None:
    assert read_option(name, text) == value


def test_a_cell_cannot_smuggle_in_another_option() -> None:
    with pytest.raises(OptionError, match="'--size' is not a scale"):
        read_option("scales", "64 --size 12")


def test_a_mask_with_an_open_quote_is_refused() -> None:
    with pytest.raises(OptionError, match=r"No closing quotation.*close its quotes"):
        read_option("masks", "content='a b.png")


def test_every_error_is_counted() -> None:
    def halved(number: int) -> int:
        if number % 2:
            raise OptionError(f"{number} is odd")
        return number // 2

    assert for_each([2, 4], str, halved) == [1, 2]
    with pytest.raises(ManifestError, match=r"^3: 3 is odd \(and 1 more such row\)$"):
        for_each([2, 3, 5], str, halved)
    with pytest.raises(ManifestError, match=r"^3: 3 is odd$"):
        for_each([2, 3], str, halved)
