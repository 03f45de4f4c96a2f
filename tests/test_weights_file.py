"""Weights files of every kind, and every wrong file by the name of its fault."""

import argparse
import json
import os
import pickle
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import (
    TAPS,
    State,
    assert_is_the_state,
    gatys_state,
    save_legacy,
    save_safetensors,
    save_zip,
    torchvision_state,
)
from safetensors.torch import save_file

from fastnst.errors import WeightsError
from fastnst.network.architecture import IMAGENET, Preprocessing, layers_up_to
from fastnst.network.weights_file import open_weights, read_convolutions, save_weights

SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "file.pth": save_zip,
    "legacy.pth": save_legacy,
    "file.safetensors": save_safetensors,
}
every_kind = pytest.mark.parametrize("name", SAVERS)


def read(path: Path, network: str = "vgg19", taps: tuple[str, ...] = TAPS) -> State:
    layers = [layer for layer in layers_up_to(network, taps) if not layer.is_pool]
    return read_convolutions(open_weights(path, network), layers)


def assert_refused(path: Path, *words: str, network: str = "vgg19") -> str:
    with pytest.raises(WeightsError) as caught:
        read(path, network)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, str(path)):
        assert word in message
    return message


@every_kind
@pytest.mark.parametrize(
    ("state", "preprocessing"),
    [
        (torchvision_state, Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, False)),
        (gatys_state, Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, True)),
    ],
    ids=["torchvision", "gatys"],
)
def test_file(tmp_path: Path, name: str, state: Callable[[], State], preprocessing: Preprocessing) -> None:
    path = tmp_path / name
    SAVERS[name](state(), path)
    assert_is_the_state(read(path, "vgg16"))
    loaded = read(path)
    assert open_weights(path, "vgg19").preprocessing == preprocessing
    # The tensors do not change with the file.
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_is_the_state(loaded)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {key.replace("features.", "features.module."): tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{key}": torch.nn.Parameter(tensor) for key, tensor in state.items()}},
    ],
    ids=["state_dict", "module", "features.module", "both"],
)
def test_wrapped_state(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    torch.save(wrap(torchvision_state()), tmp_path / "file.pt")
    loaded = read(tmp_path / "file.pt")
    assert_is_the_state(loaded)
    assert not any(tensor.requires_grad for tensor in loaded.values())


def test_other_float_types_and_strides_and_what_is_not_asked_for(tmp_path: Path) -> None:
    state = {key: tensor.half().double() for key, tensor in torchvision_state().items()}
    state["features.2.weight"] = state["features.2.weight"].bfloat16().to(memory_format=torch.channels_last)
    state["features.5.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "file.pth")
    loaded = read(tmp_path / "file.pth", taps=("conv1_2",))
    assert len(loaded) == 4
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in loaded.values())
    torch.testing.assert_close(loaded["conv1_2.weight"], state["features.2.weight"].float().contiguous())


def test_saved_weights_keep_their_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    preprocessing = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 255.0, True)
    save_weights(path, "vgg19", gatys_state(), preprocessing)
    assert_is_the_state(read(path))
    assert open_weights(path, "vgg19").preprocessing == preprocessing
    assert [entry.name for entry in tmp_path.iterdir()] == ["own.safetensors"]


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(tmp_path, "is a folder")
    for name in ("pipe.pth", "pipe"):
        os.mkfifo(tmp_path / name)
        assert_refused(tmp_path / name, "is not a regular file; pass the path of a .pth, .pt or .safetensors file")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pth").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)  # root may read what chmod forbids
    assert_refused(tmp_path / "a.pth", "cannot be read (Permission denied); check its permissions or pass another")


@every_kind
@pytest.mark.parametrize("share", [0.0003, 0.001, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    SAVERS[name](torchvision_state(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(path, "is truncated")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vgg.caffemodel", b"x", "unknown type; it must be .pth, .pt or .safetensors"),
        ("a.pth", b"", "is empty"),
        ("a.safetensors", b"", "is empty"),
        ("a.pth", b"<html>Not found</html>", "is not a PyTorch checkpoint"),
        ("a.safetensors", b"<html>Not found</html>", "or not a safetensors file"),
        ("a.safetensors", struct.pack("<Q", 2**60) + b"{}", "or not a safetensors file"),
        *(
            (name, content, "weights file")
            for name in ("a.pth", "a.safetensors")
            for content in (b"version https://git-lfs", b"\x00" * 500, b"PK", b"\x80")
        ),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, words)
    # Another zip than PyTorch's.
    with (tmp_path / "file.pth").open("wb") as file:
        np.savez(file, x=np.zeros(3))
    assert_refused(tmp_path / "file.pth", "not a PyTorch checkpoint")


@every_kind
def test_any_damage_has_a_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    SAVERS[name](torchvision_state(), path)
    whole = path.read_bytes()
    random = np.random.RandomState(5)
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = random.randint(0, 2500, 6)
        places[::2] = damaged.size - 1 - places[::2]  # the structure is at both ends
        damaged[places] = random.randint(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        with suppress(WeightsError):
            read(path)


SAFETY = ("refused for safety", f"'{os.mkdir.__module__}.mkdir'", "only plain tensors are loaded")
NOT_PLAIN = ("is not a PyTorch checkpoint of plain tensors", "torch.save without pickle_protocol")


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["bare", "zip", "legacy"])
def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"features.0.weight": Malicious()}
    if kind == "bare":
        Path("file.pth").write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, "file.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    assert_refused(Path("file.pth"), *(SAFETY if protocol in (2, 3) else NOT_PLAIN))
    assert not Path("executed").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        {**torchvision_state(), "features.0.weight": Malicious()},
        {"state_dict": torchvision_state(), "arguments": argparse.Namespace(epoch=1)},
        torch.nn.Conv2d(1, 1, 1),
    ],
    ids=["code", "object", "module"],
)
def test_checkpoint_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_zip: bool, content: object) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "file.pth", _use_new_zipfile_serialization=is_zip)
    assert_refused(Path("file.pth"), "refused for safety", "only plain tensors are loaded")
    assert not Path("executed").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_pickle_protocol(tmp_path: Path, protocol: int, is_zip: bool) -> None:
    path = tmp_path / "file.pth"
    # What a training script may keep beside the weights, all of it plain data that torch loads safely.
    beside = {"type": torch.float16, "counts": Counter("aab"), "seen": {1}, "salt": b"x"}
    torch.save(
        {"state_dict": torchvision_state(), **beside},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=is_zip,
    )
    if protocol == 2:
        assert_is_the_state(read(path))
    else:
        assert_refused(path, *NOT_PLAIN)
    if protocol == 3:
        torch.save(torchvision_state(), path, pickle_protocol=3, _use_new_zipfile_serialization=is_zip)
        assert_is_the_state(read(path))


def test_threads_that_read_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(torchvision_state(), path, pickle_protocol=3)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [path] * 32))
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"state_dict": None}, "holds a NoneType"),
        ({}, "is not a VGG"),
        ({0: torch.zeros(1)}, "is not a VGG"),
        ({"conv1.weight": torch.zeros(1)}, "it has no features.0.weight or conv1_1.weight, but: conv1.weight"),
        ({"conv1.weight": torch.zeros(1), "bn1.running_mean": torch.zeros(1)}, "is not a VGG"),
        ({**torchvision_state(), "features.1.running_mean": torch.zeros(64)}, "batch normalisation"),
        ({**torchvision_state(), "features.0.bias": 3.0}, "is a float, not a tensor"),
        ({**torchvision_state(), "features.0.bias": torch.zeros(64).to_sparse()}, "torch.sparse_coo"),
        ({**torchvision_state(), "features.0.bias": torch.zeros(64, device="meta")}, "meta"),
    ],
)
def test_other_content(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", words)


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("features.2.bias", None, "lacks features.2.bias (bias of conv1_2 in vgg19)"),
        ("features.2.weight", None, "lacks features.2.weight (weight of conv1_2 in vgg19)"),
        ("features.5.weight", torch.zeros(128, 64, 5, 5), "has the shape 128×64×5×5; expected 128×64×3×3"),
        ("features.0.bias", torch.zeros(()), "has the shape scalar; expected 64"),
        ("features.0.bias", torch.zeros(64, dtype=torch.int64), "is torch.int64"),
        ("features.0.bias", torch.zeros(64, dtype=torch.complex64), "is torch.complex64"),
        ("features.0.weight", torch.full((64, 3, 3, 3), torch.nan), "has values that are NaN"),
        ("features.0.bias", torch.full((64,), 1e300, dtype=torch.float64), "NaN or infinite"),
    ],
)
def test_wrong_tensor(tmp_path: Path, name: str, key: str, tensor: torch.Tensor | None, words: str) -> None:
    state = torchvision_state()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    SAVERS[name](state, tmp_path / name)
    assert_refused(tmp_path / name, words)


@pytest.mark.parametrize(("held", "asked"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
@pytest.mark.parametrize("naming", ["torchvision", "gatys"])
def test_other_network(tmp_path: Path, held: str, asked: str, naming: str) -> None:
    state = torchvision_state() if naming == "torchvision" else gatys_state()
    for index, layer in enumerate(layers_up_to(held, ("conv5_3" if held == "vgg16" else "conv5_4",))):
        # In torchvision's list each convolution is followed by its ReLU.
        place = sum(1 if other.is_pool else 2 for other in layers_up_to(held, (layer.name,))[:index])
        name = f"features.{place}" if naming == "torchvision" else layer.name
        if not layer.is_pool:
            state.setdefault(f"{name}.weight", torch.zeros(1))
    torch.save(state, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", f"holds {held}, not {asked}", network=asked)
    assert_is_the_state(read(tmp_path / "file.pth", held))
    save_weights(tmp_path / "own.safetensors", held, gatys_state(), IMAGENET)
    assert_refused(tmp_path / "own.safetensors", f"holds {held}, not {asked}", network=asked)


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "not JSON",
        "[]",
        json.dumps({"mean": [0, 0], "std": [1, 1, 1], "scale": 1, "bgr": False}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 0, 1], "scale": 1, "bgr": False}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": float("nan"), "bgr": False}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 10**400, "bgr": False}),
        "[" * 100_000,
    ],
)
def test_wrong_metadata(tmp_path: Path, declared: str | None) -> None:
    metadata = {"format": "fastnst", "network": "vgg19"} | ({"preprocessing": declared} if declared else {})
    save_file(gatys_state(), tmp_path / "file.safetensors", metadata=metadata)
    assert_refused(tmp_path / "file.safetensors", "preprocessing")
