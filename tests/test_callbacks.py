"""The ready-made callbacks: what they write, when, and that nothing they cannot do ends a run."""

import importlib.util
from pathlib import Path
from typing import Any

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
    Ready,
    TensorBoard,
    chain,
    numbered_path,
)
from fastnst.transfer.movie import frame_size
from fastnst.transfer.plot import draw_losses
from fastnst.transfer.result import Iterate, LossRecord

HAS_AV = importlib.util.find_spec("av") is not None
MP4 = pytest.param(".mp4", marks=pytest.mark.skipif(not HAS_AV, reason="needs PyAV"))
SIZES = [{"width": 16, "height": 12}, {"width": 32, "height": 24}]
PARAMETERS = {"sizes": SIZES, "options": {"style_weight": 100.0, "content_weight": 1.0, "tv_weight": 0.0}}


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
    class Closed(Ready):
        def __init__(self, error: Exception | None) -> None:
            self.error, self.closed = error, 0

        def __call__(self, iterate: Iterate) -> None:
            pass

        def close(self) -> None:
            self.closed += 1
            if self.error:
                raise self.error

    parts = [Closed(ImageError("one")), Closed(None), Closed(ImageError("two"))]
    with pytest.raises(ImageError, match="one"), Chain(*parts, print):
        pass
    assert [part.closed for part in parts] == [1, 1, 1]
    with pytest.raises(NotImplementedError):
        Ready()(iterate(0))


def test_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fastnst.transfer.callbacks.time.monotonic", lambda: now[0])
    path = tmp_path / "now.png"
    with Preview(path, seconds=2) as preview:
        preview(iterate(0, shade=0.2))
        assert np.asarray(Image.open(path))[0, 0, 0] == 51
        preview(iterate(1, shade=0.4))
        assert np.asarray(Image.open(path))[0, 0, 0] == 51
        now[0] = 2.5
        preview(iterate(2, shade=0.6))
        assert np.asarray(Image.open(path))[0, 0, 0] == 153
        preview(iterate(3, shade=0.8))
    assert np.asarray(Image.open(path))[0, 0, 0] == 204
    assert read_parameters(path) == PARAMETERS
    assert [entry.name for entry in tmp_path.iterdir()] == ["now.png"]


def test_frames(tmp_path: Path) -> None:
    with Frames(tmp_path / "out.png", every=4) as frames:
        feed(frames, run())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out_{n:05d}.png" for n in (4, 8, 12, 16, 20)]
    with Image.open(tmp_path / "out_00008.png") as image:
        assert image.size == (16, 12)


def test_frames_where_losses_are_read_in_batches(tmp_path: Path) -> None:
    frames = Frames(tmp_path / "out.tif", every=5, bit_depth=16)
    feed(frames, [iterate(number) for number in (0, 7, 14, 15, 15, 16, 29)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out_{n:05d}.tif" for n in (7, 14, 15, 29)]


def test_what_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "out_00002.png").mkdir()
    frames = Frames(tmp_path / "out.png", every=1)
    with pytest.warns(FastnstWarning, match=r"out_00002\.png' is a directory.*; the run goes on"):
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
    stop = EarlyStop(patience=2)
    assert all(feed(stop, [iterate(0, 16, 1.0), iterate(1, 16, 1.0), iterate(1, 32, 9.0), iterate(2, 32, 9.0)]))
    assert stop(iterate(3, 32, 9.0)) is False


@pytest.mark.parametrize("suffix", [".gif", ".webp", MP4])
def test_movie(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    with Movie(path, every=6, frames_per_second=10) as movie:
        assert feed(movie, run()) == [None] * 22
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    # The starting image, 6, 12, 18, and the last one.
    shades = [0, 6 / 20, 12 / 20, 18 / 20, 1]
    if suffix == ".mp4":
        found = frames_of_mp4(path)
        assert len(found) == 4 + 15
        found = found[:5]
    else:
        with Image.open(path) as image:
            assert image.n_frames == 5  # type: ignore[attr-defined]
            found, durations = [], []
            for index in range(5):
                image.seek(index)
                found.append(np.asarray(image.convert("RGB")))
                durations.append(image.info["duration"])
            assert durations == [100] * 4 + [1500]
            assert image.info["loop"] == 0
    for frame, shade in zip(found, shades, strict=True):
        assert frame.shape == (24, 32, 3)
        assert abs(frame.mean() / 255 - shade) < 0.02


def frames_of_mp4(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 10
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_size_of_a_movies_frames() -> None:
    assert frame_size(Path("a.gif"), (3000, 2000), 60) == (60, 40)
    assert frame_size(Path("a.mp4"), (33, 21), 1280) == (32, 20)


def test_a_movie_without_frames_leaves_nothing(tmp_path: Path) -> None:
    Movie(tmp_path / "a.gif").close()
    assert not list(tmp_path.iterdir())


def test_a_movie_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gif").write_bytes(b"old")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    movie = Movie(tmp_path / "a.gif")
    feed(movie, run()[:3])
    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.warns(FastnstWarning, match=r"could not be written \(No space left on device\)"):
        movie.close()
    assert (tmp_path / "a.gif").read_bytes() == b"old"
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


def test_loss_plot_of_one_evaluation_and_of_none(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    LossPlot(tmp_path / "none.png").close()
    draw_losses([iterate(0).record], tmp_path / "one.png", {}, note="one")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    with pytest.raises(OptionError, match="there are no losses to draw"):
        draw_losses([], tmp_path / "none.png", {})


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
        (lambda at: Preview(at / "none" / "a.png"), "does not exist"),
        (lambda at: Preview(at / "a.png", seconds=-1), "out of range"),
        (lambda at: Frames(at / "a.xyz", every=1), "unknown extension"),
        (lambda at: Frames(at / "a.png", every=0), "every 0 is not a whole number"),
        (lambda at: Frames(at / "a.jpg", every=1, bit_depth=16), "JPEG holds 8 bits"),
        (lambda at: Movie(at / "a.avi"), r"not a movie's name; end it in \.mp4, \.gif, \.webp"),
        (lambda at: Movie(at / "none" / "a.gif"), "does not exist"),
        (lambda at: Movie(at / "a.gif", frames_per_second=0), "frames per second"),
        (lambda at: Movie(at / "a.gif", longest_side=1), "longest side"),
        (lambda at: LossPlot(at / "a.txt"), "not a plot's name"),
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
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(OptionError, match=said):
        make(tmp_path)


def test_in_a_run(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand(3, 24, 32, generator=generator) for _ in range(2))
    options: Any = {"weights": "random", "style_layers": "conv1_1", "content_layers": "conv2_1", "iterations": 3}
    with chain(Movie(tmp_path / "a.gif"), Frames(tmp_path / "f.png", every=2), EarlyStop()) as callback:
        result = fastnst.stylize(content, style, scales=(16, 32), callback=callback, **options)
    assert result.stopped is None
    assert numbered_path(tmp_path / "f.png", 6).exists()
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (32, 24)
        assert image.n_frames == 7  # type: ignore[attr-defined]
