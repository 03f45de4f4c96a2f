"""The processes that share one run, each some of the tiles: who they are, and what goes between them.

`torch.distributed` carries it: gloo between main memories, NCCL between GPUs. Every call is made by all processes, in
the same order. Where one of them has ended, or does not answer in time, the others get a RanksError.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fastnst.errors import FastnstError, OptionError
from fastnst.network.runtime import is_out_of_memory

T = TypeVar("T")

TIMEOUT = 600.0
"""Seconds that a process is waited for."""


class RanksError(FastnstError):
    """Another process of the run has ended or does not answer, or the processes cannot find each other."""


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of 0 … `size` − 1, among all; `local_rank` of `local_size` on its machine.

    `nccl` says whether tensors on GPUs go from one to the other as they are; else they go through main memory. Alone,
    which is the default, every call does what one process would do without it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    nccl: bool = False
    timeout: float = TIMEOUT

    @property
    def leads(self) -> bool:
        """True for the process that decides, calls back, writes and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """`device`, or this process's own GPU for "cuda" without a number.

        Raises OptionError for a number where this machine has several processes, which would all take that GPU.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            if self.local_size == 1:
                return device
            raise OptionError(
                f"{self.local_size} processes cannot all use device {device}; give cuda, and each takes a GPU of its "
                "own"
            )
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def sharers(self, device: torch.device) -> int:
        """The processes of this machine that share the memory of `device` with this one, itself among them."""
        if device.type == "cpu":
            return self.local_size
        return -(-self.local_size // max(torch.cuda.device_count(), 1)) if device.type == "cuda" else 1

    def add_up(self, tensors: Sequence[Tensor], flag: bool = False) -> bool:
        """Adds the other processes' tensors, of the same shapes in one dtype, to these, in place, all in one message;
        True where the flag of any process is set. The sums are the same bits everywhere."""
        if self.size == 1 or not tensors:
            return flag
        parts = [tensor.reshape(-1) for tensor in tensors]
        sent = self._on_the_way(torch.cat([*parts, parts[0].new_full((1,), flag)]))
        with self._named("adding up sums"):
            dist.all_reduce(sent)
        for tensor, total in zip(tensors, torch.split(sent[:-1], [len(part) for part in parts]), strict=True):
            tensor.copy_(total.view_as(tensor))
        return bool(sent[-1] > 0)

    def agree(self, *numbers: int) -> tuple[int, ...]:
        """The leader's numbers; the others' mean nothing."""
        return tuple(self.alike(torch.tensor(numbers)).tolist())

    def any(self, flag: bool) -> bool:
        """True where the flag of any process is set."""
        return self.add_up([torch.zeros(1)], flag)

    def alike(self, tensor: Tensor) -> Tensor:
        """The leader's tensor on all processes: `tensor`, of one shape and dtype, made the same in place."""
        if self.size > 1:
            sent = self._on_the_way(tensor.contiguous())
            with self._named("hearing from the first"):
                dist.broadcast(sent, src=0)
            if sent is not tensor:
                tensor.copy_(sent)
        return tensor

    def gathered(self, value: T) -> list[T]:
        """All processes' values, which can be pickled, in their order, on each of them."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        with self._named("comparing plans"):
            dist.all_gather_object(values, value)
        return cast(list[T], values)

    def in_turn(self, load: Callable[[], T]) -> T:
        """The value of `load`; one process of each machine goes first, and leaves the others a file to find."""
        value = load() if self.local_rank == 0 else None
        self.wait()
        return load() if value is None else value

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.any(False)

    def _on_the_way(self, tensor: Tensor) -> Tensor:
        return tensor if self.nccl else tensor.cpu()

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RanksError(
                f"process {self.rank} of {self.size} lost another one while {doing}: it has ended, or did not answer "
                f"for {self.timeout:g} s; read its message, and continue from the checkpoint ({_reason(error)})"
            ) from error


ALONE = Ranks()
"""One process."""


def are_launched() -> bool:
    """True where torchrun, or what sets RANK and WORLD_SIZE as it does, started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "") not in ("", "0", "1") and "RANK" in os.environ


@contextmanager
def joined(device: torch.device | str = "cpu", *, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Within it, this process is one of those that torchrun started; alone where it started none.

    `device` is where tensors will lie: NCCL is used for "cuda" where each process of a machine can have a GPU of its
    own. `timeout` is how many seconds a process is waited for. A process that leaves by an error cuts its connections,
    so that the others hear of it at once.

    Raises RanksError where the processes do not find each other within that time.
    """
    if not are_launched():
        yield Ranks()
        return
    try:
        local_rank, local_size = (int(os.environ.get(f"LOCAL_{name}", 0)) for name in ("RANK", "WORLD_SIZE"))
    except ValueError as error:
        raise RanksError(f"LOCAL_RANK and LOCAL_WORLD_SIZE must be numbers ({error}); start with torchrun") from error
    local_size = local_size or 1
    on_gpu = torch.device(device).type == "cuda"
    nccl = on_gpu and dist.is_nccl_available() and local_size <= torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        # A wait that raises when its time is up; NCCL would else end the process without a word of ours.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            timeout=timedelta(seconds=timeout),
            # Without it NCCL guesses the GPU by the rank, and meets the others at the first sum.
            device_id=torch.device("cuda", torch.cuda.current_device()) if nccl else None,
        )
    except (RuntimeError, ValueError) as error:
        raise RanksError(
            f"the processes did not find each other: {_reason(error)}; start them with torchrun, and on several "
            "machines give all the same --rdzv-endpoint"
        ) from error
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), local_rank, local_size, nccl, timeout)
    try:
        yield ranks
        # Nobody leaves while another one still reads what it sent.
        ranks.wait()
    finally:
        dist.destroy_process_group()


def _reason(error: Exception) -> str:
    """The first sentence of what a library says, without the place in its source."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^(\[[^]]*:\d+\]\s*)+", "", line).split(". ")[0]
