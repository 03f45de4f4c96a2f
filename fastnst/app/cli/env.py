"""`fastnst env`: the environment, for bug reports."""

import argparse
import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels import available_backends
from fastnst_kernels.profiling.measure import conditions, versions

from fastnst.app.cli import usable_cores
from fastnst.network import trial
from fastnst.network.architecture import ORIGINAL_NETWORK
from fastnst.network.builtin import has_original
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import CHECKPOINTS, cache_folder

_PACKAGES = (
    *("fastnst", "torch", "triton", "numpy", "pillow", "safetensors", "tqdm"),
    *("matplotlib", "av", "tensorboard", "shtab", "ray", "starlette", "uvicorn"),
)
# Their values say nothing of the user.
_TELLING = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("FASTNST_OFFLINE", "TRITON_INTERPRET", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING"),
)
# Reported only as set: an address may hold a password, a path a name.
_SET = ("FASTNST_CACHE", "FASTNST_WEIGHTS_URL", "TORCH_HOME", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")


def run(parsed: argparse.Namespace) -> int:
    facts = report()
    if parsed.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name.removesuffix('_bytes'):12} {_readable(name, value)}")
    return 0


def report() -> dict[str, Any]:
    """The facts, as JSON can hold them, without paths and without the name of a user or a host."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = conditions(device)
    machine, runtime, memory = facts["machine"], resolve_runtime(), None
    with suppress(AttributeError, ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "versions": versions(_PACKAGES),
        "commit": facts["commit"],
        "system": platform.platform(),
        "encoding": sys.getfilesystemencoding(),
        "processor": {
            **{"name": machine["cpu"], "cores": machine["cores"], "usable_cores": usable_cores()},
            **{"threads": machine["threads"]},
            **{"vectors": torch.backends.cpu.get_cpu_capability(), "load": machine["load"]},
        },
        "memory_bytes": memory,
        "torch": {
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        },
        "gpus": [
            {
                "name": gpu.name,
                "capability": f"{gpu.major}.{gpu.minor}",
                "memory_bytes": gpu.total_memory,
                "multiprocessors": gpu.multi_processor_count,
            }
            for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
        "drivers": facts["gpu"],
        "auto": {
            "device": str(runtime.device),
            "precision": runtime.precision,
            "trial": trial.comparison(),
            "backend": available_backends(runtime.device)[0],
        },
        "weights": _weights(),
        "environment": {
            **{name: os.environ[name] for name in _TELLING if name in os.environ},
            **dict.fromkeys((name for name in _SET if name in os.environ), "set"),
        },
    }


def _weights() -> dict[str, str]:
    """The place that the weights of each network would be taken from."""
    torchs = Path(torch.hub.get_dir()) / "checkpoints"
    sources = {f"original {ORIGINAL_NETWORK}": "here" if has_original() else "not here"}
    for network, digest in CHECKPOINTS.items():
        stem = f"{network}-{digest}"
        places = {"fastnst's": cache_folder() / f"{stem}.safetensors", "torch's": torchs / f"{stem}.pth"}
        place = next((f"in {whose} cache" for whose, path in places.items() if path.is_file()), "not downloaded")
        sources[f"imagenet {network}"] = place
    return sources


def _readable(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, dict):
        value = ", ".join(f"{key.removesuffix('_bytes')} {_readable(key, part)}" for key, part in value.items())
    elif isinstance(value, list):
        value = "; ".join(_readable("", part) for part in value)
    elif isinstance(value, bool):
        value = "yes" if value else "no"
    return "none" if value in ("", None) else str(value)
