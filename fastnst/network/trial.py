"""The quickest arithmetic of a CPU, found by a trial of the layers themselves: flags do not tell how a library runs.

Two convolutions that stand for the network's, forward and back, are timed in each arithmetic. It takes half a second,
once for a processor, its threads, the releases of fastnst and torch, and what they may use of it: the figures are kept
in the cache, and processes that begin together wait for those of the first, so that all compute alike.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import cpu_name, synchronise, versions
from filelock import FileLock

from fastnst.network.cpu import CpuLayers, OneDnn, Winograd
from fastnst.network.layers import Layers
from fastnst.network.settings import float32_products, kept_heap, own_modes
from fastnst.network.weights import cache_folder
from fastnst.replacing import replacing

# Channels, the pool of most of their operations, the side of the map, and the share of VGG-19's operations.
_SAMPLES = ((64, "avg", 128, 0.27), (256, None, 48, 0.73))
# A first look at a library that may compute some types by its reference loops, a thousand times slower. On maps so
# small oneDNN may order the weights anew in each call, which takes ten times as long as the rest.
_GLANCE_SIDE, _HOPELESS = 16, 40
# Sixteen bits must win by so much: float32's results differ less from machine to machine.
_WORTHWHILE = 0.9
_ATTEMPTS = 4
# They hide units from the libraries.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")


def quickest() -> str:
    """The precision that `auto` is on this CPU: "bf16", "fp32" or "winograd"."""
    seconds = trial()
    exact = min((name for name in seconds if name != "bf16"), key=seconds.__getitem__)
    return "bf16" if seconds["bf16"] < _WORTHWHILE * seconds[exact] else exact


def comparison() -> str:
    """The trial in words: each precision's time over the quickest's, best first."""
    seconds = trial()
    best = min(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: item[1])
    return ", ".join(f"{name} {value / best:.2f}" for name, value in ordered)


def trial() -> dict[str, float]:
    """Seconds of a GFLOP of the network's convolutions on this CPU, by precision; kept in the cache."""
    return dict(_trial(cache_folder()))


@cache
def _trial(folder: Path) -> dict[str, float]:
    path = folder / "trials.json"
    with ExitStack() as alone:
        # A cache that cannot be written is none.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            alone.enter_context(FileLock(path.with_suffix(".lock")))
        trials = _kept(path)
        if (kept := trials.get(machine())) is not None:
            return kept
        measured = _measured()
        with suppress(OSError), replacing(path) as file:
            file.write(json.dumps({**trials, machine(): measured}, indent=1).encode() + b"\n")
        return measured


def _kept(path: Path) -> dict[str, dict[str, float]]:
    """The trials in a file, by machine; those that are not of this release's arithmetics are left out."""
    try:
        machines = json.loads(path.read_text(encoding="utf-8")).items()
        trials = {name: {way: float(value) for way, value in each.items()} for name, each in machines}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    return {name: each for name, each in trials.items() if name != machine() or each.keys() == _arithmetics().keys()}


def machine() -> str:
    """The name of all that a trial depends on."""
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    what = [cpu_name(), torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    releases = versions(("fastnst", "torch"))
    return ", ".join([*what, f"fastnst {releases['fastnst']}", f"torch {releases['torch']}", *limits])


def _arithmetics() -> dict[str, Layers]:
    ways = {"fp32": OneDnn(torch.float32), "bf16": OneDnn(torch.bfloat16), "winograd": Winograd()}
    return {name: CpuLayers(convolver) for name, convolver in ways.items()}


@own_modes(torch.device("cpu"))
@float32_products(tf32=False)
def _measured() -> dict[str, float]:
    """A trial, whatever modes and settings of torch the caller has, in the memory that a run would have."""
    cpu, ways = torch.device("cpu"), _arithmetics()
    with kept_heap(cpu):
        seconds = seconds_per_giga(ways, cpu, [(64, None, _GLANCE_SIDE, 1.0)])
        hopeless = _HOPELESS * min(seconds.values())
        hopeful = {name: layers for name, layers in ways.items() if seconds[name] < hopeless}
        return {**seconds, **seconds_per_giga(hopeful, cpu, _SAMPLES)}


def seconds_per_giga(
    ways: Mapping[str, Layers], device: torch.device, samples: Iterable[tuple[int, str | None, int, float]]
) -> dict[str, float]:
    """Seconds of 10⁹ operations in each of the `ways`, by samples of channels, the pool, the side of the map, and the
    share of all. They take turns, so that what else the machine does meets all alike, and the best of a few counts."""
    seconds = dict.fromkeys(ways, 0.0)
    for channels, pool, side, share in samples:
        runs = {name: _layer_run(layers, device, channels, pool, side=side) for name, layers in ways.items()}
        for run in runs.values():  # to get ready
            run()
        rounds = [{name: run() for name, run in runs.items()} for _ in range(_ATTEMPTS)]
        for name in ways:
            best = min(each[name] for each in rounds)
            seconds[name] += share * best * 1e9 / (2 * 2 * 9 * channels**2 * side**2)
    return seconds


def _layer_run(
    layers: Layers, device: torch.device, channels: int, pool: str | None, *, side: int
) -> Callable[[], float]:
    """A convolution of `channels` to as many with its ReLU and pool, forward and back, on a map of `side` × `side`; it
    gives the seconds that it took."""
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    weight, bias = noise((channels, channels, 3, 3)) / channels**0.5, torch.zeros(channels, dtype=torch.float32)
    layer = layers.convolution(weight, bias, pool=pool, padding="zeros")
    image = noise((1, channels, side, side)).to(device, layers.dtype)
    image = image.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> float:
        synchronise(device)
        began = clocks(device)
        features, record = layers.forward(layer, image, record=True)
        layers.backward(layer, torch.ones_like(features), record, image.shape)
        synchronise(device)
        return elapsed(began, device)

    return run


def clocks(device: torch.device) -> tuple[float, ...]:
    """The device's clocks now, in seconds, for `elapsed`. A CPU's own seconds are counted, spread over the threads but
    no less than the calling one's: on a busy machine the clock on the wall says little."""
    # Windows counts the time of threads in steps of 15 ms.
    if device.type != "cpu" or os.name != "posix":
        return (time.perf_counter(),)
    return time.thread_time(), time.process_time() / torch.get_num_threads()


def elapsed(began: tuple[float, ...], device: torch.device) -> float:
    """The seconds since `began`, which `clocks` gave."""
    return max(end - start for start, end in zip(began, clocks(device), strict=True))
