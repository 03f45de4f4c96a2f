"""A network as a file: safetensors in float16, with its styles and its architecture in the metadata."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fastnst.errors import FastnstError, OptionError, counted
from fastnst.feedforward.network import Architecture, StyleNetwork, one_style
from fastnst.options.parse import hint_for
from fastnst.replacing import replacing

SHIPPED = Path(__file__).with_name("styles.safetensors")
"""The network that ships with fastnst, of styles drawn by its own programs."""
FORMAT = 1
KIND = "fastnst style network"
Blend = Sequence[float | str] | Mapping[str, float | str] | str
_MOST_BYTES = 256_000_000


class NetworkError(FastnstError):
    """A network file cannot be read or written."""


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """A network from a file; `sha256` is the hash of the file, `training` says how it was made, and `name` is its path,
    None for the network that comes with fastnst."""

    network: StyleNetwork
    sha256: str
    training: Mapping[str, Any]
    name: str | None = None


def save_network(path: str | os.PathLike[str], network: StyleNetwork, training: Mapping[str, Any]) -> None:
    """Writes the network, whole or not at all; `training` says how it was made, in values that JSON can hold.

    Raises NetworkError if a weight is beyond float16, or the file cannot be written.
    """
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    if bad := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise NetworkError(f"{bad[0]} of the network is not finite in float16; train it with a lower learning rate")
    facts = {
        "kind": KIND,
        "format": FORMAT,
        "styles": list(network.names),
        "architecture": asdict(network.architecture),
        "training": dict(training),
    }
    try:
        with replacing(Path(os.path.realpath(path))) as file:
            file.write(save(tensors, {"fastnst": json.dumps(facts)}))
    except OSError as error:
        raise NetworkError(
            f"network {os.fsdecode(path)!r} cannot be written ({error.strerror}); free some space or choose another "
            "folder"
        ) from error


def load_network(path: str | os.PathLike[str] = SHIPPED) -> NetworkFile:
    """Reads a file of `save_network`, in float32 on the CPU; by default the network that comes with fastnst.

    Raises NetworkError for anything else.
    """
    what = f"network {os.fsdecode(path)!r}"
    try:
        status = Path(path).stat()
        is_file = stat.S_ISREG(status.st_mode)  # a pipe would keep us waiting
        if not is_file or status.st_size > _MOST_BYTES:
            problem = f"has {status.st_size} bytes, more than a network has" if is_file else "is not a regular file"
            raise NetworkError(f"{what} {problem}; give a file that fastnst train wrote")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NetworkError(f"{what} cannot be read ({reason}); check the path") from None
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        facts = json.loads(metadata["fastnst"])
        known = facts["kind"] == KIND
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError):
        known = False
    if not known:
        raise NetworkError(
            f"{what} is not a network of fastnst, or it is damaged; give a file that fastnst train wrote"
        )
    if facts.get("format") != FORMAT:
        raise NetworkError(
            f"{what} has format {facts.get('format')!r}, and this version of fastnst reads {FORMAT}; use the version "
            "that wrote it"
        )
    try:
        names = [str(name) for name in facts["styles"]]
        # The facts may name more styles than there is memory for.
        if not names or tensors["paint.scale"].shape[:1] != (len(names),):
            raise ValueError("no styles, or others than in the tensors")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise ValueError("values that are not finite")
        network = StyleNetwork.of(names, Architecture(**facts["architecture"]), tensors)
        training = dict(facts["training"])
    except (KeyError, TypeError, ValueError, RuntimeError, OptionError):
        raise NetworkError(f"{what} is damaged: its weights do not match its description; train it again") from None
    name = None if path == SHIPPED else os.fsdecode(path)
    return NetworkFile(network.eval().requires_grad_(False), hashlib.sha256(data).hexdigest(), training, name)


def blend_weights(network: StyleNetwork, blend: Blend | None = None, style: str | int | None = None) -> torch.Tensor:
    """The styles' shares, (styles,) float32, that sum to 1.

    blend: a number for each style, 0 or more, in order, or for those that are named, or a text as in `read_blend`;
    style: the name of one, or its index. The first style where neither is given. Raises OptionError.
    """
    names = network.names
    if blend is not None and style is not None:
        raise OptionError("you gave both a style and a blend; give only one of them")
    if blend is None:
        return one_style(_index(names, style), len(names))
    blend = in_order(names, blend)
    try:
        weights = torch.tensor([float(weight) for weight in blend], dtype=torch.float64, device="cpu")
    except (TypeError, ValueError):
        raise OptionError(
            f"blend {blend!r} is not a list of numbers; give one for each style, such as 0.3 0.7"
        ) from None
    listed = ", ".join(names)
    if len(weights) != len(names):
        raise OptionError(
            f"you gave {counted(len(weights), 'blend weight')} for {counted(len(names), 'style')} ({listed}); give "
            f"one for each, or name them, such as {names[0]}=0.3 {names[-1]}=0.7"
        )
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or weights.sum() <= 0:
        raise OptionError(
            f"blend {[f'{weight:g}' for weight in weights.tolist()]} is not possible; weights must be 0 "
            "or more, and not all 0"
        )
    return (weights / weights.sum()).float()


def in_order(names: Sequence[str], blend: Blend) -> Sequence[float | str]:
    """The weights of a blend in the order of the styles, 0 for those that it does not name. Raises OptionError."""
    blend = read_blend(blend) if isinstance(blend, str) else blend
    if not isinstance(blend, Mapping):
        return blend
    named = {_index(names, name): weight for name, weight in blend.items()}
    return [named.get(index, 0.0) for index in range(len(names))]


def read_blend(words: str) -> Any:
    """The blend that is written as `0.3 0.7` or `swirls=0.3 starry night=0.7`; commas do for spaces."""
    if "=" not in words:
        return words.replace(",", " ").split()
    *named, rest = re.split(r"=([^\s,=]*)[\s,]*", words.strip())  # a name, its weight, the next name …
    return dict(zip(named[::2], named[1::2], strict=True)) | ({rest: ""} if rest else {})


def _index(names: Sequence[str], style: str | int | None) -> int:
    if style is None:
        return 0
    if type(style) is int and 0 <= style < len(names):
        return style
    if style not in names:
        hint = hint_for(str(style), names, "")
        raise OptionError(
            f"the network has no style {style!r}; {hint and f'{hint} Or '}choose one of: {', '.join(names)}"
        )
    return names.index(str(style))
