"""Rules of every kernel test: an output that is not written shows, and interpreted tests run interpreted.

Those need TRITON_INTERPRET=1 before triton is imported: `test_kernels_backends` runs them in processes of their own,
and a plain run does not collect them.
"""

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


@pytest.fixture(autouse=True)
def _nan_in_empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a CPU, tensors that torch would leave uninitialised are full of NaN, or of set bits."""
    on_cpu = "gpu" not in request.keywords
    torch.use_deterministic_algorithms(on_cpu, warn_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deterministic")
        yield
    torch.use_deterministic_algorithms(False)
