"""The ready-made callbacks: what they write, when, and that nothing they cannot do ends a run."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import fastnst
from fastnst.errors import FastnstWarning, ImageError, OptionError
from fastnst.image.metadata import read_parameters
from fastnst.transfer.callbacks import (
    Chain,
    EarlyStop,
    Frames,
    LossPlot,
    Movie,
    Preview,
    Progress,
    Ready,
    TensorBoard,
    chain,
    numbered_path,
)
from fastnst.transfer.plot import draw_losses
from fastnst.transfer.result import Iterate, LossRecord

HAS_AV = importlib.util.find_spec("av") is not None
MP4 = pytest.param(".mp4", marks=pytest.mark.skipif(not HAS_AV, reason="needs PyAV"))
SIZES = [{"width": 16, "height": 12}, {"width": 32, "height": 24}]
OPTIONS = {"style_weight": 100.0, "content_weight": 1.0, "tv_weight": 0.0, "edge": "long"}
PARAMETERS = {"sizes": SIZES, "options": OPTIONS}


def iterate(iteration: int, scale: int = 32, total: float = 1.0, shade: float = 0.5) -> Iterate:
    record = LossRecord(iteration, scale, total, total / 2, total / 200, 0.0, iteration / 10)
    image = torch.full((3, scale * 3 // 4, scale), shade)
    return Iterate(record, lambda: image, None, PARAMETERS, 20, (16, 32))


def run() -> list[Iterate]:
    """Two scales of ten steps; the second begins with the last image of the first, enlarged."""
    first = [iterate(number, 16, 2.0 / (1 + number), number / 20) for number in range(11)]
    return first + [iterate(number, 32, 3.0 / number, number / 20) for number in range(10, 21)]


def feed(callback: Any, iterates: list[Iterate]) -> list[Any]:
    return [callback(one) for one in iterates]


def test_chain_calls_all_and_stops_when_one_does() -> None:
    calls: list[str] = []

    def named(name: str, answer: bool | None) -> Any:
        return lambda _: calls.append(name) or answer  # type: ignore[func-returns-value]

    assert chain(named("a", None), named("b", True))(iterate(0)) is True
    assert chain(named("c", False), named("d", None))(iterate(0)) is False
    assert calls == ["a", "b", "c", "d"]
    assert chain()(iterate(0)) is True
    with pytest.raises(OptionError, match="callback 3 cannot be called"):
        Chain(3)  # type: ignore[arg-type]


def test_chain_closes_all() -> None:
    parts = [Mock(spec=Ready) for _ in range(3)]
    parts[0].close.side_effect, parts[2].close.side_effect = ImageError("one"), ImageError("two")
    with pytest.raises(ImageError, match="one"), Chain(*parts, print):
        pass
    assert [part.close.call_count for part in parts] == [1, 1, 1]


def test_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fastnst.transfer.callbacks.time.monotonic", lambda: now[0])
    path = tmp_path / "now.png"
    with Preview(path, seconds=2) as preview:
        for seconds, shade, level in ((0.0, 0.2, 51), (0.0, 0.4, 51), (2.5, 0.6, 153), (2.5, 0.8, 153)):
            now[0] = seconds
            preview(iterate(0, shade=shade))
            assert np.asarray(Image.open(path))[0, 0, 0] == level
    assert np.asarray(Image.open(path))[0, 0, 0] == 204
    assert read_parameters(path) == PARAMETERS
    assert [entry.name for entry in tmp_path.iterdir()] == ["now.png"]


@pytest.mark.parametrize(
    ("name", "every", "iterates", "written"),
    [
        ("out.png", 4, run(), [4, 8, 12, 16, 20]),
        # Where losses are read in batches.
        ("out.tif", 5, [iterate(number) for number in (0, 7, 14, 15, 15, 16, 29)], [7, 14, 15, 29]),
    ],
)
def test_frames(name: str, every: int, iterates: list[Iterate], written: list[int], tmp_path: Path) -> None:
    with Frames(tmp_path / name, every=every) as frames:
        feed(frames, iterates)
    paths = [numbered_path(tmp_path / name, number) for number in written]
    assert sorted(tmp_path.iterdir()) == paths
    with Image.open(paths[1]) as image:
        assert image.size == ((16, 12) if every == 4 else (32, 24))


def test_what_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "out_00002.png").mkdir()
    frames = Frames(tmp_path / "out.png", every=1)
    with pytest.warns(FastnstWarning, match=r"out_00002\.png' is a directory.*; the run continues"):
        feed(frames, [iterate(number) for number in range(4)])
    assert (tmp_path / "out_00003.png").exists()


@pytest.mark.parametrize(
    ("losses", "options", "stops_at"),
    [
        ([5, 4, 3, 2, 1], {"patience": 2}, None),
        ([5, 4, 4, 4, 4], {"patience": 2}, 3),
        ([5, 4, 4.5, 3, 3.5, 2], {"patience": 2}, None),
        ([5, 4.99, 4.98, 4.97], {"patience": 2, "tolerance": 0.01}, 2),
        ([5, 4, 3, 2], {"below": 3.0}, 2),
        ([5, 5, 5], {"patience": 1, "tolerance": 0.0}, 1),
    ],
)
def test_early_stop(losses: list[float], options: dict[str, Any], stops_at: int | None) -> None:
    answers = feed(EarlyStop(**options), [iterate(number, total=loss) for number, loss in enumerate(losses)])
    assert (answers.index(False) if False in answers else None) == stops_at


def test_early_stop_begins_anew_with_each_scale() -> None:
    steps = [iterate(0, 16), iterate(1, 16), iterate(1, 32, 9.0), iterate(2, 32, 9.0), iterate(3, 32, 9.0)]
    assert feed(EarlyStop(patience=2), steps).index(False) == 4


def test_callbacks_of_one_run_after_another(tmp_path: Path) -> None:
    stop, frames = EarlyStop(patience=2), Frames(tmp_path / "out.png", every=4)
    for _ in range(2):
        assert feed(stop, [iterate(number, total=5 - number) for number in range(5)]) == [True] * 5
        feed(frames, [iterate(number) for number in range(5)])
        numbered_path(tmp_path / "out.png", 4).unlink()


@pytest.mark.parametrize("suffix", [".gif", ".webp", MP4])
def test_movie(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    with Movie(path, every=6, frames_per_second=10) as movie:
        assert feed(movie, run()) == [None] * 22
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    # The starting image, 6, 12, 18, and the last one.
    shades = [0, 6 / 20, 12 / 20, 18 / 20, 1]
    if suffix == ".mp4":
        frames = frames_of_mp4(path)
        assert len(frames) == 4 + 15
        frames = frames[:5]
    else:
        with Image.open(path) as image:
            assert image.n_frames == 5  # type: ignore[attr-defined]
            frames, durations = [], []
            for index in range(5):
                image.seek(index)
                frames.append(np.asarray(image.convert("RGB")))
                durations.append(image.info["duration"])
            assert durations == [100] * 4 + [1500]
            assert image.info["loop"] == 0
    for frame, shade in zip(frames, shades, strict=True):
        assert frame.shape == (24, 32, 3)
        assert abs(frame.mean() / 255 - shade) < 0.02


def frames_of_mp4(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 10
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_movie_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gif").write_bytes(b"old")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    movie = Movie(tmp_path / "a.gif")
    Movie(tmp_path / "without frames.gif").close()
    feed(movie, run()[:3])
    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.warns(FastnstWarning, match=r"could not be written \(No space left on device\)"):
        movie.close()
    assert (tmp_path / "a.gif").read_bytes() == b"old"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.warns(FastnstWarning, match=r"could not be kept \(No such file or directory\)"):
        feed(movie, run()[:1])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_loss_plot(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"loss{suffix}"
    with LossPlot(path) as plot:
        feed(plot, run())
    assert path.stat().st_size > 2000
    if suffix == ".svg":
        text = path.read_text()
        for label in ("total", "β · style", "α · content", "16 px", "32 px", "iteration", "loss, weighted"):
            assert f"<!-- {label} -->" in text
        assert "variation" not in text  # its weight is 0
    # Names of files that are neither formulas nor Unicode.
    draw_losses([iterate.record for iterate in run()], path, PARAMETERS, note="a$x_$b of \udcff.png")


def test_a_loss_plot_of_a_run_that_ended_early_has_the_weights_of_its_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn = Mock(side_effect=axes.plot, autospec=True)
    monkeypatch.setattr(axes, "plot", lambda *given, **look: drawn(*given, **look))
    parameters = {**PARAMETERS, "options": {**OPTIONS, "style_weight": [8.0, 2.0]}}
    draw_losses([each.record for each in run()[:5]], tmp_path / "loss.png", parameters)
    (values,) = (call.args[2] for call in drawn.call_args_list if call.kwargs["label"] == "β · style")
    assert values == pytest.approx([8.0 * each.record.style for each in run()[:5]])


def test_a_loss_plot_needs_losses(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    LossPlot(tmp_path / "none.png").close()
    with pytest.raises(OptionError, match="there are no losses to draw"):
        draw_losses([], tmp_path / "none.png", {})
    assert not list(tmp_path.iterdir())


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path / "log", images_every=5) as board:
        feed(board, run()[:11])
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"loss/total", "loss/content", "loss/style", "loss/tv"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/total")] == list(range(11))
    assert [event.step for event in events.Images("image")] == [5, 10]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: Preview(at / "a.png", seconds=-1), "out of range"),
        (lambda at: Frames(at / "a.xyz", every=1), "unknown extension"),
        (lambda at: Frames(at / "a.png", every=0), "every 0 is out of range; give a whole number"),
        (lambda at: Movie(at / "a.gif", frames_per_second=0.001), "frames per second"),
        (lambda at: Movie(at / "a.gif", longest_side=1), "longest side"),
        (lambda at: EarlyStop(patience=0), "patience 0"),
        (lambda at: EarlyStop(tolerance=2), "tolerance 2"),
    ],
)
def test_refused(make: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(fastnst.FastnstError, match=said):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "package", "said"),
    [
        (lambda at: Movie(at / "a.mp4"), "av", r"fastnst\[movie\]"),
        (lambda at: TensorBoard(at / "log"), "tensorboard", r"fastnst\[tensorboard\]"),
    ],
)
def test_missing_packages(make: Any, package: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(OptionError, match=said):
        make(tmp_path)


def test_a_bar_says_how_long_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as callback:
        feed(callback, [replace(each, share=index / 22) for index, each in enumerate(run())])
    said = capsys.readouterr().err
    assert re.search(r"scale 32 px: .*, loss 0.15", said)
    assert re.search(r"\d\d:\d\d left, loss", said)


def test_a_bar_of_one_run_after_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr("fastnst.transfer.callbacks.time.monotonic", lambda: now[0])
    with Progress() as callback:
        for now[0], share in ((0.0, 0.0), (1000.0, 1.0), (1000.0, 0.0), (1002.0, 0.5)):
            callback(replace(iterate(round(20 * share)), share=share))
    assert "00:02 left" in capsys.readouterr().err


def test_the_share_of_a_run_goes_by_its_pixels() -> None:
    small: dict[str, Any] = {"weights": "random", "style_layers": "conv1_1", "content_layers": "conv1_2"}
    shares: list[tuple[int, float]] = []
    fastnst.stylize(
        np.random.default_rng(0).random((32, 32, 3)),
        np.random.default_rng(1).random((32, 32, 3)),
        size=32,
        scales=[16, 32],
        iterations=2,
        callback=lambda each: shares.append((each.record.scale, each.share)),
        **small,
    )
    assert shares[0] == (16, 0)
    assert shares[2] == (16, 0.2)
    assert shares[-1] == (32, 1)
