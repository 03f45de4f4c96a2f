"""Training a network: which one, in which styles, on which photographs."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import torch

from fastnst.errors import OptionError
from fastnst.feedforward.file import SHIPPED, load_network
from fastnst.feedforward.loop import SUFFIX, Trained, Training
from fastnst.feedforward.network import Architecture, StyleNetwork
from fastnst.feedforward.photos import Photos
from fastnst.feedforward.schedule import Progress, Schedule
from fastnst.fork import check_fork
from fastnst.image.files import check_apart, check_place, is_in_folder
from fastnst.image.read import Source
from fastnst.image.write import check_output_path
from fastnst.loss.networks import backbone_of, weights_of
from fastnst.loss.perceptual import loss_options, style_picture
from fastnst.loss.targets import style_targets
from fastnst.network.runtime import resolve_runtime, without_overflow
from fastnst.network.settings import float32_products, own_modes
from fastnst.options.keywords import OptionValues
from fastnst.options.parse import parse_size
from fastnst.replacing import previous

# They say when a training ends, which may be changed.
_FREE = ("steps", "minutes")


def train_network(
    styles: str | os.PathLike[str] | Sequence[Source],
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
        styles: the path of a picture, or a sequence of pictures, each as for `stylize`.
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
            finished is not replaced. With `resume` the training continues from it if it exists, with the same result
            as without the stop, to the bit on a CPU (if it ends by its steps).
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
    folders = [photos] if isinstance(photos, str | os.PathLike) else photos
    if previews is not None and any(is_in_folder(previews, folder) for folder in folders):
        raise OptionError(
            f"previews {os.fsdecode(previews)} are in a folder of the photographs, so the next run would read them as "
            "one; give another folder"
        )
    if not save_every >= 0:
        raise OptionError(f"save every {save_every!r} is not possible; give a number of seconds, 0 or more")
    if isinstance(styles, str | os.PathLike):
        styles = [styles]
    if not styles:
        raise OptionError("no style image was given; give at least one")
    runtime = resolve_runtime(device, precision)
    if runtime.precision == "fp16":
        runtime = without_overflow(runtime)
    resolved = loss_options(**options)
    names = _names(styles, names)
    crops = Photos(photos, size, schedule.seed)
    outputs = [place for place in (output, checkpoint, previews) if place is not None]
    check_apart(outputs, (*styles, *crops.paths, begin_with, add_to))
    with own_modes(runtime.device), float32_products(runtime.tf32):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed)
            network, first = _network(names, architecture, begin_with=begin_with, add_to=add_to)
        pictures = [style_picture(style, resolved) for style in styles]
        backbone = backbone_of(weights_of(resolved), resolved, runtime)
        training = Training(
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
