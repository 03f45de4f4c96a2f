"""Launch parameters that `python -m bench.tune` measured on a device: the file they are kept in, checked strictly.

A device's file is `tuned/DEVICE.json` in this package, where DEVICE is its name in lower case with underscores. The
environment variable FASTNST_KERNELS_TUNED names another file, which serves every GPU of its `arch`, or is "off".
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastnst_kernels.blocks import Problem, backward_stage_bytes, partial_stage_bytes
from fastnst_kernels.gpu import Gpu

FOLDER = Path(__file__).parent / "tuned"
VARIABLE = "FASTNST_KERNELS_TUNED"
FORMAT = 1

PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "partial": ("block_c", "block_m", "splits", "num_warps", "num_stages"),
        "backward": ("block_c", "block_m", "block_k", "num_warps", "num_stages"),
    }
)
_ITEMSIZES = {"16-bit": 2, "tf32": 4, "ieee": 4}
_HEAD = {"format": int, "arch": str, "device": str, "date": str, "commit": str, "versions": dict, "entries": list}
_ENTRY = {
    "kernel": str,
    "mode": str,
    "aligned": bool,
    "channels": int,
    "positions": int,
    "batch": int,
    "config": dict,
    "seconds": float,
    "heuristic_seconds": float,
}
_LIMITS = {
    "block_c": (16, 256),
    "block_m": (16, 512),
    "block_k": (16, 256),
    "num_warps": (1, 16),
    "num_stages": (1, 8),
    "splits": (1, 1 << 20),
}
_POWERS_OF_TWO = ("block_c", "block_m", "block_k", "num_warps")

Key = tuple[str, str, bool, int, int, int]


@dataclass(frozen=True)
class Tuned:
    """Measured parameters by kernel and shape class; an empty one leaves everything to the heuristic."""

    entries: Mapping[Key, Mapping[str, int]] = field(default_factory=dict)

    def get(self, kernel: str, problem: Problem) -> Mapping[str, int] | None:
        """The parameters for `kernel` ("partial" or "backward") in the class of `problem`, or None."""
        if not self.entries:
            return None
        return self.entries.get(key_of(kernel, problem))


def key_of(kernel: str, problem: Problem) -> Key:
    """What one entry is for: kernel, arithmetic, alignment, channels, class of positions, batch."""
    return (kernel, problem.mode, problem.aligned, problem.channels, problem.position_class, problem.batch)


def tuned_for(gpu: Gpu) -> Tuned:
    """The measured parameters of `gpu`, as the environment says. Raises ValueError for a file that is not valid."""
    return _tuned(os.environ.get(VARIABLE, ""), gpu)


def path_of(device: str) -> Path:
    """Where the parameters of the device called `device` are kept."""
    return FOLDER / (re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_") + ".json")


@cache
def _tuned(setting: str, gpu: Gpu) -> Tuned:
    if setting == "off":
        return Tuned()
    if setting:
        return load(Path(setting), gpu)
    path = path_of(gpu.device)
    if not gpu.device or not path.exists():
        return Tuned()
    return load(path, gpu)


def load(path: Path, gpu: Gpu) -> Tuned:
    """Reads a file; without entries if it is for another architecture.

    Raises ValueError, with the file and the entry, for what cannot be read or run on `gpu`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; {_remedy()}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {_remedy()}") from None
    head = _fields(content, _HEAD, str(path))
    if head["format"] != FORMAT:
        raise ValueError(f"{path}: format {head['format']} is not {FORMAT}; {_remedy()}")
    if head["arch"] != gpu.name:
        return Tuned()
    entries: dict[Key, Mapping[str, int]] = {}
    for index, entry in enumerate(head["entries"]):
        where = f"{path}: entry {index}"
        key, config = _entry(_fields(entry, _ENTRY, where), gpu, where)
        if key in entries:
            raise ValueError(f"{where} has the kernel and shape class of an earlier one; remove either")
        entries[key] = config
    return Tuned(MappingProxyType(entries))


def check(kernel: str, problem: Problem, config: Mapping[str, int], gpu: Gpu) -> str | None:
    """Why `config` cannot run on `gpu`, or None."""
    for name in _POWERS_OF_TWO:
        if name in config and config[name].bit_count() != 1:
            return f"{name} {config[name]} is not a power of two"
    for name, value in config.items():
        low, high = _LIMITS[name]
        if not low <= value <= high:
            return f"{name} {value} is out of range; give {low} to {high}"
    if kernel == "partial":
        # The reduction's tiles divide the block.
        if problem.channels > 128 and config["block_c"] < 32:
            return f"block_c {config['block_c']} is too small for {problem.channels} channels; give 32 or more"
        stage = partial_stage_bytes(problem, config["block_c"], config["block_m"])
    else:
        stage = backward_stage_bytes(problem, config["block_c"], config["block_m"], config["block_k"])
    if stage * config["num_stages"] > gpu.shared_limit:
        needed = stage * config["num_stages"]
        return f"it needs {needed} bytes of shared memory and {gpu.name} has {gpu.shared_limit}; lower num_stages"
    return None


def _entry(entry: Mapping[str, Any], gpu: Gpu, where: str) -> tuple[Key, Mapping[str, int]]:
    kernel, mode = entry["kernel"], entry["mode"]
    _known("kernel", kernel, tuple(PARAMETERS), where)
    _known("mode", mode, tuple(_ITEMSIZES), where)
    for name in ("channels", "positions", "batch"):
        if entry[name] < 1:
            raise ValueError(f"{where}: {name} {entry[name]} is not positive")
    if entry["positions"].bit_count() != 1:
        raise ValueError(f"{where}: positions {entry['positions']} is not a power of two, which names a class")
    config = _fields(entry["config"], dict.fromkeys(PARAMETERS[kernel], int), f"{where}: config")
    sizes = (entry["channels"], entry["positions"], entry["batch"])
    problem = Problem(*sizes, _ITEMSIZES[mode], mode != "ieee", entry["aligned"])
    wrong = check(kernel, problem, config, gpu)
    if wrong:
        raise ValueError(f"{where}: {wrong}")
    return key_of(kernel, problem), MappingProxyType(dict(config))


def _fields(value: object, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """`value` as an object with exactly these fields of these types."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {type(value).__name__}; give an object with {', '.join(kinds)}")
    for name in value:
        _known("key", name, tuple(kinds), where)
    for name, kind in kinds.items():
        if name not in value:
            raise ValueError(f"{where} lacks {name}")
        # bool is an int, and an int is as good as a float.
        right = type(value[name]) is kind or (kind is float and type(value[name]) is int)
        if not right:
            raise ValueError(f"{where}: {name} is {value[name]!r}; give {kind.__name__}")
    return value


def _known(what: str, value: str, allowed: Sequence[str], where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where}: {what} {value!r} is unknown; use {', '.join(allowed)}")


def _remedy() -> str:
    return f"write it with python -m bench.tune, or set {VARIABLE}=off"
