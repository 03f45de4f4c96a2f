"""The loop of a training: steps on crops of photographs, previews, checkpoints that go on to the bit."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastnst.errors import FastnstError, warn
from fastnst.feedforward.file import save_network
from fastnst.feedforward.network import StyleNetwork, one_style
from fastnst.feedforward.optimizer import NetworkOptimizer
from fastnst.feedforward.photos import Photos
from fastnst.feedforward.schedule import Progress, Schedule
from fastnst.feedforward.strips import stylized
from fastnst.image.read import load_image
from fastnst.image.sheet import contact_sheet
from fastnst.image.write import save_image
from fastnst.loss.objective import Objective
from fastnst.loss.targets import StyleTarget
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime, versions
from fastnst.network.weights_file import check_archive
from fastnst.options.options import Options
from fastnst.replacing import newest, previous, replacing, rescued

SUFFIX = ".safetensors"
_FORMAT, _KIND = 1, "fastnst training"
_PREVIEWS = 4
# Deviation of the noise that the result shall not depend on, of pixels in 0…1.
_NOISE = 0.03
# The loss is smoothed over about so many steps; it has gone wrong where it is so many times that of the first ones.
_SMOOTHING, _HOPELESS = 50, 10.0
_CROPS = "crops"
_PLACE = ("step", "seconds", "smoothed", "beginning", "history")
_SPOKEN = {"added_to": "styles in the network", "schedule": "batch, learning rate, stable or seed"}


class TrainingError(FastnstError):
    """A training diverged, or cannot be continued from its checkpoint."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network. `losses` has a smoothed loss for every fiftieth step, `skipped` has the photographs that could
    not be used and the reasons, and `stopped` is None for a training that reached its end."""

    network: StyleNetwork
    steps: int
    seconds: float
    losses: tuple[float, ...]
    skipped: Mapping[str, str]
    stopped: str | None = None


@dataclass(eq=False)
class Training:
    """A network on its way: its optimiser, its place, and what it has lost."""

    network: StyleNetwork
    first: int
    photos: Photos
    backbone: Backbone
    targets: Sequence[Mapping[str, StyleTarget]]
    options: Options
    schedule: Schedule
    runtime: Runtime
    facts: Mapping[str, Any]
    step: int = 0
    seconds: float = 0.0
    smoothed: float = 0.0
    beginning: float = 0.0
    history: list[float] = field(default_factory=list)
    good: tuple[int, dict[str, Tensor]] | None = None
    is_saved: bool = False

    def __post_init__(self) -> None:
        self.optimizer = NetworkOptimizer(self.network, convolutions=not self.first)

    def run(
        self,
        *,
        output: str | os.PathLike[str] | None,
        checkpoint: str | os.PathLike[str] | None,
        previews: str | os.PathLike[str] | None,
        save_every: float,
        callback: Callable[[Progress], bool | None] | None,
    ) -> Trained:
        def save(*, last: bool) -> None:
            """Writes what is asked for; a training does not end because a disk is full, and loses no network by it."""
            for place, write in ((checkpoint, self.save), (output, self.save_network), (previews, self.save_sheet)):
                if place is None:
                    continue
                try:
                    write(Path(place))
                except FastnstError as error:
                    if not last or write != self.save_network:
                        warn(f"{error}; the training continues", level=3)
                    elif (path := rescued(self.save_network, SUFFIX)) is not None:
                        raise TrainingError(f"the network is in {path}, because {error}") from error
                    else:
                        raise

        stopped, saved_at, began, before = None, time.monotonic(), time.monotonic(), self.seconds
        upcoming: Future[list[Tensor]] | None = None
        with ThreadPoolExecutor(1, _CROPS) as loader:
            while self.schedule.progress(self.step, self.seconds) < 1:
                crops = self._crops(self.step) if upcoming is None else upcoming.result()
                upcoming = loader.submit(self._crops, self.step + 1)
                loss = self._stepped(crops)
                self.seconds = before + time.monotonic() - began
                if not self._is_sound(loss):
                    raise TrainingError(self._diverged(loss, output))
                self._note(loss)
                done = self.schedule.progress(self.step, self.seconds)
                if callback is not None:
                    answer = callback(Progress(self.step, self.smoothed, self.seconds, done))
                    if answer is not None and not answer and done < 1:
                        stopped = "stopped"
                        break
                if time.monotonic() - saved_at >= save_every:
                    save(last=False)
                    saved_at = time.monotonic()
        save(last=True)
        network = self.network.requires_grad_(False).eval()
        return Trained(network, self.step, self.seconds, tuple(self.history), dict(self.photos.skipped), stopped)

    def _crops(self, step: int) -> list[Tensor]:
        batch = self.schedule.batch
        return [self.photos.crop(step * batch + index) for index in range(batch)]

    def _stepped(self, crops: Sequence[Tensor]) -> float:
        """Takes a step with the crops, (3, H, W) each, and returns its loss."""
        total = 0.0
        for index, crop in enumerate(crops):
            image = crop[None].to(self.runtime.device).contiguous()
            total += self._descent(image, self.step * len(crops) + index, 1 / len(crops))
        if not math.isfinite(total):
            return total
        if self.first:
            # Adam leaves what never has a gradient as it is.
            for parameter in self.network.normalisations():
                if parameter.grad is not None:
                    parameter.grad[: self.first] = 0
        self.optimizer.step(self.schedule.rate(self.step, self.seconds))
        self.step += 1
        return total

    def _descent(self, image: Tensor, number: int, share: float) -> float:
        """Adds the gradient of a share of a crop's loss, and returns that."""
        style = number % len(self.targets)
        blend = one_style(self.first + style, len(self.network.names), image.device)
        painted = self.network(image, blend, self.runtime.dtype)
        objective = Objective(self.backbone, image, self.targets[style], self.options, self.runtime)
        loss, gradient = objective.loss_and_gradient(painted.detach().contiguous())
        total, results, gradients = loss.total, [painted], [gradient * share]
        if self.schedule.stable > 0:
            generator = torch.Generator().manual_seed(self.schedule.seed + number)
            noise = _NOISE * torch.randn(image.shape, generator=generator).to(image.device)
            shaken = self.network(image + noise, blend, self.runtime.dtype)
            change = self.schedule.stable * (shaken - painted).square().mean()
            total = total + change.detach()
            results, gradients = [painted, change], [gradient * share, torch.full_like(change, share)]
        torch.autograd.backward(results, gradients)
        return share * float(total)

    def _is_sound(self, loss: float) -> bool:
        return math.isfinite(loss) and (self.step <= _SMOOTHING or self.smoothed <= _HOPELESS * self.beginning)

    def _note(self, loss: float) -> None:
        # A mean of all at first, then of about the last ones.
        share = max(1 / self.step, 1 / _SMOOTHING)
        self.smoothed += share * (loss - self.smoothed)
        if self.step <= _SMOOTHING:
            self.beginning = self.smoothed
        if self.step % _SMOOTHING == 0:
            self.history.append(self.smoothed)
            self.good = (self.step, {name: value.clone() for name, value in self.network.state_dict().items()})

    def _diverged(self, loss: float, output: str | os.PathLike[str] | None) -> str:
        """Writes the last good network, and says what has happened."""
        what = f"the training diverged at step {self.step} (loss {loss:.4g}); "
        if self.good is None:
            return what + f"no network is kept before step {_SMOOTHING}; lower the learning rate"
        self.step, state = self.good
        self.network.load_state_dict(state)
        if output is None:
            return what + "lower the learning rate"
        self.save_network(Path(output))
        return what + f"the network of step {self.step} is in {os.fsdecode(output)}; lower the learning rate"

    def record(self) -> dict[str, Any]:
        """How the network was made, in values that JSON can hold."""
        steps = {"steps": self.step, "seconds": round(self.seconds, 1), "loss": self.smoothed}
        return {**self.facts, "photos": len(self.photos.paths), **steps, "versions": versions()}

    @torch.no_grad()
    def sheet(self) -> Tensor:
        """Some photographs in all styles, (3, H, W)."""
        count = len(self.network.names)
        rows = []
        for photo in self.photos.whole(_PREVIEWS):
            blends = [one_style(index, count) for index in range(count)]
            rows.append([photo, *(stylized(self.network, photo[None], blend)[0] for blend in blends)])
        sheet = contact_sheet(rows, column_labels=["", *self.network.names], title=f"step {self.step}")
        return load_image(sheet, role="sheet").rgb

    def save_sheet(self, path: Path) -> None:
        save_image(path, self.sheet(), parameters=self.record())

    def save_network(self, path: Path) -> None:
        save_network(path, self.network, self.record())

    def save(self, path: Path) -> None:
        """Writes all that goes on with the training. Raises TrainingError if that fails."""
        place = {name: getattr(self, name) for name in _PLACE}
        finished = self.schedule.progress(self.step, self.seconds) >= 1
        facts = json.dumps({**self.facts, "photos": self.photos.names, "place": place, "finished": finished})
        contents = {
            "kind": _KIND,
            "format": _FORMAT,
            "facts": facts,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        try:
            target = Path(os.path.realpath(path))
            if not self.is_saved:  # what is there is another training's
                previous(target).unlink(missing_ok=True)
            with replacing(target, keep=self.is_saved) as file:
                torch.save(contents, file)
            self.is_saved = True
        except (OSError, RuntimeError) as error:
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise TrainingError(f"checkpoint {str(path)!r} cannot be written: {reason}") from error

    def _read(self, path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
        """The contents of a checkpoint, its facts, and its place in the training. Raises TrainingError."""
        what = f"checkpoint {str(path)!r}"
        try:
            check_archive(path)
            contents = torch.load(path, map_location="cpu", weights_only=True)
            facts = json.loads(contents["facts"])
            known = contents["kind"] == _KIND and contents["format"] == _FORMAT
            place = {name: type(getattr(self, name))(facts["place"][name]) for name in _PLACE}
        except FileNotFoundError:
            raise TrainingError(f"{what} does not exist; check the path") from None
        except Exception as error:
            raise TrainingError(
                f"{what} is not a checkpoint of a training, or it is damaged; give the file that --checkpoint wrote, "
                "or start over"
            ) from error
        if not known:
            raise TrainingError(f"{what} is from another version of fastnst; continue with that version, or start over")
        return contents, facts, place

    def check_replaceable(self, path: Path) -> None:
        """Raises TrainingError where `path` holds a training that is not finished."""
        try:
            _, facts, _ = self._read(path)
        except TrainingError:
            return  # nothing that could go on
        if not facts.get("finished"):
            raise TrainingError(
                f"{path} holds a training that is not finished; continue it with --resume, or give another name"
            )

    def load(self, path: Path) -> None:
        """Continues from the last checkpoint, or from the one before if the last is damaged.

        Raises TrainingError for anything else, or where it is another training.
        """
        what = f"checkpoint {str(path)!r}"
        contents, facts, place = newest(path, self._read)
        for name, value in {**self.facts, "photos": self.photos.names}.items():
            if facts.get(name) != json.loads(json.dumps(value)):
                raise TrainingError(
                    f"{what} is from a training with other {_SPOKEN.get(name, name)}; leave them as they were, or "
                    "start over without --resume"
                )
        try:
            self.network.load_state_dict(contents["network"])
            self.optimizer.load_state_dict(contents["optimizer"])
        except Exception as error:
            raise TrainingError(
                f"{what} holds another network; leave channels and blocks as they were, or start over"
            ) from error
        for name, value in place.items():
            setattr(self, name, value)
        self.good, self.is_saved = (self.step, contents["network"]), True
