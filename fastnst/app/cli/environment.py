"""What a bug report needs to know of the machine and of what is installed on it."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels import available_backends
from fastnst_kernels.profiling.measure import conditions

from fastnst.network import winograd
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import CHECKPOINTS, cache_folder
from fastnst.options.options import resolve_options

_PACKAGES = (
    *("fastnst", "torch", "triton", "numpy", "pillow", "safetensors", "tqdm"),
    *("matplotlib", "av", "tensorboard", "shtab", "ray"),
)
# Of these the value is told: it says nothing of the user.
_TELLING = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("FASTNST_OFFLINE", "TRITON_INTERPRET", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING"),
)
# Of these only that they are set: an address may hold a password, a path a name.
_SET = ("FASTNST_CACHE", "FASTNST_WEIGHTS_URL", "TORCH_HOME", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")


def report() -> dict[str, Any]:
    """The facts, as JSON can hold them: versions, system, processor, memory, GPUs, torch's build, what `auto` means
    here, which ImageNet weights are there, and environment variables. No paths, no name of a user or a host."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = conditions(device)
    runtime = resolve_runtime(resolve_options())
    return {
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}},
        "commit": facts["commit"],
        "system": platform.platform(),
        "encoding": sys.getfilesystemencoding(),
        "processor": {
            "name": facts["machine"]["cpu"],
            "cores": facts["machine"]["cores"],
            "threads": facts["machine"]["threads"],
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "load": facts["machine"]["load"],
        },
        "memory_bytes": _memory_bytes(),
        "torch": {
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
            "nnpack": winograd.available(),
        },
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "drivers": facts["gpu"],
        "auto": {
            "device": str(runtime.device),
            "precision": runtime.precision,
            "backend": available_backends(runtime.device)[0],
        },
        "weights": _weights(),
        "environment": {
            **{name: os.environ[name] for name in _TELLING if name in os.environ},
            **dict.fromkeys((name for name in _SET if name in os.environ), "set"),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _weights() -> dict[str, str]:
    """Where the ImageNet checkpoint of each network would be taken from."""
    found = {}
    for network, digest in CHECKPOINTS.items():
        stem = f"{network}-{digest}"
        places = {
            "in fastnst's cache": cache_folder() / f"{stem}.safetensors",
            "in torch's cache": Path(torch.hub.get_dir()) / "checkpoints" / f"{stem}.pth",
        }
        found[network] = next((place for place, path in places.items() if path.is_file()), "not here")
    return found


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
    }
