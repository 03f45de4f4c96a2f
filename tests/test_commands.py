"""What the command does beside a plain run: standard streams, outputs on the way, rerun, env, info, completion."""

import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import drawn
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastnst.app import cli
from fastnst.app.cli import rerun
from fastnst.app.cli.env import report
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image
from fastnst.network import trial

FAST = ["--size", "48", "--iterations", "3", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]
FAST += ["--content-layers", "conv2_1", "--precision", "fp32"]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, str]:
    content, style = drawn(tmp_path, "content.png", "style.png")
    return content, style


def stylize(*arguments: str) -> int:
    return cli.main(["stylize", *arguments, *FAST])


def refused(capsys: Any, said: str, *arguments: str) -> None:
    assert cli.main(list(arguments)) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith("fastnst: error: ")
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Standard streams of bytes: call it with what stdin holds; it returns what stdout gets."""

    def connect(data: bytes) -> io.BytesIO:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, write_through=True))
        return written

    return connect


@pytest.mark.parametrize("place", ["content", "style", "init"])
def test_stdin_and_stdout(place: str, tmp_path: Path, pictures: tuple[str, str], piped: Any) -> None:
    plain = tmp_path / "plain.png"
    init = ["--init", pictures[1]] if place == "init" else []
    assert stylize(*pictures, "-o", str(plain), "--quiet", *init) == 0
    piped_in = Path(pictures[0] if place == "content" else pictures[1]).read_bytes()
    content, style = ("-" if place == role else path for role, path in zip(("content", "style"), pictures, strict=True))
    written = piped(piped_in)
    init = ["--init", "-"] if place == "init" else []
    assert stylize(content, style, "-o", "-", "--format", "tiff", "--quiet", *init) == 0
    assert load_image(io.BytesIO(written.getvalue())).sha256 == load_image(plain).sha256
    parameters = read_parameters(io.BytesIO(written.getvalue()))
    assert parameters["content"]["sha256"] == read_parameters(plain)["content"]["sha256"]


def test_info_leaves_out_what_is_none(made: Path, capsys: Any) -> None:
    assert cli.main(["info", str(made)]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.partition("\noptions ")[0].splitlines()]
    assert {"content", "styles", "init"} <= set(names)
    assert "masks" not in names


def test_info_of_a_stream(made: Path, piped: Any) -> None:
    written = piped(made.read_bytes())
    assert cli.main(["info", "-", "--json"]) == 0
    assert json.loads(written.getvalue()) == read_parameters(made)


def test_a_reader_that_has_had_enough(pictures: tuple[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastnst", "stylize", *pictures, "-o", "-", "--quiet", *FAST]
    place = tmp_path / "here"
    place.mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        text = process.stderr.read()
    assert process.returncode == 1
    (rescued,) = place.iterdir()
    said = f"fastnst: error: nobody reads the standard output any more; the image is saved in {rescued}"
    assert text.decode().splitlines() == [said]
    assert read_parameters(rescued)["final"]["iteration"] >= 1


def test_terminals_and_closed_streams(pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    refused(
        capsys,
        "the standard input is a terminal, so - has no picture",
        "stylize",
        "-",
        pictures[1],
        "-o",
        "out.png",
        *FAST,
    )
    monkeypatch.setattr(sys, "stdin", None)
    refused(capsys, "the standard input is closed", "stylize", "-", pictures[1], "-o", "out.png", *FAST)
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", Terminal(io.BytesIO()))
        assert stylize(*pictures, "-o", "-") == 1
    assert "the standard output, which is a terminal; redirect it" in capsys.readouterr().err


def test_outputs_on_the_way(tmp_path: Path, pictures: tuple[str, str]) -> None:
    pytest.importorskip("matplotlib")
    names = {name: str(tmp_path / name) for name in ("out.tif", "now.png", "loss.svg", "run.gif")}
    arguments = ["--bit-depth", "16", "--save-every", "2", "--preview", names["now.png"], "--plot", names["loss.svg"]]
    arguments += ["--movie", names["run.gif"], "--movie-every", "1", "--quiet"]
    assert stylize(*pictures, "-o", names["out.tif"], *arguments) == 0
    for name in ("out.tif", "out_00002.tif"):
        with Image.open(tmp_path / name) as image:
            assert image.tag_v2[258] == (16, 16, 16)  # type: ignore[attr-defined]
    with Image.open(names["run.gif"]) as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
    assert read_parameters(names["now.png"])["final"]["iteration"] == 3
    assert "content.png in the style of style.png" in Path(names["loss.svg"]).read_text()


@pytest.fixture
def made(tmp_path: Path, pictures: tuple[str, str]) -> Path:
    """With the filters of a preset that has its own."""
    out = tmp_path / "out.png"
    own = ["--preset", "gatys", "--style-weight", "40", "--init", pictures[1], "--quiet"]
    assert stylize(*pictures, "-o", str(out), *own) == 0
    return out


def test_rerun_is_the_same_image(made: Path, tmp_path: Path, capsys: Any) -> None:
    remade = tmp_path / "again.png"
    assert cli.main(["rerun", str(made), "-o", str(remade)]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    assert load_image(remade).sha256 == load_image(made).sha256
    first, second = read_parameters(made), read_parameters(remade)
    for parameters in (first, second):
        del parameters["final"]["seconds"]
    assert first == second
    assert cli.main(["rerun", str(made), "-o", str(tmp_path / "b.jpg"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["style_weight"] == 40


def test_rerun_keeps_the_precision(made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the quickest is by now."""
    monkeypatch.setattr(trial, "quickest", lambda: "bf16")
    assert cli.main(["rerun", str(made), "-o", str(tmp_path / "again.png")]) == 0
    assert "every pixel is the same" in capsys.readouterr().err


def test_rerun_finds_what_was_moved(made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("content.png", "style.png", "out.png"):
        shutil.move(tmp_path / name, folder / name)
    remade = str(tmp_path / "again.png")
    assert cli.main(["rerun", str(folder / "out.png"), "-o", remade, "--quiet"]) == 0
    for name in ("content.png", "style.png"):
        shutil.move(folder / name, tmp_path / f"new-{name}")
    at = {"image": str(folder / "out.png"), "content": str(tmp_path / "new-content.png")}
    style = str(tmp_path / "new-style.png")
    refused(capsys, "give the path with --content PATH --styles PATH --init PATH", "rerun", at["image"], "-o", remade)
    refused(
        capsys,
        "give the path with --styles PATH --init PATH",
        "rerun",
        at["image"],
        "-o",
        remade,
        "--content",
        at["content"],
    )
    most = ["rerun", at["image"], "-o", remade, "--content", at["content"], "--styles", style]
    refused(capsys, "give the path with --init PATH", *most)
    assert cli.main([*most, "--init", style]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    refused(capsys, "you gave 2 styles, and the image was made from 1", *most, style)


def test_rerun_refuses_other_inputs(made: Path, pictures: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    remade = str(tmp_path / "again.png")
    array = np.asarray(Image.open(pictures[0])).copy()
    array[0, 0] ^= 1
    Image.fromarray(array).save(pictures[0])
    refused(capsys, "is not the picture that the image was made from", "rerun", str(made), "-o", remade)
    assert cli.main(["rerun", str(made), "-o", remade, "--changed"]) == 0
    printed = capsys.readouterr().err
    assert "is not the picture that the image was made from; the run continues with this one" in printed
    assert "of the pixels differ, by at most" in printed or "every pixel is the same" in printed
    assert cli.main(["rerun", str(made), "-o", pictures[1], "--changed"]) == 1
    assert "is also an input" in capsys.readouterr().err


def test_rerun_refuses_another_start(made: Path, pictures: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    command = ["rerun", str(made), "-o", str(tmp_path / "again.png"), "--init"]
    refused(capsys, "is not the picture that the image was made from", *command, pictures[0])


@pytest.mark.parametrize("name", [r"\\server\share\content.png", "//server/share/content.png", r"\/server\content.png"])
def test_rerun_asks_no_other_machine_for_a_picture(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: (asked.append(str(self)), is_file(self))[1])
    assert rerun._place(str(made), [], "content", name) == str(tmp_path / "content.png")
    assert asked == [str(tmp_path / "content.png")]


def changed(made: Path, **values: Any) -> None:
    """Writes the picture anew with other metadata."""
    record = read_parameters(made)
    for name, value in values.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    save_image(made, load_image(made).rgb, parameters=record)


def test_rerun_refuses_other_weights(made: Path, tmp_path: Path, capsys: Any) -> None:
    changed(made, weights={"sha256": "0"})
    refused(capsys, "the weights random are not those", "rerun", str(made), "-o", str(tmp_path / "again.png"))


def test_rerun_stops_where_an_interrupted_run_did(made: Path, tmp_path: Path, capsys: Any) -> None:
    changed(made, stopped="interrupted", final={"iteration": 2}, versions={"torch": "2.0"})
    remade = tmp_path / "again.png"
    assert cli.main(["rerun", str(made), "-o", str(remade)]) == 0
    assert read_parameters(remade)["final"]["iteration"] == 2
    printed = capsys.readouterr().err
    assert "it was made with torch 2.0 (now " in printed
    assert "of the pixels differ, by at most" in printed


def test_env(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTNST_WEIGHTS_URL", "https://user:secret@example.org")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    assert {line.split()[0] for line in text.splitlines()} >= {"versions", "processor", "torch", "auto", "weights"}
    assert re.search("weights +original vgg19 here, imagenet vgg19 ", text)
    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(report())) | {"processor": facts["processor"]}
    assert facts["versions"]["torch"].startswith("2.")
    assert facts["auto"]["device"] in ("cpu", "cuda")
    assert facts["environment"]["OMP_NUM_THREADS"] == "2"
    for private in ("secret", str(Path.home()), os.environ["FASTNST_CACHE"]):
        assert private not in text
        assert private not in json.dumps(facts)


def foreign(path: Path, metadata: str) -> str:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", f"<fastnst:parameters>{html.escape(metadata)}</fastnst:parameters>")
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)
    return str(path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\nb\r\t\0\x7f\x9b", r"a\nb\r\t\x00\x7f\x9b"),
        ("name\u202egnp.exe", r"name\u202egnp.exe"),
        ("lone \ud83d", r"lone \ud83d"),
        ("Tübingen 夜 🎨 C:\\x", "Tübingen 夜 🎨 C:\\x"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(tmp_path: Path, value: str, shown: str, capsys: Any) -> None:
    path = foreign(tmp_path / "a.png", json.dumps({"content": value, value: {value: [value, 1]}}))
    assert cli.main(["info", path]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == [f"content    {shown}", f"{shown:10} {shown} {shown}; 1"]
    assert cli.main(["info", path, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed)["content"] == value


def test_it_needs_no_torch(tmp_path: Path) -> None:
    made = {"options": {"preset": "default", "size": 64}, "weights": {"source": "original"}}
    save_image(tmp_path / "a.png", torch.rand(3, 8, 8), parameters=made)
    code = "import sys; from fastnst.app import cli; cli.main(['info', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, check=True)
    assert b"size 64" in done.stdout
    assert b"University of Oxford" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    assert all(word in script.read_text() for word in ("stylize", "rerun", "style-weight", "completion"))
    program = shutil.which(shell)
    if program is not None:
        assert subprocess.run([program, "-n", str(script)], check=False).returncode == 0
    if program is not None and shell == "bash":
        words = "COMP_WORDS=(fastnst stylize --style-w) COMP_CWORD=2"
        ask = f'. "{script}"; {words}; $(complete -p fastnst | sed "s/.*-F //; s/ .*//") fastnst'
        done = subprocess.run([program, "-c", f'{ask}; echo "${{COMPREPLY[@]}}"'], capture_output=True, check=True)
        assert set(done.stdout.split()) == {b"--style-weight", b"--style-weights"}


def test_completion_without_shtab(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(capsys, 'pip install "fastnst[completion]"', "completion", "bash")


def test_the_command_takes_the_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= (cli.usable_cores() or 0) <= len(os.sched_getaffinity(0))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
        assert cli.usable_cores() == 1
        monkeypatch.delattr(os, "sched_getaffinity")
    assert cli.usable_cores() is None
