"""Damaged and hostile files of options, rows, weights, runs and metadata: understood, or refused in one line."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import gatys_state, save_legacy, save_safetensors, save_zip, torchvision_state
from fuzzing import damaged, fuzz, soon
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import fastnst
from fastnst.app import cli
from fastnst.app.batch.manifest import read_manifest
from fastnst.app.cli.arguments import read_config
from fastnst.errors import FastnstError
from fastnst.feedforward.file import load_network, save_network
from fastnst.feedforward.network import Architecture, StyleNetwork
from fastnst.image.metadata import read_parameters
from fastnst.image.write import save_image
from fastnst.network.architecture import layers_up_to
from fastnst.network.weights_file import open_weights, read_convolutions
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options
from fastnst.transfer.checkpoint import load_run
from fastnst.video.work import Work

NAMES = sorted(Options.__dataclass_fields__)
HUGE = [10**400, -(10**400), 2**64, 1e308, 5e-324, float("nan"), float("inf")]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(HUGE)
WORDS = st.sampled_from(["none", "auto", "conv1_1", "conv4_2=0.5", "8GB", "noise", "lbfgs", "cpu", "cuda:9", "random"])
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def understood_or_refused(read: Callable[[], object]) -> None:
    try:
        with soon():
            read()
    except FastnstError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@fuzz(600)
@given(options=st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3))
def test_any_values_of_options(options: dict[str, Any]) -> None:
    understood_or_refused(lambda: resolve_options(**options))


CONFIG = b"""
size = 300
scales = [64, 128, 0x12c]
style-weight = 7.5e1
style_layers = {conv1_1 = 0.5, "conv2_1" = 1}
init = 'noise'
seconds = inf
quiet = true
checkpoint = "run\\u002est"
"""
LINES = [*CONFIG.decode().strip().splitlines(), "[a]", "x = {", "size = -1", "'' = 1", "\0", "é = 1", "a = 2026-11-21"]
TEXTS = st.lists(st.sampled_from(LINES)).map(lambda lines: "\n".join(lines).encode())


@fuzz(400)
@given(data=damaged(CONFIG) | TEXTS | st.binary(max_size=60))
def test_configs(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(data)
    understood_or_refused(lambda: read_config(tmp_path / "run.toml"))


CSV = b'content;style;output;style-weight;scales\na.png;"b.png|c.png";d.png;7,5;64 128\n\xc3\xa9.png;f.png;;1;none\n'
ROWS = (
    b'{"content": "a.png", "style": ["b.png", "c.png"], "size": 64, "init": "noise", "style_layers": {"conv1_1": 1}}\n'
)
RECORDS = st.dictionaries(st.sampled_from(["content", "style", "output", *NAMES]), VALUES, min_size=2, max_size=5)


OF_CELLS = damaged(CSV) | st.binary(max_size=60).map(lambda rest: b"content,style\n" + rest)
OF_LINES = damaged(2 * ROWS) | RECORDS.map(lambda record: json.dumps(record).encode())


@fuzz(800)
@given(file=st.tuples(st.just("rows.csv"), OF_CELLS) | st.tuples(st.just("rows.jsonl"), OF_LINES))
def test_manifests(file: tuple[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])

    def read() -> None:
        for row in read_manifest(path):
            resolve_options(**row.options)

    understood_or_refused(read)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Weights files by their kind."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    for name, save in (("zip.pth", save_zip), ("old.pth", save_legacy), ("plain.safetensors", save_safetensors)):
        for key, state in (("torch", torchvision_state()), ("caffe", gatys_state())):
            small = {name: tensor for name, tensor in state.items() if "1_1" in name or "features.0" in name}
            save(small, folder / name)
            files[f"{key} {name}"] = (folder / name).read_bytes()
    return files


SMALL = st.sampled_from([0, 1, 3, 64])
FACTS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "?"]),
        "shape": st.lists(st.sampled_from([0, 1, 3, 64, 2**63]), max_size=5) | st.just([64, 3, 3, 3]) | st.just([64]),
        "data_offsets": st.tuples(*[st.sampled_from([0, 1, 128, 256, 3456, 6912, 2**63])] * 2) | st.none(),
    }
)
TENSORS = st.sampled_from(["features.0.weight", "features.0.bias", "conv1_1.weight", "conv1_1.bias", "__metadata__"])


@fuzz(200)
@example(facts={"features.0.weight": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": (0, 0)}}, length=0)
@example(facts={"features.0.weight": ["\r"]}, length=0)
@example(facts={"a\nb": {"dtype": "F32", "shape": [0], "data_offsets": (0, 0)}}, length=0)
@given(facts=st.dictionaries(TENSORS, FACTS | VALUES, min_size=1), length=st.sampled_from([0, 256, 6912, 7168]))
def test_weights_of_any_facts(facts: dict[str, Any], length: int, tmp_path: Path) -> None:
    path, head = tmp_path / "any.safetensors", json.dumps(facts).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(length))
    understood_or_refused(lambda: read_convolutions(open_weights(path, "vgg19"), layers_up_to("vgg19", ("conv1_1",))))


@fuzz(500)
@given(data=st.data())
def test_weights(data: st.DataObject, seeds: dict[str, bytes], tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(sorted(seeds)))
    path = tmp_path / name.split()[1]
    path.write_bytes(data.draw(damaged(seeds[name])))
    layers = layers_up_to("vgg19", ("conv1_1",))

    def read() -> None:
        for tensor in read_convolutions(open_weights(path, "vgg19"), layers).values():
            assert bool(tensor.isfinite().all())

    understood_or_refused(read)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], bytes]:
    """The tensors of a style network, and its file."""
    path, made = tmp_path_factory.mktemp("network") / "net.safetensors", StyleNetwork(["a"], Architecture(1, 1))
    save_network(path, made, {"steps": 1})
    return {name: value.detach().half() for name, value in made.state_dict().items()}, path.read_bytes()


@fuzz(200)
@given(data=st.data())
def test_damaged_networks(data: st.DataObject, network: tuple[dict[str, torch.Tensor], bytes], tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(data.draw(damaged(network[1])))
    understood_or_refused(lambda: load_network(tmp_path / "net.safetensors"))


@fuzz(150)
@given(data=st.data())
def test_networks_of_other_facts(
    data: st.DataObject, network: tuple[dict[str, torch.Tensor], bytes], tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"kind": "fastnst style network", "format": 1, "styles": ["a"], "training": {}}
    facts["architecture"] = {"channels": 1, "blocks": 1}
    facts[data.draw(st.sampled_from(sorted(facts)))] = data.draw(VALUES)
    path, tensors = tmp_path / "net.safetensors", dict(network[0])
    if data.draw(st.booleans()):
        tensors[data.draw(st.sampled_from(sorted(tensors)))] = torch.zeros(data.draw(st.lists(SMALL, max_size=4)))
    save_file(tensors, path, {"fastnst": json.dumps(facts)})
    understood_or_refused(lambda: load_network(path))


RECORD = b'{"format": 1, "same": {"clip": "a", "styles": [1, 2]}, "device": "cpu"}'


@fuzz(100)
@example(data=b"[" * 100_000)
@given(data=damaged(RECORD) | VALUES.map(json.dumps).map(str.encode))
def test_records_of_clips(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(data)
    understood_or_refused(lambda: Work(tmp_path).saved(resume=True))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the checkpoint of a small run holds."""
    path = tmp_path_factory.mktemp("run") / "run.st"
    small: dict[str, Any] = {"weights": "random", "style_layers": "conv1_1", "content_layers": "conv1_1"}
    picture = torch.linspace(0, 1, 48).view(3, 4, 4)
    fastnst.stylize(picture, picture.flip(1), size=4, iterations=1, checkpoint=path, **small)
    return torch.load(path)


@fuzz(300)
@given(data=st.data())
def test_damaged_runs(data: st.DataObject, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.st"
    torch.save(checkpoint, path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    understood_or_refused(lambda: load_run(path))


@fuzz(150)
@given(data=st.data())
def test_runs_of_other_facts(data: st.DataObject, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """Some are lost or others, themselves or the parameters and sources among them."""
    facts: dict[str, Any] = json.loads(checkpoint["run"])
    parts = [facts, facts["parameters"], facts["sources"], facts["parameters"]["options"]]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(parts))
        name = data.draw(st.sampled_from(sorted(part) or ["size"]))
        if data.draw(st.booleans()):
            part[name] = data.draw(VALUES)
        else:
            part.pop(name, None)
    path = tmp_path / "run.st"
    torch.save({**checkpoint, "run": json.dumps(facts)}, path)
    understood_or_refused(lambda: load_run(path))
    assert cli.main(["resume", str(path), "-o", str(tmp_path / "out.png")]) == 1


PARAMETERS = {"options": {"size": 3, "init": "noise"}, "content": {"name": "a.png"}, "styles": [{"name": "b.png"}]}


@fuzz(400)
@given(data=st.data(), kind=st.sampled_from(["png", "jpg", "webp", "tif", "npy"]))
def test_damaged_metadata(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"fuzz.{kind}"
    save_image(path, torch.full((3, 4, 4), 0.5), parameters=PARAMETERS)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    understood_or_refused(lambda: read_parameters(path))


@fuzz(80)
@given(
    text=st.text(max_size=30)
    | VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from([*PARAMETERS, "weights"]), VALUES).map(json.dumps)
)
def test_foreign_metadata_in_commands(text: str, tmp_path: Path) -> None:
    path, marks = tmp_path / "fuzz.png", PngInfo()
    inner = html.escape(text.encode(errors="replace").decode())
    marks.add_itxt("XML:com.adobe.xmp", f"<fastnst:parameters>{inner}</fastnst:parameters>")
    Image.new("RGB", (4, 4)).save(path, pnginfo=marks)
    understood_or_refused(lambda: read_parameters(path))
    assert cli.main(["info", str(path)]) in (0, 1)
    assert cli.main(["rerun", str(path), "-o", str(tmp_path / "out.png")]) == 1
