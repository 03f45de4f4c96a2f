"""What the public functions refuse, and that the package works without triton."""

import subprocess
import sys

import pytest
import torch
from fastnst_kernels import available_backends, gram, gram_loss, style_tap

FEATURES = torch.rand(2, 4, 3, 3)
TARGET = torch.rand(4, 4)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.rand(4, 3, 3), r"shape \(4, 3, 3\) have 3 axes; give \(B, C, H, W\)"),
        (torch.rand(1, 4, 0, 3), r"shape \(1, 4, 0, 3\) are empty"),
        (torch.rand(0, 4, 3, 3), "are empty"),
        (torch.rand(1, 1025, 1, 1), "1025 channels; the Gram kernels take up to 1024"),
        (torch.ones(1, 4, 3, 3, dtype=torch.int32), "features are torch.int32"),
        (torch.ones(1, 4, 3, 3, dtype=torch.complex64), "takes float32, float16 or bfloat16, or float64"),
    ],
)
def test_wrong_features(features: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gram(features)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.rand(5, 5), r"target of shape \(5, 5\) does not fit .* give \(4, 4\) or \(2, 4, 4\)"),
        (torch.rand(3, 4, 4), r"target of shape \(3, 4, 4\) does not fit"),
        (torch.rand(4), r"target of shape \(4,\) does not fit"),
        (torch.ones(4, 4, dtype=torch.int64), "target is torch.int64"),
        (torch.rand(4, 4, device="meta"), "target is on meta, the features on cpu"),
        (torch.rand(4, 4, requires_grad=True), r"pass target\.detach\(\)"),
    ],
)
def test_wrong_target(target: torch.Tensor, message: str) -> None:
    for operation in (gram_loss, style_tap):
        with pytest.raises(ValueError, match=message):
            operation(FEATURES, target)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_wrong_weight(weight: float) -> None:
    with pytest.raises(ValueError, match="is not finite"):
        gram_loss(FEATURES, TARGET, weight)


@pytest.mark.parametrize("weight", [1e300, -4e38])
def test_weight_beyond_float32(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight .* is beyond float32; give a number of magnitude up to 3\.40"):
        gram_loss(FEATURES, TARGET, weight)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="precision 'fp32' is unknown; choose one of ieee, tf32"):
        gram(FEATURES, precision="fp32")
    with pytest.raises(ValueError, match="backend 'cuda' is unknown; choose one of auto, triton, torch, reference"):
        gram(FEATURES, backend="cuda")


def test_triton_on_cpu_only_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1 before Python starts"):
        gram(FEATURES, backend="triton")
    assert available_backends("cpu") == ("torch", "reference")


def test_float64_is_not_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"features are torch.float64; backend 'triton' takes float32, float16 or bfl"):
        gram(FEATURES.double(), backend="triton")


WITHOUT_TRITON = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "triton" else found(name, package)
import torch
from fastnst_kernels import available_backends, gram_loss

features = torch.rand(1, 4, 5, 5, requires_grad=True)
gram_loss(features, torch.rand(4, 4)).sum().backward()
assert torch.isfinite(features.grad).all()
assert "triton" not in sys.modules
assert available_backends("cuda") == ("torch", "reference")
try:
    gram_loss(features, torch.rand(4, 4), backend="triton")
except RuntimeError as error:
    print(error)
"""


def test_without_triton() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install triton" in done.stdout


def test_importing_does_not_import_triton() -> None:
    code = (
        "import sys, torch; before = 'triton' in sys.modules; import fastnst_kernels, fastnst_kernels.verify; "
        "assert 'fastnst_kernels.losses.triton_gram' not in sys.modules; assert ('triton' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
