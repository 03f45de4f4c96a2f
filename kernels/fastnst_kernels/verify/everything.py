"""All checks on this machine: in this process, and with the kernels interpreted in a few of its own beside it.

The families of operations are checked at the layers' own shapes, and interpreted at small ones.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue

import torch

from fastnst_kernels.launch.backends import available_backends
from fastnst_kernels.verify import first, image, lbfgs, losses, relu
from fastnst_kernels.verify.check import LAYOUTS, MODES, Check, Mode, Operation, Shape, Site, checks_of

_INTERPRETERS = 4
SMALLEST_SIZE = 16
LARGEST_SIZE = 2048
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


def layer_shapes(size: int) -> dict[str, Shape]:
    """The features of the five style layers for a square image of `size` pixels, (1, C, H, W), by layer name.

    Raises ValueError for a size that the network's pools leave nothing of, or that is too large to check.
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"size {size} is out of range; give {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    return {
        name: (1, channels, size >> index, size >> index) for index, (name, channels) in enumerate(STYLE_LAYERS.items())
    }


def all_shapes(size: int) -> dict[str, Shape]:
    """The shapes of `layer_shapes`, the image itself, and two odd ones, by the names that families go by."""
    return {**layer_shapes(size), "odd": ODD_SHAPE, "image": (1, 3, size, size), "odd image": ODD_IMAGE}


@dataclass(frozen=True)
class Skipped:
    """A backend that cannot run here, and why."""

    backend: str
    reason: str


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
        self._shapes()
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

    def direct(self) -> Iterator[tuple[Family, str, dict[str, Shape]]]:
        """The families that run in this process, each with its backend and its shapes."""
        shapes = self._shapes()
        for backend in self.backends:
            if backend == "triton" and (self.missing is not None or self.interprets):
                continue
            for family in FAMILIES.values():
                layers = family.layers[-1:] if self.quick else family.layers
                yield family, backend, {layer: shapes[layer] for layer in layers}

    def cases(self) -> dict[str, "Case"]:
        """The shapes that are interpreted, by name."""
        if not self.interprets:
            return {}
        if not self.quick:
            return interpreted_cases()
        return {
            name: replace(case, modes=MODES[:1], layouts=case.layouts[:1])
            for key in FAMILIES
            for name, case in [
                min(
                    ((name, case) for name, case in interpreted_cases().items() if name.startswith(f"{key}/")),
                    key=lambda named: named[1].work,
                )
            ]
        }

    def count(self) -> int:
        """The number of checks, found with small data."""
        total = 0
        for family, backend, shapes in self.direct():
            total += _count(family, backend, _device(), shapes, tuple(LAYOUTS), MODES)
        for case in self.cases().values():
            total += _count(case.family, "triton", torch.device("cpu"), case.shapes, case.layouts, case.modes)
        return total

    def _shapes(self) -> dict[str, Shape]:
        size = self.size
        if size is None:
            size = 512 if torch.cuda.is_available() else 256
        return all_shapes(size)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def verify(backend: str = "all", size: int | None = None, *, quick: bool = False) -> Iterator[Check | Skipped]:
    """Every check of a `Selection` on this machine, each as soon as it is known.

    Raises ValueError as `Selection` does, RuntimeError if the interpreter gave no result.
    """
    selection = Selection(backend, size, quick)
    cases = list(selection.cases())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    results: SimpleQueue[Check | RuntimeError | None] = SimpleQueue()

    def interpret(names: Sequence[str]) -> None:
        try:
            for check in _interpreted(names, quick=quick):
                results.put(check)
        except RuntimeError as error:
            results.put(error)
        results.put(None)

    shares = _shares(cases, cores)
    with ThreadPoolExecutor(max_workers=_INTERPRETERS) as pool:
        for share in shares:
            pool.submit(interpret, share)
        for family, name, shapes in selection.direct():
            yield from run_checks(family, name, _device(), shapes)
        if selection.missing is not None and "triton" in selection.backends:
            yield Skipped("triton", selection.missing)
        left = len(shares)
        while left:
            result = results.get()
            if isinstance(result, RuntimeError):
                raise result
            if result is None:
                left -= 1
            else:
                yield result


def run_checks(
    family: Family,
    backend: str,
    device: torch.device,
    shapes: Mapping[str, Shape],
    layouts: Sequence[str] = tuple(LAYOUTS),
    modes: Sequence[Mode] = MODES,
) -> Iterator[Check]:
    """The checks of one family at all `shapes`, in each mode that means something there, and all `layouts`."""
    for site in _sites(family, backend, device, shapes, modes):
        for operation in family.operations(site):
            for layout in layouts:
                yield from checks_of(operation, site, layout)


def _sites(
    family: Family, backend: str, device: torch.device, shapes: Mapping[str, Shape], modes: Sequence[Mode]
) -> Iterator[Site]:
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    has_tf32 = family.products and on_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)
    for layer, shape in shapes.items():
        for mode in modes:
            if mode.precision != "tf32" or has_tf32:
                yield Site(backend, device, layer, shape, mode)


def _count(
    family: Family,
    backend: str,
    device: torch.device,
    shapes: Mapping[str, Shape],
    layouts: Sequence[str],
    modes: Sequence[Mode],
) -> int:
    """The number of checks that `run_checks` makes; it does not depend on channels, height and width."""
    small = {layer: (images, min(channels, 8), 8, 8) for layer, (images, channels, _, _) in shapes.items()}
    sites = _sites(family, backend, device, small, modes)
    return len(layouts) * sum(len(operation.expected) for site in sites for operation in family.operations(site))


@dataclass(frozen=True)
class Case:
    """The one shape of a family that is interpreted, by its layer, and the share of the work."""

    family: Family
    shapes: dict[str, Shape]
    work: float
    layouts: tuple[str, ...]
    modes: tuple[Mode, ...] = MODES


def interpreted_cases() -> dict[str, Case]:
    """The interpreted shapes by name, such as gram/conv1_1."""
    return {
        f"{key}/{layer}": Case(family, {layer: entry.shape}, entry.work, entry.layouts)
        for key, family in FAMILIES.items()
        for layer, entry in family.interpreted.items()
    }


def _shares(names: Sequence[str], cores: int) -> list[list[str]]:
    """The names of interpreted shapes in shares of about equal work, for one process each."""
    works = {name: case.work for name, case in interpreted_cases().items() if name in names}
    shares: list[list[str]] = [[] for _ in range(min(cores, _INTERPRETERS, len(works)))]
    for name in sorted(works, key=works.__getitem__, reverse=True):
        min(shares, key=lambda share: sum(works[member] for member in share)).append(name)
    return shares


def _interpreted(names: Sequence[str], *, quick: bool = False) -> Iterator[Check]:
    """The checks of interpreted shapes, made by a process of their own: triton reads the switch when it is imported."""
    code = f"from {__name__} import print_interpreted as p; p({list(names)!r}, quick={quick})"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            values = json.loads(line)
            yield Check(**{**values, "shape": tuple(values["shape"])})
        if process.wait() != 0:
            said.seek(0)
            reason = (said.read().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"the interpreted kernels gave no result (exit code {process.returncode}): {reason}")


def print_interpreted(names: Sequence[str], *, quick: bool = False) -> None:
    """Prints the checks of each name, one JSON object in each line, as they are made."""
    cases = (Selection("triton", quick=True).cases() if quick else {}) or interpreted_cases()
    for case in [cases[name] for name in names]:
        for check in run_checks(
            case.family, "triton", torch.device("cpu"), case.shapes, layouts=case.layouts, modes=case.modes
        ):
            print(json.dumps(asdict(check)), flush=True)
