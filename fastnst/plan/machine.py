"""How much memory a run may take: what the user allows, what this process holds, and what the machine has left."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

# Of what is free, the part that a run may take: other processes and the allocator's rounding need the rest.
USABLE = 0.9
_CGROUP = Path("/sys/fs/cgroup")
# What a control group without a limit says may be a number near 2⁶³.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Room:
    """`held` bytes are taken before the run; all that there may be in the end is `limit`, and in main memory beside a
    GPU's `main`; None if nobody knows."""

    held: int
    limit: int | None
    main: int | None = None


def room_on(device: torch.device, loading: int, sharers: int) -> Room:
    """What this process has of `device` once it holds `loading` bytes more; `sharers` begin now and share it."""
    held, free = held_bytes(device), free_bytes(device)
    limit = None if free is None else held + int(USABLE * free / sharers)
    free = None if device.type == "cpu" else free_bytes(torch.device("cpu"))
    return Room(held + loading, limit, None if free is None else int(USABLE * free / sharers))


def held_bytes(device: torch.device) -> int:
    """What this process holds now: its resident size for a CPU (0 where the system does not say), else the tensors'."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS") or 0


def free_bytes(device: torch.device) -> int | None:
    """What this process may still take of `device`'s memory; None where nothing says so."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [size for size in (_available(), _cgroup_left()) if size is not None]
    return min(found) if found else None


def _available() -> int | None:
    """Main memory that is free or can be freed, as Linux reckons it, else what is free."""
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_left() -> int | None:
    """What the control group that this process is in has left of its limit: that of a container, mostly."""
    left = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = ((_CGROUP / name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if allowed.isdecimal() and int(allowed) < _UNLIMITED:
            left.append(max(int(allowed) - int(taken) + _reclaimable(), 0))
    return min(left) if left else None


def _reclaimable() -> int:
    """What the group's use holds of files that the system gives up when it needs memory."""
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _status_bytes(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
