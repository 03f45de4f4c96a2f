"""Training a network: crops of photographs, the perceptual loss, Adam; in checkpoints that go on to the bit."""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from fastnst.errors import FastnstError, FastnstWarning, OptionError
from fastnst.feedforward.file import SHIPPED, load_network, save_network
from fastnst.feedforward.network import Architecture, StyleNetwork, one_style
from fastnst.feedforward.optimizer import NetworkOptimizer
from fastnst.feedforward.photos import Photos
from fastnst.feedforward.schedule import Progress, Schedule
from fastnst.feedforward.strips import stylized
from fastnst.fork import check_fork
from fastnst.image.files import check_place
from fastnst.image.read import Source, load_image
from fastnst.image.sheet import contact_sheet
from fastnst.image.write import check_output_path, save_image
from fastnst.loss.objective import Objective
from fastnst.loss.perceptual import loss_options, style_picture
from fastnst.loss.targets import StyleTarget, style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, resolve_runtime, versions, without_overflow
from fastnst.network.settings import own_modes
from fastnst.network.weights import load_weights
from fastnst.network.weights_file import check_archive
from fastnst.options.keywords import OptionValues
from fastnst.options.options import Options
from fastnst.options.parse import parse_size
from fastnst.replacing import newest, previous, replacing, rescued

SUFFIX = ".safetensors"
_FORMAT, _KIND = 1, "fastnst training"
_PREVIEWS = 4
# Deviation of the noise that the result shall not depend on, of pixels in 0…1.
_NOISE = 0.03
# The loss is smoothed over about so many steps; it has gone wrong where it is so many times that of the first ones.
_SMOOTHING, _HOPELESS = 50, 10.0
_CROPS = "crops"


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


def train_network(
    styles: Sequence[Source],
    photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    schedule: Schedule | None = None,
    architecture: Architecture | None = None,
    begin_with: str | os.PathLike[str] | None = SHIPPED,
    add_to: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    previews: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    callback: Callable[[Progress], bool | None] | None = None,
    **options: Unpack[OptionValues],
) -> Trained:
    """Trains a network that stylizes in one pass (Johnson, Alahi and Fei-Fei 2016), one for all `styles`.

    The loss is `PerceptualLoss` with a target for each style, at square crops of `size` (default: 256) pixels, computed
    by the engine of `stylize`. Muon (Jordan 2024) trains the convolutions, and Adam trains everything else.

    Args:
        styles: pictures, as for `stylize`.
        photos: a folder of photographs, or several folders or paths.
        output: the network's file, `.safetensors`. It is written, whole or not at all, every `save_every` seconds and
            at the end.
        names: the names of the styles in the file; by default those of their files, without the suffix.
        architecture: channels and blocks of a network that begins at random.
        begin_with: a network's file, by default the one that comes with fastnst. The training begins with its
            convolutions, and with the normalisations of the styles that have the same names. None begins at random.
        add_to: a network's file whose convolutions and styles stay as they are; only the normalisations of the new
            styles are trained.
        checkpoint: a file for the whole state of the training, written as often. The file of a training that is not
            finished is not replaced. With `resume` the training continues
            from it if it exists, with the same result as without the stop, to the bit on a CPU (if it ends by its
            steps).
        previews: a picture file for a sheet of some photographs in all styles, written as often.
        callback: called after each step; if it returns False, or another false value but None, the training ends.
        **options: the options of `PerceptualLoss`, and device and precision.

    Raises FastnstError for input that cannot be used, and TrainingError if the loss diverges, after it has written the
    last good network.
    """
    check_fork()
    schedule = schedule or Schedule()
    device, precision = options.pop("device", "auto"), options.pop("precision", "auto")
    size = parse_size(options.get("size", 256))
    if not isinstance(size, int):
        raise OptionError(f"size {options['size']!r} needs a content, and training has none; give a number of pixels")
    options["size"] = size
    if output is not None:
        check_place(os.fsdecode(output), "network", (SUFFIX,))
    if checkpoint is not None:
        check_place(os.fsdecode(checkpoint), "checkpoint")
    elif resume:
        raise OptionError("there is no checkpoint to resume; name it with --checkpoint FILE")
    if previews is not None:
        check_output_path(previews)
    if not styles:
        raise OptionError("no style image was given; give at least one")
    runtime = resolve_runtime(device, precision)
    if runtime.precision == "fp16":
        runtime = without_overflow(runtime)
    resolved = loss_options(**options)
    names = _names(styles, names)
    crops = Photos(photos, size, schedule.seed)
    with own_modes(runtime.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed)
            network, first = _network(names, architecture, begin_with=begin_with, add_to=add_to)
        pictures = [style_picture(style, resolved) for style in styles]
        backbone = build_backbone(
            load_weights(
                resolved.weights, resolved.network, taps=resolved.taps, filter_scaling=resolved.filter_scaling
            ),
            resolved.taps,
            runtime,
            pooling=resolved.pooling,
            padding=resolved.padding,
        )
        training = _Training(
            network=network.to(runtime.device),
            first=first,
            photos=crops,
            backbone=backbone,
            targets=[style_targets(backbone, [(picture.rgb[None], 1.0)], resolved, runtime) for picture in pictures],
            options=resolved,
            schedule=schedule,
            runtime=runtime,
            facts={
                "styles": [
                    {"name": name, "sha256": picture.sha256} for name, picture in zip(names, pictures, strict=True)
                ],
                "added_to": None if add_to is None else [*network.names[:first]],
                "architecture": asdict(network.architecture),
                "schedule": {name: value for name, value in asdict(schedule).items() if name not in _FREE},
                "options": json.loads(json.dumps(resolved.as_dict(), default=str)),
                "precision": runtime.precision,
            },
        )
        if checkpoint is not None:
            place = Path(os.path.realpath(checkpoint))
            if not resume:
                training.check_replaceable(place)
            elif place.exists() or previous(place).exists():
                training.load(place)
        return training.run(
            output=output, checkpoint=checkpoint, previews=previews, save_every=save_every, callback=callback
        )


# They say when a training ends, which may be changed.
_FREE = ("steps", "minutes")


def _network(
    names: Sequence[str],
    architecture: Architecture | None,
    *,
    begin_with: str | os.PathLike[str] | None,
    add_to: str | os.PathLike[str] | None,
) -> tuple[StyleNetwork, int]:
    """The network before its first step, and how many of its styles stay as they are."""
    if add_to is not None:
        if architecture is not None:
            raise OptionError("channels and blocks are fixed by the network that you add styles to; leave them out")
        network = load_network(add_to).network
        if taken := [name for name in names if name in network.names]:
            raise OptionError(f"the network has a style {taken[0]!r} already; give the new one another name")
        return network.with_styles([*network.names, *names]), len(network.names)
    if begin_with is None or (architecture is not None and begin_with == SHIPPED):
        return StyleNetwork(names, architecture), 0
    if architecture is not None:
        raise OptionError("channels and blocks are fixed by the network that the training begins with; leave them out")
    return load_network(begin_with).network.with_styles(names), 0


def _names(styles: Sequence[Source], names: Sequence[str] | None) -> list[str]:
    if names is None:
        names = [
            Path(style).stem if isinstance(style, str | os.PathLike) else f"style {number}"
            for number, style in enumerate(styles, 1)
        ]
    if len(names) != len(styles) or len(set(names)) < len(names) or not all(names):
        raise OptionError(
            f"{', '.join(map(repr, names))} cannot name {len(styles)} styles; give each a name of its own"
        )
    return list(names)


@dataclass(eq=False)
class _Training:
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
                        warnings.warn(f"{error}; the training continues", FastnstWarning, stacklevel=3)
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
        self.is_saved = True


_PLACE = ("step", "seconds", "smoothed", "beginning", "history")
_SPOKEN = {"added_to": "styles in the network", "schedule": "batch, learning rate, stable or seed"}
