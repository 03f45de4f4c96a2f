"""The peak memory of one side of `bench_step`, in a process of its own.

python -m bench.peak bf16 --size 512 --optimizer adam

It prints the peak beyond what the process holds once its libraries have computed a small image, and the bytes of the
weights in it.
"""

import argparse
import gc
import subprocess
import sys
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import peak_resident_bytes

from bench.sides import OPTIMIZERS, keeps_heap, make_side, precision_of, step_task
from fastnst.network.runtime import resolve_runtime
from fastnst.network.settings import Heap, give_back

_READYING_SIZE = 32


def peak_of(name: str, size: int, device: str, optimizer: str) -> tuple[int, int] | tuple[None, None]:
    """Peak memory of one side in a process of its own, and its weights in it, in bytes; None if that process failed."""
    words = [name, "--size", str(size), "--device", device, "--optimizer", optimizer]
    command, root = [sys.executable, "-m", "bench.peak", *words], Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"the peak of {name} at {size} px is not known: {last}", file=sys.stderr)
        return None, None
    most, network = done.stdout.split()
    return int(most), int(network)


def print_peak(name: str, size: int, device: str, optimizer: str) -> None:
    # What libraries load and set up at their first use is no side's.
    make_side(name, step_task(_READYING_SIZE, device), optimizer).iterate()
    gc.collect()
    place = resolve_runtime(device).device
    before = restarted_peak(place)
    if place.type == "cpu":
        Heap().is_kept = keeps_heap(name)
    task = step_task(size, device)
    parameters = sum(tensor.numel() for tensor in task.weights.tensors.values())
    side = make_side(name, task, optimizer)
    # A side keeps what it needs of it.
    del task
    for _ in range(6 if place.type == "cuda" else 8):
        side.iterate()
    print(peak_bytes(place) - before, parameters * (2 if precision_of(name) in ("bf16", "fp16") else 4))


def restarted_peak(device: torch.device) -> int:
    """The bytes that are held now, from which `peak_bytes` then starts; on a CPU without /proc, the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        # What was freed is given back first: it would be used again without a trace.
        give_back()
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", help="as in `bench_step`")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="long edge (default: 256)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--optimizer", default="lbfgs", choices=OPTIMIZERS, help="(default: lbfgs)")
    given = parser.parse_args()
    print_peak(given.side, given.size, given.device, given.optimizer)


if __name__ == "__main__":
    main()
