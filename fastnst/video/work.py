"""The folder of a clip's run beside its output: the frames that are read, those that are made, and what they are of."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.image.files import make_folder
from fastnst.replacing import replacing
from fastnst.transfer.checkpoint import CheckpointError
from fastnst.video.clip import BrokenFrameError, Clip
from fastnst.video.flow import Frame, fitted

FORMAT = 1


def work_folder(output: Path) -> Path:
    """Where the frames of the clip `output` are kept until it is written."""
    return output.with_name(f"{output.name}.frames")


@dataclass(frozen=True)
class Work:
    """The frames of a run on the disk.

    `content` has those that are read, `masks` those of masks that move, `done` those that are finished, and `raw` for
    each pass the images as the optimiser left them, from which the next frames start.
    """

    folder: Path

    @property
    def record(self) -> Path:
        """The file that is there as soon as frames are made."""
        return self.folder / "run.json"

    def saved(self, *, resume: bool) -> dict[str, Any] | None:
        """The record of the frames to go on with; None for a new run. Raises CheckpointError where there are frames and
        should not be, or the reverse, and where the record cannot be read."""
        path = self.record
        if path.exists() and not resume:
            raise CheckpointError(
                f"{str(self.folder)!r} has the frames of a run that was stopped; continue with --resume, or delete it"
            )
        if not resume:
            # In the end the folder is deleted. A run that was killed while it read the clip leaves these two.
            if others := {path.name for path in self.folder.glob("[!.]*")} - {"content", "masks"}:
                raise CheckpointError(
                    f"{str(self.folder)!r}, where the frames are to be kept, has files of others, such as "
                    f"{min(others)!r}; give it or the output another name"
                )
            return None
        if not path.exists():
            raise CheckpointError(f"there is no {str(self.folder)!r} to continue from; leave --resume out")
        try:
            saved = json.loads(path.read_text())
            if saved["format"] == FORMAT and isinstance(saved["same"], dict):
                return dict(saved)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            pass
        raise CheckpointError(
            f"{str(path)!r} is damaged or of another version; delete {str(self.folder)!r} and start over"
        )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other runs out of the folder, which is there for as long, and after it if it holds anything. Raises
        CheckpointError where another run is at work there."""
        make_folder(str(self.folder))
        path = self.folder / ".lock"
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise CheckpointError(
                f"another run keeps its frames in {str(self.folder)!r}; wait for it, or give the output another name"
            ) from None
        except (OSError, NotImplementedError):  # on a file system without locks
            pass
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                path.unlink(missing_ok=True)
                self.folder.rmdir()

    def keep_record(self, record: Mapping[str, Any], saved: Mapping[str, Any] | None) -> None:
        """Keeps what the run is made of, or compares it with what was `saved`. Raises CheckpointError."""
        present = {"format": FORMAT, **json.loads(json.dumps(record))}
        if saved is None:
            with replacing(self.record) as file:
                file.write(json.dumps(present, indent=1).encode())
            return
        for name, value in present["same"].items():
            if saved["same"].get(name) != value:
                many = name == "weights" or (name.endswith("s") and isinstance(value, list))
                verb, theirs = ("are", "those") if many else ("is", "that")
                raise CheckpointError(
                    f"the {name.replace('_', ' ')} of this run {verb} not {theirs} of the frames in "
                    f"{str(self.folder)!r}; use what they were made with, or delete them and start over"
                )

    def extract(self, clip: Clip, size: tuple[int, int], name: str = "content") -> tuple[int, str, str | None]:
        """Keeps the frames of a clip at a size, (height, width).

        Returns their number, a hash of them, and what is wrong with the frame after them, if it is broken. Raises
        ImageError where even the first is, or no folder can be made.
        """
        digest, count = hashlib.sha256(), 0
        make_folder(str(self.folder / name))
        try:
            for frame in clip.frames():
                kept = fitted(frame, size)
                digest.update(kept.tobytes())
                Image.fromarray(kept).save(self.path(name, count), "PNG", compress_level=1)
                count += 1
        except BrokenFrameError as error:
            if count == 0:
                raise ImageError(f"{error}; export it again") from error
            return count, digest.hexdigest(), str(error)
        return count, digest.hexdigest(), None

    def path(self, name: str, index: int) -> Path:
        return self.folder / name / f"{index + 1:06d}.png"

    def frame(self, index: int, name: str = "content") -> Frame:
        """A frame that was kept. Raises CheckpointError."""
        path = self.path(name, index)
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise self._lost(path) from error

    def _raw(self, number: int, index: int) -> Path:
        return self.folder / "raw" / f"{number}" / f"{index + 1:06d}.npz"

    def tensors(self, number: int, index: int) -> dict[str, Tensor]:
        """The tensors that the pass of that number left of a frame. Raises CheckpointError."""
        path = self._raw(number, index)
        try:
            with np.load(path) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self._lost(path) from error

    def _lost(self, path: Path) -> CheckpointError:
        return CheckpointError(f"{str(path)!r} cannot be read; delete {str(self.folder)!r} and start over")

    def is_finished(self, number: int, index: int, *, is_last: bool) -> bool:
        return (self.path("done", index) if is_last else self._raw(number, index)).exists()

    def finish(self, number: int, index: int, made: Mapping[str, Tensor], frame: Frame | None) -> None:
        """Keeps the tensors that a pass made of a frame, and in the last pass the frame itself."""
        path, done = self._raw(number, index), self.path("done", index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in made.items()}
            np.savez(file, **arrays)
        if frame is not None:
            done.parent.mkdir(exist_ok=True)
            with replacing(done) as file:
                Image.fromarray(frame).save(file, "PNG", compress_level=1)

    def forget(self, number: int, index: int) -> None:
        self._raw(number, index).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
