"""How readers are fuzzed: damage of every kind to a file, the same examples in each run, and what holds for each.

With FASTNST_FUZZ=200 in the environment each test goes on for 200 seconds, with other examples in each run: all for
about an hour.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FASTNST_FUZZ", "0"))
# Of one example, on this thread: what takes longer may as well hang.
MOST_SECONDS = 5.0
_TELLING = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\1\0\0\0", b"\xff\xd8"]


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Gives a test so many examples, or as many as there is time for; it has a folder for all of them, tmp_path."""
    chosen = settings(
        max_examples=examples,
        derandomize=SECONDS == 0,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def lasting(test: Any) -> Any:
        test = chosen(test)
        if SECONDS == 0:
            return test

        @functools.wraps(test)
        def repeated(*given: Any, **named: Any) -> None:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                test(*given, **named)

        return repeated

    return lasting


@contextmanager
def soon() -> Iterator[None]:
    """Fails what takes longer than a few seconds of this thread's own time."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < MOST_SECONDS


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with bytes changed, put in, taken out or doubled, or cut short; half of it in the first 200 bytes."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        end = 200 if draw(st.booleans()) else len(data)
        at = draw(st.integers(0, max(0, min(end, len(data)) - 1)))
        length = draw(st.integers(1, 16))
        kind = draw(st.sampled_from(["change", "change", "tell", "insert", "delete", "double"]))
        if kind == "change":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "tell":
            data[at : at + 4] = draw(st.sampled_from(_TELLING))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 3)) == 0 else data)
