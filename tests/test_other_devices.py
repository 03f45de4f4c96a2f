"""Devices that are neither a CPU nor CUDA's: what a CPU can show of a run on Apple's mps and Intel's xpu."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from fastnst.errors import OptionError
from fastnst.network.runtime import resolve_runtime

SCRIPT = """
import json
import sys

import numpy as np
import torch

import fastnst
from fastnst.feedforward.network import Architecture, StyleNetwork
from other_device import NAME, pretending

picture = np.random.default_rng(0).random((36, 48, 3), dtype=np.float32)
style, mask = picture[::-1].copy(), np.zeros((36, 48), np.float32)
mask[:, :20] = 1
small = {"size": 48, "iterations": 2, "scales": None, "weights": "random", "precision": "fp32"}
shallow = {**small, "style_layers": "conv1_1,conv2_1", "content_layers": "conv2_1"}
cases = {
    "lbfgs": {**small, "scales": (32, 48), "history_precision": "fp16"},
    "adam, tiles, masks": {**shallow, "optimizer": "adam", "tile": 32, "masks": [(mask, mask), (1 - mask, 1 - mask)]},
    "line search": {**shallow, "line_search": "strong_wolfe", "hessian": "scalar"},
    "wasserstein": {**shallow, "style_loss": "wasserstein"},
    "mean-std": {**shallow, "style_loss": "mean-std"},
    "sliced": {**shallow, "style_loss": "sliced"},
    "colours": {**shallow, "preserve_color": "histogram", "pooling": "max", "average": 0.9},
    "16 bit": {**shallow, "precision": "fp16"},
}
torch.manual_seed(0)
torch.__future__.set_overwrite_module_params_on_conversion(True)
network = StyleNetwork(["a"], Architecture(channels=4, blocks=1))
exact = {name: {**options, "precision": "fp32"} for name, options in cases.items()}
expected = {name: fastnst.stylize(picture, style, **options) for name, options in exact.items()}
applied = fastnst.apply_network(network, picture, device="cpu", precision="fp32").tensor
apart = {}
with pretending() as device:
    for name, options in cases.items():
        made = fastnst.stylize(picture, style, device=NAME, **options)
        assert made.parameters["device"] == NAME
        apart[name] = float((made.tensor - expected[name].tensor).abs().max())
    apart["apply"] = float((fastnst.apply_network(network, picture, device=NAME).tensor - applied).abs().max())
print(json.dumps({"apart": apart, "used": sorted(device.used)}))
"""


def _kernels() -> dict[str, list[set[str]]]:
    """From an operation's name to the backends that have kernels of its overloads, by torch's own table."""
    import torchgen

    yaml = pytest.importorskip("yaml")

    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    functions = {entry["func"].partition("(")[0]: entry for entry in yaml.safe_load(table.read_text(encoding="utf-8"))}
    found: dict[str, list[set[str]]] = {}
    for name, entry in functions.items():
        for own in (entry, functions.get(entry.get("structured_delegate", ""))):
            if own is not None:
                kernels = own.get("dispatch", {"CompositeImplicitAutograd": name})
                found.setdefault(name.partition(".")[0], []).append(
                    {key.strip() for keys in kernels for key in keys.split(",")}
                )
    return found


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="needs a newer torch"
)
def test_a_run_on_a_device_without_float64() -> None:
    """Nothing of a run is float64 there or mixes devices, it ends where a CPU's does, and Apple has all operations."""
    tests = Path(__file__).parent
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert {name: value for name, value in facts["apart"].items() if value > (0.1 if name == "16 bit" else 0.003)} == {}
    assert {"convolution", "bmm", "avg_pool2d", "_fused_adam_"} <= set(facts["used"])
    kernels = _kernels()

    def has(name: str) -> bool:
        return any(key == "MPS" or key.startswith("Composite") for own in kernels[name] for key in own)

    assert [name for name in facts["used"] if not has(name)] == []


def test_what_such_a_device_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="device mps was asked for, but torch finds none here; use auto or cpu"):
        resolve_runtime("mps")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    runtime = resolve_runtime("mps")
    assert (runtime.precision, runtime.kernels, runtime.tf32) == ("fp32", "torch", False)
    assert resolve_runtime("mps", "fp16").dtype == torch.float16
    for values, said in (
        (("mps", "tf32"), "precision tf32 needs a GPU"),
        (("mps", "winograd"), "precision winograd needs a CPU"),
        (("mps", "auto", "triton"), "backend triton needs a GPU"),
        (("mps", "auto", "reference"), "backend reference computes in float64, which mps does not have; use auto"),
        (("xpu",), "torch finds none here"),
    ):
        with pytest.raises(OptionError, match=said):
            resolve_runtime(*values)
