"""A run put to disk, to be gone on with: the image in float, the optimiser's state, the place in the schedule."""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastnst.errors import FastnstError, ImageError, counted, warn
from fastnst.image.files import check_place, real_target
from fastnst.image.read import Source
from fastnst.network.weights_file import check_archive
from fastnst.options.masks import mask_hashes
from fastnst.options.options import START_WORDS
from fastnst.replacing import newest, previous, replacing
from fastnst.transfer.inputs import Styles, check_given, recorded_canvas
from fastnst.transfer.result import LossRecord

FORMAT = 4
_KIND = "fastnst run"
# Options that may be others: they change where and how the same image is computed.
_FREE = ("init", "masks", "device", "tile", "max_memory", "max_pixels")


class CheckpointError(FastnstError):
    """A checkpoint cannot be written, read or continued from."""


@contextlib.contextmanager
def _of_a_run(name: str = "the checkpoint") -> Iterator[None]:
    """Raises CheckpointError where the facts in the block are of other kinds than a run's."""
    try:
        yield
    except FastnstError:
        raise
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} does not hold the facts of a run; start over") from error


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A run after some evaluation, complete.

    Attributes:
        parameters: what a `Result` has: options, hashes of the inputs and of the weights, versions.
        sources: where its pictures were read: absolute paths, or None for what was no file.
        scale: the index of the scale; `done` its steps so far, all of which have been evaluated; `finished` says that
            no more follow there. `steps` are those of the scales before.
        seconds: how long the run has taken.
        loss_exponent: the power of two that is float16's loss scale.
        tensors: `image`, `best`, `lowest` … of the scale's descent; `optimizer` has the optimiser's.
    """

    parameters: Mapping[str, Any]
    sources: Mapping[str, Any]
    scale: int
    done: int
    finished: bool
    steps: int
    seconds: float
    losses: tuple[LossRecord, ...]
    loss_exponent: int
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    @_of_a_run()
    def inputs(
        self,
        *,
        content: Source | None = None,
        style: Styles | None = None,
        init: Source | None = None,
        masks: Sequence[Any] | None = None,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Content, styles and options to go on with: those that are given, or else where the run read them.

        Raises CheckpointError for a picture that was no file, OptionError for one that the run had not.
        """
        check_given(self.parameters, content=content, init=init, mask=masks)
        options, sources = dict(self.parameters["options"]), self.sources
        source: Any = recorded_canvas(self.parameters)
        if source is None:
            source = _source("content", sources["content"], content, self.parameters["content"])
        if options["init"] not in START_WORDS:
            options["init"] = _source("init", sources["init"], init, self.parameters["init"])
        if options.get("masks") is not None and masks is None:
            masks = sources.get("masks") or []
            for mask, recorded in zip(masks, self.parameters.get("masks") or [], strict=True):
                if any(place is None and recorded[part] for part, place in mask.items()):
                    raise CheckpointError(
                        "a mask of this run was not a file; give all masks again, with masks=… or --mask"
                    )
        options["masks"] = masks
        if style is None:
            named = zip(sources["styles"], self.parameters["styles"], strict=True)
            style = [_source("style", place, None, picture) for place, picture in named]
        return source, style, options


def _source(role: str, recorded: str | None, given: Source | None, picture: Mapping[str, Any]) -> Source:
    if given is not None:
        return given
    flag = "--styles" if role == "style" else f"--{role}"
    if recorded is None:
        raise CheckpointError(
            f"the {role} image of this run was not a file, but {picture['name']!r} (SHA-256 "
            f"{picture['sha256'][:8]}…); give it with {role}=… or {flag} PATH"
        )
    if not Path(recorded).exists():
        raise CheckpointError(
            f"the {role} image of this run, {recorded!r}, does not exist any more; give it with {role}=… or {flag} PATH"
        )
    return recorded


def check_checkpoint(path: Path) -> None:
    """Raises CheckpointError where no checkpoint can be written to `path`."""
    try:
        check_place(str(path), "checkpoint")
    except ImageError as error:
        raise CheckpointError(str(error)) from None


def check_replaceable(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raises CheckpointError where `path` holds an unfinished run of other inputs, sizes or options than these."""
    try:
        saved = _load_run(path, check=False)
    except CheckpointError:
        return  # nothing that could go on
    if saved.finished and saved.scale == len(saved.parameters["sizes"]) - 1:
        return
    try:
        check_same_inputs(saved.parameters, parameters)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} holds a run that is not finished; go on with `fastnst resume {shlex.quote(str(path))} -o OUT`, or "
            "give another name"
        ) from error


@_of_a_run()
def check_same_inputs(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises CheckpointError where pictures, options or sizes of a run are not those of the `saved` one.

    Both are parameters as a `Result` has them; of `present` those that are known before the network is loaded will do.
    """
    if (saved["content"] is None) != (present["content"] is None):
        raise CheckpointError("one of the two runs has no content picture; give the same pictures as before")
    for role in ("content", "init"):
        if saved.get(role) is not None and present[role] is not None:
            _check_same(f"{role} image", saved[role], present[role])
    for before, now in zip(saved["styles"], present["styles"], strict=False):
        _check_same("style image", before, now)
    if len(saved["styles"]) != len(present["styles"]):
        raise CheckpointError(
            f"the run was made from {counted(len(saved['styles']), 'style image')}, not {len(present['styles'])}; "
            "give the same ones, in order"
        )
    if mask_hashes(saved.get("masks")) != mask_hashes(present.get("masks")):
        raise CheckpointError("the masks are not those of the saved run; give the same ones, in order, or start over")
    for name, value in saved["options"].items():
        if name not in _FREE and json.dumps(value) != json.dumps(present["options"][name]):
            raise CheckpointError(
                f"the saved run has {name} {value!r}, not {present['options'][name]!r}; leave it as it was, or start "
                "over"
            )
    if saved["sizes"] != present["sizes"]:
        raise CheckpointError(
            f"the saved run has the sizes {saved['sizes']}, not {present['sizes']}; leave them as they were, or "
            "start over"
        )


@_of_a_run()
def check_same_network(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the weights of a run are not those of the `saved` one.

    Other versions of the packages, and another device, are a FastnstWarning: the run goes on, but not bit for bit.
    """
    _check_same("weights", saved["weights"], present["weights"])
    for part in ("device", "precision", "versions"):
        if saved[part] != present[part]:
            warn(
                f"the checkpoint's {part} was {saved[part]} and is now {present[part]}; the image will differ a little "
                "from that of the uninterrupted run",
            )


def _check_same(role: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    if saved["sha256"] != present["sha256"]:
        name = present.get("name", present.get("source"))
        raise CheckpointError(
            f"the {role} {name} is not the one that the run was made from; give that one, or start over"
        )


def save_run(path: Path, run: SavedRun, *, first: bool = False) -> None:
    """Writes `run` to `path`, whole or not at all: a file of `torch.save`. Raises CheckpointError if that fails.

    Tensors go from their device to the file one at a time. The file is on the disk before it replaces the last one,
    which stays beside it as `.prev`; of the `first` of a run nothing stays, which would be of another. A symbolic link
    is followed.
    """
    facts = {name: getattr(run, name) for name in _FACTS}
    facts["losses"] = [record.as_dict() for record in run.losses]
    contents = {"kind": _KIND, "format": FORMAT, "run": json.dumps(facts)}
    try:
        target = real_target(str(path))
        if first:
            previous(target).unlink(missing_ok=True)
        with replacing(target, keep=not first) as file:
            torch.save({**contents, "tensors": dict(run.tensors), "optimizer": dict(run.optimizer)}, file)
    except (OSError, RuntimeError, ImageError) as error:
        # torch's writer hides what the system said.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(f"checkpoint {path} cannot be written: {reason}") from error


_FACTS = tuple(name for name in SavedRun.__dataclass_fields__ if name not in ("tensors", "optimizer"))


def load_run(path: Path, *, check: bool = True) -> SavedRun:
    """Opens what `save_run` wrote: its tensors are read where they are used, from the file as it is now.

    With `check` all of it is read once. Where it is missing or damaged and the checkpoint before it is not, that is
    opened, with a FastnstWarning. Raises CheckpointError, with the reason, for anything else.
    """
    return newest(path, lambda place: _load_run(place, check=check))


def _load_run(path: Path, *, check: bool) -> SavedRun:
    try:
        if check:
            check_archive(path)
        # By such a name torch.load expects another format, or cannot open the file: what is not UTF-8 is not printable.
        is_odd = path.suffix == ".safetensors" or not str(path).isprintable()
        with path.open("rb") if is_odd else contextlib.nullcontext(path) as source:
            # Windows does not let a mapped file be replaced by the next checkpoint.
            mapped = source is path and os.name == "posix"
            contents = torch.load(source, map_location="cpu", mmap=mapped, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist; check the path") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"checkpoint {path} cannot be read: it is damaged, cut short or of an older format ({reason}); give the "
            "file that --checkpoint wrote, or start over"
        ) from error
    if not isinstance(contents, dict) or contents.get("kind") != _KIND:
        raise CheckpointError(f"{path} is not a checkpoint of a run; give the file that --checkpoint wrote")
    if contents.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {contents.get('format')!r}, and this version of fastnst reads {FORMAT}; "
            "continue with the version that wrote it, or start over"
        )
    with _of_a_run(f"checkpoint {path}"):
        facts = json.loads(contents["run"])
        facts["losses"] = tuple(LossRecord(**record) for record in facts["losses"])
        run = SavedRun(**facts, tensors=contents["tensors"], optimizer=contents["optimizer"])
        if not _is_sound(run):
            raise ValueError(path)
    return run


def _is_sound(run: SavedRun) -> bool:
    """True where the facts are of the kinds that those who go on with the run take for granted."""
    parameters, sources = run.parameters, run.sources
    pictures = [parameters["content"], parameters.get("init"), *parameters["styles"]]
    inputs = [picture for picture in pictures if picture is not None]
    places = [sources["content"], sources["init"], *sources["styles"]]
    tensors = [*run.tensors.values(), *run.optimizer.values()]
    return (
        all(isinstance(each, dict) for each in (parameters, sources, parameters["options"], *inputs))
        and all(isinstance(picture.get("sha256"), str) for picture in inputs)
        and all(isinstance(place, str | None) and "\0" not in (place or "") for place in places)
        and all(type(number) is int for number in (run.scale, run.done, run.steps, run.loss_exponent))
        and all(isinstance(each, list) for each in (parameters["styles"], sources["styles"], parameters["sizes"]))
        and len(parameters["sizes"]) > 0
        and all(
            type(size[side]) is int and size[side] > 0 for size in parameters["sizes"] for side in ("width", "height")
        )
        and {"device", "precision", "versions"} <= parameters.keys()
        and "init" in parameters["options"]
        and isinstance(run.finished, bool)
        and isinstance(run.seconds, int | float)
        and all(isinstance(tensor, Tensor) for tensor in tensors)
        and tuple(run.tensors["image"].shape)
        == (1, 3, *(parameters["sizes"][run.scale][side] for side in ("height", "width")))
        and run.tensors["image"].is_floating_point()
    )
