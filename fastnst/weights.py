"""The network's weights: from a file, from the ImageNet checkpoint of torchvision, or from a fixed random stream."""

import hashlib
import io
import json
import math
import os
import pickletools
import re
import secrets
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastnst.architecture import NETWORKS, Layer, canonical_layer, layers_of, layers_up_to
from fastnst.download import claimed, fetch, sha256_of, unreachable_reason
from fastnst.errors import FastnstWarning, OptionError, WeightsError

# Hexadecimal start of each checkpoint's SHA-256, which torchvision also puts in its file name.
CHECKPOINTS: dict[str, str] = {"vgg19": "dcbb9e9d", "vgg16": "397923af"}
_BASE_URL = "https://download.pytorch.org/models"
_SUFFIXES = (".pth", ".pt", ".safetensors")
_SUFFIXES_TEXT = ".pth, .pt or .safetensors"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file before it wrote zip files


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
class Weights:
    """The convolutions of a network, and what their input must look like.

    `source` is what to record as used: "imagenet", "embedded", "random" or the file's path. `tensors` holds, for each
    convolution from the image to the deepest one asked for, `conv1_1.weight` of shape (out, in, 3, 3) and
    `conv1_1.bias` of shape (out,): float32, contiguous, on the CPU, finite. `sha256` is a fingerprint of exactly these
    tensors (names, shapes and values), the same for every file format that they are read from; other taps give another
    one.
    """

    source: str
    network: str
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    preprocessing: Preprocessing
    sha256: str


def load_weights(
    spec: str | os.PathLike[str] = "auto",
    network: str = "vgg19",
    *,
    taps: tuple[str, ...] | None = None,
    progress: bool = False,
) -> Weights:
    """The weights of `network` ("vgg19" or "vgg16") up to the deepest of the layers `taps` (None: all of it).

    `spec` is one of:

    - `imagenet`: torchvision's checkpoint. Taken from our cache, else from torch's, else downloaded (about 550 MB, with
      a progress bar on stderr if `progress`, resumed if it was broken off); its convolutions (80 MB) are then kept in
      our cache.
    - `embedded`: needs no file. It is the `random` network.
    - `random`: He initialisation (He et al. 2015) from a fixed seed, the same bits everywhere: weights of mean 0 and
      standard deviation `sqrt(2 / (9 · in))`, biases 0. ImageNet preprocessing.
    - `auto`: `imagenet` if it is in a cache or its server answers within 3 s, else `embedded` with a FastnstWarning.
    - a path: a `.pth`, `.pt` (plain tensors only, nothing in it is executed) or `.safetensors` file. Torchvision's
      names (`features.0.weight`, also inside `state_dict` or after `module.`) mean ImageNet preprocessing; the names of
      Gatys' Caffe model (`conv1_1.weight`) mean BGR in 0…255 less the mean; a file of `save_weights` says itself.

    Our cache is $FASTNST_CACHE, else $XDG_CACHE_HOME/fastnst, else ~/.cache/fastnst. $FASTNST_WEIGHTS_URL replaces
    https://download.pytorch.org/models; with $FASTNST_OFFLINE=1 nothing is downloaded.

    Raises WeightsError if the weights are unknown, missing, damaged, of another network or shape, not finite, unsafe to
    read, or cannot be fetched; OptionError for an unknown network or tap. A cache that cannot be written is a
    FastnstWarning.
    """
    convolutions = _convolutions(network, taps)
    name = os.fspath(spec)
    if name == "auto":
        return _auto(network, convolutions, progress)
    if name == "imagenet":
        return _imagenet(network, convolutions, progress)
    if name == "embedded":
        return _embedded(network, convolutions)
    if name == "random":
        return _random(network, convolutions, source="random")
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path.expanduser raises for an unknown user)
    if not name or not (path.suffix or len(path.parts) > 1 or _exists(path)):
        raise WeightsError(
            f"unknown weights {name!r}; choose auto, imagenet, embedded, random, or the path of a {_SUFFIXES_TEXT} file"
        )
    return _from_file(path, network, convolutions, source=name)


def save_weights(path: Path, network: str, tensors: Mapping[str, torch.Tensor], preprocessing: Preprocessing) -> None:
    """Write convolutions (as in `Weights.tensors`) to a `.safetensors` file with their network and preprocessing.

    The file appears whole or not at all. Raises OSError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    metadata = {"format": "fastnst", "network": network, "preprocessing": json.dumps(asdict(preprocessing))}
    try:
        save_file(dict(tensors), temporary, metadata=metadata)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where the ImageNet convolutions are kept: $FASTNST_CACHE, else $XDG_CACHE_HOME/fastnst, else ~/.cache/fastnst."""
    if own := os.environ.get("FASTNST_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "fastnst"
    return Path.home() / ".cache" / "fastnst"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder on the way is closed to us, or the name is too long
        return False


def _convolutions(network: str, taps: tuple[str, ...] | None) -> list[Layer]:
    if taps is None:
        layers = layers_of(network)
    elif taps:
        layers = layers_up_to(network, tuple(canonical_layer(tap, network) for tap in taps))
    else:
        raise OptionError(f"taps is empty; name at least one layer of {network}, or pass None for all")
    return [layer for layer in layers if not layer.is_pool]


def _auto(network: str, convolutions: list[Layer], progress: bool) -> Weights:
    if (local := _local_imagenet(network, convolutions)) is not None:
        return local
    if _is_offline():
        reason = "FASTNST_OFFLINE is set"
    elif cause := unreachable_reason(_url(network)):
        reason = f"{_url(network)} cannot be reached ({cause})"
    else:
        try:
            return _downloaded_imagenet(network, convolutions, progress)
        except WeightsError as error:
            reason = str(error)
    _warn(
        f"the ImageNet weights are not to be had: {reason}; going on with the embedded network, which looks different"
    )
    return _embedded(network, convolutions)


def _imagenet(network: str, convolutions: list[Layer], progress: bool) -> Weights:
    if (local := _local_imagenet(network, convolutions)) is not None:
        return local
    if _is_offline():
        raise WeightsError(
            f"the ImageNet weights of {network} are not in {cache_folder()} and FASTNST_OFFLINE is set; "
            f"unset it, or download {_url(network)} elsewhere and pass its path"
        )
    return _downloaded_imagenet(network, convolutions, progress)


def _local_imagenet(network: str, convolutions: list[Layer]) -> Weights | None:
    if (cached := _cached_imagenet(network, convolutions)) is not None:
        return cached
    checkpoint = Path(torch.hub.get_dir()) / "checkpoints" / f"{_checkpoint_stem(network)}.pth"
    try:
        if not checkpoint.is_file():
            return None
        if sha256_of(checkpoint).startswith(CHECKPOINTS[network]):
            return _from_checkpoint(checkpoint, network, convolutions)
        reason = "its SHA-256 is not the one in its name"
    except OSError as error:
        reason = error.strerror or str(error)
    _warn(f"{checkpoint} is ignored: {reason}; delete it")
    return None


def _cached_imagenet(network: str, convolutions: list[Layer]) -> Weights | None:
    cached = _cache_file(network)
    if not _exists(cached):
        return None
    try:
        return _from_file(cached, network, convolutions, source="imagenet")
    except WeightsError as error:
        _warn(f"a file of the weights cache is unusable and deleted: {error}")
        with suppress(OSError):
            cached.unlink()
        return None


def _downloaded_imagenet(network: str, convolutions: list[Layer], progress: bool) -> Weights:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"cannot make the weights cache {folder} ({error.strerror}); set FASTNST_CACHE to a folder that is writable"
        ) from error
    with claimed(folder / f"{_checkpoint_stem(network)}.pth.part", progress=progress) as part:
        # Another process may have finished it while this one waited.
        if (cached := _cached_imagenet(network, convolutions)) is not None:
            return cached
        fetch(_url(network), part, sha256_prefix=CHECKPOINTS[network], progress=progress)
        return _from_checkpoint(part, network, convolutions)


def _from_checkpoint(checkpoint: Path, network: str, convolutions: list[Layer]) -> Weights:
    """Read torchvision's checkpoint and keep all the convolutions that it has in our cache."""
    archive = _understood(checkpoint, network, _read_pickle(checkpoint))
    wanted = {layer.name for layer in convolutions}
    present = {name.partition(".")[0] for name in archive.names}
    every = [layer for layer in _convolutions(network, None) if layer.name in wanted | present]
    tensors = _checked_tensors(archive, network, every)
    cached = _cache_file(network)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_weights(cached, network, tensors, archive.preprocessing)
    except OSError as error:
        _warn(f"the weights are used but not kept: cannot write {cached} ({error.strerror or error})")
    kept = {key: tensor for key, tensor in tensors.items() if key.partition(".")[0] in wanted}
    return _weights("imagenet", network, kept, archive.preprocessing)


def _checkpoint_stem(network: str) -> str:
    return f"{network}-{CHECKPOINTS[network]}"


def _cache_file(network: str) -> Path:
    return cache_folder() / f"{_checkpoint_stem(network)}.safetensors"


def _url(network: str) -> str:
    base = os.environ.get("FASTNST_WEIGHTS_URL") or _BASE_URL
    return f"{base.rstrip('/')}/{_checkpoint_stem(network)}.pth"


def _is_offline() -> bool:
    return os.environ.get("FASTNST_OFFLINE", "") not in ("", "0")


def _embedded(network: str, convolutions: list[Layer]) -> Weights:
    return _random(network, convolutions, source="embedded")


def _random(network: str, convolutions: list[Layer], source: str) -> Weights:
    tensors = {}
    for layer in convolutions:
        tensors[f"{layer.name}.weight"] = torch.from_numpy(_he_weight(layer))
        tensors[f"{layer.name}.bias"] = torch.zeros(layer.out_channels)
    return _weights(source, network, tensors, IMAGENET)


def _he_weight(layer: Layer) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Bell-shaped weights of variance 2 / (9 · in): each the centred sum of four random bytes, scaled.

    RandomState, because NumPy promises that its streams never change, which it does not for Generator (nor torch for
    its own). Sums of bytes, because a normal deviate goes through the platform's log(), whose last bit differs;
    integers and one rounded product do not.
    """
    shape = (layer.out_channels, layer.in_channels, 3, 3)
    count = math.prod(shape)
    # A seed from the layer's name: a shallow request then has the same tensors as a deep one.
    stream = np.random.RandomState(crc32(layer.name.encode()))
    # RandomState.bytes is little-endian on every platform.
    four = np.frombuffer(stream.bytes(4 * count), np.uint8).reshape(4, count)
    centred = four.sum(axis=0, dtype=np.int16) - np.int16(4 * 255 // 2)
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    scale = np.float32(math.sqrt(2 / (9 * layer.in_channels)) / deviation)
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = centred.astype(np.float32) * scale
    return weight.reshape(shape)


def _weights(source: str, network: str, tensors: Mapping[str, torch.Tensor], preprocessing: Preprocessing) -> Weights:
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(f"{key} {_shape(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data.cast("B"))
    return Weights(source, network, tensors, preprocessing, digest.hexdigest())


@dataclass(frozen=True)
class _Contents:
    """What a file holds, before any of it is trusted: its keys, a way to read one, and its metadata."""

    keys: Sequence[str]
    get: Callable[[str], object]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class _Archive:
    """A file whose names are understood: `names` maps our names to its own (`conv1_1.weight` → `features.0.weight`)."""

    path: Path
    names: Mapping[str, str]
    contents: _Contents
    preprocessing: Preprocessing


def _from_file(path: Path, network: str, convolutions: list[Layer], source: str) -> Weights:
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise WeightsError(f"weights {path} is a folder; pass the path of a {_SUFFIXES_TEXT} file")
        if not path.exists():
            raise WeightsError(
                f"weights file {path} does not exist; check the path, or pass auto, imagenet or embedded"
            )
        if suffix not in _SUFFIXES:
            raise WeightsError(f"weights file {path} has an unknown type; it must be {_SUFFIXES_TEXT}")
        if path.stat().st_size == 0:
            raise WeightsError(f"weights file {path} is empty; fetch it again")
        contents = _read_safetensors(path) if suffix == ".safetensors" else _read_pickle(path)
        archive = _understood(path, network, contents)
        tensors = _checked_tensors(archive, network, convolutions)
    except OSError as error:
        raise WeightsError(f"weights file {path} cannot be read ({error.strerror or error})") from error
    return _weights(source, network, tensors, archive.preprocessing)


def _read_safetensors(path: Path) -> _Contents:
    try:
        handle: Any = safe_open(path, framework="pt")
        return _Contents(list(handle.keys()), handle.get_tensor, handle.metadata() or {})
    except SafetensorError as error:
        damage = "is truncated" if _is_truncated_safetensors(path) else "is damaged or not a safetensors file"
        raise WeightsError(f"weights file {path} {damage} ({error}); fetch it again") from error


def _is_truncated_safetensors(path: Path) -> bool:
    """Whether the file ends before the last tensor that its header (8 bytes of length, then JSON) lists."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return True
        (length,) = struct.unpack("<Q", prefix)
        size = path.stat().st_size
        if length > 100_000_000:
            return False
        header = file.read(length)
    if len(header) < length:
        return header.startswith(b"{")
    try:
        ends = [entry["data_offsets"][1] for key, entry in json.loads(header).items() if key != "__metadata__"]
        return bool(size < 8 + length + max(ends, default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False


def _read_pickle(path: Path) -> _Contents:
    is_zip = _check_container(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError:
        raise
    except Exception as error:  # damage makes torch's unpickler raise nearly anything, struct.error for one
        raise (_refused if _names_code(path, is_zip) else _not_a_checkpoint)(path) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise WeightsError(
            f"weights file {path} holds a {kind}, not named tensors; save the model's state_dict() in it"
        )
    return _Contents([key for key in state if isinstance(key, str)], state.__getitem__, {})


def _check_container(path: Path) -> bool:
    """Whether the file is a zip file, as torch.save writes; what only looks like one of its zip files is refused."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except OSError:
        raise
    except Exception as error:  # zipfile, too, raises UnicodeDecodeError, NotImplementedError … for damage
        raise WeightsError(f"weights file {path} is truncated or damaged; fetch it again") from error
    if "constants.pkl" in names:
        raise _refused(path)
    if "data.pkl" not in names:
        raise WeightsError(
            f"weights file {path} is a zip file but not a PyTorch checkpoint; pass one written by torch.save"
        )
    return True


def _names_code(path: Path, is_zip: bool) -> bool:
    """Whether a pickle in the file asks for a function or class that no plain tensor needs; nothing is executed."""
    try:
        if not is_zip:
            with path.open("rb") as file:
                return _has_foreign_global(file)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return any(_has_foreign_global(io.BytesIO(archive.read(name))) for name in names)
    except Exception:  # noqa: BLE001  (what cannot be parsed is damaged, and names nothing)
        return False


def _has_foreign_global(file: IO[bytes]) -> bool:
    plain = ("torch._utils _rebuild_", "collections OrderedDict", "torch Size")
    # Before zip files, torch.save wrote five pickles one after the other.
    for _ in range(5):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ"):
                return True
            if opcode.name == "GLOBAL" and not (str(argument).startswith(plain) or str(argument).endswith("Storage")):
                return True
    return False


def _refused(path: Path) -> WeightsError:
    return WeightsError(
        f"weights file {path} was refused for safety: it holds code or whole Python objects, and only plain "
        "tensors are loaded; save the model's state_dict() instead"
    )


def _not_a_checkpoint(path: Path) -> WeightsError:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC or start.startswith(b"PK"):
        return WeightsError(f"weights file {path} is truncated or damaged; fetch it again")
    return WeightsError(
        f"weights file {path} is not a PyTorch checkpoint; pass a file written by torch.save, or .safetensors"
    )


def _understood(path: Path, network: str, contents: _Contents) -> _Archive:
    """Tell the naming, and with it the preprocessing; refuse a file that is not a VGG or is another network."""
    # A model saved from DataParallel has "module." before the names, or inside them if only its features were wrapped.
    keys = {key.replace("module.", ""): key for key in contents.keys}
    if any(key.endswith(".running_mean") for key in keys):
        raise WeightsError(
            f"weights file {path} is a VGG with batch normalisation; pass one without (vgg19, not vgg19_bn)"
        )
    is_torchvision = any(re.fullmatch(r"features\.\d+\.weight", key) for key in keys)
    prefix = r"features\.\d+" if is_torchvision else r"conv\d_\d"
    found = {match[1] for key in keys if (match := re.fullmatch(rf"({prefix})\.weight", key))}
    if not found:
        first = ", ".join(list(keys)[:3]) or "none"
        raise WeightsError(
            f"weights file {path} is not a VGG: it has no features.0.weight or conv1_1.weight, but: {first}"
        )

    is_ours = contents.metadata.get("format") == "fastnst"
    if is_ours:
        candidates = [contents.metadata.get("network", "")]
    else:
        candidates = [name for name in NETWORKS if _is_start_of(found, _prefixes(name, is_torchvision))]
    if candidates and network not in candidates:
        raise WeightsError(
            f"weights file {path} holds {candidates[0] or 'an unnamed network'}, not {network}; "
            f"choose that network, or pass a file of {network}"
        )
    if is_ours:
        preprocessing = _declared_preprocessing(path, contents.metadata)
    else:
        preprocessing = IMAGENET if is_torchvision else CAFFE
    names = {
        f"{layer}.{kind}": keys.get(f"{prefix}.{kind}", f"{prefix}.{kind}")
        for layer, prefix in _prefixes(network, is_torchvision).items()
        if prefix in found
        for kind in ("weight", "bias")
    }
    return _Archive(path, names, contents, preprocessing)


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


def _checked_tensors(archive: _Archive, network: str, convolutions: Iterable[Layer]) -> dict[str, torch.Tensor]:
    tensors = {}
    for layer in convolutions:
        for kind, shape in (
            ("weight", (layer.out_channels, layer.in_channels, 3, 3)),
            ("bias", (layer.out_channels,)),
        ):
            tensors[f"{layer.name}.{kind}"] = _checked_tensor(archive, network, layer, kind, shape)
    return tensors


def _checked_tensor(archive: _Archive, network: str, layer: Layer, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    name = archive.names.get(f"{layer.name}.{kind}")
    where = f"{kind} of {layer.name} in {network}"
    if name is None or name not in archive.contents.keys:
        raise WeightsError(
            f"weights file {archive.path} lacks {name or 'all'} ({where}); pass a complete {network} file"
        )
    what = f"weights file {archive.path}: {name} ({where})"
    try:
        tensor = archive.contents.get(name)
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


def _warn(message: str) -> None:
    warnings.warn(message, FastnstWarning, stacklevel=4)
