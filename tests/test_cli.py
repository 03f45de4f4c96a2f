"""The command: what it writes, prints and returns, and how it refuses."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import drawn
from PIL import Image
from processes import PATIENCE

from fastnst.app import cli
from fastnst.image.metadata import read_parameters
from fastnst.loss.objective import Objective
from fastnst.loss.terms import Loss

FAST = ["--size", "48", "--iterations", "3", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]
FAST += ["--content-layers", "conv2_1"]


EVERYTHING = """
    --preset gatys --size 40 --edge short --iterations 2 3 --scales 20 40 --scale-factor 1.5
    --tile 32 --max-memory 8GB --seconds 1000
    --tolerance 0.001 --line-search strong_wolfe --history 7 --history-precision bf16 --average 0.5
    --hessian scalar --max-pixels 10000000
    --optimizer adam --learning-rate 0.05 --content-weight 2
    --style-weight 30 --tv-weight 0.5 --tv-kind nine-point --tv-reduction sum
    --style-weights 1 3 --style-scale 0.8 --content-layers conv2_1
    --preserve-color luminance --style-layers conv1_1=2 relu2_1 --objective relative
    --content-reduction mean --style-reduction channel-mean --style-loss covariance
    --pooling max --padding replicate
    --init style-mean --network vgg16 --weights random --precision fp32 --device cpu --backend torch --seed 5
"""


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, str]:
    content, style = drawn(tmp_path, "content.png", "style.jpg")
    return content, style


def run(*arguments: str) -> int:
    return cli.main(["stylize", *arguments])


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp", "out.tif"])
def test_the_output_says_how_it_was_made(name: str, tmp_path: Path, pictures: tuple[str, str], capsys: Any) -> None:
    output = str(tmp_path / name)
    assert run(*pictures, "-o", output, *FAST, "--style-weight", "7", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    with Image.open(output) as image:
        assert image.size == (48, 36)
    parameters = read_parameters(output)
    assert parameters["options"]["style_weight"] == 7
    assert parameters["final"]["iteration"] == 3

    assert cli.main(["info", output]) == 0
    told = capsys.readouterr().out
    assert "style_weight 7" in told.partition("as preset")[0]
    assert "tv_weight 0.05" in told.partition("as preset")[2]
    assert cli.main(["info", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == parameters


def test_json_is_one_object_on_stdout(tmp_path: Path, pictures: tuple[str, str], capsys: Any) -> None:
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [sorted(record) for record in report["losses"]] == [
        ["content", "iteration", "scale", "seconds", "style", "total", "tv"]
    ] * 4
    assert {"sizes", "weights", "options", "versions", "output"} <= report.keys()
    assert "saved" in printed.err


def test_every_option_reaches_the_run(tmp_path: Path, pictures: tuple[str, str]) -> None:
    content, style = pictures
    output = str(tmp_path / "out.png")
    given = shlex.split(EVERYTHING)
    given += ["--mask", f"content={content}", "style:2"]
    assert run(content, style, style, "-o", output, *given, "--quiet") == 0
    options = read_parameters(output)["options"]
    assert options == {
        "masks": [{"content": content, "style:2": None}],
        "preset": "gatys",
        "size": 40,
        "edge": "short",
        "iterations": [2, 3],
        "scales": [20, 40],
        "scale_factor": 1.5,
        "tile": 32,
        "max_memory": 8_000_000_000,
        "max_pixels": 10_000_000,
        "line_search": "strong_wolfe",
        "history": 7,
        "history_precision": "bf16",
        "hessian": "scalar",
        "average": 0.5,
        "seconds": 1000,
        "tolerance": 0.001,
        "optimizer": "adam",
        "learning_rate": 0.05,
        "content_weight": 2,
        "style_weight": 30,
        "tv_weight": 0.5,
        "tv_kind": "nine-point",
        "tv_reduction": "sum",
        "style_weights": [1, 3],
        "style_scale": 0.8,
        "content_layers": {"conv2_1": 1},
        "style_layers": {"conv1_1": 2, "conv2_1": 0.5},
        "style_loss": "covariance",
        "preserve_color": "luminance",
        "objective": "relative",
        "content_reduction": "mean",
        "style_reduction": "channel-mean",
        "pooling": "max",
        "padding": "replicate",
        "init": "style-mean",
        "network": "vgg16",
        "weights": "random",
        "filter_scaling": "none",
        "precision": "fp32",
        "device": "cpu",
        "backend": "torch",
        "seed": 5,
    }


def test_save_every_writes_numbered_images(tmp_path: Path, pictures: tuple[str, str]) -> None:
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--save-every", "2", "--quiet") == 0
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.png", "out_00002.png"]
    assert read_parameters(tmp_path / "out_00002.png")["final"]["iteration"] == 2


def test_automatic_weights_are_the_papers(tmp_path: Path, pictures: tuple[str, str], capsys: Any) -> None:
    automatic = [word if word != "random" else "auto" for word in FAST]
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *automatic, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert read_parameters(tmp_path / "out.png")["weights"]["source"] == "original"


def test_a_diverging_run_leaves_the_last_good_image(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking_at(2, Loss(*[torch.tensor(float("nan"))] * 4), monkeypatch)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--quiet") == 1
    assert "the loss became nan at iteration 2" in capsys.readouterr().err
    assert read_parameters(tmp_path / "out.png")["final"]["iteration"] == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_leaves_the_last_image(
    error: Exception, tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking_at(2, error, monkeypatch)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--tile", "none", "--quiet") == 1
    assert "out of memory; lower --size" in capsys.readouterr().err
    assert read_parameters(tmp_path / "out.png")["final"]["iteration"] == 1


def test_a_diverging_run_prints_its_losses_too(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking_at(2, Loss(*[torch.tensor(float("inf"))] * 4), monkeypatch)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["stopped"] == "diverged"
    assert report["losses"][-1] == report["final"]


def test_weights_too_large_for_float32_are_named_as_the_cause(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any
) -> None:
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--style-weight", "1e39", "--quiet") == 1
    assert "lower the weights of its terms" in capsys.readouterr().err


def test_ctrl_c_waits_until_the_image_is_saved(
    tmp_path: Path, pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def interrupted_save(self: Image.Image, *arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", interrupted_save)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--quiet") == 0
    assert read_parameters(tmp_path / "out.png")["final"]["iteration"] == 3


def test_a_numbered_image_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any
) -> None:
    (tmp_path / "out_00002.png").mkdir()
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--save-every", "1", "--quiet") == 0
    assert "out_00002.png' is a directory" in capsys.readouterr().err
    assert (tmp_path / "out_00003.png").is_file()


def test_the_result_of_each_scale_keeps_its_number(tmp_path: Path, pictures: tuple[str, str]) -> None:
    scaled = [*FAST, "--scales", "24", "48", "--save-every", "3", "--quiet"]
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *scaled) == 0
    with Image.open(tmp_path / "out_00003.png") as image:
        assert max(image.size) == 24


def test_streams_that_hold_few_characters_are_written_to_all_the_same(
    tmp_path: Path, pictures: tuple[str, str]
) -> None:
    content = tmp_path / "画像.png"
    shutil.copy(pictures[0], content)
    run = ["stylize", str(content), pictures[1], "-o", str(tmp_path / "out.png"), *FAST, "--json"]
    for encoding, command in (("ascii", ["stylize", "--help"]), ("cp1252", ["stylize", "--help"]), ("ascii", run)):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        whole = [sys.executable, "-m", "fastnst", *command]
        done = subprocess.run(whole, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content"]["name"] == str(content)


def breaking_at(step: int, outcome: Loss | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """From evaluation `step` on, the objective gives, or raises, `outcome`."""
    original: Callable[..., Any] = Objective.loss_and_gradient
    calls = []

    def broken(self: Any, image: torch.Tensor) -> Any:
        calls.append(1)
        loss, gradient = original(self, image)
        if len(calls) <= step:
            return loss, gradient
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, gradient

    monkeypatch.setattr(Objective, "loss_and_gradient", broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_image_and_says_so(
    number: signal.Signals, tmp_path: Path, pictures: tuple[str, str]
) -> None:
    output = tmp_path / "out.png"
    endless = [word if word != "3" else "1000000" for word in FAST]
    command = [sys.executable, "-m", "fastnst", "stylize", *pictures, "-o", str(output), *endless, "--save-every", "1"]
    command += ["--checkpoint", str(tmp_path / "run.state")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "out_00002.png").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, printed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "interrupted; saved the image so far" in printed
    assert f"go on with: fastnst resume {tmp_path / 'run.state'} -o OUT" in printed
    assert read_parameters(output)["stopped"] == "interrupted"


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path, pictures: tuple[str, str]) -> None:
    """Also one whose stderr is closed."""
    output = tmp_path / "out.png"
    many = [word if word != "3" else "30" for word in FAST]
    command = [sys.executable, "-m", "fastnst", "stylize", *pictures, "-o", str(output), *many, "--save-every", "1"]
    process = subprocess.Popen(["sh", "-c", f"trap '' HUP; exec {shlex.join(command)} 2>&-"])
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "out_00001.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=PATIENCE) == 0
    assert read_parameters(output)["stopped"] is None


def test_a_command_for_one_process_is_refused_to_several(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["env"]) == 1
    assert (
        "several processes share the work of stylize, texture, reconstruct and resume alone" in capsys.readouterr().err
    )


def test_help_needs_no_torch() -> None:
    code = "import sys; from fastnst.app import cli; cli.build_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "content.jpg style.jpg -o out.png --iterations 5 10 --scales 24 48 --style-layers conv1_1=2 conv2_1",
        "content.jpg style.jpg -o out.png --iterations 5,10 --scales 24,48 --style-layers conv1_1=2,conv2_1",
        "-o out.png --iterations 5,10 --scales=24,48 --style-layers conv1_1=2,conv2_1 -- content.jpg style.jpg",
        "content.jpg --scales 24 48 --style-layers conv1_1=2 conv2_1 --iterations 5 10 -o out.png -- style.jpg",
    ],
)
def test_several_values_stand_apart_by_spaces_or_commas(words: str) -> None:
    parsed = cli.build_parser().parse_args(["stylize", *words.split()])
    assert (parsed.content, parsed.styles, parsed.output) == ("content.jpg", ["style.jpg"], "out.png")
    assert (parsed.iterations, parsed.scales) == ([5, 10], [24, 48])
    assert parsed.style_layers == ["conv1_1=2", "conv2_1"]


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "render a picture in the style of others" in capsys.readouterr().err


def test_values_that_do_not_fit_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["stylize", "a", "b", "-o", "c", "--iterations", "ten"])
    assert "'ten' is not a whole number" in capsys.readouterr().err
