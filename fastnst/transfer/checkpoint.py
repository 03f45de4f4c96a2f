"""A run put to disk, to be gone on with: the image in float, the optimiser's state, the place in the schedule."""

import json
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastnst.errors import FastnstError, FastnstWarning, ImageError
from fastnst.image.files import check_place
from fastnst.options.masks import mask_hashes
from fastnst.transfer.result import LossRecord
from fastnst.transfer.tensor_file import Pieces, is_whole, pieces_of, write_tensors

FORMAT = 2
OPTIMIZER = "optimizer."
"""What the names of the optimiser's tensors begin with."""
_KIND = "fastnst run"
# Options that may be others: they change where and how the same image is computed.
_FREE = ("init", "masks", "device", "tile", "max_memory", "max_pixels")


class CheckpointError(FastnstError):
    """A checkpoint that cannot be written, read or gone on with."""


@dataclass(frozen=True, eq=False)
class SavedRun:
    """All that a run is after some evaluation.

    Attributes:
        parameters: what a `Result` has: options, hashes of the inputs and of the weights, versions.
        sources: where content, styles and init were read: absolute paths, or None for what was no file.
        scale: the index of the scale; `done` its steps so far, all of which have been evaluated; `finished` whether no
            more follow there.
        steps: those of the scales before.
        seconds: how long the run has taken.
        losses: the records so far.
        loss_exponent: that of float16's loss scale.
        optimizer: the optimiser's numbers; its tensors are among `tensors`.
        tensors: `image`, `best` and `lowest` of the scale, and `optimizer.…`; on the CPU.
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
    optimizer: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def masks_again(self) -> list[dict[str, Any]]:
        """The masks of the run where it read them. Raises CheckpointError where one was no file."""
        masks = self.sources.get("masks") or []
        recorded = self.parameters.get("masks") or []
        for mask, names in zip(masks, recorded, strict=True):
            for name, place in mask.items():
                if place is None and names[name] is not None:
                    raise CheckpointError("a mask of the checkpoint was no file; give the masks again as masks=…")
        return masks

    def optimizer_state(self, device: torch.device) -> dict[str, Any]:
        """What the `load_state_dict` of an optimiser on `device` takes."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(OPTIMIZER)}
        tensors = {name.removeprefix(OPTIMIZER): tensor.to(device) for name, tensor in own.items()}
        return {**self.optimizer, **tensors}


def check_checkpoint(path: Path) -> None:
    """Raises CheckpointError where no checkpoint can be written to `path`."""
    try:
        check_place(str(path), "checkpoint")
    except ImageError as error:
        raise CheckpointError(str(error)) from None


def check_same_inputs(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises CheckpointError where pictures, options or sizes of a run are not those of the `saved` one.

    Both are parameters as a `Result` has them; of `present` those that are known before the network is loaded will do.
    """
    pairs = []
    if (saved["content"] is None) != (present["content"] is None):
        raise CheckpointError("either the checkpoint or this run has no content picture; give what the run was made of")
    if saved["content"] is not None:
        pairs.append(("content image", saved["content"], present["content"]))
    if saved.get("init") is not None and present["init"] is not None:
        pairs.append(("init image", saved["init"], present["init"]))
    pairs += [("style image", one, other) for one, other in zip(saved["styles"], present["styles"], strict=False)]
    if len(saved["styles"]) != len(present["styles"]):
        raise CheckpointError(
            f"the checkpoint has {len(saved['styles'])} style images, not {len(present['styles'])}; give those, in "
            "order"
        )
    for what, one, other in pairs:
        _check_same(what, one, other)
    if mask_hashes(saved.get("masks")) != mask_hashes(present.get("masks")):
        raise CheckpointError("the masks are not those of the checkpoint; give those, in order, or begin anew")
    for name, value in saved["options"].items():
        if name not in _FREE and json.dumps(value) != json.dumps(present["options"][name]):
            raise CheckpointError(
                f"the checkpoint's {name} is {value}, not {present['options'][name]}; leave it as it was, or begin anew"
            )
    if saved["sizes"] != present["sizes"]:
        raise CheckpointError(
            f"the checkpoint's sizes are {saved['sizes']}, not {present['sizes']}; leave them, or begin anew"
        )


def check_same_network(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the weights of a run are not those of the `saved` one.

    Other versions of the packages, and another device, are a FastnstWarning: the run goes on, but not bit for bit.
    """
    _check_same("weights", saved["weights"], present["weights"])
    for what in ("device", "precision", "versions"):
        if saved[what] != present[what]:
            warnings.warn(
                f"the checkpoint's {what} was {saved[what]} and is now {present[what]}; the image will differ a little "
                "from that of the uninterrupted run",
                FastnstWarning,
                stacklevel=2,
            )


def _check_same(what: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    if saved["sha256"] != present["sha256"]:
        name = present.get("name", present.get("source"))
        raise CheckpointError(f"the {what} {name} is not the one of the checkpoint; give that, or begin anew")


def save_run(path: Path, run: SavedRun, tensors: Mapping[str, Pieces] | None = None) -> None:
    """Writes `run` to `path`, a safetensors file, whole or not at all. Raises CheckpointError if that fails.

    `tensors` take the place of the run's own where they are not all there at once.
    """
    facts = {name: getattr(run, name) for name in SavedRun.__dataclass_fields__ if name not in ("losses", "tensors")}
    facts["losses"] = [record.as_dict() for record in run.losses]
    text = json.dumps(facts)
    if tensors is None:
        tensors = {name: pieces_of(tensor) for name, tensor in run.tensors.items()}
    metadata = {"kind": _KIND, "format": str(FORMAT), "run": text}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            write_tensors(file, tensors, metadata)
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_run(path: Path, *, check: bool = True) -> SavedRun:
    """Opens what `save_run` wrote: its tensors are read where they are used, from the file as it is now.

    With `check` all of it is read once. Raises CheckpointError, with the reason, for anything else or if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            kind, version = metadata.get("kind"), metadata.get("format")
            if kind != _KIND:
                raise CheckpointError(f"{path} is no checkpoint of a run; give the file that --checkpoint wrote")
            if version != str(FORMAT):
                raise CheckpointError(
                    f"checkpoint {path} has format {version}, this version of fastnst reads {FORMAT}; go on with the "
                    "version that wrote it, or begin anew"
                )
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        if not path.exists():
            raise CheckpointError(f"checkpoint {path} does not exist; check the path") from None
        raise CheckpointError(
            f"checkpoint {path} cannot be read, or is damaged or cut short ({error}); give the file that --checkpoint "
            "wrote, or begin anew"
        ) from error
    text = metadata.get("run", "")
    if check and not _is_whole(path, metadata.get("sha256", "")):
        raise CheckpointError(f"checkpoint {path} is damaged: its contents are not those that were written; begin anew")
    try:
        facts = json.loads(text)
        facts["losses"] = tuple(LossRecord(**record) for record in facts["losses"])
        run = SavedRun(**facts, tensors=tensors)
        sound = _is_sound(run)
    except (ValueError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"checkpoint {path} holds other facts than a run has; begin anew")
    return run


def _is_sound(run: SavedRun) -> bool:
    """Whether the facts are of the kinds that those who go on with the run take for granted."""
    parameters, sources = run.parameters, run.sources
    inputs = [
        *parameters["styles"],
        *(one for one in (parameters["content"], parameters.get("init")) if one is not None),
    ]
    places = [sources["content"], sources["init"], *sources["styles"]]
    return (
        all(isinstance(one, dict) for one in (parameters, sources, parameters["options"], run.optimizer, *inputs))
        and all(isinstance(one.get("sha256"), str) for one in inputs)
        and all(isinstance(place, str | None) and "\0" not in (place or "") for place in places)
        and all(type(number) is int for number in (run.scale, run.done, run.steps, run.loss_exponent))
        and all(isinstance(some, list) for some in (parameters["styles"], sources["styles"], parameters["sizes"]))
        and len(parameters["sizes"]) > 0
        and all(
            type(size[side]) is int and size[side] > 0 for size in parameters["sizes"] for side in ("width", "height")
        )
        and {"device", "precision", "versions"} <= parameters.keys()
        and "init" in parameters["options"]
        and isinstance(run.finished, bool)
        and isinstance(run.seconds, int | float)
        and "image" in run.tensors
    )


def _is_whole(path: Path, sha256: str) -> bool:
    with path.open("rb") as file:
        return is_whole(file, sha256)
