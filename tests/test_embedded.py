"""The network that comes with the package, and the recipe that made it."""

import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastnst import embedded
from fastnst.embedded import DEEPEST, FORMAT, embedded_convolutions, embedded_layers
from fastnst.errors import FastnstWarning, WeightsError
from fastnst.network.architecture import layers_of
from fastnst.network.preprocessing import IMAGENET
from fastnst.network.weights import load_weights

PACKAGED = Path(embedded.__file__).with_name(embedded.FILE)


def test_every_layer_to_conv5_1(tmp_path: Path) -> None:
    loaded = load_weights("embedded")
    assert list(tmp_path.iterdir()) == []
    assert list(loaded.tensors)[:2] == ["conv1_1.weight", "conv1_1.bias"]
    assert list(loaded.tensors)[-1] == f"{DEEPEST}.bias"
    assert len(loaded.tensors) == 2 * 13
    for layer in embedded_layers():
        weight, bias = (loaded.tensors[f"{layer.name}.{part}"] for part in ("weight", "bias"))
        assert weight.shape == (layer.out_channels, layer.in_channels, 3, 3)
        assert bias.shape == (layer.out_channels,)
        assert weight.dtype == bias.dtype == torch.float32
        assert weight.is_contiguous()
        assert weight.isfinite().all()
        assert bias.isfinite().all()
    assert (loaded.source, loaded.network, loaded.preprocessing) == ("embedded", "vgg19", IMAGENET)


def test_it_is_not_the_random_network() -> None:
    own, other = (load_weights(name, taps=("conv1_1",)) for name in ("embedded", "random"))
    assert own.sha256 != other.sha256


def test_shallow_is_the_start_of_deep() -> None:
    deep = load_weights("embedded", taps=("conv2_2",)).tensors
    shallow = load_weights("embedded", taps=("relu1_2",)).tensors
    assert all(torch.equal(tensor, deep[key]) for key, tensor in shallow.items())


def test_it_loads_quickly() -> None:
    load_weights("embedded")
    seconds = []
    for _ in range(5):
        began = time.thread_time()
        load_weights("embedded")
        seconds.append(time.thread_time() - began)
    # 0.08 s on two busy cores; the margin is for a slower machine.
    assert min(seconds) < 0.5


def test_file_is_small_and_is_the_one_it_says() -> None:
    assert PACKAGED.stat().st_size <= 16_000_000
    digest = hashlib.sha256()
    with safe_open(PACKAGED, framework="pt") as file:
        for key in sorted(file.keys()):
            digest.update(key.encode())
            digest.update(file.get_tensor(key).numpy().data.cast("B"))
        card = file.metadata()
    assert card["sha256"] == digest.hexdigest()
    assert card["format"] == FORMAT
    assert json.loads(card["plan"])["structures"] * json.loads(card["plan"])["palettes_each"] > 1000
    assert int(card["crops"]) > 0
    assert card["log"].startswith("seconds,")


def test_filters_have_mean_activations_near_one() -> None:
    tensors = embedded_convolutions(embedded_layers()[:1])
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    y = torch.nn.functional.conv2d(noise, tensors["conv1_1.weight"], tensors["conv1_1.bias"], padding=1).relu()
    assert 0.1 < float(y.mean()) < 10


@pytest.mark.parametrize("tap", ["conv5_2", "conv5_4", "pool5"])
def test_deeper_layers(tap: str) -> None:
    if tap != "pool5":
        with pytest.raises(WeightsError, match=rf"ends at conv5_1, before {tap}; pass imagenet, or random"):
            load_weights("embedded", taps=(tap,))
    else:
        with pytest.raises(WeightsError, match="ends at conv5_1, before conv5_4; pass imagenet"):
            load_weights("embedded", taps=(tap,))


def test_vgg16() -> None:
    with pytest.raises(WeightsError, match="the embedded network is a vgg19, not a vgg16; pass imagenet"):
        load_weights("embedded", "vgg16", taps=("conv1_1",))


@pytest.mark.parametrize(("network", "taps"), [("vgg16", ("conv1_1",)), ("vgg19", ("conv5_4",)), ("vgg19", None)])
def test_auto_where_it_cannot_serve(
    monkeypatch: pytest.MonkeyPatch, network: str, taps: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("FASTNST_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"not to be had: FASTNST_OFFLINE is set; and the embedded network .*random"):
        load_weights("auto", network, taps=taps)


def test_auto_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTNST_OFFLINE", "1")
    with pytest.warns(FastnstWarning, match="going on with the embedded network"):
        loaded = load_weights("auto", taps=("conv2_1",))
    assert loaded.sha256 == load_weights("embedded", taps=("conv2_1",)).sha256


def test_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path)
    layers = embedded_layers()
    with pytest.raises(WeightsError, match=r"cannot be read .*install fastnst again"):
        embedded_convolutions(layers)
    (tmp_path / embedded.FILE).write_bytes(PACKAGED.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="cannot be read"):
        embedded_convolutions(layers)
    save_file({"conv1_1.weight": torch.zeros(1)}, tmp_path / embedded.FILE, metadata={"format": "another"})
    with pytest.raises(WeightsError, match="not the embedded network of this version"):
        embedded_convolutions(layers)


def test_why_not() -> None:
    layers = [layer for layer in layers_of("vgg19") if not layer.is_pool]
    assert embedded.why_not_embedded("vgg19", layers[:13]) is None
    assert "conv5_2" in str(embedded.why_not_embedded("vgg19", layers[:14]))
