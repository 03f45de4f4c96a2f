"""The command: what it writes, prints and returns, and how it refuses."""

import itertools
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
from fastnst.app.cli import run as cli_run
from fastnst.app.cli.arguments import given_options
from fastnst.image.metadata import read_parameters
from fastnst.image.write import save_image
from fastnst.loss.objective import Objective
from fastnst.loss.terms import Loss
from fastnst.options.resolve import resolve_options

FAST = ["--size", "48", "--iterations", "3", "--scales", "none", "--weights", "random", "--style-layers", "conv1_1"]
FAST += ["--content-layers", "conv2_1"]


# An option as it is typed, and as the metadata have it where that is not the same text.
EVERYTHING: dict[str, Any] = {
    **{"preset": "gatys", "edge": "short", "line-search": "strong_wolfe", "history-precision": "bf16"},
    **{"hessian": "scalar", "optimizer": "lbfgs", "tv-kind": "nine-point", "tv-reduction": "sum"},
    **{"preserve-color": "luminance", "objective": "relative", "content-reduction": "mean"},
    **{"style-reduction": "channel-mean", "style-loss": "covariance", "pooling": "max", "padding": "replicate"},
    **{"init": "style-mean", "network": "vgg16", "weights": "random", "precision": "fp32", "device": "cpu"},
    **{"backend": "torch", "size": 40, "tile": 32, "seconds": 1000, "tolerance": 0.001},
    **{"history": 7, "average": 0.5, "max-pixels": 10_000_000, "learning-rate": 0.05, "content-weight": 2},
    **{"style-weight": 30, "tv-weight": 0.5, "style-scale": 0.8, "seed": 5, "filter-scaling": "none"},
    **{"iterations": ("2 3", [2, 3]), "scales": ("20 40", [20, 40]), "max-memory": ("8GB", 8_000_000_000)},
    **{"style-weights": ("1 3", [1, 3]), "content-layers": ("conv2_1", {"conv2_1": 1})},
    "style-layers": ("conv1_1=2 relu2_1", {"conv1_1": 2, "conv2_1": 0.5}),
}


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
    text = capsys.readouterr().out
    assert "style_weight 7" in text.partition("as preset")[0]
    assert "tv_weight 0.05" in text.partition("as preset")[2]
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
    pairs = {name: value if isinstance(value, tuple) else (str(value), value) for name, value in EVERYTHING.items()}
    given = [word for name, (text, _) in pairs.items() for word in (f"--{name}", *text.split())]
    mask = str(tmp_path / "mask.png")
    Image.new("L", (64, 48), 255).save(mask)
    given += ["--mask", f"content={mask}", "style:2"]
    assert run(content, style, style, "-o", output, *given, "--quiet") == 0
    recorded = {name.replace("-", "_"): value for name, (_, value) in pairs.items()}
    # They have no effect beside the others.
    recorded |= {"scale_factor": 2.0, "transfer": "none", "blend": 1.0}
    assert read_parameters(output)["options"] == {**recorded, "masks": [{"content": mask, "style:2": None}]}


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Loss(*[torch.tensor(float("nan"))] * 4), "the loss became nan at iteration 2"),
        (torch.OutOfMemoryError("no"), "out of memory; lower --size"),
        (MemoryError(), "out of memory; lower --size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; lower --size"),
    ],
)
def test_a_run_that_breaks_leaves_its_last_good_image(
    outcome: Any, said: str, tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: Any
) -> None:
    breaking_at(2, outcome, monkeypatch)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--tile", "none", "--json") == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert read_parameters(tmp_path / "out.png")["final"]["iteration"] == 1
    if isinstance(outcome, Loss):
        report = json.loads(printed.out)
        assert (report["stopped"], report["losses"][-1]) == ("diverged", report["final"])


@pytest.mark.parametrize("breaks", [True, False])
def test_an_image_that_cannot_be_written_there_is_saved_elsewhere(
    breaks: bool, tmp_path: Path, pictures: tuple[str, str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes while the run goes on."""
    folder, here = tmp_path / "folder", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    if breaks:
        breaking_at(2, MemoryError(), monkeypatch)
    check = cli_run.check_output_path
    monkeypatch.setattr(cli_run, "check_output_path", lambda *a, **b: (check(*a, **b), shutil.rmtree(folder)))
    assert run(*pictures, "-o", str(folder / "out.webp"), *FAST, "--tile", "none", "--quiet") == 1
    (rescued,) = here.iterdir()
    assert rescued.suffix == ".webp"
    assert read_parameters(rescued)["final"]["iteration"] >= 1
    said = capsys.readouterr().err
    problem = f"output '{folder / 'out.webp'}': the folder '{folder}' does not exist"
    assert (f"is in {rescued}, because {problem}" if breaks else f"error: {problem}") in said
    assert breaks or f"; the image is saved in {rescued}" in said
    assert said.count(rescued.name) == 1


def test_weights_too_large_for_float32_are_named_as_the_cause(
    tmp_path: Path, pictures: tuple[str, str], capsys: Any
) -> None:
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--style-weight", "1e39", "--quiet") == 1
    assert "lower the weights of its terms" in capsys.readouterr().err


@pytest.mark.posix
def test_ctrl_c_waits_until_the_image_is_saved(
    tmp_path: Path, pictures: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_save(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save_image(*arguments, **options)

    monkeypatch.setattr("fastnst.transfer.result.save_image", interrupted_save)
    assert run(*pictures, "-o", str(tmp_path / "out.png"), *FAST, "--quiet") == 0
    assert read_parameters(tmp_path / "out.png")["final"]["iteration"] == 3


def test_streams_that_hold_few_characters_are_written_to_all_the_same(
    tmp_path: Path, pictures: tuple[str, str]
) -> None:
    content = tmp_path / "画像.png"
    shutil.copy(pictures[0], content)
    run = ["stylize", str(content), pictures[1], "-o", str(tmp_path / "out.png"), *FAST, "--json"]
    for encoding, words in (("cp1252", ["stylize", "--help"]), ("ascii", run)):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        whole = [sys.executable, "-m", "fastnst", *words]
        done = subprocess.run(whole, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content"]["name"] == str(content)


def breaking_at(step: int, outcome: Loss | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """From evaluation `step` on, the objective gives, or raises, `outcome`."""
    original: Callable[..., Any] = Objective.loss_and_gradient
    calls = itertools.count(1)

    def broken(self: Any, image: torch.Tensor, out: Any = None) -> Any:
        loss, gradient = original(self, image)
        breaks = next(calls) > step
        if breaks and isinstance(outcome, Exception):
            raise outcome
        return outcome if breaks else loss, gradient

    monkeypatch.setattr(Objective, "loss_and_gradient", broken)


def signalled(words: list[str], awaited: Path, number: signal.Signals) -> tuple[int, str]:
    """The exit code and stderr of a command that gets a signal once a file is there."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not awaited.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, printed = process.communicate(timeout=PATIENCE)
    return process.returncode, printed


def command(folder: Path, pictures: tuple[str, str], iterations: int) -> list[str]:
    fast = [word if word != "3" else str(iterations) for word in FAST]
    return [sys.executable, "-m", "fastnst", "stylize", *pictures, "-o", str(folder / "out.png"), *fast]


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_image_and_says_so(
    number: signal.Signals, tmp_path: Path, pictures: tuple[str, str]
) -> None:
    words = [*command(tmp_path, pictures, 1_000_000), "--save-every", "1", "--checkpoint", str(tmp_path / "run.state")]
    code, printed = signalled(words, tmp_path / "out_00002.png", number)
    assert code == 130
    assert "interrupted; saved the image so far" in printed
    assert f"to continue, type: fastnst resume {tmp_path / 'run.state'} -o OUT" in printed
    assert read_parameters(tmp_path / "out.png")["stopped"] == "interrupted"


@pytest.mark.posix
def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path, pictures: tuple[str, str]) -> None:
    """Also where its stderr is closed."""
    line = shlex.join([*command(tmp_path, pictures, 30), "--save-every", "1"])
    words = ["sh", "-c", f"trap '' HUP; exec {line} 2>&-"]
    assert signalled(words, tmp_path / "out_00001.png", signal.SIGHUP)[0] == 0
    assert read_parameters(tmp_path / "out.png")["stopped"] is None


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
    options = resolve_options(size=48, **given_options(vars(parsed)))
    assert (options.iterations, options.scales) == ((5, 10), (24, 48))
    assert options.style_layers == (("conv1_1", 2), ("conv2_1", 0.5))


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "render a picture in the style of others" in capsys.readouterr().err
