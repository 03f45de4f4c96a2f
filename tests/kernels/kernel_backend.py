"""The backend of this process: Triton where the kernels are interpreted, else torch; the same tests run with both."""

import os
from collections.abc import Sequence
from typing import TypeVar

BACKEND = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "torch"
T = TypeVar("T")


def by_backend(torch: Sequence[T], triton: Sequence[T]) -> Sequence[T]:
    """The cases of this process; the interpreter, which runs one program after the other, gets through few."""
    return triton if BACKEND == "triton" else torch
