"""What depends on a GPU's kind and on its libraries, decided for stand-ins on a CPU."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastnst_kernels import available_backends
from fastnst_kernels.launch import gpu
from fastnst_kernels.launch.backends import resolve_backend
from network_samples import patches
from test_descent import LAYERS, Operations, objective_of, runtime

from fastnst import FastnstWarning, OptionError, Stylizer
from fastnst.app.cli.plan import plan_lines
from fastnst.network import backbone
from fastnst.network.cpu import CpuLayers, Torch
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.weights import load_weights, save_weights
from fastnst.optim import make_optimizer
from fastnst.options.resolve import resolve_options
from fastnst.plan.machine import Room
from fastnst.plan.planner import plan_run
from fastnst.transfer.descent import Descent

CUDA = torch.device("cuda")


def a_gpu(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    """Torch says that it sees a GPU of this capability."""
    pytest.importorskip("triton")
    properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))


@pytest.mark.parametrize(
    ("capability", "precision", "backend"),
    [((7, 0), "fp32", "torch"), ((7, 5), "fp16", "torch"), ((8, 0), "fp16", "triton"), ((9, 0), "fp16", "triton")],
)
def test_auto_by_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str, backend: str
) -> None:
    a_gpu(monkeypatch, *capability)
    automatic = resolve_runtime("cuda")
    assert (automatic.precision, automatic.kernels) == (precision, backend)
    assert available_backends("cuda")[0] == resolve_backend("auto", CUDA) == backend


def test_gpus_before_ampere_refuse_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, 7, 5)
    for precision in ("tf32", "bf16"):
        with pytest.raises(OptionError, match=f"{precision} needs a GPU of capability 8.0 or more, .* use fp16"):
            resolve_runtime("cuda", precision)
    with pytest.raises(OptionError, match="backend triton needs a GPU of capability"):
        resolve_runtime("cuda", backend="triton")
    with pytest.raises(ValueError, match='use backend="torch"'):
        resolve_backend("triton", CUDA)
    gpu.gpu_of.cache_clear()
    assert not gpu.gpu_of(0).tf32
    gpu.gpu_of.cache_clear()


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((7, 5), "fp32")])
def test_features_beyond_float16_at_the_first_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: tuple[int, int], precision: str
) -> None:
    taps: Any = ("conv1_1", "conv2_1")
    tensors = dict(load_weights("random", taps=taps).tensors)
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"] * 3e4
    path = tmp_path / "loud.safetensors"
    save_weights(path, "vgg19", tensors, load_weights("random", taps=taps).preprocessing)
    options: dict[str, Any] = {"style_layers": list(taps), "content_layers": "conv2_1", "objective": "relative"}
    stylizer = Stylizer(patches(3, 32, 32), weights=path, size=32, scales=None, iterations=2, device="cpu", **options)
    stylizer.runtime = Runtime(torch.device("cpu"), "fp16", torch.float16, tf32=False, winograd=False, backend="auto")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with pytest.warns(FastnstWarning, match=f"float16 cannot hold the values .* continues in {precision}"):
        result = stylizer(patches(1, 32, 32))
    assert result.parameters["precision"] == stylizer.runtime.precision == precision
    assert result.losses[-1].total < result.losses[0].total


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_without_triton_an_iteration_reads_nothing_back(
    monkeypatch: pytest.MonkeyPatch, pooling: str, optimizer: str
) -> None:
    """What a graph captures: the layers that a GPU without Triton has, with torch's kernels around them."""
    a_gpu(monkeypatch, 7, 5)
    layers = backbone.make_layers(resolve_runtime("cuda"))
    assert isinstance(layers, CpuLayers)
    assert isinstance(layers.convolver, Torch)
    monkeypatch.undo()
    monkeypatch.setattr(backbone, "make_layers", lambda place: CpuLayers(Torch(place.device, place.dtype)))
    options, place = resolve_options(**LAYERS, pooling=pooling, optimizer=optimizer), runtime("fp16")
    descent = Descent(torch.rand(1, 3, 32, 24), objective_of(options, place), lambda: make_optimizer(options, place))
    for _ in range(2):
        descent.advance()
    with Operations() as operations:
        descent.advance()
    assert operations.names["aten.threshold_backward.grad_input"] > 0


@pytest.mark.parametrize(("edge", "tiled"), [(5792, False), (5793, True)])
def test_maps_that_32_bits_cannot_count_are_tiled(monkeypatch: pytest.MonkeyPatch, edge: int, tiled: bool) -> None:
    a_gpu(monkeypatch, 9, 0)
    options, place, room = resolve_options(weights="random"), resolve_runtime("cuda"), Room(0, 10**12)
    plan = plan_run(options, place, (edge, edge), style_sizes=[(8192, 8192)], room=room)
    assert (plan.tile is not None, plan.fits) == (tiled, True)
    assert all(64 * height * width < 2**31 for height, width in plan.grid.crops)
    assert plan.style_tile is not None
    lines = "\n".join(plan_lines(plan))
    assert ("2,147,766,336 elements, too many for 32 bits" in lines) == tiled
    # A word of the user's own counts more, and a CPU's libraries count in 64 bits.
    assert plan_run(replace(options, tile="none"), place, (edge, edge), room=room).tile is None
    assert plan_run(options, resolve_runtime("cpu"), (edge, edge), room=room).tile is None
