"""What a weights file (.pth, .pt, .safetensors) holds, before any of it is trusted: the names in it, and their tensors.

What pickled files ask for is told without running it.
"""

import json
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fastnst.errors import WeightsError
from fastnst.quiet import quietened

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which torch.save began before it wrote zip files
_PLAIN_GLOBALS = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    }
)


@dataclass(frozen=True)
class Contents:
    """What a file holds, before any of it is trusted: its keys, a way to read one, and its metadata."""

    keys: Sequence[str]
    get: Callable[[str], object]
    metadata: Mapping[str, str]


def open_safetensors(path: Path) -> Contents:
    """The contents of a safetensors file. Raises WeightsError where it is truncated or none."""
    try:
        handle: Any = safe_open(path, framework="pt")
        return Contents(list(handle.keys()), handle.get_tensor, handle.metadata() or {})
    except SafetensorError as error:
        fault = "is truncated" if _is_truncated_safetensors(path) else "is damaged or not a safetensors file"
        raise WeightsError(f"weights file {path} {fault} ({error}); fetch it again") from error


def _is_truncated_safetensors(path: Path) -> bool:
    """Whether the file ends before the last tensor that its header (8 bytes of length, then JSON) lists."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100_000_000:  # the format's limit
            return False
        header = file.read(length)
    if len(header) < length:
        return header.startswith(b"{")
    try:
        ends = [entry["data_offsets"][1] for key, entry in json.loads(header).items() if key != "__metadata__"]
        return bool(path.stat().st_size < 8 + length + max(ends, default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False


def open_pickle(path: Path) -> Contents:
    """The contents of what torch.save wrote: plain tensors by name; nothing in the file is executed.

    Raises WeightsError where it holds anything else, is unsafe to read, damaged or no such file.
    """
    is_zip = _is_zip(path)
    try:
        with quietened("torch"):  # it doubts pickle protocol 3, and reads it
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError:
        raise
    except Exception as error:  # damage makes torch's unpickler raise nearly anything, struct.error for one
        raise _pickle_fault(path, is_zip) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise WeightsError(
            f"weights file {path} holds a {kind}, not named tensors; save the model's state_dict() in it"
        )
    return Contents([key for key in state if isinstance(key, str)], state.__getitem__, {})


def _is_zip(path: Path) -> bool:
    """Whether the file is a zip file, as torch.save writes. Raises WeightsError for any other zip file."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except OSError:
        raise
    except Exception as error:  # zipfile, too, raises UnicodeDecodeError, NotImplementedError … for damage
        raise _damaged(path) from error
    if "constants.pkl" in names:
        raise _refused(path, "TorchScript")
    if "data.pkl" not in names:
        raise WeightsError(
            f"weights file {path} is a zip file but not a PyTorch checkpoint; pass one written by torch.save"
        )
    return True


def _pickle_fault(path: Path, is_zip: bool) -> WeightsError:
    """Why torch did not load the file."""
    instructions = list(_instructions(path, is_zip))
    for name in _globals(instructions):
        if not _is_plain(name):
            return _refused(path, name)
    with path.open("rb") as file:
        if not is_zip and _LEGACY_MAGIC not in file.read(32):
            return WeightsError(
                f"weights file {path} is not a PyTorch checkpoint; pass a file written by torch.save, or .safetensors"
            )
    protocol = max((opcode.proto for opcode, _ in instructions), default=2)
    if protocol != 2:
        return WeightsError(
            f"weights file {path} uses pickle protocol {protocol}, which torch.load(weights_only=True) does not "
            "read; save it again with torch.save and no pickle_protocol, or as .safetensors"
        )
    return _damaged(path)


def _instructions(path: Path, is_zip: bool) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """The instructions of the file's pickles with their arguments, up to any damage; nothing is executed."""
    with suppress(Exception):
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
            for pickled in pickles:
                yield from ((opcode, argument) for opcode, argument, _ in pickletools.genops(pickled))
        else:
            with path.open("rb") as file:
                for _ in range(5):  # before zip files, torch.save wrote five pickles one after the other
                    yield from ((opcode, argument) for opcode, argument, _ in pickletools.genops(file))


def _globals(instructions: Iterable[tuple[pickletools.OpcodeInfo, Any]]) -> Iterator[str]:
    """The functions and classes that the pickles ask for, as `module.name`."""
    strings = ["", ""]
    memo: list[str] = []
    for opcode, argument in instructions:
        if opcode.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":  # protocol 4: the two strings before it, each new or from the memo
            yield ".".join(strings[-2:])
        elif opcode.name == "MEMOIZE":
            memo.append(strings[-1])
        elif opcode.name == "STOP":  # the next pickle has a memo of its own
            memo.clear()
        elif opcode.name in ("BINGET", "LONG_BINGET") and argument < len(memo):
            strings.append(memo[argument])
        elif isinstance(argument, str):
            strings.append(argument)


def _is_plain(name: str) -> bool:
    """Whether torch.load(weights_only=True) allows this function or class, because plain data needs it."""
    name = name.replace("__builtin__.", "builtins.", 1)  # as protocol 2 calls it
    module, _, own = name.rpartition(".")
    return (
        name in _PLAIN_GLOBALS
        or name.startswith("torch._utils._rebuild_")
        or (name.startswith("torch.") and own.endswith("Storage"))
        or (module == "torch" and isinstance(getattr(torch, own, None), torch.dtype))
    )


def _refused(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"weights file {path} was refused for safety: it holds code or whole Python objects ({what[:80]!r}), and only "
        "plain tensors are loaded; save the model's state_dict() instead"
    )


def _damaged(path: Path) -> WeightsError:
    return WeightsError(f"weights file {path} is truncated or damaged; fetch it again")
