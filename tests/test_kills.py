"""Commands that get a signal: all of their processes end within seconds, and what was made is there to go on from."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from batch_samples import ENDLESS, FAST, all_pairs
from drawn import drawn
from processes import PATIENCE

from fastnst.app.batch.tasks import grouped
from fastnst.app.batch.workers import ProcessPool, run_batch
from fastnst.feedforward.file import load_network
from fastnst.image.read import load_image
from fastnst.transfer.checkpoint import load_run

if os.name != "posix":
    pytest.skip("these are POSIX's signals", allow_module_level=True)
pytestmark = pytest.mark.slow
# On a machine that is not busy.
SECONDS = 10 * max(1, os.getloadavg()[0] / (os.cpu_count() or 1)) if hasattr(os, "getloadavg") else 10
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FASTNST = ["-m", "fastnst"]
SLOWLY = [str(Path(__file__).with_name("slowly.py"))]
NETWORK = ["--weights", "random", "--style-layers", "conv1_1", "--content-layers", "conv1_1"]
STYLIZE = ["stylize", "a.png", "b.png", "-o", "out.png", "--checkpoint", "run.ckpt", "--size", "48", *NETWORK]
STYLIZE += ["--checkpoint-every", "1", "--scales", "none", "--iterations"]
SHORT, LONG = [*STYLIZE, "9"], [*STYLIZE, str(ENDLESS)]
TRAIN = ["train", "b.png", "--photos", "photos", "-o", "net.safetensors", "--checkpoint", "run.ckpt", "--size", "32"]
TRAIN += ["--save-every", "0.1", *NETWORK[:4], "--channels", "4", "--blocks", "1", "--steps", str(ENDLESS)]
VIDEO = ["video", "clip", "b.png", "-o", "out", "--size", "48", "--scales", "none", "--iterations", "90", *NETWORK]
BATCH = ["batch", "rows.jsonl", "--workers", "2", *FAST]


def image_and_checkpoint(folder: Path) -> None:
    assert load_image(folder / "out.png").width == 48
    assert load_run(folder / "run.ckpt").done > 0


def checkpoint(folder: Path) -> None:
    assert load_run(folder / "run.ckpt").tensors["image"].shape == (1, 3, 36, 48)


def training(folder: Path) -> None:
    assert load_network(folder / "net.safetensors").training["steps"] > 0
    assert torch.load(folder / "run.ckpt")["network"]


def frames(folder: Path) -> None:
    subprocess.run([sys.executable, *FASTNST, *VIDEO, "--resume"], cwd=folder, check=True, capture_output=True)
    assert len(list((folder / "out").iterdir())) == 4


def row(folder: Path) -> None:
    assert load_image(folder / "0.png").width == 48


def kill_second(process: "subprocess.Popen[str]") -> None:
    """Kills the second process that torchrun has started."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    os.kill(int(children.split()[1]), signal.SIGKILL)


def sends(number: int, times: int = 1) -> Callable[["subprocess.Popen[str]"], None]:
    def send(process: "subprocess.Popen[str]") -> None:
        for _ in range(times):
            process.send_signal(number)

    return send


@pytest.fixture
def place(tmp_path: Path) -> Path:
    drawn(tmp_path, "a.png", "b.png", "photos/1.png", "photos/2.png", *(f"clip/{number}.png" for number in range(4)))
    counts = (2, ENDLESS, ENDLESS)
    rows = [
        {"content": "a.png", "style": "b.png", "output": f"{name}.png", "iterations": count}
        for name, count in enumerate(counts)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sign", "trouble", "code", "check"),
    [
        ([*FASTNST, *LONG], "run.ckpt", sends(signal.SIGKILL), -9, checkpoint),
        ([*FASTNST, *LONG], "run.ckpt", sends(signal.SIGTERM), 130, image_and_checkpoint),
        ([*SLOWLY, *SHORT], "saving", sends(signal.SIGTERM, 3), 0, image_and_checkpoint),
        ([*TORCHRUN, *FASTNST, *LONG], "run.ckpt", sends(signal.SIGTERM), None, image_and_checkpoint),
        ([*TORCHRUN, *FASTNST, *LONG], "run.ckpt", kill_second, None, image_and_checkpoint),
        ([*TORCHRUN, *SLOWLY, *LONG], "run.ckpt", kill_second, None, image_and_checkpoint),
        ([*TORCHRUN, *SLOWLY, *SHORT], "saving", sends(signal.SIGTERM), None, image_and_checkpoint),
        ([*FASTNST, *TRAIN], "net.safetensors", sends(signal.SIGKILL), -9, training),
        ([*FASTNST, *TRAIN], "net.safetensors", sends(signal.SIGTERM), 130, training),
        ([*FASTNST, *VIDEO], "out.frames/done/000002.png", sends(signal.SIGKILL), -9, frames),
        ([*FASTNST, *VIDEO], "out.frames/done/000002.png", sends(signal.SIGTERM), 130, frames),
        ([*FASTNST, *BATCH], "0.png", sends(signal.SIGKILL), -9, row),
        ([*FASTNST, *BATCH], "0.png", sends(signal.SIGTERM), 130, row),
        ([*FASTNST, *BATCH], "0.png", sends(signal.SIGTERM, 2), 130, row),
    ],
)
def test_a_signal_costs_no_more_than_it_must(
    command: Sequence[str],
    sign: str,
    trouble: Callable[["subprocess.Popen[str]"], None],
    code: int | None,
    check: Callable[[Path], None],
    place: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not (place / sign).exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    trouble(process)
    # The pipes close when the last of its processes is gone.
    _, said = process.communicate(timeout=SECONDS + 5 * (SLOWLY[0] in command))
    assert process.returncode == code if code is not None else process.returncode != -9, said
    assert "-m" not in command[:1] or command[1] != "fastnst" or "Traceback" not in said, said
    check(place)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("moment", ["start", "work", "save", "random"])
@pytest.mark.parametrize("kills", [1, 2])
def test_a_kill_costs_no_row_and_two_cost_one(workers: int, moment: str, kills: int, folders: Path) -> None:
    tasks, draw = grouped(all_pairs(folders, size=320)), random.Random(f"{workers} {moment} {kills}")
    pool, left, over = ProcessPool(workers, threads=1), kills, False

    def is_time() -> bool:
        if moment == "start":
            return True
        if moment == "save":
            return any((folders / "out").glob(".fastnst-*.tmp"))
        return pool._start.started.is_set()

    def kill() -> None:
        nonlocal left
        while left and not over:
            if is_time() and (alive := active_children()):
                time.sleep(3 * draw.random() if moment == "random" else 0)
                draw.choice(alive).kill()
                left -= 1
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = list(run_batch(tasks, pool))
    over = True
    killer.join()
    assert sorted(outcome.task.number for outcome in outcomes) == [1, 2, 3, 4]
    failed = [outcome for outcome in outcomes if outcome.status != "done"]
    assert len(failed) <= kills - 1, failed
    assert len(list((folders / "out").glob("*.png"))) == 4 - len(failed)
    assert not active_children()
