"""All checks on this machine: in this process, and with the kernels interpreted in a few of its own beside it.

The families of operations are checked at the layers' own shapes, and interpreted at small ones.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue

import torch

from fastnst_kernels.launch.backends import available_backends
from fastnst_kernels.verify import first, image, lbfgs, losses, relu
from fastnst_kernels.verify.check import LAYOUTS, MODES, Check, Mode, Operation, Shape, Site, checks_of

_INTERPRETERS = 4
_SMALLEST_SIZE, _LARGEST_SIZE = 16, 2048
STYLE_LAYERS = {"conv1_1": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}

# Channels and positions that no block size divides, and more than one image.
ODD_SHAPE = (2, 65, 37, 53)
ODD_IMAGE = (2, 3, 37, 53)


@dataclass(frozen=True)
class Interpreted:
    """A shape that the interpreter gets through, in its layouts, and its share of the work: about seconds on a core."""

    shape: Shape
    work: float
    layouts: tuple[str, ...] = tuple(LAYOUTS)


@dataclass(frozen=True)
class Family:
    """Operations that share their data, the names of the shapes that they run at, and those that are interpreted.

    `products` says that there are some, for which TF32 is a mode of its own.
    """

    operations: Callable[[Site], Iterator[Operation]]
    layers: tuple[str, ...]
    products: bool
    interpreted: Mapping[str, Interpreted]


# The interpreted Gram matrices have the layers' channels: conv2_1 takes the large tiles, "odd" no whole one. The
# interpreter runs for long where there are many channels, so the layers that have them share the layouts.
FAMILIES: Mapping[str, Family] = {
    "gram": Family(
        losses.gram_operations,
        (*STYLE_LAYERS, "odd"),
        products=True,
        interpreted={
            "conv1_1": Interpreted((1, 64, 29, 23), 6),
            "conv2_1": Interpreted((1, 128, 32, 24), 14),
            "conv3_1": Interpreted((1, 256, 17, 13), 9, ("channels-last",)),
            "conv4_1": Interpreted((1, 512, 9, 7), 24, ("nchw",)),
            "conv5_1": Interpreted((1, 512, 3, 5), 23, ("channels-last",)),
            "odd": Interpreted((2, 65, 7, 11), 12),
        },
    ),
    "tap": Family(
        losses.tap_operations,
        ("conv1_1", "conv4_1", "odd"),
        products=True,
        interpreted={"conv1_1": Interpreted((1, 64, 11, 13), 6), "odd": Interpreted((2, 33, 5, 7), 6)},
    ),
    "tiles": Family(
        losses.tile_operations,
        ("conv1_1", "conv4_1", "odd"),
        products=True,
        interpreted={"conv1_1": Interpreted((1, 64, 11, 13), 4), "odd": Interpreted((2, 33, 7, 9), 7)},
    ),
    "relu": Family(
        relu.operations,
        ("conv1_1", "conv4_1", "odd"),
        products=False,
        interpreted={
            "conv1_1": Interpreted((1, 64, 4, 6), 4, ("channels-last",)),
            "odd channels": Interpreted((2, 65, 3, 5), 3, ("channels-last",)),
            "odd rows": Interpreted((2, 3, 5, 19), 7, ("nchw",)),
        },
    ),
    "image": Family(
        image.operations,
        ("image", "odd image"),
        products=False,
        interpreted={"image": Interpreted((1, 3, 16, 48), 3), "odd image": Interpreted((2, 3, 9, 13), 4)},
    ),
    "first": Family(
        first.operations,
        ("image", "odd image"),
        products=True,
        interpreted={"image": Interpreted((1, 3, 11, 70), 6), "odd image": Interpreted((2, 3, 7, 9), 6)},
    ),
    "lbfgs": Family(
        lbfgs.operations,
        ("image", "odd image"),
        products=False,
        interpreted={
            "image": Interpreted((1, 3, 12, 16), 20, ("nchw",)),
            "odd image": Interpreted((1, 3, 9, 7), 20, ("channels-last",)),
        },
    ),
}


def all_shapes(size: int) -> dict[str, Shape]:
    """The shapes at a square image of `size` pixels, by the names that families go by: the features of the five style
    layers, (1, C, H, W), the image itself, and two odd ones."""
    layers = {
        name: (1, channels, size >> index, size >> index) for index, (name, channels) in enumerate(STYLE_LAYERS.items())
    }
    return {**layers, "odd": ODD_SHAPE, "image": (1, 3, size, size), "odd image": ODD_IMAGE}


def check_size(size: int, largest: int) -> None:
    """Raises ValueError for an image that the network's pools leave nothing of, or that is too large."""
    if not _SMALLEST_SIZE <= size <= largest:
        raise ValueError(f"size {size} is out of range; give {_SMALLEST_SIZE} to {largest} pixels")


@dataclass(frozen=True)
class Skipped:
    """A backend that cannot run here, and why."""

    backend: str
    reason: str


@dataclass(frozen=True)
class Task:
    """The checks of a family at one shape, by a backend on a device: in each mode that means something there, and all
    `layouts`."""

    family: Family
    backend: str
    device: torch.device
    layer: str
    shape: Shape
    layouts: Sequence[str] = tuple(LAYOUTS)
    modes: Sequence[Mode] = MODES
    work: float = 0.0

    def checks(self) -> Iterator[Check]:
        for site, operation in self._operations():
            for layout in self.layouts:
                yield from checks_of(operation, site, layout)

    def count(self) -> int:
        """The number of checks, which does not depend on channels, height and width: found with small data."""
        images, channels = self.shape[:2]
        small = replace(self, shape=(images, min(channels, 8), 8, 8))
        return len(self.layouts) * sum(len(operation.expected) for _, operation in small._operations())

    def _operations(self) -> Iterator[tuple[Site, Operation]]:
        on_nvidia = self.device.type == "cuda" and torch.version.hip is None
        has_tf32 = self.family.products and on_nvidia and torch.cuda.get_device_capability(self.device) >= (8, 0)
        for mode in self.modes:
            if mode.precision != "tf32" or has_tf32:
                site = Site(self.backend, self.device, self.layer, self.shape, mode)
                for operation in self.family.operations(site):
                    yield site, operation


@dataclass(frozen=True)
class Selection:
    """The checks to be made of `backend` ("all", "triton" or "torch") on this machine.

    `size` is the image that the layers are of, where they are not interpreted; None is 512 px on a GPU and 256 px on a
    CPU. A `quick` selection has each operation at its last shape alone, an odd one, and interpreted at the cheapest
    one in float32. Raises ValueError where that cannot be done.
    """

    backend: str = "all"
    size: int | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size(self.size, _LARGEST_SIZE)
        if self.missing is not None and self.backend == "triton":
            raise ValueError(f"{self.missing}; install it (pip install triton) or use --backend torch")

    @property
    def backends(self) -> tuple[str, ...]:
        return ("torch", "triton") if self.backend == "all" else (self.backend,)

    @property
    def missing(self) -> str | None:
        """Why triton cannot run here, or None."""
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"

    @property
    def interprets(self) -> bool:
        runs = "triton" in self.backends and self.missing is None
        return runs and (not torch.cuda.is_available() or "triton" in available_backends("cpu"))

    def here(self) -> Iterator[Task]:
        """The tasks of this process."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shapes = all_shapes(self.size or (512 if device.type == "cuda" else 256))
        for backend in self.backends:
            if backend == "triton" and (self.missing is not None or self.interprets):
                continue
            for family in FAMILIES.values():
                for layer in family.layers[-1:] if self.quick else family.layers:
                    yield Task(family, backend, device, layer, shapes[layer])

    def interpreted(self) -> dict[str, Task]:
        """The tasks that are interpreted, by name."""
        return interpreted_tasks(quick=self.quick) if self.interprets else {}

    def count(self) -> int:
        """The number of checks."""
        return sum(task.count() for task in (*self.here(), *self.interpreted().values()))


def verify(backend: str = "all", size: int | None = None, *, quick: bool = False) -> Generator[Check | Skipped]:
    """Every check of a `Selection` on this machine, each as soon as it is known.

    Raises ValueError as `Selection` does, RuntimeError if the interpreter gave no result.
    """
    selection = Selection(backend, size, quick)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    results: SimpleQueue[Check | None] = SimpleQueue()

    def interpret(names: Sequence[str]) -> None:
        try:
            for check in _interpreted(names, processes, quick=quick):
                results.put(check)
        finally:
            results.put(None)

    shares, processes = _shares(selection.interpreted(), min(cores, _INTERPRETERS)), list[subprocess.Popen[str]]()
    with ThreadPoolExecutor(max_workers=_INTERPRETERS) as pool, _ended(processes):
        interpreters = [pool.submit(interpret, share) for share in shares]
        for task in selection.here():
            yield from task.checks()
        if selection.missing is not None and "triton" in selection.backends:
            yield Skipped("triton", selection.missing)
        for _ in shares:
            yield from iter(results.get, None)
        for interpreter in interpreters:
            interpreter.result()


def interpreted_tasks(*, quick: bool) -> dict[str, Task]:
    """The tasks that can be interpreted, by names such as gram/conv1_1; of a `quick` selection those of it."""
    tasks: dict[str, Task] = {}
    for key, family in FAMILIES.items():
        own = {
            f"{key}/{layer}": Task(family, "triton", torch.device("cpu"), layer, **vars(each))
            for layer, each in family.interpreted.items()
        }
        if quick:
            name = min(own, key=lambda name: own[name].work)
            own = {name: replace(own[name], layouts=own[name].layouts[:1], modes=MODES[:1])}
        tasks |= own
    return tasks


def _shares(tasks: Mapping[str, Task], most: int) -> list[list[str]]:
    """The names of interpreted tasks in shares of about equal work, for one process each."""
    shares: list[list[str]] = [[] for _ in range(min(most, len(tasks)))]
    for name in sorted(tasks, key=lambda name: tasks[name].work, reverse=True):
        min(shares, key=lambda share: sum(tasks[member].work for member in share)).append(name)
    return shares


@contextmanager
def _ended(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Ends the processes with the block, also where that is interrupted."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def _interpreted(
    names: Sequence[str], processes: list[subprocess.Popen[str]], *, quick: bool = False
) -> Generator[Check]:
    """The checks of interpreted tasks, made by a process of their own: triton reads the switch when it is imported. It
    is added to the `processes`."""
    code = f"from {__name__} import print_interpreted as p; p({list(names)!r}, quick={quick})"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        processes.append(process)
        for line in process.stdout or ():
            values = json.loads(line)
            yield Check(**{**values, "shape": tuple(values["shape"])})
        if process.wait() != 0:
            said.seek(0)
            reason = (said.read().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"the interpreted kernels gave no result (exit code {process.returncode}): {reason}")


def print_interpreted(names: Sequence[str], *, quick: bool) -> None:
    """Prints the checks of each name, one JSON object in each line, as they are made."""
    tasks = interpreted_tasks(quick=quick)
    for name in names:
        for check in tasks[name].checks():
            print(json.dumps(asdict(check)), flush=True)
