"""A weights file (.pth, .pt, .safetensors): its convolutions by our names, checked, and their preprocessing."""

import json
import math
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fastnst.errors import WeightsError
from fastnst.network.architecture import CAFFE, IMAGENET, NETWORKS, Layer, Preprocessing, layers_of
from fastnst.replacing import replacing

SUFFIXES_TEXT = ".pth, .pt or .safetensors"
_PICKLE_SUFFIXES = (".pth", ".pt")
# Python's warning filters belong to the whole process: if two threads set them aside at once, neither puts them back.
_FILTERS = threading.RLock()


class _Contents(NamedTuple):
    """The contents of a file, none of which is trusted yet: its names, a way to read one, and its metadata."""

    keys: Sequence[str]
    get: Callable[[str], object]
    metadata: Mapping[str, str]


class WeightsFile:
    """An open file whose names are understood, and by them its preprocessing, and whose tensors are not read yet.

    `keys` maps each name in the file, less any `module.`, to the name as it stands there; `prefixes` maps each
    convolution of `network` to the start of its names (`conv1_2` → `features.2`), also where the file has none. Raises
    WeightsError where it is not a VGG, or another.
    """

    def __init__(self, path: Path, network: str, contents: _Contents) -> None:
        self.path, self.network, self.get = path, network, contents.get
        # A model saved from DataParallel has "module." before the names, or inside them if only its features were
        # wrapped.
        self.keys = keys = {key.replace("module.", ""): key for key in contents.keys}
        if any(re.fullmatch(r"features\.\d+\.running_mean", key) for key in keys):
            raise WeightsError(
                f"weights file {path} is a VGG with batch normalisation; pass one without (vgg19, not vgg19_bn)"
            )
        is_torchvision = any(re.fullmatch(r"features\.\d+\.weight", key) for key in keys)
        pattern = r"(features\.\d+)\.weight" if is_torchvision else r"(conv\d_\d)\.weight"
        named = {match[1] for key in keys if (match := re.fullmatch(pattern, key))}
        if not named:
            first = ", ".join(list(keys)[:3]) or "none"
            raise WeightsError(
                f"weights file {path} is not a VGG: it has no features.0.weight or conv1_1.weight, but: {first}"
            )
        if contents.metadata.get("format") == "fastnst":
            held = [contents.metadata.get("network", "an unnamed network")]
            self.preprocessing = _declared_preprocessing(path, contents.metadata)
        else:
            starts = {name: list(_prefixes(name, is_torchvision).values())[: len(named)] for name in NETWORKS}
            held = [name for name, start in starts.items() if named == set(start)]
            self.preprocessing = IMAGENET if is_torchvision else CAFFE
        # No network at all: convolutions are missing, and reading says which.
        if held and network not in held:
            raise WeightsError(
                f"weights file {path} holds {held[0]}, not {network}; choose that network, or pass a file of {network}"
            )
        self.prefixes = _prefixes(network, is_torchvision)

    def has(self, layer: Layer) -> bool:
        """True where the file names a weight of this convolution."""
        return f"{self.prefixes[layer.name]}.weight" in self.keys


def open_weights(path: Path, network: str, *, suffix: str | None = None) -> WeightsFile:
    """Opens a weights file of `network` and tells its preprocessing by the names in it, as `load_weights` says.

    `suffix` is the file's type where its name does not end in it.

    Raises WeightsError if the file is missing, not a regular file, unreadable, of an unknown type, empty, truncated,
    damaged, not a weights file, unsafe to read, not a VGG, with batch normalisation, of another network, or declares no
    usable preprocessing.
    """
    suffix = suffix or path.suffix.lower()
    try:
        if path.is_dir():
            raise WeightsError(f"weights {path} is a folder; pass the path of a {SUFFIXES_TEXT} file")
        if not path.exists():
            raise WeightsError(
                f"weights file {path} does not exist; check the path, or pass auto, original or imagenet"
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
    return WeightsFile(path, network, contents)


def read_convolutions(file: WeightsFile, layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """`conv1_1.weight` (out, in, 3, 3) and `conv1_1.bias` (out,) of each convolution: float32, contiguous, on the CPU.

    The tensors are copies, independent of the file. Raises WeightsError if one is missing, of the wrong shape, not
    plain floating-point values, or has values that are not finite in float32.
    """
    return {f"{layer.name}.{kind}": _tensor(file, layer, kind) for layer in layers for kind in ("weight", "bias")}


def save_weights(
    path: str | os.PathLike[str], network: str, tensors: Mapping[str, torch.Tensor], preprocessing: Preprocessing
) -> None:
    """Writes convolutions (as from `read_convolutions`) to a `.safetensors` file with their network and preprocessing.

    The file appears whole or not at all. Raises OSError if it cannot be written.
    """
    metadata = {"format": "fastnst", "network": network, "preprocessing": json.dumps(asdict(preprocessing))}
    with replacing(Path(os.path.realpath(path))) as file:
        file.write(save(dict(tensors), metadata))


def _open_safetensors(path: Path) -> _Contents:
    try:
        handle: Any = safe_open(path, framework="pt")
        return _Contents(list(handle.keys()), handle.get_tensor, handle.metadata() or {})
    except SafetensorError as error:
        raise WeightsError(
            f"weights file {path} is truncated, damaged or not a safetensors file ({error}); fetch it again"
        ) from error


def _open_pickle(path: Path) -> _Contents:
    """The contents of a file that torch.save wrote: plain tensors by name; nothing in the file is executed."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        if is_zip:
            check_archive(path)
        with _FILTERS, warnings.catch_warnings():  # torch doubts pickle protocol 3, and reads it
            warnings.filterwarnings("ignore", module=r"torch(\.|$)")
            # A mapped file is never unpacked, whatever sizes it claims.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # damage makes torch's unpickler raise nearly anything, struct.error for one
        raise _refusal(path, str(error)) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise WeightsError(
            f"weights file {path} holds a {kind}, not named tensors; save the model's state_dict() in it"
        )
    return _Contents([key for key in state if isinstance(key, str)], state.__getitem__, {})


def check_archive(path: Path) -> None:
    """Raises ValueError or BadZipFile for a file of torch.save with a flipped bit, which torch.load takes for what was
    written, and for one whose parts are packed or overlap, and would grow."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are more than the file holds")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is not what was written")


def _refusal(path: Path, reason: str) -> WeightsError:
    """The error of a file for which torch.load(weights_only=True) gave this `reason`, in the user's words."""
    if code := re.search(r"GLOBAL (\S{1,80})|(TorchScript)", reason):
        return WeightsError(
            f"weights file {path} was refused for safety: it holds code or whole Python objects "
            f"({code[1] or code[2]!r}), and only plain tensors are loaded; save the model's state_dict() instead"
        )
    if "Unsupported operand" in reason:
        return WeightsError(
            f"weights file {path} is not a PyTorch checkpoint of plain tensors; pass a file written by torch.save "
            "without pickle_protocol, or .safetensors"
        )
    return WeightsError(f"weights file {path} is truncated, damaged or not a PyTorch checkpoint; fetch it again")


def _prefixes(network: str, is_torchvision: bool) -> dict[str, str]:
    """The start of a file's names of each convolution; torchvision counts every convolution, ReLU and pool."""
    prefixes = {}
    index = 0
    for layer in layers_of(network):
        if layer.is_pool:
            index += 1
            continue
        prefixes[layer.name] = f"features.{index}" if is_torchvision else layer.name
        index += 2
    return prefixes


def _declared_preprocessing(path: Path, metadata: Mapping[str, str]) -> Preprocessing:
    try:
        declared = json.loads(metadata["preprocessing"])
        mean, std = (tuple(float(value) for value in declared[key]) for key in ("mean", "std"))
        scale = float(declared["scale"])
        bgr = bool(declared["bgr"])
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WeightsError(
            f"weights file {path} declares no usable preprocessing ({error!r}); write it again"
        ) from error
    if not (len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std, scale))) and min(*std, scale) > 0):
        raise WeightsError(
            f"weights file {path} declares a wrong preprocessing; give 3 means, 3 std above 0, and a scale above 0"
        )
    return Preprocessing((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), scale, bgr)


def _tensor(file: WeightsFile, layer: Layer, kind: str) -> torch.Tensor:
    name = f"{file.prefixes[layer.name]}.{kind}"
    shape = (layer.out_channels, layer.in_channels, 3, 3)[: 4 if kind == "weight" else 1]
    where = f"{kind} of {layer.name} in {file.network}"
    if name not in file.keys:
        raise WeightsError(f"weights file {file.path} lacks {name} ({where}); pass a complete {file.network} file")
    what = f"weights file {file.path}: {name} ({where})"
    try:
        tensor = file.get(file.keys[name])
    except Exception as error:  # safetensors takes any shape of no values, and torch refuses it in many lines
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{what} cannot be read ({reason}); fetch it again") from error
    if not isinstance(tensor, torch.Tensor):
        raise WeightsError(f"{what} is a {type(tensor).__name__}, not a tensor; fetch it again")
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{what} has the shape {_shape(tensor.shape)}; expected {_shape(shape)}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise WeightsError(
            f"{what} is {tensor.dtype}, {tensor.layout}, {tensor.device}; expected plain floating-point values"
        )
    # A copy of our own: the file's may be a view of the file itself, which others can overwrite.
    own = torch.empty(shape, dtype=torch.float32, device="cpu").copy_(tensor.detach())
    low, high = torch.aminmax(own)  # both are NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise WeightsError(f"{what} has values that are NaN or infinite; fetch it again")
    return own


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
