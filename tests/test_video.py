"""A clip made frame by frame: what stands still stays, a stopped run goes on to the same frames, options change."""

import json
import os
import signal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import moving
import numpy as np
import pytest
from drawn import drawn
from PIL import Image
from processes import forked
from safetensors.torch import save_file
from test_video_clip import film
from test_video_flow import constant, write_flow

import fastnst
from fastnst.app.cli import main
from fastnst.errors import FastnstError, OptionError
from fastnst.network.weights import load_weights
from fastnst.transfer.checkpoint import CheckpointError
from fastnst.transfer.movie import write_clip
from fastnst.video.clip import open_clip
from fastnst.video.options import Look, Part, Track, VideoOptions, read_track
from fastnst.video.run import FrameDone, stylize_video
from fastnst.video.work import work_folder

SMALL: dict[str, Any] = {
    "size": 64,
    "scales": None,
    "iterations": 20,
    "weights": "random",
    "precision": "fp32",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": "conv2_2",
}


@pytest.fixture
def style(tmp_path: Path) -> str:
    return drawn(tmp_path, "style.png")[0]


def made(folder: Path, frames: list[moving.Frame], style: Any, **values: Any) -> list[moving.Frame]:
    """The frames that are made of these."""
    place = folder / f"{len(list(folder.iterdir()))}"
    source = moving.folder_of(place / "in", frames)
    result = stylize_video(source, style, place / "out", **{**SMALL, **values})
    assert result.frames == len(frames)
    assert not work_folder(place / "out").exists()
    return read(place / "out")


def read(folder: Path) -> list[moving.Frame]:
    frames = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as frame:
            frames.append(np.asarray(frame))
    return frames


def apart(one: moving.Frame, other: moving.Frame) -> np.ndarray:
    return np.abs(one.astype(int) - other)


def test_what_stands_still_stays_and_what_moves_takes_its_strokes_along(tmp_path: Path, style: str) -> None:
    frames = moving.passing(6, (64, 96), 3, 20)
    kept = made(tmp_path, frames, style, size=96)
    alone = [fastnst.stylize(frame, style, **{**SMALL, "size": 96}).tensor for frame in frames[4:]]
    # All but the way of the block, up to three pixels beside it.
    ground = np.ones((64, 96), bool)
    ground[18:44, 5:46] = False
    changes = [apart(a[ground], b[ground]) for a, b in pairwise(kept)]
    block = [frame[23:39, 10 + 3 * number : 26 + 3 * number] for number, frame in enumerate(kept)]
    assert apart(block[4], block[5]).mean() < 2
    single = [tensor.movedim(0, 2).numpy() * 255 for tensor in alone]
    flicker = apart(single[0][ground], single[1][ground])
    assert flicker.mean() > 0.5
    assert max(change.mean() for change in changes) < 0.25 * flicker.mean()
    assert max(change.max() for change in changes) < 0.125 * flicker.max()


def test_a_frozen_clip_changes_only_what_was_not_known(tmp_path: Path, style: str) -> None:
    frames = moving.passing(4, (48, 64), 3)
    kept = made(tmp_path, frames, style, freeze=True)
    assert apart(kept[1][:, 48:], kept[3][:, 48:]).max() == 0
    assert apart(kept[1], kept[3]).max() > 0


def test_a_cut_begins_a_scene(tmp_path: Path, style: str) -> None:
    frames = [*moving.pan(2), *moving.pan(2, seed=5)]
    begun: list[bool] = []
    source = moving.folder_of(tmp_path / "in", frames)
    result = stylize_video(
        source, style, tmp_path / "out.gif", callback=lambda done: begun.append(done.begins_scene), **SMALL
    )
    assert (list(result.scenes), begun) == ([0, 2], [True, False, True, False])
    # A scene is made as if there were nothing before it.
    assert result.seconds.keys() == {(1, index) for index in range(4)}


@pytest.mark.parametrize(
    "values",
    [
        {"look_back": [1, 2, 4]},
        {"passes": 3},
        {"style_weight": "0:5 0.1s:20", "look_back": 2},
        {"preserve_color": "luminance", "optimizer": "adam"},
    ],
    ids=["look back", "passes", "track", "colours"],
)
def test_a_stopped_clip_goes_on_to_the_same_frames(values: dict[str, Any], tmp_path: Path, style: str) -> None:
    frames = moving.pan(4)
    expected = made(tmp_path, frames, style, **values)
    source, out = moving.folder_of(tmp_path / "clip", frames), tmp_path / "out"

    def stop(done: FrameDone) -> None:
        if done.done == 2 + 4 * (values.get("passes", 1) > 1) + stops[0]:
            raise KeyboardInterrupt

    for stops in ([0], [1]):
        with pytest.raises(KeyboardInterrupt):
            stylize_video(source, style, out, resume=bool(stops[0]), callback=stop, **SMALL, **values)
        assert not out.exists()
    result = stylize_video(source, style, out, resume=True, **SMALL, **values)
    assert len(result.seconds) < 4 * values.get("passes", 1)
    assert all((frame == other).all() for frame, other in zip(read(out), expected, strict=True))


def test_two_runs_do_not_share_frames(tmp_path: Path, style: str) -> None:
    source, out = moving.folder_of(tmp_path / "clip", moving.pan(2)), tmp_path / "out"

    def again(_: FrameDone) -> None:
        for resume in (False, True):
            with pytest.raises(CheckpointError, match="another run keeps its frames in"):
                stylize_video(source, style, out, resume=resume, **SMALL)

    stylize_video(source, style, out, callback=again, **SMALL)
    assert len(read(out)) == 2


def _make_and_die(source: Path, style: str, out: Path, frame: int) -> None:
    def die(done: FrameDone) -> None:
        if done.index == frame:
            os.kill(os.getpid(), signal.SIGKILL)

    stylize_video(source, style, out, callback=die, **SMALL)


@pytest.mark.posix
def test_a_killed_clip_goes_on_and_refuses_what_changed(tmp_path: Path, style: str) -> None:
    frames = moving.pan(4)
    expected = made(tmp_path, frames, style)
    source, out = moving.folder_of(tmp_path / "clip", frames), tmp_path / "out"
    process = forked(_make_and_die, source, style, out, 1)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CheckpointError, match="was stopped; continue with --resume, or delete it"):
        stylize_video(source, style, out, **SMALL)
    with pytest.raises(CheckpointError, match="the style weight of this run is not that of the frames"):
        stylize_video(source, style, out, resume=True, style_weight=7, **SMALL)
    other = drawn(tmp_path, "a.png", "b.png")[1]
    other_weights = tmp_path / "other.safetensors"
    save_file(
        {name: 2 * tensor for name, tensor in load_weights("random", taps=("conv2_2",)).tensors.items()}, other_weights
    )
    with pytest.raises(CheckpointError, match="the weights of this run are not those of the frames"):
        stylize_video(source, style, out, resume=True, **{**SMALL, "weights": str(other_weights)})
    with pytest.raises(CheckpointError, match="the styles of this run are not"):
        stylize_video(source, other, out, resume=True, **SMALL)
    stylize_video(source, style, out, resume=True, **SMALL)
    assert all((frame == other).all() for frame, other in zip(read(out), expected, strict=True))
    with pytest.raises(CheckpointError, match="leave --resume out"):
        stylize_video(source, style, tmp_path / "other", resume=True, **SMALL)


def test_flow_that_is_given_is_used(tmp_path: Path, style: str) -> None:
    frames, folder = moving.pan(3), tmp_path / "flow"
    folder.mkdir()
    for number in (1, 2):
        write_flow(folder / f"backward_{number + 1}_{number}.flo", constant(48, 64, 4, 0))
        write_flow(folder / f"forward_{number}_{number + 1}.flo", constant(48, 64, -4, 0))
    kept = made(tmp_path, frames, style, flow=str(folder))
    single = [fastnst.stylize(frame, style, **SMALL).tensor.movedim(0, 2).numpy() * 255 for frame in frames[1:]]
    along, alone = (apart(a[:, 4:-4], b[:, :-8]).mean() for a, b in (kept[1:], single))
    assert along < 0.4 * alone
    source, out = moving.folder_of(tmp_path / "again", frames), tmp_path / "out"

    def stop(_: FrameDone) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_video(source, style, out, callback=stop, flow=str(folder), **SMALL)
    write_flow(folder / "backward_3_2.flo", constant(48, 64, 3, 0))
    with pytest.raises(CheckpointError, match="the flow of this run is not that of the frames"):
        stylize_video(source, style, out, resume=True, flow=str(folder), **SMALL)
    (folder / "forward_2_3.flo").unlink()
    with pytest.raises(FastnstError, match=r"has no forward_2_3\.flo"):
        made(tmp_path, frames, style, flow=str(folder))


def test_masks_may_move(tmp_path: Path, style: str) -> None:
    frames = moving.passing(3)
    masks = []
    for number in range(3):
        mask = np.zeros((48, 64, 3), np.uint8)
        mask[:, 32:] = 255 * (number < 2)
        masks.append(mask)
    folder = moving.folder_of(tmp_path / "masks", masks)
    whole = [{"content": str(folder), "style": None}]
    kept = made(tmp_path, frames, style, masks=whole, style_weight=200)
    assert apart(kept[0][:, 40:], frames[0][:, 40:]).mean() > 2 * apart(kept[0][:, :24], frames[0][:, :24]).mean()
    with pytest.raises(FastnstError, match="has 3 frames and the clip has 2"):
        made(tmp_path, frames[:2], style, masks=whole)


def test_tracks() -> None:
    track = read_track("style_weights", "0:1,0 5s:0,1")
    assert track == Track((0.0, 5.0), ((1.0, 0.0), (0.0, 1.0)))
    assert track.at(2.5) == (0.5, 0.5)
    assert (track.at(-1), track.at(9)) == ((1, 0), (0, 1))
    assert read_track("style_weight", {0: 1, 2: 3}) == Track((0, 2), ((1,), (3,)))
    assert read_track("style_weight", "5") is None
    look = Look.of({"style_weight": "0:10 4:20", "size": 64})
    assert look.at(1).style_weight == 12.5
    for wrong in ("0:a", "0:1 0:2", "0:1,2 1:3", "x:1", ":"):
        with pytest.raises(OptionError, match=r"style weight .* cannot be read"):
            read_track("style_weight", wrong)
    with pytest.raises(OptionError, match="style weight"):
        Look.of({"style_weight": "0:1 5:-1"})
    with pytest.raises(OptionError, match="unknown tv kind"):
        Look.of({"tv_kind": "0:1"})


def test_options_that_cannot_be() -> None:
    for wrong in (
        {"passes": 0},
        {"look_back": "a"},
        {"look_back": [0]},
        {"look_back": [1.5]},
        {"temporal_weight": "much"},
        {"passes": True},
        {"temporal_weight": -1.0},
        {"cut": 2.0},
        {"later_iterations": 0},
        {"end": 0.0},
    ):
        with pytest.raises(OptionError, match=next(iter(wrong)).replace("_", " ")):
            VideoOptions(**wrong)
    assert VideoOptions(look_back="4,1 2").look_back == (1, 2, 4)


def test_the_command(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = moving.folder_of(tmp_path / "in", moving.pan(3)), tmp_path / "out.mp4"
    words = ["video", str(source), style, "-o", str(out), "--size", "63", "--iterations", "10", "--weights", "random"]
    words += ["--style-layers", "conv1_1", "--content-layers", "conv1_2", "--rate", "12", "--content-weight", "0:1 1:2"]
    config = tmp_path / "clip.toml"
    config.write_text(f"preview = '{tmp_path / 'now.png'}'\njson = true")
    assert main([*words, "--config", str(config)]) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert (facts["frames"], facts["width"], facts["height"], facts["rate"]) == (3, 62, 46, 12)
    assert "3 frames of 62×46 px, peak memory about" in told.err
    with Image.open(tmp_path / "now.png") as preview:
        assert preview.size == (62, 46)
    assert main(["score-video", str(out), str(source), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 2
    assert main(["score-video", str(out), str(source), "--end", "0.05"]) == 1
    assert "give the part" in capsys.readouterr().err
    assert main(["video", str(source), style, "-o", str(tmp_path / "out.avi")]) == 1
    assert "cannot be the name of a clip" in capsys.readouterr().err
    assert main([*words, "--preview", str(source / "now.png")]) == 1
    assert "is among the frames of the clip" in capsys.readouterr().err
    mask = str(tmp_path / "now.png")
    for more in (["--preview", style], ["--preview", mask, "--mask", f"content={mask}"]):
        assert main([*words, *more]) == 1
        assert "is also an input and would be overwritten" in capsys.readouterr().err
    config.write_text("movie_every = 3")
    assert main([*words, "--config", str(config)]) == 1
    assert "clip.toml': movie_every has no effect on a clip; leave it out" in capsys.readouterr().err
    assert main(["video", str(source), str(tmp_path / "none.png"), "-o", str(tmp_path / "b.mp4")]) == 1
    assert not work_folder(tmp_path / "b.mp4").exists()


def test_what_was_there_is_not_overwritten(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = moving.folder_of(tmp_path / "walk.frames", moving.pan(2))
    there = sorted(path.name for path in source.iterdir())
    with pytest.raises(CheckpointError, match=r"walk\.frames', where the frames are to be kept, has files of others"):
        stylize_video(source, style, tmp_path / "walk", **SMALL)
    assert sorted(path.name for path in source.iterdir()) == there
    moving_style = tmp_path / "style.gif"
    write_clip(moving_style, sorted(source.iterdir()), Fraction(12))
    before = moving_style.read_bytes()
    with pytest.raises(OptionError, match=r"style\.gif is also an input and would be overwritten"):
        stylize_video(source, [style, str(moving_style)], moving_style, **SMALL)
    words = ["video", str(source), style, "-o", str(moving_style), "--mask", f"content={moving_style}"]
    assert main(words) == 1
    assert "style.gif is also an input and would be overwritten" in capsys.readouterr().err
    assert moving_style.read_bytes() == before


def test_a_clip_of_a_phone(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Turned by a quarter, with AAC, and frames that last unevenly."""
    source = film(tmp_path / "phone.mp4", 5, sound="aac", times=[0, 1, 2, 5, 6], turned=True)
    words = ["video", str(source), style, "-o", str(tmp_path / "out.mp4"), "--size", "64", "--iterations", "4"]
    words += ["--weights", "random", "--style-layers", "conv1_1", "--content-layers", "conv1_2", "--quiet"]
    assert main(words) == 1
    assert "variable frame rate" in capsys.readouterr().err
    assert main([*words, "--rate", "10"]) == 0
    made = open_clip(tmp_path / "out.mp4")
    assert (made.size, made.rate, made.sound) == ((64, 48), 10, "aac")
    assert len(made) == len(open_clip(source, Part(rate=10.0)))


def test_a_broken_frame_keeps_what_is_before_it(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = moving.folder_of(tmp_path / "in", moving.pan(4)), tmp_path / "out.gif"
    (source / "0002.png").write_bytes((source / "0002.png").read_bytes()[:300])
    words = ["--size", "48", "--iterations", "4", "--weights", "random", "--style-layers", "conv1_1"]
    assert main(["video", str(source), style, "-o", str(out), *words, "--content-layers", "conv1_2"]) == 1
    assert "frame 3 of clip" in capsys.readouterr().err
    with Image.open(out) as made:
        assert made.n_frames == 2


def test_a_missing_package_is_named(tmp_path: Path, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r'video needs cv2; install it with pip install "fastnst\[video\]"'):
        stylize_video(tmp_path, style, tmp_path / "out.gif")


def test_clips_in_a_batch(tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    moving.folder_of(tmp_path / "frames", moving.pan(3))
    source = tmp_path / "pan.mp4"
    write_clip(source, sorted((tmp_path / "frames").iterdir()), Fraction(12))
    words = ["batch", "--content", str(source), "--style", style, "-o", str(tmp_path / "out"), "--json"]
    words += ["--size", "48x48", "--iterations", "4", "--weights", "random", "--style-layers", "conv1_1"]
    words += ["--content-layers", "conv1_2", "--workers", "1"]
    # A run that was killed while it read the clip leaves some frames, and no record.
    (work_folder(tmp_path / "out" / "pan_style.mp4") / "content").mkdir(parents=True)
    assert main([*words, "--resume"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["status"], facts["frames"]) == ("done", 3)
    assert len(open_clip(tmp_path / "out" / "pan_style.mp4")) == 3
    for more, status in (([], "skipped"), (["--content-weight", "3"], "done"), (["--content-weight", "3"], "skipped")):
        assert main([*words, "--resume", *more]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == status
        assert not work_folder(tmp_path / "out" / "pan_style.mp4").exists()
