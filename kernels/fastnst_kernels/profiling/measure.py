"""Fair timing, peaks of memory, and the facts about a machine that a measured figure needs beside it."""

import gc
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.launch.capture import capturing

T = TypeVar("T")
Call = Callable[[], object]
Contender = Callable[[], Call]
"""Prepares one call, untimed, and returns it; the call is what is timed."""

# Larger than the last-level cache of any device at hand, and long enough on a GPU for the host to enqueue what follows.
_FLUSH_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
_PRODUCT_SIDE = {"cpu": 1536, "cuda": 8192}


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over the rounds: the median, the fastest and the slowest.

    `by` says what was timed: "clock", the host's call; on a GPU "events", between which the host's calls are queued, or
    "graph", replays of a captured call, in which nothing of Python is left.
    """

    median: float
    fastest: float
    slowest: float
    rounds: int
    by: str = "clock"

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median."""
        return (self.slowest - self.fastest) / self.median


def interleaved(
    contenders: Mapping[str, Contender],
    device: torch.device,
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
    flush: bool = True,
    replay: bool = False,
) -> dict[str, Timing]:
    """Times each contender `calls` times in each of `rounds`, in turn: a change of load or clock meets them all.

    Each round starts with another contender; a round's time is the median of its calls. With `flush` the caches are
    filled with something else before each call. On CUDA calls are timed by events on the stream, elsewhere by the wall
    clock. Every contender is called `warm_up` times before, untimed. With `replay` a call on CUDA is captured, and the
    graph is what is timed, where it can be.
    """
    # Ones, because pages that nobody has written are all the same one.
    scratch = torch.ones(_FLUSH_BYTES[device.type] // 4, dtype=torch.int32, device=device) if flush else None
    names, by = list(contenders), dict.fromkeys(contenders, "events" if device.type == "cuda" else "clock")
    samples: dict[str, list[float]] = {name: [] for name in names}
    timed = dict(contenders)
    for name in names:
        for _ in range(warm_up):
            contenders[name]()()
        if replay and device.type == "cuda" and (graph := captured(contenders[name], device)) is not None:
            timed[name], by[name] = graph, "graph"
    for index in range(rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(median(_timed(timed[name], device, calls, scratch)))
    return {name: Timing(median(times), min(times), max(times), rounds, by[name]) for name, times in samples.items()}


def captured(contender: Contender, device: torch.device) -> Contender | None:
    """A contender whose call replays one call of `contender` from a CUDA graph; None where that cannot be captured."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        # What libraries keep for a stream is then there.
        contender()()
        call = contender()
    synchronise(device)
    try:
        with capturing(graph, stream, device):
            result = call()
    except RuntimeError:
        return None
    # What the graph reads and writes lives as long as it.
    return lambda kept=(call, result): graph.replay  # type: ignore[misc]


def _timed(contender: Contender, device: torch.device, calls: int, scratch: Tensor | None) -> list[float]:
    marks = []
    with _no_collection():
        for _ in range(calls):
            call = contender()
            if scratch is not None:
                # Read, not written: lines that wait to be written back would be the call's to wait for.
                scratch.sum()
            start = _mark(device)
            call()
            marks.append((start, _mark(device)))
        synchronise(device)
    return [start.elapsed_time(end) / 1e3 if device.type == "cuda" else end - start for start, end in marks]


def _mark(device: torch.device) -> Any:
    """An event on the current stream of a GPU, the time elsewhere."""
    if device.type != "cuda":
        synchronise(device)
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy larger than the caches, read and written bytes both counted: the best of nine."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    destination = torch.empty_like(source)
    timing = interleaved({"copy": lambda: lambda: destination.copy_(source)}, device, rounds=9, flush=False)["copy"]
    return 2 * len(source) / timing.fastest


@cache
def product_rate(device: torch.device, dtype: torch.dtype, tf32: bool = False) -> float:
    """FLOP per second of a large square product of `dtype` matrices: the best of nine; `tf32` is for float32 ones."""
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.randn((side, side), device=device).to(dtype) for _ in range(2))
    with float32_products(tf32):
        timing = interleaved({"product": lambda: lambda: left @ right}, device, rounds=9, flush=False)["product"]
    return 2 * side**3 / timing.fastest


def peak_extra_bytes(contender: Contender, device: torch.device) -> int:
    """The peak of what `contender` allocates, in its preparation or in its call, less the tensor that its call returns.

    On CUDA it is the caching allocator's peak; on a CPU the running sum of what torch's profiler sees allocated and
    freed. What a library allocates by itself is not seen.
    """
    watched = _watched_cuda if device.type == "cuda" else _watched_cpu
    # What is collected on the way would count as freed by the call.
    with _no_collection():
        call, prepared_peak, kept = watched(contender, device)
        result, call_peak, _ = watched(call, device)
    returned = result.untyped_storage().nbytes() if isinstance(result, Tensor) else 0
    return max(prepared_peak, kept + call_peak - returned, 0)


def _watched_cuda(function: Callable[[], T], device: torch.device) -> tuple[T, int, int]:
    """The result of `function`, and the bytes that it adds to those that live: at the peak and at its end."""
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    synchronise(device)
    return result, torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before


def _watched_cpu(function: Callable[[], T], device: torch.device) -> tuple[T, int, int]:
    quieten_profiler()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    recorded = profiler.profiler
    if recorded is None or recorded.kineto_results is None:
        raise RuntimeError("torch's profiler recorded nothing")
    changes = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(changes, key=lambda event: int(event.start_ns())):
        live += event.nbytes()
        peak = max(peak, live)
    return result, peak, live


def quieten_profiler() -> None:
    """Keeps the profiler's own log off the standard error; call it before the process profiles for the first time."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_resident_bytes() -> int:
    """The largest resident size of this process so far, in bytes, as Linux keeps it; 0 on another system."""
    return proc_bytes("/proc/self/status", "VmHWM") or 0


def conditions(device: torch.device) -> dict[str, Any]:
    """Everything that a figure depends on besides the code: machine, device, versions, load, date (UTC) and commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": device_name(device),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "system": platform.platform(),
        },
        "gpu": _gpu_facts(),
        "versions": versions(),
    }


def versions(packages: Iterable[str] = ("fastnst", "torch", "triton", "numpy", "pillow")) -> dict[str, str]:
    """The versions that a result depends on, by package name."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            # The number alone does not say which build it is.
            installed[package] = torch.__version__ if package == "torch" else version(package)
        except PackageNotFoundError:
            installed[package] = "absent"
    return installed


def device_name(device: torch.device) -> str:
    """The model of `device`, as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def _gpu_facts() -> list[dict[str, str]]:
    """The facts that nvidia-smi gives of each GPU: driver, present and highest clocks, power limit and temperature."""
    fields = (
        "name,driver_version,clocks.current.sm,clocks.max.sm,clocks.current.memory,clocks.max.memory,power.limit,"
        "temperature.gpu"
    )
    printed = _answer("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader") or ""
    return [dict(zip(fields.split(","), line.split(", "), strict=False)) for line in printed.splitlines()]


def commit() -> str:
    """The commit of the source tree that runs, with "+" if tracked files differ from it; "unknown" outside of one."""
    file = Path(__file__)
    # A copy installed inside some other project's tree is not of that project's commit.
    if _answer("git", "-C", str(file.parent), "ls-files", "--error-unmatch", file.name) is None:
        return "unknown"
    words = ("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
    return _answer("git", "-C", str(file.parent), *words) or "unknown"


def _answer(tool: str, *words: str) -> str | None:
    """The output of a command, None where it is absent or fails."""
    path = shutil.which(tool)
    done = subprocess.run([path, *words], capture_output=True, text=True, check=False) if path else None
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def _field(path: str, name: str) -> str | None:
    """The value of the first line `name: value` of a file under /proc, None without one."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if re.match(rf"{name}\s*:", line)), None)


def proc_bytes(path: str, name: str) -> int | None:
    """Bytes that a line such as `VmRSS:  123 kB` of a file under /proc says, None without one."""
    value = _field(path, name)
    return None if value is None else 1024 * int(value.split()[0])


def cpu_name() -> str:
    """The processor's name, as the system has it."""
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
