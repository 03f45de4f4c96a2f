"""A checkpoint file (.pth, .pt, .safetensors): its convolutions by our names, checked, and their preprocessing."""

import json
import math
import os
import pickletools
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastnst.architecture import NETWORKS, Layer, layers_of
from fastnst.errors import WeightsError
from fastnst.quiet import quietened

SUFFIXES_TEXT = ".pth, .pt or .safetensors"
_PICKLE_SUFFIXES = (".pth", ".pt")
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
class Preprocessing:
    """How RGB values in 0…1 become the network's input: `(x[order] · scale − mean) / std`, per channel.

    `order` is RGB, or BGR if `bgr`; `mean` and `std` are in that order and in the units of `x · scale`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    bgr: bool


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1.0, bgr=False)
CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), scale=255.0, bgr=True)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open file whose names are understood and whose tensors are not read yet.

    `keys` maps each name in the file, less any `module.`, to the name as it stands there; `prefixes` maps each
    convolution of `network` to what its names begin with (`conv1_2` → `features.2`), whether the file has it or not.
    """

    path: Path
    network: str
    preprocessing: Preprocessing
    prefixes: Mapping[str, str]
    keys: Mapping[str, str]
    get: Callable[[str], object]

    def has(self, layer: Layer) -> bool:
        """Whether the file names a weight of this convolution."""
        return f"{self.prefixes[layer.name]}.weight" in self.keys


def open_checkpoint(path: Path, network: str, *, suffix: str | None = None) -> Checkpoint:
    """Open a checkpoint of `network` and tell its preprocessing by the names in it.

    - `features.0.weight` (torchvision; also inside `state_dict`, or with `module.` in the names): `IMAGENET`.
    - `conv1_1.weight` (the Caffe model of Gatys et al.): `CAFFE`.
    - a file of `save_weights` declares its own.

    `.pth` and `.pt` are read by `torch.load(weights_only=True)`: plain tensors only, nothing in them is executed.
    `suffix` is the type to go by where the file's name does not end in it.

    Raises WeightsError if the file is missing, not a regular file, unreadable, of an unknown type, empty, truncated,
    damaged, not a checkpoint, unsafe to read, not a VGG, with batch normalisation, of another network, or declares no
    usable preprocessing.
    """
    suffix = suffix or path.suffix.lower()
    try:
        if path.is_dir():
            raise WeightsError(f"weights {path} is a folder; pass the path of a {SUFFIXES_TEXT} file")
        if not path.exists():
            raise WeightsError(
                f"weights file {path} does not exist; check the path, or pass auto, imagenet or embedded"
            )
        if not path.is_file():
            raise WeightsError(f"weights {path} is not a regular file; pass the path of a {SUFFIXES_TEXT} file")
        if suffix not in (*_PICKLE_SUFFIXES, ".safetensors"):
            raise WeightsError(f"weights file {path} has an unknown type; it must be {SUFFIXES_TEXT}")
        if path.stat().st_size == 0:
            raise WeightsError(f"weights file {path} is empty; fetch it again")
        contents = _open_pickle(path) if suffix in _PICKLE_SUFFIXES else _open_safetensors(path)
    except OSError as error:
        raise WeightsError(
            f"weights file {path} cannot be read ({error.strerror or error}); check its permissions or pass another"
        ) from error
    return _understood(path, network, contents)


def read_convolutions(checkpoint: Checkpoint, layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, contiguous, on the CPU.

    The tensors are copies, independent of the file. Raises WeightsError if one is missing, of the wrong shape, not
    plain floating-point values, or has values that are not finite in float32.
    """
    tensors = {}
    for layer in layers:
        weight_shape = (layer.out_channels, layer.in_channels, 3, 3)
        tensors[f"{layer.name}.weight"] = _checked_tensor(checkpoint, layer, "weight", weight_shape)
        tensors[f"{layer.name}.bias"] = _checked_tensor(checkpoint, layer, "bias", (layer.out_channels,))
    return tensors


def save_weights(
    path: str | os.PathLike[str], network: str, tensors: Mapping[str, torch.Tensor], preprocessing: Preprocessing
) -> None:
    """Write convolutions (as from `read_convolutions`) to a `.safetensors` file with their network and preprocessing.

    The file appears whole or not at all. Raises OSError if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    metadata = {"format": "fastnst", "network": network, "preprocessing": json.dumps(asdict(preprocessing))}
    try:
        save_file(dict(tensors), temporary, metadata=metadata)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Contents:
    """What a file holds, before any of it is trusted: its keys, a way to read one, and its metadata."""

    keys: Sequence[str]
    get: Callable[[str], object]
    metadata: Mapping[str, str]


def _open_safetensors(path: Path) -> _Contents:
    try:
        handle: Any = safe_open(path, framework="pt")
        return _Contents(list(handle.keys()), handle.get_tensor, handle.metadata() or {})
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


def _open_pickle(path: Path) -> _Contents:
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
    return _Contents([key for key in state if isinstance(key, str)], state.__getitem__, {})


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


def _understood(path: Path, network: str, contents: _Contents) -> Checkpoint:
    """Tell the naming, and with it the preprocessing; refuse a file that is not a VGG or is another network."""
    # A model saved from DataParallel has "module." before the names, or inside them if only its features were wrapped.
    keys = {key.replace("module.", ""): key for key in contents.keys}
    if any(re.fullmatch(r"features\.\d+\.running_mean", key) for key in keys):
        raise WeightsError(
            f"weights file {path} is a VGG with batch normalisation; pass one without (vgg19, not vgg19_bn)"
        )
    is_torchvision = any(re.fullmatch(r"features\.\d+\.weight", key) for key in keys)
    pattern = r"(features\.\d+)\.weight" if is_torchvision else r"(conv\d_\d)\.weight"
    found = {match[1] for key in keys if (match := re.fullmatch(pattern, key))}
    if not found:
        first = ", ".join(list(keys)[:3]) or "none"
        raise WeightsError(
            f"weights file {path} is not a VGG: it has no features.0.weight or conv1_1.weight, but: {first}"
        )
    if contents.metadata.get("format") == "fastnst":
        held = [contents.metadata.get("network", "an unnamed network")]
        preprocessing = _declared_preprocessing(path, contents.metadata)
    else:
        held = [name for name in NETWORKS if _is_start_of(found, _prefixes(name, is_torchvision))]
        preprocessing = IMAGENET if is_torchvision else CAFFE
    # No network at all: convolutions are missing, and reading says which.
    if held and network not in held:
        raise WeightsError(
            f"weights file {path} holds {held[0]}, not {network}; choose that network, or pass a file of {network}"
        )
    return Checkpoint(path, network, preprocessing, _prefixes(network, is_torchvision), keys, contents.get)


def _prefixes(network: str, is_torchvision: bool) -> dict[str, str]:
    """What a file's names of each convolution begin with; torchvision counts every convolution, ReLU and pool."""
    prefixes = {}
    index = 0
    for layer in layers_of(network):
        if layer.is_pool:
            index += 1
            continue
        prefixes[layer.name] = f"features.{index}" if is_torchvision else layer.name
        index += 2
    return prefixes


def _is_start_of(found: set[str], prefixes: Mapping[str, str]) -> bool:
    return found == set(list(prefixes.values())[: len(found)])


def _declared_preprocessing(path: Path, metadata: Mapping[str, str]) -> Preprocessing:
    try:
        declared = json.loads(metadata["preprocessing"])
        mean, std = (tuple(float(value) for value in declared[key]) for key in ("mean", "std"))
        scale = float(declared["scale"])
        bgr = bool(declared["bgr"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"weights file {path} declares no usable preprocessing ({error!r}); write it again"
        ) from error
    if not (len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std, scale))) and min(*std, scale) > 0):
        raise WeightsError(
            f"weights file {path} declares a wrong preprocessing: it needs 3 means, 3 std above 0, a scale above 0"
        )
    return Preprocessing((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), scale, bgr)


def _checked_tensor(checkpoint: Checkpoint, layer: Layer, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    name = f"{checkpoint.prefixes[layer.name]}.{kind}"
    where = f"{kind} of {layer.name} in {checkpoint.network}"
    if name not in checkpoint.keys:
        raise WeightsError(
            f"weights file {checkpoint.path} lacks {name} ({where}); pass a complete {checkpoint.network} file"
        )
    what = f"weights file {checkpoint.path}: {name} ({where})"
    try:
        tensor = checkpoint.get(checkpoint.keys[name])
    except SafetensorError as error:
        raise WeightsError(f"{what} cannot be read ({error}); fetch it again") from error
    if not isinstance(tensor, torch.Tensor):
        raise WeightsError(f"{what} is a {type(tensor).__name__}, not a tensor")
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{what} has the shape {_shape(tensor.shape)}; expected {_shape(shape)}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise WeightsError(
            f"{what} is {tensor.dtype}, {tensor.layout}, {tensor.device}; expected plain floating-point values"
        )
    # A copy of our own: the file's may be a view of the file itself, which others can overwrite.
    own = torch.empty(shape, dtype=torch.float32).copy_(tensor.detach())
    low, high = torch.aminmax(own)  # both are NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise WeightsError(f"{what} has values that are NaN or infinite")
    return own


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
