"""The tests of the operations, and those of Triton alone, with the Triton kernels interpreted on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FOLDER = Path(__file__).parent
FILES = ("test_losses.py", "test_relu.py", "test_image.py", "interpreted/test_triton.py")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is one of those")
@pytest.mark.parametrize("name", FILES)
def test_interpreted(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner")]
    # The interpreter of triton 3.6 does this with numpy's scalars itself.
    command += ["-W", "ignore:Conversion of an array with ndim > 0:DeprecationWarning"]
    done = subprocess.run(
        [*command, str(FOLDER / name)], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        pytest.fail(done.stdout[-20_000:] + done.stderr[-5_000:], pytrace=False)
