"""How much memory a run may take: what the user allows, what this process holds, and what the machine has left."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import proc_bytes

# Of what is free, the part that a run may take: other processes and the allocator's rounding need the rest.
USABLE = 0.9
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Address space that holds nothing, or comes after the plan: libraries, and a thread's stack and arena (glibc's).
_LATER, _OF_A_THREAD = 256 << 20, 72 << 20
# What a control group without a limit says may be a number near 2⁶³.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Room:
    """The memory of a run: `held` bytes before it, and at most `limit` in the end, None if nobody knows."""

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
    return proc_bytes("/proc/self/status", "VmRSS") or 0


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still take of `device`'s memory; None where nothing says so."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(
        (size for size in (_available(), _cgroup_left(), _address_space_left()) if size is not None), default=None
    )


def _available() -> int | None:
    """Main memory that is free or can be freed, as Linux reckons it, else what is free."""
    if (available := proc_bytes("/proc/meminfo", "MemAvailable")) is not None:
        return available
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_left() -> int | None:
    """Bytes left of the limits of this process's control groups, each of which is in another: a container's, mostly."""
    left = []
    for folder, limit, used in _control_groups():
        try:
            allowed, taken = ((folder / name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if allowed.isdecimal() and int(allowed) < _UNLIMITED:
            left.append(max(int(allowed) - int(taken) + _reclaimable(folder), 0))
    return min(left, default=None)


def _control_groups() -> Iterator[tuple[Path, str, str]]:
    """The folders of the control groups, of both versions, with the names of their limit and of what is in use."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    rows = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    groups = {controller: path for _, controllers, path in rows for controller in controllers.split(",")}
    for kind, root, names in (
        ("", _CGROUP, ("memory.max", "memory.current")),
        ("memory", _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        # A container may not see the folders that its path names; it sees its own as the root.
        own = root / groups.get(kind, "").lstrip("/")
        for folder in dict.fromkeys((own, *own.parents)):
            if folder.is_relative_to(root):
                yield folder, *names


def _reclaimable(folder: Path) -> int:
    """Bytes of files in the group's use, which the system gives up when it needs memory."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _address_space_left() -> int | None:
    """Bytes left of what `ulimit -v` allows for what is computed; None without a limit."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, ValueError):
        return None
    taken = proc_bytes("/proc/self/status", "VmSize")
    if limit == resource.RLIM_INFINITY or taken is None:
        return None
    return max(limit - taken - _LATER - _OF_A_THREAD * (torch.get_num_threads() - 1), 0)
