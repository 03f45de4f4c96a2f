"""Weights from every source, and every wrong file by the name of its fault; the ImageNet server is a local one."""

import argparse
import hashlib
import http.server
import json
import os
import pickle
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastnst import weights
from fastnst.errors import OptionError, WeightsError
from fastnst.weights import IMAGENET, FastnstWarning, Preprocessing, Weights, load_weights, save_weights

State = dict[str, torch.Tensor]
SHALLOW = {"features.0": (64, 3), "features.2": (64, 64), "features.5": (128, 64)}
LAYERS = dict(zip(SHALLOW, ("conv1_1", "conv1_2", "conv2_1"), strict=True))
TAPS = ("conv2_1", "conv1_1")
INDICES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}


def torchvision_state() -> State:
    """The first three convolutions, and the start of a classifier that nobody asked for."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for prefix, (out, into) in SHALLOW.items():
        state[f"{prefix}.weight"] = torch.randn(out, into, 3, 3, generator=generator)
        state[f"{prefix}.bias"] = torch.randn(out, generator=generator)
    state["classifier.0.weight"] = torch.randn(4, 4, generator=generator)
    return state


def gatys_state() -> State:
    return {
        key.replace(prefix, LAYERS[prefix]): tensor
        for key, tensor in torchvision_state().items()
        if (prefix := key.rpartition(".")[0]) in LAYERS
    }


def assert_is_the_state(loaded: Weights) -> None:
    expected = gatys_state()
    assert list(loaded.tensors) == list(expected)
    for key, tensor in loaded.tensors.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FASTNST_WEIGHTS_URL", "http://127.0.0.1:9/models")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("FASTNST_OFFLINE", raising=False)


def test_random_network_is_the_same_everywhere() -> None:
    tensors = load_weights("random", taps=("conv2_1",)).tensors
    hashes = {
        name: hashlib.sha256(tensors[f"{name}.weight"].numpy().tobytes()).hexdigest()[:16] for name in LAYERS.values()
    }
    assert hashes == {"conv1_1": "24d1471b3b51ea2a", "conv1_2": "7bb51e88da457998", "conv2_1": "2a1f26f7aeb336a1"}


def test_random_network_is_he_initialisation() -> None:
    loaded = load_weights("random", taps=("conv3_1",))
    for key, tensor in loaded.tensors.items():
        if key.endswith("bias"):
            assert not tensor.any()
            continue
        into = tensor.shape[1]
        expected = (2 / (9 * into)) ** 0.5
        count = tensor.numel()
        assert abs(tensor.mean().item()) < 4 * expected / count**0.5
        assert tensor.std().item() == pytest.approx(expected, rel=4 / (2 * count) ** 0.5)
        assert len(np.unique(tensor.numpy())) > 500


def test_shallow_request_is_the_start_of_a_deep_one() -> None:
    deep = load_weights("random", taps=("conv2_2",)).tensors
    shallow = load_weights("random", "vgg16", taps=("relu1_2", "conv1_1")).tensors
    assert list(shallow) == ["conv1_1.weight", "conv1_1.bias", "conv1_2.weight", "conv1_2.bias"]
    assert all(torch.equal(tensor, deep[key]) for key, tensor in shallow.items())


def test_embedded_needs_no_file(tmp_path: Path) -> None:
    embedded, plain = load_weights("embedded", taps=TAPS), load_weights("random", taps=TAPS)
    assert (embedded.source, plain.source) == ("embedded", "random")
    assert embedded.sha256 == plain.sha256
    assert embedded.preprocessing == IMAGENET
    assert embedded.network == "vgg19"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("network", "convolutions"), [("vgg19", 16), ("vgg16", 13)])
def test_no_taps_means_every_convolution(network: str, convolutions: int) -> None:
    tensors = load_weights("random", network).tensors
    assert len(tensors) == 2 * convolutions
    assert tensors["conv5_3.weight"].shape == (512, 512, 3, 3)


def test_weights_pickle_and_print_briefly() -> None:
    loaded = load_weights("random", taps=("conv1_1",))
    copy = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(copy.tensors["conv1_1.weight"], loaded.tensors["conv1_1.weight"])
    assert len(repr(loaded)) < 400


@pytest.mark.parametrize(
    ("network", "taps", "message"),
    [
        ("vgg11", None, "unknown network 'vgg11'"),
        ("vgg19", ("conv9_9",), "unknown layer 'conv9_9'"),
        ("vgg19", (), "empty"),
    ],
)
def test_wrong_options(network: str, taps: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_weights("random", network, taps=taps)


@pytest.mark.parametrize("spec", ["imagnet", "", "vgg19", "x" * 300])
def test_unknown_spec(spec: str) -> None:
    with pytest.raises(WeightsError, match=f"unknown weights '{spec}'; choose auto, imagenet, embedded, random"):
        load_weights(spec)


def save_zip(state: object, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: Any, path: Path) -> None:
    save_file(state, path)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
@pytest.mark.parametrize(
    ("state", "preprocessing"),
    [
        (torchvision_state, Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, False)),
        (gatys_state, Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, True)),
    ],
    ids=["torchvision", "gatys"],
)
def test_file(
    tmp_path: Path, save: Callable[[object, Path], None], state: Callable[[], State], preprocessing: Preprocessing
) -> None:
    path = tmp_path / ("file.safetensors" if save is save_safetensors else "file.pth")
    save(state(), path)
    loaded = load_weights(path, taps=TAPS)
    assert_is_the_state(loaded)
    assert loaded.source == str(path)
    assert loaded.preprocessing == preprocessing
    assert loaded.sha256 == load_weights(str(path), "vgg16", taps=TAPS).sha256


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
    loaded = load_weights(tmp_path / "file.pt", taps=TAPS)
    assert_is_the_state(loaded)
    assert not any(tensor.requires_grad for tensor in loaded.tensors.values())


def test_other_float_types_and_strides(tmp_path: Path) -> None:
    state = {key: tensor.half().double() for key, tensor in torchvision_state().items()}
    state["features.2.weight"] = state["features.2.weight"].bfloat16().to(memory_format=torch.channels_last)
    torch.save(state, tmp_path / "file.pth")
    loaded = load_weights(tmp_path / "file.pth", taps=TAPS).tensors
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in loaded.values())
    torch.testing.assert_close(loaded["conv1_2.weight"], state["features.2.weight"].float().contiguous())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tensors_do_not_change_with_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    (save_zip if suffix == ".pth" else save_safetensors)(torchvision_state(), path)
    loaded = load_weights(path, taps=TAPS)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_is_the_state(loaded)


def test_saved_weights_keep_their_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    preprocessing = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 255.0, True)
    save_weights(path, "vgg19", gatys_state(), preprocessing)
    loaded = load_weights(path, taps=TAPS)
    assert_is_the_state(loaded)
    assert loaded.preprocessing == preprocessing
    assert [entry.name for entry in tmp_path.iterdir()] == ["own.safetensors"]


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save(torchvision_state(), tmp_path / "file.pth")
    assert_is_the_state(load_weights("~/file.pth", taps=TAPS))


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def legacy_bytes(tmp_path: Path) -> bytes:
    save_legacy(torchvision_state(), tmp_path / "legacy.pth")
    return (tmp_path / "legacy.pth").read_bytes()


def zip_bytes(tmp_path: Path) -> bytes:
    save_zip(torchvision_state(), tmp_path / "zip.pth")
    return (tmp_path / "zip.pth").read_bytes()


def safetensors_bytes(tmp_path: Path) -> bytes:
    save_file(torchvision_state(), tmp_path / "s.safetensors")
    return (tmp_path / "s.safetensors").read_bytes()


def assert_refused(path: Path | str, *words: str, network: str = "vgg19") -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(path, network, taps=TAPS)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, str(path)):
        assert word in message


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "folder/none", "~nobody-here/none.pth"])
def test_missing_file(name: str) -> None:
    assert_refused(name, "does not exist")


def test_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder")


def test_unknown_type(tmp_path: Path) -> None:
    (tmp_path / "vgg.caffemodel").write_bytes(b"x")
    assert_refused(tmp_path / "vgg.caffemodel", "unknown type; it must be .pth, .pt or .safetensors")


@pytest.mark.parametrize("name", ["empty.pth", "empty.safetensors"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert_refused(tmp_path / name, "is empty")


@pytest.mark.parametrize("make", [zip_bytes, legacy_bytes, safetensors_bytes])
@pytest.mark.parametrize("share", [0.0003, 0.001, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, make: Callable[[Path], bytes], share: float) -> None:
    path = tmp_path / ("cut.safetensors" if make is safetensors_bytes else "cut.pth")
    whole = make(tmp_path)
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(path, "is truncated")


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs", b"\x00" * 500, b"PK", b"\x80"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_not_a_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert_refused(path, "weights file")


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_text("<html>Not found</html>")
    assert_refused(tmp_path / "file.pth", "is not a PyTorch checkpoint")
    (tmp_path / "file.safetensors").write_text("<html>Not found</html>")
    assert_refused(tmp_path / "file.safetensors", "is damaged or not a safetensors file")


def test_other_zip_is_no_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", x=np.zeros(3))
    (tmp_path / "file.npz").rename(tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", "is a zip file but not a PyTorch checkpoint")


@pytest.mark.parametrize("make", [zip_bytes, legacy_bytes, safetensors_bytes])
def test_any_damage_has_a_message(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    whole = make(tmp_path)
    path = tmp_path / ("file.safetensors" if make is safetensors_bytes else "file.pth")
    random = np.random.RandomState(5)
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = random.randint(0, 2500, 6)
        places[::2] = damaged.size - 1 - places[::2]  # the structure is at both ends
        damaged[places] = random.randint(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        with suppress(WeightsError):
            load_weights(path, taps=TAPS)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_bare_pickle_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.pth").write_bytes(pickle.dumps({"features.0.weight": Malicious()}, protocol=protocol))
    assert_refused("file.pth", "refused for safety", "only plain tensors are loaded")
    assert not Path("executed").exists()


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize(
    "content",
    [
        {**torchvision_state(), "features.0.weight": Malicious()},
        {"state_dict": torchvision_state(), "arguments": argparse.Namespace(epoch=1)},
        torch.nn.Conv2d(1, 1, 1),
    ],
    ids=["code", "object", "module"],
)
def test_checkpoint_with_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[object, Path], None], content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    save(content, Path("file.pth"))
    assert_refused("file.pth", "refused for safety", "only plain tensors are loaded")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "is not a VGG"),
        (
            {"conv1.weight": torch.zeros(1)},
            "is not a VGG: it has no features.0.weight or conv1_1.weight, but: conv1.weight",
        ),
        ({0: torch.zeros(1)}, "is not a VGG"),
        ({"state_dict": None}, "holds a NoneType"),
    ],
)
def test_other_content(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", words)


def test_batch_normalised_network(tmp_path: Path) -> None:
    torch.save({**torchvision_state(), "features.1.running_mean": torch.zeros(64)}, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", "batch normalisation")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("features.2.bias", None, "lacks features.2.bias (bias of conv1_2 in vgg19)"),
        ("features.2.weight", None, "lacks all (weight of conv1_2 in vgg19)"),
        (
            "features.5.weight",
            torch.zeros(128, 64, 5, 5),
            "(weight of conv2_1 in vgg19) has the shape 128×64×5×5; expected 128×64×3×3",
        ),
        ("features.0.bias", torch.zeros(()), "has the shape scalar; expected 64"),
        ("features.0.bias", torch.zeros(64, dtype=torch.int64), "is torch.int64"),
        ("features.0.bias", torch.zeros(64, dtype=torch.complex64), "is torch.complex64"),
        (
            "features.0.weight",
            torch.full((64, 3, 3, 3), torch.nan),
            "features.0.weight (weight of conv1_1 in vgg19) has values that are NaN",
        ),
        ("features.0.bias", torch.full((64,), 1e300, dtype=torch.float64), "NaN or infinite"),
    ],
)
def test_wrong_tensor(tmp_path: Path, suffix: str, key: str, tensor: torch.Tensor | None, words: str) -> None:
    state = torchvision_state()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    path = tmp_path / f"file{suffix}"
    (save_zip if suffix == ".pth" else save_safetensors)(state, path)
    assert_refused(path, words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.0, "is a float, not a tensor"),
        (torch.zeros(64).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(64, device="meta"), "meta"),
    ],
    ids=["float", "sparse", "meta"],
)
def test_wrong_kind_of_tensor(tmp_path: Path, value: object, words: str) -> None:
    torch.save({**torchvision_state(), "features.0.bias": value}, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", words)


def test_tensors_that_are_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    torch.save({**torchvision_state(), "features.5.bias": torch.zeros(3)}, tmp_path / "file.pth")
    assert len(load_weights(tmp_path / "file.pth", taps=("conv1_2",)).tensors) == 4


@pytest.mark.parametrize(("held", "asked"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
@pytest.mark.parametrize("naming", ["torchvision", "gatys"])
def test_other_network(tmp_path: Path, held: str, asked: str, naming: str) -> None:
    state = torchvision_state() if naming == "torchvision" else gatys_state()
    names = [f"features.{index}" for index in INDICES[held]]
    if naming == "gatys":
        names = [
            f"conv{b}_{i}" for b in range(1, 6) for i in range(1, (2, 2, *(int(held[3:]) // 3 - 2,) * 3)[b - 1] + 1)
        ]
    state |= {f"{name}.weight": torch.zeros(1) for name in names if f"{name}.weight" not in state}
    torch.save(state, tmp_path / "file.pth")
    assert_refused(tmp_path / "file.pth", f"holds {held}, not {asked}", network=asked)
    assert_is_the_state(load_weights(tmp_path / "file.pth", held, taps=TAPS))


def test_other_network_by_its_metadata(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors", "vgg16", gatys_state(), IMAGENET)
    assert_refused(tmp_path / "own.safetensors", "holds vgg16, not vgg19")


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "not JSON",
        "[]",
        json.dumps({"mean": [0, 0], "std": [1, 1, 1], "scale": 1, "bgr": False}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 0, 1], "scale": 1, "bgr": False}),
        json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": float("nan"), "bgr": False}),
    ],
)
def test_wrong_metadata(tmp_path: Path, declared: str | None) -> None:
    metadata = {"format": "fastnst", "network": "vgg19"} | ({"preprocessing": declared} if declared else {})
    save_file(gatys_state(), tmp_path / "file.safetensors", metadata=metadata)
    assert_refused(tmp_path / "file.safetensors", "preprocessing")


def test_safetensors_with_an_endless_header(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert_refused(tmp_path / "file.safetensors", "is damaged or not a safetensors file")


class Server(http.server.ThreadingHTTPServer):
    """Serves files by path; `cut` is after how many bytes each answer breaks off; `requests` counts them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: Mapping[str, bytes] = {}
        self.cut: int | None = None
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        time.sleep(0.1)
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small checkpoint that passes for torchvision's, because its hash is the one expected."""
    content = legacy_bytes(tmp_path)
    (tmp_path / "legacy.pth").unlink()
    monkeypatch.setitem(weights.CHECKPOINTS, "vgg19", hashlib.sha256(content).hexdigest()[:8])
    return content


@pytest.fixture
def name(checkpoint: bytes) -> str:
    return f"vgg19-{weights.CHECKPOINTS['vgg19']}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, checkpoint: bytes, name: str) -> Iterator[Server]:
    with Server() as running:
        running.files = {f"/models/{name}.pth": checkpoint}
        monkeypatch.setenv("FASTNST_WEIGHTS_URL", f"{running.url}/")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def cached_names(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache").iterdir())


def test_expected_hashes() -> None:
    assert weights.CHECKPOINTS == {"vgg19": "dcbb9e9d", "vgg16": "397923af"}


@pytest.mark.parametrize("spec", ["imagenet", "auto"])
def test_imagenet_is_downloaded_once(server: Server, tmp_path: Path, name: str, spec: str) -> None:
    first = load_weights(spec, taps=("conv1_1",))
    assert first.source == "imagenet"
    assert first.preprocessing == IMAGENET
    assert list(first.tensors) == ["conv1_1.weight", "conv1_1.bias"]
    assert cached_names(tmp_path) == [f"{name}.safetensors"]
    with safe_open(tmp_path / "cache" / f"{name}.safetensors", framework="pt") as cached:
        assert set(cached.keys()) == set(gatys_state())
        assert cached.metadata()["format"] == "fastnst"
    assert_is_the_state(load_weights(spec, taps=TAPS))
    assert server.requests == [f"/models/{name}.pth"]


def test_imagenet_progress(server: Server, capsys: pytest.CaptureFixture[str], name: str) -> None:
    load_weights("imagenet", taps=TAPS, progress=True)
    assert f"{name}.pth" in capsys.readouterr().err


def test_imagenet_from_torchs_cache(tmp_path: Path, checkpoint: bytes, name: str) -> None:
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / f"{name}.pth"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(checkpoint)
    loaded = load_weights("auto", taps=TAPS)
    assert_is_the_state(loaded)
    assert loaded.source == "imagenet"
    assert theirs.read_bytes() == checkpoint
    assert cached_names(tmp_path) == [f"{name}.safetensors"]


def test_damaged_checkpoint_in_torchs_cache(server: Server, tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / f"{name}.pth"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"damaged")
    with pytest.warns(FastnstWarning, match=r"is ignored: its SHA-256 is not the one in its name"):
        assert_is_the_state(load_weights("imagenet", taps=TAPS))


def test_damaged_cache_is_replaced(server: Server, tmp_path: Path, name: str) -> None:
    load_weights("imagenet", taps=TAPS)
    cached = tmp_path / "cache" / f"{name}.safetensors"
    os.truncate(cached, 1000)
    with pytest.warns(FastnstWarning, match="cache is unusable and deleted: .* is truncated") as caught:
        assert_is_the_state(load_weights("imagenet", taps=TAPS))
    assert len(caught) == 1
    assert_is_the_state(load_weights("imagenet", taps=TAPS))
    assert len(server.requests) == 2


def test_cache_that_cannot_be_written(tmp_path: Path, checkpoint: bytes, name: str) -> None:
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / f"{name}.pth"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(checkpoint)
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.warns(FastnstWarning, match=r"used but not kept: cannot write .*cache"):
        assert_is_the_state(load_weights("imagenet", taps=TAPS))


def test_cache_folder_that_cannot_be_made(tmp_path: Path, server: Server) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(WeightsError, match=r"cannot make the weights cache .*; set FASTNST_CACHE"):
        load_weights("imagenet", taps=TAPS)


def test_cache_folder_with_an_impossible_name(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("FASTNST_CACHE", "x" * 300)
    with pytest.raises(WeightsError, match="cannot make the weights cache"):
        load_weights("imagenet", taps=TAPS)
    with pytest.warns(FastnstWarning, match="going on with the embedded network"):
        assert load_weights("auto", taps=TAPS).source == "embedded"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.cache_folder() == Path(os.environ["FASTNST_CACHE"])
    monkeypatch.delenv("FASTNST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert weights.cache_folder() == Path("/xdg/fastnst")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_folder() == Path.home() / ".cache" / "fastnst"


def test_concurrent_loads_download_once(server: Server, tmp_path: Path, name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: load_weights("imagenet", taps=TAPS), range(4)):
            assert_is_the_state(loaded)
    assert len(server.requests) == 1
    assert cached_names(tmp_path) == [f"{name}.safetensors"]


def test_imagenet_offline(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("FASTNST_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"FASTNST_OFFLINE is set; unset it, or download .*pth"):
        load_weights("imagenet", taps=TAPS)
    with pytest.warns(FastnstWarning, match="FASTNST_OFFLINE is set; going on with the embedded network"):
        assert load_weights("auto", taps=TAPS).source == "embedded"
    monkeypatch.setenv("FASTNST_OFFLINE", "0")
    assert load_weights("auto", taps=TAPS).source == "imagenet"
    assert len(server.requests) == 1


def test_auto_without_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "unreachable_reason", lambda url: "no answer within 3 s")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_weights("auto", taps=TAPS)
    assert loaded.source == "embedded"
    (warning,) = caught
    assert warning.category is FastnstWarning
    assert "cannot be reached (no answer within 3 s); going on with the embedded network" in str(warning.message)
    assert "\n" not in str(warning.message)
    assert warning.filename == __file__
    assert not (tmp_path / "cache").exists()


def test_wrong_hash(server: Server, tmp_path: Path, name: str) -> None:
    server.files = {f"/models/{name}.pth": b"not it"}
    with pytest.raises(WeightsError, match=f"not {name.removeprefix('vgg19-')}"):
        load_weights("imagenet", taps=TAPS)
    assert cached_names(tmp_path) == []


def test_not_on_the_server(server: Server) -> None:
    server.files = {}
    with pytest.raises(WeightsError, match="the server answered 404"):
        load_weights("imagenet", taps=TAPS)
    with pytest.warns(FastnstWarning, match="the server answered 404 .*; going on with the embedded network"):
        assert load_weights("auto", taps=TAPS).source == "embedded"


def test_auto_when_the_download_breaks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bytes, name: str
) -> None:
    monkeypatch.setattr("fastnst.download.time.sleep", lambda seconds: None)
    server.cut = 1000
    with pytest.warns(FastnstWarning, match="closed after 1000 of .*; going on with the embedded network"):
        assert load_weights("auto", taps=TAPS).source == "embedded"
    assert (tmp_path / "cache" / f"{name}.pth.part").read_bytes() == checkpoint[:1000]
    server.cut = None
    assert load_weights("auto", taps=TAPS).source == "imagenet"
