"""The processes that share one run: who they are, and the few things that they tell each other.

`torch.distributed` carries it: gloo between main memories, NCCL between GPUs. Every call is made by all processes, in
the same order. Where one of them has ended, or does not answer in time, the others get a RanksError.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

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
        """Whether this is the process that decides, calls back, writes and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """`device`, or for "cuda" without a number the GPU that is this process's.

        Raises OptionError for a number where this machine has several processes, which would all take that GPU.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            if self.local_size == 1:
                return device
            raise OptionError(
                f"device {device} was asked for by {self.local_size} processes; say cuda, and each takes one of its own"
            )
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Adds the other processes' tensors to these, in place; all of one dtype and device. The sums are the same
        bits everywhere."""
        if self.size == 1 or not tensors:
            return
        flat = self._on_the_way(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        with self._spoken("adding up sums"):
            dist.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, of the same shape and dtype."""
        if self.size == 1:
            return tensor
        found = tensor.clone()
        self.add_up([found])
        return found

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """What the leader's flags are; the others' mean nothing."""
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.uint8)
        with self._spoken("hearing what the first decides"):
            dist.broadcast(told, src=0)
        return tuple(bool(flag) for flag in told.tolist())

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        if self.size == 1:
            return flag
        told = torch.tensor([flag], dtype=torch.uint8)
        with self._spoken("waiting for all"):
            dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told.item())

    def exchange(
        self, up: Tensor | None, down: Tensor | None, from_above: Tensor | None, from_below: Tensor | None
    ) -> None:
        """Sends `up` to the process before this one and `down` to the one after, and fills `from_above` and
        `from_below` with what they send; None where there is no such process or nothing to send."""
        operations, arrived = [], []
        for out, into, peer in ((up, from_above, self.rank - 1), (down, from_below, self.rank + 1)):
            if out is not None:
                operations.append(dist.P2POp(dist.isend, self._on_the_way(out.contiguous()), peer))
            if into is not None:
                buffer = self._on_the_way(torch.empty_like(into, memory_format=torch.contiguous_format))
                operations.append(dist.P2POp(dist.irecv, buffer, peer))
                arrived.append((into, buffer))
        if not operations:
            return
        with self._spoken("exchanging rows with its neighbours"):
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        for into, buffer in arrived:
            into.copy_(buffer)

    def trade(self, parts: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Sends `parts[r]` to process r and fills `into[r]` with what it sends, for every r."""
        operations, arrived = [], []
        for peer, (out, place) in enumerate(zip(parts, into, strict=True)):
            if peer == self.rank:
                place.copy_(out)
                continue
            buffer = self._on_the_way(torch.empty_like(place, memory_format=torch.contiguous_format))
            operations.append(dist.P2POp(dist.isend, self._on_the_way(out.contiguous()), peer))
            operations.append(dist.P2POp(dist.irecv, buffer, peer))
            arrived.append((place, buffer))
        if not operations:
            return
        with self._spoken("trading frequencies"):
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        for place, buffer in arrived:
            place.copy_(buffer)

    def send(self, tensor: Tensor) -> None:
        """Sends a tensor to the leader, through main memory."""
        with self._spoken("sending its part to the first"):
            dist.send(tensor.cpu().contiguous(), dst=0)

    def receive(self, into: Tensor, rank: int) -> None:
        """Fills a contiguous tensor in main memory with what `rank` sends to the leader, which this is."""
        with self._spoken(f"waiting for the part of process {rank}"):
            dist.recv(into, src=rank)

    def spread(self, tensor: Tensor, rank: int) -> None:
        """Fills a tensor, on each process of the same shape and dtype, with that of `rank`."""
        if self.size == 1:
            return
        buffer = self._on_the_way(tensor.contiguous())
        with self._spoken(f"hearing from process {rank}"):
            dist.broadcast(buffer, src=rank)
        tensor.copy_(buffer)

    def alike(self, tensor: Tensor) -> Tensor:
        """The leader's tensor on all processes: `tensor`, of one shape and dtype, made the same."""
        self.spread(tensor, 0)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """The greatest of all processes' tensors, of the same shape and dtype, element by element."""
        if self.size == 1:
            return tensor
        found = self._on_the_way(tensor.clone())
        with self._spoken("comparing numbers"):
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.to(tensor.device)

    def in_turn(self, load: Callable[[], T]) -> T:
        """What `load` returns; one process of each machine goes first, and leaves the others a file to find."""
        found = load() if self.local_rank == 0 else None
        self.wait()
        return load() if found is None else found

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            self.any(False)

    def _on_the_way(self, tensor: Tensor) -> Tensor:
        return tensor if self.nccl else tensor.cpu()

    @contextmanager
    def _spoken(self, doing: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RanksError(
                f"process {self.rank} of {self.size} lost another one while {doing}: it has ended, or did not answer "
                f"for {self.timeout:g} s; see what it said, and go on from the checkpoint ({_reason(error)})"
            ) from error


ALONE = Ranks()
"""One process."""


def are_launched() -> bool:
    """Whether torchrun, or what sets RANK and WORLD_SIZE as it does, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


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
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpu = torch.device(device).type == "cuda"
    nccl = on_gpu and dist.is_nccl_available() and local_size <= torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        # A wait that raises when its time is up; NCCL would else end the process without a word of ours.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise RanksError(
            f"the processes do not find each other: {_reason(error)}; start them with torchrun, on several machines "
            "with the same --rdzv-endpoint"
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
