"""Options from a TOML file: what it may hold, what goes before it, and how it is refused."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastnst.app.cli import build_parser
from fastnst.app.cli.arguments import read_config
from fastnst.app.cli.stylize import make_job
from fastnst.errors import OptionError
from fastnst.options.resolve import resolve_options

WHOLE = """
size = 768
scales = [384, 768]
iterations = [50, 20]
optimizer = "adam"
learning-rate = 0.05
style_weight = 200
style-weights = "1, 3.5"
style_layers = {conv1_1 = 0.5, relu2_1 = 2}
content-layers = ["conv4_2=0.5", "conv3_1"]
init = "noise"
weights = "random"
bit-depth = 16
save_every = 10
quiet = true
format = "tiff"
plot = "loss.png"
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def job(*arguments: str) -> Any:
    return make_job(build_parser().parse_args(["stylize", "a.png", "b.png", "-o", "c.tif", *arguments]))


def test_a_file_sets_what_the_command_leaves_open(tmp_path: Path) -> None:
    path = str(written(tmp_path, WHOLE))
    made = job("--config", path)
    given = {name.replace("-", "_"): value for name, value in tomllib.loads(WHOLE).items()}
    elsewhere = ("bit_depth", "save_every", "quiet", "format", "plot")
    assert made.options == {name: value for name, value in given.items() if name not in elsewhere}
    assert {name: getattr(made.outputs, name) for name in elsewhere} == {name: given[name] for name in elsewhere}
    assert (made.outputs.movie, made.outputs.movie_every, made.outputs.json) == (None, 10, False)

    changed = job("--config", path, "--size", "512", "--bit-depth", "8", "--style-layers", "conv5_1", "--json")
    assert (changed.options["size"], changed.options["style_layers"]) == (512, "conv5_1")
    assert (changed.outputs.bit_depth, changed.outputs.json, changed.outputs.save_every) == (8, True, 10)


def test_values_of_a_file_need_fit_together_only_with_those_of_the_command(tmp_path: Path) -> None:
    path = str(written(tmp_path, "iterations = [3, 2, 1]\nstyle_weight = 0"))
    made = job("--config", path, "--scales", "8 16 32", "--style-weight", "5")
    assert (made.options["iterations"], resolve_options(**made.options).scales) == ([3, 2, 1], (8, 16, 32))
    with pytest.raises(OptionError, match="3 counts of iterations for 2 scales"):
        resolve_options(**job("--config", path).options)


def test_nothing_given_is_nothing_set(tmp_path: Path) -> None:
    assert job().options == job("--config", str(written(tmp_path, "# empty\n"))).options == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 3", "unknown option 'colour'"),
        ("zzzzzz = 3", "see fastnst stylize --help for the names"),
        ("[options]\nsize = 3", "unknown option 'options'"),
        ("size = true", "size True is not a whole number"),
        ("content_weight = [1]", r"content weight \[1\] is not a number"),
        ("optimizer = 3", "optimizer 3 is not a name"),
        ("size = 2026-11-21", "is not a whole number"),
        ('quiet = "yes"', "quiet 'yes' is not possible; give true or false"),
        ("save_every = 1.5", "save_every 1.5 is not possible; give a whole number"),
        ("save_every = true", "save_every True is not possible; give a whole number"),
        ("plot = 3", "plot 3 is not possible; give a text"),
        ('format = "gif"', "unknown format 'gif'; choose one of: png, jpeg, webp, tiff, avif, npy"),
        ("size = 3\nsize = 4", "is not TOML: Cannot overwrite a value"),
        (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8"),
        (b" " * 1_100_000, "is far larger than a file of options"),
    ],
    ids=range(15),
)
def test_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    """The table of bad input has what is not here."""
    with pytest.raises(OptionError, match=said) as caught:
        read_config(written(tmp_path, text))
    assert str(caught.value).startswith("config '")
    assert len(str(caught.value).splitlines()) == 1
