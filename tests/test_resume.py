"""Checkpoints: a run that was stopped, or killed, ends with the image of the run that was not."""

import os
import sys
import time
from dataclasses import replace
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from drawn import drawn
from PIL import Image
from processes import forked

import fastnst
from fastnst.app import cli
from fastnst.errors import FastnstWarning
from fastnst.network import trial
from fastnst.transfer.checkpoint import CheckpointError, load_run, save_run

SMALL: dict[str, Any] = {
    "size": 48,
    "scales": [24, 48],
    "iterations": 6,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": "conv2_2",
}


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    content, style = drawn(tmp_path, "content.png", "style.png")
    return Path(content), Path(style)


def stopped_at(evaluations: int, pictures: tuple[Path, Path], checkpoint: Path, **options: Any) -> fastnst.Result:
    """A run that ends after so many evaluations, with its checkpoint."""
    counter = count(1)
    run = {**SMALL, "callback": lambda _: next(counter) < evaluations, **options}
    return fastnst.stylize(*pictures, checkpoint=checkpoint, **run)


def same(result: fastnst.Result, expected: fastnst.Result) -> bool:
    losses = [[record.total for record in run.losses] for run in (result, expected)]
    return torch.equal(result.tensor, expected.tensor) and losses[0] == losses[1]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_stopped_run_goes_on_bit_for_bit(optimizer: str, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    expected = fastnst.stylize(*pictures, optimizer=optimizer, **SMALL)
    checkpoint = tmp_path / "run.ckpt"
    # The first and the last evaluation of the first scale are 1 and 7.
    for evaluations in (1, 5, 7, 8, 13):
        stopped_at(evaluations, pictures, checkpoint, optimizer=optimizer)
        result = fastnst.resume(checkpoint)
        assert same(result, expected), evaluations
        assert result.stopped is None
        assert [record.iteration for record in result.losses] == [record.iteration for record in expected.losses]
        seconds = [record.seconds for record in result.losses]
        assert seconds == sorted(seconds)


def test_a_picture_that_moved_away_is_named(tmp_path: Path) -> None:
    content, style = drawn(tmp_path, "content.png", "style.png")
    checkpoint = tmp_path / "run"
    options: dict[str, Any] = {"size": 32, "scales": None, "iterations": 3, "weights": "random"}
    fastnst.stylize(content, style, **options, checkpoint=checkpoint, callback=lambda at: at.record.iteration < 1)
    Path(content).rename(tmp_path / "moved.png")
    said = (
        r"the content image of this run, '.*content.png', does not exist any more; give it with content=… or --content"
    )
    with pytest.raises(fastnst.CheckpointError, match=said):
        fastnst.resume(checkpoint)
    assert fastnst.resume(checkpoint, content=tmp_path / "moved.png").stopped is None


@pytest.mark.posix
@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_a_name_that_is_not_utf_8(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / os.fsdecode(b"run\xff")
    stopped_at(3, pictures, checkpoint)
    assert fastnst.resume(checkpoint).stopped is None


def test_a_run_goes_on_in_the_precision_that_it_began_in(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the quickest is by now."""
    expected = fastnst.stylize(*pictures, **SMALL)
    stopped_at(3, pictures, tmp_path / "run.ckpt")
    monkeypatch.setattr(trial, "quickest", lambda: "bf16")
    result = fastnst.resume(tmp_path / "run.ckpt")
    assert result.parameters["precision"] == expected.parameters["precision"] != "bf16"
    assert same(result, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "gatys", "weights": "original", "scales": None},
        {"style_weights": [1, 3], "tv_weight": 0.5, "preset": "gatys", "seed": 4},
    ],
    ids=str,
)
def test_the_options_of_the_checkpoint_are_those_of_the_run(
    options: dict[str, Any], pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    content, style = pictures
    run: dict[str, Any] = {**SMALL, **options}
    styles = [style, content] if "style_weights" in options else [style]
    expected = fastnst.stylize(content, styles, **run)
    checkpoint = tmp_path / "run.ckpt"
    fastnst.stylize(content, styles, checkpoint=checkpoint, callback=lambda _: False, **run)
    # It may be stopped and resumed as often as there are evaluations.
    for _ in range(2):
        fastnst.resume(checkpoint, callback=lambda _: False)
    result = fastnst.resume(checkpoint)
    assert same(result, expected)
    assert result.parameters["options"] == expected.parameters["options"]


def test_what_is_not_of_the_checkpoint_is_refused(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    content, style = pictures
    checkpoint = tmp_path / "run.ckpt"
    stopped_at(2, pictures, checkpoint)
    for given, message in (
        ({"content": style}, r"content image .* is not the one that the run was made from"),
        ({"style": content}, r"style image .* is not the one that the run was made from"),
        ({"style": [style, content]}, "was made from 1 style image, not 2"),
        ({"init": style}, "init has no effect, because the run was made without such a picture"),
        ({"masks": [{"content": style}]}, "mask has no effect, because the run was made without"),
    ):
        with pytest.raises(fastnst.FastnstError, match=message):
            fastnst.resume(checkpoint, **given)
    with pytest.raises(fastnst.CheckpointError, match=r"tv_weight 0\.05, not 1"):
        fastnst.Stylizer(style, **{**SMALL, "tv_weight": 1.0}).resume(checkpoint, content)
    saved = load_run(checkpoint)
    other_weights = {**saved.parameters, "weights": {"source": "random", "sha256": "0"}}
    save_run(checkpoint, replace(saved, parameters=other_weights))
    with pytest.raises(fastnst.CheckpointError, match="the weights random is not the one that the run"):
        fastnst.resume(checkpoint)
    save_run(checkpoint, replace(saved, parameters={**saved.parameters, "versions": {"torch": "1"}}))
    with pytest.warns(fastnst.FastnstWarning, match="the checkpoint's versions was"):
        fastnst.resume(checkpoint)
    style.unlink()
    with pytest.raises(fastnst.CheckpointError, match=r"the style image of this run, .* does not exist any more"):
        fastnst.resume(checkpoint)


def test_a_damaged_checkpoint_is_refused_with_the_reason(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    with pytest.raises(fastnst.CheckpointError, match="does not exist"):
        fastnst.resume(checkpoint)
    stopped_at(2, pictures, checkpoint)
    whole, contents = checkpoint.read_bytes(), torch.load(checkpoint)
    # A flipped bit among the samples of a tensor, which torch.load alone takes for another sample.
    changed = bytearray(whole)
    changed[whole.index(load_run(checkpoint).tensors["image"].numpy().tobytes()[:64]) + 5] ^= 1
    no_run, later = tmp_path / "no run", tmp_path / "later"
    torch.save(contents["tensors"], no_run)
    torch.save({**contents, "format": 99}, later)
    for content, message in (
        (whole[:-100], "is damaged, cut short or of an older format"),
        (changed, r"data/\d+ is not what was written"),
        (no_run.read_bytes(), "is not a checkpoint of a run"),
        (later.read_bytes(), "has format 99"),
        (b"", "cannot be read: it is damaged, cut short or of an older"),
    ):
        checkpoint.write_bytes(content)
        with pytest.raises(fastnst.CheckpointError, match=message):
            fastnst.resume(checkpoint)


def test_pictures_that_were_no_files_are_given_again(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    content, style, start = (np.asarray(Image.open(path)) for path in (*pictures, pictures[1]))
    expected = fastnst.stylize(content, style, init=start, **SMALL)
    checkpoint = tmp_path / "run.ckpt"
    fastnst.stylize(content, style, init=start, checkpoint=checkpoint, callback=lambda _: False, **SMALL)
    with pytest.raises(
        fastnst.CheckpointError,
        match=r"init image of this run was not a file, but '.*' \(SHA-256 \w{8}…\); give it with init=…",
    ):
        fastnst.resume(checkpoint, content=content, style=style)
    assert same(fastnst.resume(checkpoint, content=content, style=style, init=start), expected)


def test_any_other_bit_is_found_or_harmless(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    stopped_at(2, pictures, checkpoint, size=24, scales=None, style_layers="conv1_1", history=1)
    whole, expected = checkpoint.read_bytes(), load_run(checkpoint)
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.integers(0, len(whole), 300):
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            run = load_run(checkpoint)
        except fastnst.CheckpointError:
            refused += 1
            continue
        assert run.parameters == expected.parameters
        assert all(torch.equal(run.tensors[name], expected.tensors[name]) for name in expected.tensors)
    assert refused > 200


def test_a_place_that_will_not_do_is_refused_before_the_run(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    for place, message in (
        (tmp_path, "is a directory; give a file name"),
        (tmp_path / "missing" / "run.ckpt", "does not exist"),
    ):
        with pytest.raises(fastnst.CheckpointError, match=message):
            fastnst.stylize(*pictures, checkpoint=place, **SMALL)
    with pytest.raises(fastnst.OptionError, match="checkpoint_every -1 is out of range; give a number of seconds"):
        fastnst.stylize(*pictures, checkpoint=tmp_path / "run.ckpt", checkpoint_every=-1, **SMALL)


def test_a_full_disk_does_not_end_the_run(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fastnst.stylize(*pictures, **SMALL)
    monkeypatch.setattr(torch, "save", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.warns(fastnst.FastnstWarning, match=r"cannot be written: .*No space left.*the run continues"):
        result = fastnst.stylize(*pictures, checkpoint=tmp_path / "run.ckpt", **SMALL)
    assert same(result, expected)
    assert sorted(tmp_path.iterdir()) == sorted(pictures)


def told(pictures: tuple[Path, Path], checkpoint: Path, options: dict[str, Any], threads: int, teller: Any) -> None:
    """A run that tells of each evaluation, after which it has a checkpoint."""
    torch.set_num_threads(threads)

    def callback(_: fastnst.Iterate) -> None:
        teller.send(None)

    fastnst.stylize(*pictures, checkpoint=checkpoint, checkpoint_every=0, callback=callback, **options)


def test_a_killed_run_leaves_a_whole_checkpoint(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    options = {**SMALL, "iterations": 20}
    expected = fastnst.stylize(*pictures, **options)
    checkpoint = tmp_path / "run.ckpt"
    generator = np.random.default_rng(0)
    for _ in range(3):
        heard, teller = Pipe(duplex=False)
        process = forked(told, pictures, checkpoint, options, torch.get_num_threads(), teller)
        teller.close()
        # Killed somewhere between two of its evaluations, or while it writes.
        for _ in range(int(generator.integers(2, 30))):
            heard.recv()
        time.sleep(float(generator.random()) * 0.05)
        process.kill()
        process.join()
        heard.close()
        assert same(fastnst.resume(checkpoint), expected)
        leftover = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        for path in leftover:
            path.unlink()


FAST = ["--size", "48", "--scales", "24", "48", "--weights", "random", "--style-layers", "conv1_1", "--quiet"]
FAST += ["--content-layers", "conv2_1"]


def test_the_command_refuses_what_is_no_checkpoint(
    pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checkpoint, missing = (str(tmp_path / name) for name in ("out.png", "run.ckpt", "missing/run.ckpt"))
    run = ["stylize", *map(str, pictures), *FAST, "-o", out, "--checkpoint-every", "1", "--checkpoint"]
    assert cli.main([*run, checkpoint]) == 0
    for arguments, message in (
        (["resume", str(pictures[0]), "-o", out], "fastnst: "),
        (["resume", missing, "-o", out], "does not exist"),
        ([*run, missing], "the folder"),
        (["resume", checkpoint, "-o", out, "--content", str(pictures[1])], "is not the one that the run was made from"),
        (["resume", checkpoint, "-o", checkpoint], "fastnst: "),
    ):
        assert cli.main(arguments) == 1
        assert message in capsys.readouterr().err
    whole = np.asarray(Image.open(out))
    assert cli.main(["resume", checkpoint, "-o", out, "--quiet"]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), whole)
    assert cli.main(["resume", checkpoint, "-o", out, "--tile", "16", "--quiet"]) == 0


@pytest.mark.posix
def test_the_checkpoint_before_is_kept_and_gone_on_with(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    expected = fastnst.stylize(*pictures, **SMALL)
    (tmp_path / "kept").mkdir()
    real, checkpoint = tmp_path / "kept" / "real.ckpt", tmp_path / "run.ckpt"
    checkpoint.symlink_to(real)
    stopped_at(4, pictures, checkpoint, checkpoint_every=0)
    before = real.with_name("real.ckpt.prev")
    assert checkpoint.is_symlink()
    assert load_run(before).done < load_run(real).done
    data, older = real.read_bytes(), before.read_bytes()
    for damaged in (b"", data[: len(data) // 2], data[:-2000] + bytes(2000), None):
        real.unlink()
        before.write_bytes(older)
        if damaged is not None:
            real.write_bytes(damaged)
        with pytest.warns(FastnstWarning, match="fastnst uses the checkpoint before it"):
            assert same(fastnst.resume(checkpoint), expected)
    real.unlink(missing_ok=True)
    before.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="does not exist"):
        fastnst.resume(checkpoint)


@pytest.mark.slow
def test_a_checkpoint_holds_600_000_losses(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    stopped_at(2, pictures, checkpoint)
    run = load_run(checkpoint)
    losses = tuple(replace(run.losses[0], iteration=number) for number in range(600_000))
    save_run(checkpoint, replace(run, losses=losses))
    assert len(load_run(checkpoint).losses) == 600_000


def test_the_checkpoint_of_another_unfinished_run_is_not_replaced(
    pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "run.ckpt"
    before = tmp_path / "run.ckpt.prev"
    stopped_at(9, pictures, checkpoint)
    whole = checkpoint.read_bytes()
    said = (
        "run.ckpt holds a run that is not finished; go on with `fastnst resume .*run.ckpt -o OUT`, or give another name"
    )
    for other in ({"seed": 1}, {"iterations": 5}):
        with pytest.raises(CheckpointError, match=said):
            stopped_at(3, pictures, checkpoint, **other)
    words = [*map(str, pictures), "-o", str(tmp_path / "out.png"), "--size", "24", "--checkpoint", str(checkpoint)]
    assert cli.main(["stylize", *words, "--weights", "random"]) == 1
    assert "holds a run that is not finished" in capsys.readouterr().err
    assert checkpoint.read_bytes() == whole
    stopped_at(3, pictures, checkpoint)  # the same run, from its beginning
    assert not before.exists()
    fastnst.resume(checkpoint)
    assert before.exists()
    stopped_at(1, pictures, checkpoint, seed=1)
    assert load_run(checkpoint).parameters["options"]["seed"] == 1
    assert not before.exists()
