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
    """The memory of a run: `held` bytes are taken before it; all that there may be in the end is `limit`, None if
    nobody knows."""

    held: int
    limit: int | None


def room_on(device: torch.device, loading: int, sharers: int) -> Room:
    """This process's memory of `device` once it holds `loading` bytes more; `sharers` begin now and share it."""
    held, free = held_bytes(device), free_bytes(device)
    return Room(held + loading, None if free is None else held + int(USABLE * free / sharers))


def held_bytes(device: torch.device) -> int:
    """Bytes that this process holds: its resident size for a CPU (0 where unknown), else its tensors."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS") or 0


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still take of `device`'s memory; None where nothing says so."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min((size for size in (_available(), _cgroup_left()) if size is not None), default=None)


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
    """Bytes left of the limit of this process's control group: a container's, mostly."""
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
    return min(left, default=None)


def _reclaimable() -> int:
    """Bytes of files in the group's use, which the system gives up when it needs memory."""
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
