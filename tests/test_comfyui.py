"""The nodes for ComfyUI, loaded and called as ComfyUI does it: its protocol, in a stub of what it gives to nodes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastnst
import fastnst.comfyui
from fastnst.errors import ImageError, OptionError
from fastnst.examples import example
from fastnst.feedforward.file import save_network
from fastnst.feedforward.network import Architecture, StyleNetwork

FOLDER = Path(fastnst.comfyui.__file__).parent
FAST = 'weights = "random"\nscales = "none"\nstyle_layers = "conv1_1"\ncontent_layers = "conv1_1"\nprecision = "fp32"\n'
OPTIONS: dict[str, Any] = {"weights": "random", "scales": "none", "style_layers": "conv1_1", "precision": "fp32"}
OPTIONS |= {"content_layers": "conv1_1"}


class InterruptProcessingException(Exception):
    """As in comfy.model_management; no error of the run."""


class ProgressBar:
    """As in comfy.utils."""

    calls: list[tuple[int, int | None, Any]] = []  # noqa: RUF012

    def __init__(self, total: int, node_id: Any = None) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.calls.append((value, total, preview))


class Comfy:
    """ComfyUI's loader and executor: one object for each node, its inputs checked, run under inference mode."""

    def __init__(self, folder: Path) -> None:
        name = str(folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        del sys.modules[name]
        self.nodes: dict[str, Any] = module.NODE_CLASS_MAPPINGS
        assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == self.nodes.keys()
        self._objects: dict[str, Any] = {}

    def run(self, name: str, **values: Any) -> Any:
        """The first output of a node."""
        kind = self.nodes[name]
        inputs = kind.INPUT_TYPES()
        allowed = {**inputs["required"], **inputs.get("optional", {})}
        assert values.keys() <= allowed.keys()
        for key, (type_, *facts) in inputs["required"].items():
            if key not in values:
                values[key] = type_[0] if isinstance(type_, list) else facts[0]["default"]
        for key, value in values.items():
            type_ = allowed[key][0]
            words = {"STRING": str, "INT": int, "FLOAT": float, "BOOLEAN": bool, "IMAGE": Tensor, "MASK": Tensor}
            assert value in type_ if isinstance(type_, list) else isinstance(value, words.get(type_, list))
        if hasattr(kind, "VALIDATE_INPUTS"):
            names = kind.VALIDATE_INPUTS.__func__.__code__.co_varnames[
                1 : kind.VALIDATE_INPUTS.__func__.__code__.co_argcount
            ]
            said = kind.VALIDATE_INPUTS(**{key: values[key] for key in names if key in values})
            if said is not True:
                raise ValueError(said)
        if hasattr(kind, "IS_CHANGED"):
            kind.IS_CHANGED(**values)
        node = self._objects.setdefault(name, kind())
        with torch.inference_mode():
            outputs = getattr(node, kind.FUNCTION)(**values)
        assert isinstance(outputs, tuple)
        assert len(outputs) == len(kind.RETURN_TYPES)
        return outputs[0]


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Comfy:
    ProgressBar.calls = []
    package, utils, management, folders = map(
        ModuleType, ("comfy", "comfy.utils", "comfy.model_management", "folder_paths")
    )
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    state = SimpleNamespace(interrupted=False)

    def throw() -> None:
        if state.interrupted:
            raise InterruptProcessingException

    management.throw_exception_if_processing_interrupted = throw  # type: ignore[attr-defined]
    management.get_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    models = tmp_path / "models" / "fastnst"
    models.mkdir(parents=True)
    known: dict[str, Any] = {}
    given = {
        "models_dir": str(models.parent),
        "folder_names_and_paths": known,
        "get_filename_list": lambda name: sorted(path.name for path in Path(known[name][0][0]).iterdir()),
        "get_full_path": lambda name, file: str(models / file) if (models / file).exists() else None,
    }
    vars(folders).update(given)
    for module in (package, utils, management, folders):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    loaded = Comfy(FOLDER)
    loaded.state, loaded.models = state, models  # type: ignore[attr-defined]
    return loaded


def image(count: int = 1, height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """An IMAGE as ComfyUI's nodes make it, in inference mode."""
    with torch.inference_mode():
        return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def test_stylize_is_what_the_function_makes(comfy: Comfy) -> None:
    content, style = image(2), image(seed=1)
    made = comfy.run("FastnstStylize", content=content, style=style, size="content", iterations=2, seed=3, options=FAST)
    assert (made.shape, made.dtype, made.device.type) == ((2, 24, 32, 3), torch.float32, "cpu")
    assert not made.is_inference()
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    planes = [picture.numpy() for picture in (*content, style[0])]
    for index in range(2):
        expected = fastnst.stylize(planes[index], planes[2], size=32, iterations=2, seed=3, **OPTIONS)
        assert torch.equal(made[index], expected.tensor.movedim(0, -1))
    # The bar moves over both pictures, to its end, with a preview now and then.
    done = [value / total for value, total, _ in ProgressBar.calls]
    assert done == sorted(done)
    assert done[-1] == 1
    kind, shown, edge = next(preview for *_, preview in ProgressBar.calls if preview is not None)
    assert (kind, shown.size, edge) == ("JPEG", (32, 24), 512)


@pytest.mark.filterwarnings("ignore:no step lowered the loss")
def test_styles_presets_sizes_and_starts(comfy: Comfy) -> None:
    def run(**values: Any) -> Tensor:
        given: dict[str, Any] = {
            "content": image(),
            "style": image(seed=1),
            "size": "32",
            "iterations": 1,
            "options": FAST,
        }
        made: Tensor = comfy.run("FastnstStylize", **{**given, **values})
        return made

    plain = run()
    assert run(size="50%", content=image(1, 64, 96)).shape == (1, 32, 48, 3)
    assert run(size="40x30").shape == (1, 30, 40, 3)
    second = image(1, 40, 40, seed=2)
    several = run(style_2=second, style_weights="1, 3", style_weight=50.0)
    assert not torch.equal(several, plain)
    assert torch.equal(run(style=image(2, seed=1)), run(style=image(2, seed=1)[:1], style_2=image(2, seed=1)[1:]))
    assert not torch.equal(run(init="noise", seed=1), run(init="noise", seed=2))
    start = run(start=image(seed=5))
    assert not torch.equal(start, plain)
    for preset in fastnst.comfyui.PRESETS:
        assert min(run(preset=preset).shape[1:3]) >= 24
    assert run(preserve_color="luminance").shape == (1, 24, 32, 3)
    # Alpha comes back as it came.
    clear = image(channels=4)
    assert torch.allclose(run(content=clear)[..., 3], clear[..., 3])


def test_regions(comfy: Comfy) -> None:
    with torch.inference_mode():
        left = torch.zeros(1, 24, 32)
        left[..., :16] = 1
        right = 1 - left
    regions = comfy.run("FastnstRegion", content_mask=left, style_number=1, style_mask=left)
    regions = comfy.run("FastnstRegion", content_mask=right, style_number=2, regions=regions)
    assert len(regions) == 2
    given = {"content": image(), "style": image(seed=1), "style_2": image(seed=2), "size": "32", "iterations": 3}
    made = comfy.run("FastnstStylize", **given, regions=regions, options=FAST)
    planes = [picture[0].numpy() for picture in (image(), image(seed=1), image(seed=2))]
    masks = [(left[0].numpy(), {1: left[0].numpy()}), (right[0].numpy(), {2: None})]
    expected = fastnst.stylize(planes[0], planes[1:], size=32, iterations=3, masks=masks, **OPTIONS)
    assert torch.equal(made[0], expected.tensor.movedim(0, -1))
    with pytest.raises(OptionError, match="the mask has 2 pictures; give a mask of one"):
        comfy.run("FastnstRegion", content_mask=left.expand(2, -1, -1), style_number=1)


def test_a_texture(comfy: Comfy) -> None:
    options = FAST.replace('content_layers = "conv1_1"\n', "")
    made = comfy.run(
        "FastnstTexture", style=image(seed=1), width=48, height=32, tileable=True, iterations=1, options=options
    )
    assert made.shape == (1, 32, 48, 3)
    assert not made.is_inference()


def test_a_network_is_applied(comfy: Any) -> None:
    torch.manual_seed(0)
    network = StyleNetwork(["a", "b"], Architecture(channels=4, blocks=1))
    save_network(comfy.models / "ab.safetensors", network, {})
    names = comfy.nodes["FastnstApply"].INPUT_TYPES()["required"]["network"]
    assert names == (["styles that come with fastnst", "ab.safetensors"],)
    made = comfy.run("FastnstApply", content=image(2), network="ab.safetensors", blend="1, 3")
    expected = fastnst.apply_network(comfy.models / "ab.safetensors", image(2)[1].numpy(), blend=[1, 3])
    assert torch.equal(made[1], expected.tensor.movedim(0, -1))
    before = comfy.nodes["FastnstApply"].IS_CHANGED(network="ab.safetensors")
    save_network(comfy.models / "ab.safetensors", StyleNetwork(["a"], Architecture(channels=8, blocks=1)), {})
    assert comfy.nodes["FastnstApply"].IS_CHANGED(network="ab.safetensors") != before
    with pytest.raises(OptionError, match=r"network 'gone\.safetensors' is not in models/fastnst"):
        fastnst.comfyui.Apply().run(image(), "gone.safetensors", "content", "none")


def test_a_run_ends_when_it_is_interrupted(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = ProgressBar.update_absolute

    def interrupt(bar: ProgressBar, *arguments: Any) -> None:
        comfy.state.interrupted = True
        moved(bar, *arguments)

    given = {"content": image(), "style": image(seed=1), "size": "32", "iterations": 1000, "options": FAST}
    monkeypatch.setattr(ProgressBar, "update_absolute", interrupt)
    with pytest.raises(InterruptProcessingException):
        comfy.run("FastnstStylize", **given)
    assert len(ProgressBar.calls) == 1
    monkeypatch.setattr(ProgressBar, "update_absolute", moved)
    comfy.state.interrupted = False
    assert comfy.run("FastnstStylize", **{**given, "iterations": 1}).shape == (1, 24, 32, 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": "large"}, "size 'large' is not a size; write 512"),
        ({"options": "tv_weight 1"}, "the options are not TOML"),
        ({"options": "tv_wait = 1"}, "unknown option 'tv_wait'"),
        ({"options": "tv_weight = -1"}, "tv weight -1"),
    ],
)
def test_what_the_page_of_comfyui_says_before_a_run(comfy: Comfy, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        comfy.run("FastnstStylize", content=image(), style=image(), **values)
    if "options" in values:
        with pytest.raises(ValueError, match=said):
            comfy.run("FastnstTexture", style=image(), **values)


def test_what_can_be_told_only_in_a_run_is_not_refused_before(comfy: Comfy) -> None:
    stylize = comfy.nodes["FastnstStylize"]
    # ComfyUI gives None for what another node makes.
    assert stylize.VALIDATE_INPUTS(size=None, preset=None, options=None) is True
    given = {"preset": "style-transfer-pytorch", "options": "iterations = [4, 3, 2, 1]"}
    assert stylize.VALIDATE_INPUTS(size="1024", **given) is True


def test_a_picture_that_will_not_do(comfy: Comfy) -> None:
    with pytest.raises(ImageError, match="content image"):
        comfy.run("FastnstStylize", content=image() * float("nan"), style=image(), options=FAST)


def prompt_of(
    workflow: dict[str, Any], comfy: Comfy
) -> dict[int, tuple[str, dict[str, Any], dict[str, tuple[int, int]]]]:
    """A workflow of the page as the page sends it: each node's type, its widgets' values and its links."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        sources = {entry["name"]: tuple(links[entry["link"]][1:3]) for entry in node.get("inputs", []) if entry["link"]}
        kind, values = comfy.nodes.get(node["type"]), list(node.get("widgets_values", []))
        widgets: dict[str, Any] = {}
        if kind is not None:
            inputs = kind.INPUT_TYPES()
            for name, (type_, *facts) in {**inputs["required"], **inputs["optional"]}.items():
                if isinstance(type_, list) or type_ in ("STRING", "INT", "FLOAT", "BOOLEAN"):
                    widgets[name] = values.pop(0)
                    if facts and facts[0].get("control_after_generate"):
                        assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
                else:
                    entry = next(entry for entry in node["inputs"] if entry["name"] == name)
                    assert entry["type"] == type_
            assert values == []
        prompt[node["id"]] = (node["type"], widgets, sources)
    return prompt


def test_the_example_workflow_runs(comfy: Comfy) -> None:
    workflow = json.loads((FOLDER / "example_workflows" / "stylize.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    prompt, outputs = prompt_of(workflow, comfy), dict[int, Any]()
    for _, source, slot, target, entry, type_ in workflow["links"]:
        assert nodes[source]["outputs"][slot]["type"] == nodes[target]["inputs"][entry]["type"] == type_
    for number, (kind, widgets, links) in prompt.items():
        if kind == "LoadImage":
            picture = Image.open(example(Path(nodes[number]["widgets_values"][0]).stem)).resize((64, 48))
            with torch.inference_mode():
                outputs[number] = torch.from_numpy(np.array(picture)).float()[None] / 255
        elif kind in ("SaveImage", "PreviewImage"):
            assert outputs[links["images"][0]].ndim == 4
        else:
            small = {"size": "32"} if "size" in widgets else {"width": 32, "height": 32}
            values = {**widgets, **small, "iterations": 1, "options": f'{widgets["options"]}\nweights = "random"'}
            outputs[number] = comfy.run(
                kind, **values, **{name: outputs[source] for name, (source, _) in links.items()}
            )
            assert outputs[number].shape[-1] == 3


def test_a_folder_that_imports_them_and_no_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "custom_nodes" / "fastnst"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from fastnst.comfyui import *\n")
    for name in ("comfy", "comfy.utils", "comfy.model_management", "folder_paths"):
        monkeypatch.setitem(sys.modules, name, None)
    alone = Comfy(folder)
    made = alone.run("FastnstStylize", content=image(), style=image(seed=1), size="32", iterations=1, options=FAST)
    assert made.shape == (1, 24, 32, 3)
    assert alone.nodes["FastnstApply"].INPUT_TYPES()["required"]["network"] == (["styles that come with fastnst"],)
