"""All checks on this machine: in this process, and with the kernels interpreted in a few of its own beside it.

The families of operations are checked at the layers' own shapes, and interpreted at small ones.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch

from fastnst_kernels.launch.backends import available_backends
from fastnst_kernels.verify import first, image, lbfgs, losses, relu
from fastnst_kernels.verify.check import LAYOUTS, MODES, Check, Operation, Shape, Site, checks_of

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


def verify(backend: str = "all", size: int | None = None) -> Iterator[Check | Skipped]:
    """Every check of `backend` ("all", "triton" or "torch") on this machine, each as soon as it is known.

    `size` is the image that the layers are of, where they are not interpreted: 512 px on a GPU and 256 px on a CPU
    unless given. Raises ValueError where that cannot be done, RuntimeError if the interpreter gave no result.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if size is None:
        size = 512 if on_gpu else 256
    shapes, backends = all_shapes(size), ("torch", "triton") if backend == "all" else (backend,)
    missing = None if importlib.util.find_spec("triton") else "the package triton is not installed"
    if missing is not None and backend == "triton":
        raise ValueError(f"{missing}; install it (pip install triton) or use --backend torch")
    runs_triton = "triton" in backends and missing is None
    interprets = runs_triton and (not on_gpu or "triton" in available_backends("cpu"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=_INTERPRETERS) as pool:
        interpreted = pool.map(_interpreted, _shares(cores) if interprets else ())
        for name in backends:
            for family in FAMILIES.values() if name == "torch" or (runs_triton and not interprets) else ():
                yield from run_checks(family, name, device, {layer: shapes[layer] for layer in family.layers})
        if missing is not None and "triton" in backends:
            yield Skipped("triton", missing)
        results = {name: checks for share in interpreted for name, checks in share.items()}
        for name in _interpreted_cases():
            yield from results.get(name, ())


def run_checks(
    family: Family,
    backend: str,
    device: torch.device,
    shapes: Mapping[str, Shape],
    layouts: Sequence[str] = tuple(LAYOUTS),
) -> Iterator[Check]:
    """The checks of one family at all `shapes`, in each mode that means something there, and all `layouts`."""
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    has_tf32 = family.products and on_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)
    for layer, shape in shapes.items():
        for mode in MODES:
            if mode.precision == "tf32" and not has_tf32:
                continue
            site = Site(backend, device, layer, shape, mode)
            for operation in family.operations(site):
                for layout in layouts:
                    yield from checks_of(operation, site, layout)


def _interpreted_cases() -> dict[str, tuple[Family, dict[str, Shape], Interpreted]]:
    """The interpreted shapes by name, such as gram/conv1_1: the family, the shape by its layer, and the work."""
    return {
        f"{key}/{layer}": (family, {layer: entry.shape}, entry)
        for key, family in FAMILIES.items()
        for layer, entry in family.interpreted.items()
    }


def _shares(cores: int) -> list[list[str]]:
    """The interpreted shapes of all families in shares of about equal work, for one process each."""
    works = {name: entry.work for name, (_, _, entry) in _interpreted_cases().items()}
    shares: list[list[str]] = [[] for _ in range(min(cores, _INTERPRETERS))]
    for name in sorted(works, key=works.__getitem__, reverse=True):
        min(shares, key=lambda share: sum(works[member] for member in share)).append(name)
    return shares


def _interpreted(names: Sequence[str]) -> dict[str, list[Check]]:
    """The checks of interpreted shapes, made by a process of their own: triton reads the switch when it is imported."""
    code = f"from {__name__} import print_interpreted as p; p({list(names)!r})"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    try:
        results = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the interpreted kernels gave no result (exit code {done.returncode}): {reason}") from None
    return {
        name: [Check(**{**values, "shape": tuple(values["shape"])}) for values in checks]
        for name, checks in results.items()
    }


def print_interpreted(names: Sequence[str]) -> None:
    """Prints the fields of the checks of each name as a JSON object of lists."""
    cases = [(name, *_interpreted_cases()[name]) for name in names]
    checks = {
        name: [asdict(check) for check in run_checks(family, "triton", torch.device("cpu"), shapes, entry.layouts)]
        for name, family, shapes, entry in cases
    }
    print(json.dumps(checks))
