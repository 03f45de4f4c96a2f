"""The benchmarks of large pictures, at sizes where only their working counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import bench_far, bench_highres, bench_pictures
from bench.bench_highres import Row, options_for, plan_side
from fastnst.errors import OptionError
from fastnst.network.runtime import resolve_runtime
from fastnst.plan.planner import Plan


def planned(side: str, size: tuple[int, int] = (1000, 1300)) -> Plan:
    options = options_for(1300, "cpu", "fp32", "adam")
    return plan_side(side, options, resolve_runtime(options.device, options.precision, options.backend), size)


def test_sides() -> None:
    with pytest.raises(OptionError):
        planned("recompute:much")
    assert planned("whole").tile is None
    assert (planned("kept:256").tile, planned("kept:256").level) == (256, "kept")
    assert planned("recompute:96").level == "recompute"
    assert planned("auto").fits
    published = planned("published")
    assert (published.level, len(published.grid)) == ("recompute", 6)
    inner = list(published.grid)[1]
    assert (inner.columns.first, inner.columns.last) == (512, 1024)
    assert (inner.columns.start, inner.columns.stop) == (256, 1280)


@pytest.mark.slow
def test_gradients_are_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_highres, "CHECK_SIZE", 208)
    errors = bench_highres.check_gradients(["whole", "kept:64", "published"], "cpu")
    assert errors.keys() == {"kept", "published"}
    assert max(errors.values()) < 1e-5
    monkeypatch.setattr(bench_highres, "TOLERANCE", 0.0)
    with pytest.raises(SystemExit, match="kept is wrong"):
        bench_highres.check_gradients(["kept:64"], "cpu")


def test_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_highres, "check_gradients", lambda sides, device: {"kept": 1e-6})
    path = tmp_path / "highres.json"
    words = f"--size 96 --sides kept:32 auto:2MB --rounds 1 --iterations 1 --precision fp32 --device cpu --json {path}"
    assert bench_highres.main(words.split()) == 0
    kept, little = json.loads(path.read_text())["rows"]
    assert (kept["tile"], kept["tiles"], kept["problem"]) == (None, 1, None)
    assert kept["seconds"] > 0
    assert kept["added_bytes"] < kept["peak_bytes"]
    assert "you allow 2 MB" in little["problem"]
    text = capsys.readouterr().out
    assert "96×72 px" in text
    assert "you allow 2 MB" in text


def test_a_wrong_loss_is_no_figure() -> None:
    rows = [Row(64, side, 64, 48, loss=loss) for side, loss in (("whole", 1.0), ("kept:32", 1.01))]
    with pytest.raises(SystemExit, match="kept:32 at 64 px is wrong"):
        bench_highres._check_losses(rows, 1e-4)
    bench_highres._check_losses([rows[0], replace(rows[1], loss=None)], 1e-4)


def test_operations_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    sides = ["whole", "kept:1024", "recompute:1024", "published"]
    assert bench_highres.main(["--count", "--size", "4096", "--precision", "fp32", "--sides", *sides]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    of_whole, of_published = ({row[0]: float(row[index]) for row in rows} for index in (3, 4))
    assert of_whole["whole"] == of_published["published"] == 1
    assert of_whole["kept:1024"] < 1.3 < of_whole["recompute:1024"] < 2
    assert of_published["kept:1024"] < of_published["recompute:1024"] < 0.5


@pytest.mark.slow
def test_a_small_far_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "160", "--max-memory", "2GB", "--json", str(tmp_path / "far.json"), "--folder", str(tmp_path)]
    assert bench_far.main(words) == 0
    assert "the untiled step would take" in capsys.readouterr().out
    report = json.loads((tmp_path / "far.json").read_text())
    assert report["size"] == 160
    assert 1e8 < report["peak_bytes"] < 2e9


@pytest.mark.slow
def test_pictures_are_read_and_written_by_rows(tmp_path: Path) -> None:
    # In float32 the picture has 201 MB.
    assert bench_pictures.main(["--size", "4096", "--json", str(tmp_path / "a.json"), "--folder", str(tmp_path)]) == 0
    pictures = json.loads((tmp_path / "a.json").read_text())["pictures"]
    assert len(pictures) == 8
    for picture in pictures:
        # A build for GPUs is larger by itself.
        assert picture["peak_mb"] < 400 or torch.version.cuda, picture
        assert picture["peak_mb"] - picture["rest_mb"] < 160, picture
