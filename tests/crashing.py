"""Files written through a layer that fails, or ends the process, at its `number`-th open, write, fsync or rename.

Whatever was not synced when a process ended is lost, as in a power cut. Prints a line for each file that is neither the
old one nor the new one; each attempt is a fork of this process.
"""

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastnst import replacing as files
from fastnst.errors import FastnstError
from fastnst.feedforward.file import save_network
from fastnst.feedforward.loop import Training
from fastnst.feedforward.network import Architecture, StyleNetwork
from fastnst.image.write import save_image
from fastnst.network.architecture import CAFFE
from fastnst.network.weights_file import save_weights
from fastnst.transfer.checkpoint import SavedRun, load_run, save_run
from fastnst.transfer.movie import write_clip
from fastnst.video.work import Work

PARAMETERS = {"content": None, "styles": [], "sizes": [{"width": 64, "height": 64}], "options": {"init": "noise"}}
PARAMETERS |= {"device": "cpu", "precision": "fp32", "versions": {}}
SOURCES: dict[str, Any] = {"content": None, "init": None, "styles": []}


class Layer:
    """The system's calls that make a file, in its way."""

    def __init__(self, number: int, events: int, *, kills: bool) -> None:
        self.calls, self.number, self.events, self.kills = 0, number, events, kills
        self.open, self.fsync, self.replace, self.link = os.open, os.fsync, os.replace, os.link
        os.open, os.fsync, os.replace, os.link = self.opened, self.synced, self.replaced, self.linked  # type: ignore[assignment]
        files.open = self.wrapped  # type: ignore[attr-defined]

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.number:
            if self.kills:
                os._exit(9)
            raise OSError(errno.ENOSPC, "No space left on device")

    def tell(self, what: str, descriptor: int) -> None:
        os.write(self.events, f"{what} {os.fstat(descriptor).st_ino}\n".encode())

    def opened(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        self.count()
        descriptor = self.open(path, flags, *rest, **named)
        if flags & os.O_CREAT:
            self.tell("dirty", descriptor)
        return descriptor

    def synced(self, descriptor: int) -> None:
        self.count()
        self.fsync(descriptor)
        self.tell("synced", descriptor)

    def replaced(self, *paths: Any) -> None:
        self.count()
        self.replace(*paths)

    def linked(self, *paths: Any) -> None:
        self.count()
        self.link(*paths)

    def wrapped(self, *given: Any, **named: Any) -> Any:
        return Wrapped(open(*given, **named), self)  # noqa: PTH123


class Wrapped:
    def __init__(self, file: Any, layer: Layer) -> None:
        self.file, self.layer = file, layer

    def __enter__(self) -> "Wrapped":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        self.layer.count()
        # Half of it, where the process ends here.
        if self.layer.kills and self.layer.calls + 1 == self.layer.number:
            self.file.write(bytes(data)[: len(data) // 2])
            self.file.flush()
        self.layer.tell("dirty", self.file.fileno())
        return int(self.file.write(data))


def forked(work: Callable[[], None], number: int = 10**6, *, kills: bool = False) -> tuple[bool, set[int]]:
    """True if the layer was not called so often, and the inodes that were not synced."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 3
        try:
            layer = Layer(number, writing, kills=kills)
            try:
                work()
            except (FastnstError, OSError) as error:
                code = 4 if "\n" in str(error) else 5
            else:
                code = 0 if layer.calls < number else 6  # 6: it went on without, as without the folder's sync
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        events = [line.split() for line in file]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 5, 6, 9):
        raise RuntimeError(f"the {number}-th call ended with {code}")
    state = {int(inode): what for what, inode in events}
    return code == 0, {inode for inode, what in state.items() if what == "dirty"}


def bytes_of(path: Path) -> Any:
    return path.read_bytes() if path.exists() else None


def run_of(path: Path) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = load_run(path)
    return run.done, float(run.tensors["image"].sum())


def picture(value: int) -> Callable[[Path], None]:
    return lambda path: save_image(path, torch.full((3, 24, 24), value / 255), parameters={"value": value})


def checkpoint(value: int) -> Callable[[Path], None]:
    run = SavedRun(
        parameters=PARAMETERS, sources=SOURCES, scale=0, done=value, finished=False, steps=0, seconds=0.0, losses=(),
        loss_exponent=0, tensors={"image": torch.full((1, 3, 64, 64), float(value))}, optimizer={},
    )  # fmt: skip
    return lambda path: save_run(path, run)


def frames_of(value: int) -> list[Path]:
    paths = [Path(tempfile.gettempdir()) / f"{value}-{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((16, 16, 3), 9 * value + number, np.uint8)).save(path)
    return paths


def clip(value: int) -> Callable[[Path], None]:
    paths = frames_of(value)
    return lambda path: write_clip(path, paths, Fraction(10))


def network(value: int) -> Callable[[Path], None]:
    made = StyleNetwork(["a"], Architecture(channels=4, blocks=1)).requires_grad_(False)
    made.load_state_dict({name: torch.full_like(each, value) for name, each in made.state_dict().items()})
    return lambda path: save_network(path, made, {"value": value})


def training(value: int) -> Callable[[Path], None]:
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, value)
    torch.nn.init.zeros_(network.bias)
    state: Any = SimpleNamespace(facts={}, photos=SimpleNamespace(names=[]), network=network, is_saved=True)
    state.optimizer = torch.optim.Adam(network.parameters())
    state.schedule = SimpleNamespace(progress=lambda step, seconds: 0.0)
    state.step, state.seconds, state.smoothed, state.beginning, state.history = value, 0.0, 0.0, 0.0, []
    return lambda path: Training.save(state, path)


def weights(value: int) -> Callable[[Path], None]:
    return lambda path: save_weights(path, "vgg19", {"conv1_1.bias": torch.full((64,), value)}, CAFFE)


def record(value: int) -> Callable[[Path], None]:
    return lambda path: Work(path.parent).keep_record({"same": {"value": value}}, None)


PRODUCTS: dict[str, tuple[Callable[[int], Callable[[Path], None]], Callable[[Path], Any]]] = {
    "run.ckpt": (checkpoint, run_of),
    **dict.fromkeys(("out.npy", "out.png", "out.webp"), (picture, bytes_of)),
    **dict.fromkeys(("clip.gif", "clip.webp", "clip.mp4"), (clip, bytes_of)),
    "net.safetensors": (network, bytes_of),
    "training.ckpt": (training, bytes_of),
    "weights.safetensors": (weights, bytes_of),
    "run.json": (record, bytes_of),
}


def lost(name: str, folder: Path, make: Callable[[int], Callable[[Path], None]], read: Callable[[Path], Any]) -> int:
    """The number of attempts; prints those after which `name` is neither old nor new, or more is there than it."""
    attempts = 0
    for kills in (False, True):
        number = 0
        while True:
            number += 1
            path = folder / f"{number}-{kills}" / name
            path.parent.mkdir()
            # In a fork too: libvips' threads are of the process that has written first.
            forked(partial(make(1), path))
            old = read(path)
            done, unsynced = forked(partial(make(2), path), number, kills=kills)
            for left in path.parent.iterdir():
                if kills and left.stat().st_ino in unsynced:
                    os.truncate(left, 0)
            try:
                now = read(path)
            except FastnstError as error:
                now = str(error)
            forked(partial(make(2), path))
            if now not in (old, read(path)):
                print(f"{name}, call {number}, {'killed' if kills else 'failed'}: {str(now)[:200]}")
            names = {left.name for left in path.parent.iterdir()} - {path.name, f"{path.name}.prev"}
            if names:
                print(f"{name}, call {number}, {'killed' if kills else 'failed'}: {names} stay")
            if done:
                break
            attempts += 1
    return attempts


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        for name in sys.argv[1:] or PRODUCTS:
            place = Path(folder) / name
            place.mkdir()
            print("attempts", lost(name, place, *PRODUCTS[name]), name, flush=True)
