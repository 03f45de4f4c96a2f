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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastnst.errors import FastnstError
from fastnst.image.write import save_image
from fastnst.transfer.checkpoint import SavedRun, load_run, save_run
from fastnst.transfer.movie import write_movie

PARAMETERS = {"content": None, "styles": [], "sizes": [{"width": 64, "height": 64}], "options": {"init": "noise"}}
PARAMETERS |= {"device": "cpu", "precision": "fp32", "versions": {}}
SOURCES: dict[str, Any] = {"content": None, "init": None, "styles": []}


class Layer:
    """The system's calls that make a file, in its way."""

    def __init__(self, number: int, events: int, *, kills: bool) -> None:
        self.calls, self.number, self.events, self.kills = 0, number, events, kills
        self.open, self.fsync, self.replace, self.fdopen = os.open, os.fsync, os.replace, os.fdopen
        self.link = os.link
        os.link = self.linked  # type: ignore[assignment]
        os.open, os.fsync, os.replace, os.fdopen = self.opened, self.synced, self.replaced, self.wrapped  # type: ignore[assignment]

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
        return Wrapped(self.fdopen(*given, **named), self)


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


def forked(work: Callable[[], None], number: int, *, kills: bool) -> tuple[bool, set[int]]:
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
            except FastnstError as error:
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


def movie(value: int, frames: Path) -> Callable[[Path], None]:
    paths = []
    for number in range(3):
        paths.append(frames / f"{value}-{number}.png")
        Image.fromarray(np.full((16, 16, 3), value + number, np.uint8)).save(paths[-1])
    return lambda path: write_movie(path, paths, Fraction(10))


def lost(name: str, folder: Path, make: Callable[[int], Callable[[Path], None]], read: Callable[[Path], Any]) -> int:
    """The number of attempts; prints those after which `name` is neither old nor new, or more is there than it."""
    attempts = 0
    for kills in (False, True):
        number = 0
        while True:
            number += 1
            path = folder / f"{number}-{kills}" / name
            path.parent.mkdir()
            make(1)(path)
            old = read(path)
            done, unsynced = forked(lambda path=path: make(2)(path), number, kills=kills)  # type: ignore[misc]
            for left in path.parent.iterdir():
                if kills and left.stat().st_ino in unsynced:
                    os.truncate(left, 0)
            try:
                now = read(path)
            except FastnstError as error:
                now = str(error)
            make(2)(path)
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
        frames = Path(folder) / "frames"
        frames.mkdir()
        products: dict[str, tuple[Any, Any]] = {"run.ckpt": (checkpoint, run_of), "out.npy": (picture, bytes_of)}
        for suffix in ("gif", "webp", "mp4"):
            products[f"movie.{suffix}"] = (lambda value: movie(value, frames), bytes_of)
        for name in sys.argv[1:] or products:
            place = Path(folder) / name
            place.mkdir()
            print("attempts", lost(name, place, *products[name]))
