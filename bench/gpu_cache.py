"""A Triton cache for a GPU that is not here: the kernels of the runs that `bench.run_gpu` makes, built beforehand.

python -m bench.gpu_cache --build DIR --target sm_90 --sizes 512 1024
python -m bench.gpu_cache --compare DIR          on the GPU's machine: exit code 1 if its keys would be others

Triton finds a kernel by a key of its own files, the kernel's source, the compiler and its options, none of which needs
a GPU: here a driver stands in that says which one it would be. DIR is to be the machine's TRITON_CACHE_DIR, and the
same release of triton for the same Python has to be on both, which is what the parts of one key in DIR/key.json tell.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from unittest import mock

import torch
import triton
from fastnst_kernels.launch import launch
from fastnst_kernels.launch.build import build, specialised
from fastnst_kernels.launch.gpu import Gpu
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import cache, driver

from bench.targets import TARGETS
from fastnst.network.runtime import Runtime
from fastnst.options.resolve import resolve_options
from fastnst.plan.machine import Room
from fastnst.plan.planner import plan_run
from fastnst.transfer.kernels import Rehearsal

_ROOM = Room(0, 10**11)


def key_parts(target: GPUTarget) -> dict[str, str]:
    """The parts of one kernel's key on this machine; the file in the cache is named by a hash of all of them."""
    backend = make_backend(target)
    gpu = Gpu("", target.backend, target.arch, target.warp_size, 0, 1)
    with launch.planned(gpu) as launches:
        launch.finish_sum(torch.empty((1, 4), device="meta"), 1.0)
    (launched,) = launches
    return {
        "triton": _short(cache.triton_key()),
        "source": ASTSource(launched.kernel, *specialised(launched, gpu)).hash(),
        "compiler": backend.hash(),
        "options": backend.parse_options(launched.options).hash(),
    }


def _short(text: str) -> str:
    return f"{triton.__version__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def stand_in(target: GPUTarget, gpu: Gpu) -> Iterator[None]:
    """Within it, Triton and the launchers take this machine for one with `gpu`."""
    driver.set_active(
        mock.Mock(get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda device: 0)
    )
    with (
        mock.patch.object(launch, "gpu_of", return_value=gpu),
        mock.patch.object(torch.cuda, "current_device", return_value=0),
        mock.patch.object(torch.cuda, "device", return_value=contextlib.nullcontext()),
    ):
        yield


def rehearsals(sizes: Sequence[int]) -> Iterator[Rehearsal]:
    """Of the paper's and the default options, in both precisions, with both optimisers."""
    modes = (("fp16", torch.float16, False), ("tf32", torch.float32, True))
    for size, (name, dtype, tf32), optimizer in product(sizes, modes, ("adam", "lbfgs")):
        runtime = Runtime(torch.device("cuda"), name, dtype, tf32=tf32, winograd=False, backend="triton")
        options = resolve_options(preset="gatys", weights="random", optimizer=optimizer, size=size)
        # The example picture is three by four.
        height = size * 3 // 4
        plan = plan_run(options, runtime, (height, size), room=_ROOM)
        yield Rehearsal(options, runtime, plan, ((height, size),))


def build_cache(folder: Path, target: str, sizes: Sequence[int]) -> int:
    """Builds into `folder`, and returns how many kernels."""
    gpu = TARGETS[target]
    place = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = str(folder.resolve())
    with stand_in(place, gpu), ThreadPoolExecutor() as pool:
        launches = [each for rehearsal in rehearsals(sizes) for each in rehearsal.launches()]
        futures = build(launches, torch.device("cuda"), pool)
        for future in futures:
            future.result()
    (folder / "key.json").write_text(json.dumps({"target": target, **key_parts(place)}, indent=1) + "\n")
    return len(futures)


def differing(folder: Path) -> list[str]:
    """The parts of a kernel's key on this machine that are not those in `folder`."""
    built = json.loads((folder / "key.json").read_text())
    gpu = TARGETS[built["target"]]
    own = key_parts(GPUTarget(gpu.backend, gpu.arch, gpu.warp_size))
    return [f"{name}: {built[name]} there, {value} here" for name, value in own.items() if built[name] != value]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_cache", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, metavar="DIR")
    parser.add_argument("--compare", type=Path, metavar="DIR")
    parser.add_argument("--target", default="sm_90", choices=list(TARGETS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], metavar="PX")
    parsed = parser.parse_args(words)
    if parsed.build:
        print(f"{build_cache(parsed.build, parsed.target, parsed.sizes)} kernels in {parsed.build}")
    if not parsed.compare:
        return 0
    others = differing(parsed.compare)
    print("\n".join(others) if others else f"the kernels in {parsed.compare} are this machine's")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
