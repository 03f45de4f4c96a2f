"""The quickest arithmetic of a CPU, found by a trial of the layers themselves: flags do not tell how a library runs.

Two convolutions that stand for the network's, forward and back, are timed in each arithmetic. It takes a quarter of a
second, once for a processor, a release of torch and what may be used of both: the figures are kept in the cache.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import cpu_name, synchronise

from fastnst.network import winograd
from fastnst.network.cpu import CpuLayers, OneDnn, Winograd
from fastnst.network.layers import Convolution, Layers
from fastnst.network.weights import cache_folder

# Channels, the pool of most of their operations, the side of the map, and the share of VGG-19's operations.
_SAMPLES = ((64, "avg", 128, 0.27), (256, None, 48, 0.73))
# A first look at a library that may compute some types by its reference loops, a thousand times slower.
_GLANCE_SIDE, _HOPELESS = 16, 8
# Sixteen bits must win by so much: float32's results differ less from machine to machine.
_WORTHWHILE = 0.9
_ATTEMPTS = 4
# They hide units from the libraries.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


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
    path, key = folder / "trials.json", machine()
    trials: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        trials = dict(json.loads(path.read_text(encoding="utf-8")))
        kept = {name: float(value) for name, value in trials.get(key, {}).items()}
        if set(kept) == set(_arithmetics()):
            return kept
    measured = _measured()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"trials.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({**trials, key: measured}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    return measured


def machine() -> str:
    """The name of all that a trial depends on."""
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    return ", ".join([cpu_name(), torch.backends.cpu.get_cpu_capability(), f"torch {torch.__version__}", *limits])


def _arithmetics() -> dict[str, Callable[[], Layers]]:
    ways: dict[str, Callable[[], Layers]] = {
        "fp32": lambda: CpuLayers(OneDnn(torch.float32)),
        "bf16": lambda: CpuLayers(OneDnn(torch.bfloat16)),
    }
    if winograd.available():
        ways["winograd"] = lambda: CpuLayers(Winograd())
    return ways


def _measured() -> dict[str, float]:
    cpu, ways = torch.device("cpu"), {name: make() for name, make in _arithmetics().items()}
    glances = {name: layer_seconds(layers, cpu, 64, None, side=_GLANCE_SIDE) for name, layers in ways.items()}
    hopeless = _HOPELESS * min(glances.values())
    seconds = {name: glance / _giga_operations(64, _GLANCE_SIDE) for name, glance in glances.items()}
    for name, layers in ways.items():
        if glances[name] < hopeless:
            seconds[name] = sum(
                share * layer_seconds(layers, cpu, channels, pool, side=side) / _giga_operations(channels, side)
                for channels, pool, side, share in _SAMPLES
            )
    return seconds


def _giga_operations(channels: int, side: int) -> float:
    return 2 * 2 * 9 * channels**2 * side**2 / 1e9


@torch.no_grad()
def layer_seconds(layers: Layers, device: torch.device, channels: int, pool: str | None, *, side: int) -> float:
    """Seconds of one convolution of `channels` to as many with its ReLU and pool, forward and back, on a map of `side`
    × `side`: the best of a few, after one to get ready."""
    generator = torch.Generator().manual_seed(0)
    weight = layers.pack(torch.randn((channels, channels, 3, 3), generator=generator) / channels**0.5)
    layer = Convolution(weight, weight, layers.pack_bias(torch.zeros(channels)), pool, "zeros")
    image = torch.randn((1, channels, side, side), generator=generator).to(device, layers.dtype)
    image = image.contiguous(memory_format=torch.channels_last if layers.channels_last else torch.contiguous_format)
    best = math.inf
    for attempt in range(1 + _ATTEMPTS):
        synchronise(device)
        began = time.perf_counter()
        features, record = layers.forward(layer, image, record=True)
        layers.backward(layer, torch.ones_like(features), record, image.shape)
        synchronise(device)
        if attempt:
            best = min(best, time.perf_counter() - began)
    return best
