"""What a plan moves and holds, counted from its tensors: no GPU is needed, meta tensors will do."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fastnst_kernels.launch import Launch, Plan


@dataclass(frozen=True)
class LaunchTraffic:
    """One launch: its kernel's name, its blocks, and the bytes of all the tensors that it is given, each once.

    What several blocks read again is the cache's to give.
    """

    kernel: str
    blocks: int
    bytes: int


@dataclass(frozen=True)
class Traffic:
    """A plan: its launches, and the bytes that it allocates besides what it is given and what it returns."""

    launches: tuple[LaunchTraffic, ...]
    workspace: int

    @property
    def bytes(self) -> int:
        """What all launches move."""
        return sum(launch.bytes for launch in self.launches)


def traffic_of(plan: Plan, given: Iterable[Tensor]) -> Traffic:
    """The traffic of `plan`, which was made for the tensors `given`."""
    known = {storage_of(tensor) for tensor in (*given, *plan.outputs)}
    allocated: dict[int, int] = {}
    launches = []
    for launch in plan.launches:
        tensors = tensors_of(launch)
        for tensor in tensors:
            if storage_of(tensor) not in known:
                allocated[storage_of(tensor)] = tensor.untyped_storage().nbytes()
        name = launch.kernel.__name__.removesuffix("_kernel")
        launches.append(LaunchTraffic(name, launch.grid, sum(map(bytes_of, tensors))))
    return Traffic(tuple(launches), sum(allocated.values()))


def tensors_of(launch: Launch) -> list[Tensor]:
    """The distinct tensors among a launch's arguments: what it does not use is filled with one that it does."""
    tensors = (value for value in launch.arguments.values() if isinstance(value, Tensor))
    return list(
        {(storage_of(tensor), tensor.storage_offset(), bytes_of(tensor)): tensor for tensor in tensors}.values()
    )


def bytes_of(tensor: Tensor) -> int:
    """The bytes behind a tensor; those of an expanded axis once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size


def storage_of(tensor: Tensor) -> int:
    """What tells one storage from another; meta tensors have no addresses."""
    return int(tensor.untyped_storage()._cdata)
