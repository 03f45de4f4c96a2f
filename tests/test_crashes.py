"""A file is the old one or the new one, whatever fails, ends or loses its power while it is written."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch

import fastnst
from fastnst.errors import ImageError
from fastnst.image.write import save_image
from fastnst.replacing import replacing, sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="each attempt is a fork, beside libvips' threads")


@pytest.mark.parametrize(
    "products", [["run.ckpt", "out.npy"], pytest.param([], marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_files_are_old_or_new_after_any_failure_or_end(products: list[str]) -> None:
    script = Path(__file__).with_name("crashing.py")
    done = subprocess.run([sys.executable, str(script), *products], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("attempts")] == [], done.stderr
    assert done.returncode == 0, done.stderr
    assert sum(int(line.split()[1]) for line in lines) > 40


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "npy"])
def test_a_full_disk_leaves_the_old_picture(suffix: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, noise = tmp_path / f"out.{suffix}", torch.rand(3, 96, 96)
    save_image(path, torch.zeros(3, 96, 96))
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(ImageError, match="could not be written"):
                save_image(path, noise)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [(path.name, old)]


def test_a_file_in_the_making_is_as_private_as_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modes = tmp_path / "out.npy", []
    save_image(path, torch.zeros(3, 8, 8))
    path.chmod(0o600)
    opened = os.open
    monkeypatch.setattr(os, "open", lambda name, flags, *mode: (modes.extend(mode), opened(name, flags, *mode))[1])
    save_image(path, torch.zeros(3, 8, 8))
    assert modes == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600


def test_macos_syncs_beyond_the_disks_cache_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Mock()
    monkeypatch.setattr("fastnst.replacing.fcntl", Mock(F_FULLFSYNC=51, fcntl=calls.fcntl))
    monkeypatch.setattr(os, "fsync", calls.fsync)
    sync(7)
    assert calls.mock_calls == [call.fcntl(7, 51)]
    calls.fcntl.side_effect = OSError
    sync(8)
    assert calls.mock_calls[1:] == [call.fcntl(8, 51), call.fsync(8)]


@pytest.mark.slow
def test_syncing_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a 512 px run with the default optimiser, which is written once a minute."""
    seconds, sync = [], os.fsync

    def timed(descriptor: int) -> None:
        began = time.perf_counter()
        sync(descriptor)
        seconds.append(time.perf_counter() - began)

    monkeypatch.setattr(os, "fsync", timed)
    content, style = torch.rand(2, 3, 384, 512)
    small: dict[str, Any] = {"weights": "random", "style_layers": "conv1_1", "content_layers": "conv1_1"}
    path = tmp_path / "run.ckpt"
    fastnst.stylize(content, style, size=512, scales=None, iterations=9, checkpoint=path, **small)
    share = sum(seconds) / 60
    print(f"a checkpoint of {path.stat().st_size / 1e6:.0f} MB: {len(seconds)} fsync, {share:.2%} of a minute")
    assert share < 0.01


def test_a_file_that_is_being_written_is_not_taken_for_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [left.name for left in tmp_path.iterdir()] == ["out.bin"]
