"""Where the kernels run: interpreted, in processes of their own; on a CPU; and the package without triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastnst_kernels import available_backends, gram

FOLDER = Path(__file__).parent
FILES = (
    *("test_losses.py", "test_relu.py", "test_image.py", "test_first.py", "test_operators.py"),
    *("interpreted/test_triton.py", "interpreted/test_lbfgs.py"),
)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is one of those")
@pytest.mark.parametrize("name", FILES)
def test_interpreted(name: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner")]
    # The interpreter of triton 3.6 does this with numpy's scalars itself.
    command += ["-W", "ignore:Conversion of an array with ndim > 0:DeprecationWarning", str(FOLDER / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        pytest.fail(done.stdout[-20_000:] + done.stderr[-5_000:], pytrace=False)


def test_triton_on_cpu_only_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1 before Python starts"):
        gram(torch.rand(2, 4, 6, 5), backend="triton")
    assert available_backends("cpu") == ("torch", "reference")


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
from fastnst_kernels.launch.backends import resolve_backend

features = torch.rand(1, 4, 5, 5, requires_grad=True)
gram_loss(features, torch.rand(4, 4)).sum().backward()
assert torch.isfinite(features.grad).all()
assert "triton" not in sys.modules
assert available_backends("cuda") == ("torch", "reference")
assert resolve_backend("auto", torch.device("cuda")) == "torch"
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


def test_importing_does_not_import_triton_and_no_module_hides_a_function() -> None:
    code = (
        "import sys, torch; before = 'triton' in sys.modules; import fastnst_kernels, fastnst_kernels.verify; "
        "import fastnst_kernels.profiling, pkgutil; "
        "assert 'fastnst_kernels.losses.triton_gram' not in sys.modules; assert ('triton' in sys.modules) == before; "
        "modules = {module.name for module in pkgutil.iter_modules(fastnst_kernels.__path__)}; "
        "assert not modules & set(fastnst_kernels.__all__), modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
