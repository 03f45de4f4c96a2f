"""Equality to the bit of runs of an operation: each op × precision × layout × shape, many times.

python -m bench.equal_runs --runs 20

prints one JSON object. Between runs the freed memory is overwritten, so that a value that was never written shows.
`--small` takes shapes of odd sizes that compute-sanitizer is quick enough for; one run checks nothing but that.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions
from torch import Tensor

from bench.operations import Operation, operations
from fastnst.network.runtime import resolve_runtime
from fastnst.network.settings import float32_products

SMALL = ((3, 5, 7), (24, 11, 14), (64, 16, 24), (136, 9, 16))
# conv1_1, conv3_1 and conv5_1 of a 512 px image, and one that no block divides.
FULL = ((64, 512, 512), (256, 128, 128), (512, 32, 32), (65, 123, 125))
_POISON_BYTES = 1 << 26


def differing_runs(operation: Operation, runs: int, device: torch.device) -> list[int]:
    """The runs, from 2 on, whose tensors are not those of the first to the bit."""
    first = [tensor.clone() for tensor in operation()]
    differing = []
    for run in range(2, runs + 1):
        torch.empty(_POISON_BYTES // 4, device=device).fill_(float("nan"))
        if not all(map(_same_bits, first, operation())):
            differing.append(run)
    return differing


def _same_bits(bits: Tensor, others: Tensor) -> bool:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[bits.element_size()]
    return torch.equal(bits.contiguous().view(integers), others.contiguous().view(integers))


def check(shapes: Sequence[tuple[int, int, int]], device: str, runs: int) -> list[dict[str, Any]]:
    """One record for each op × precision × layout × shape."""
    records = []
    place = resolve_runtime(device).device
    for precision in ("fp16", "bf16", "tf32", "fp32") if place.type == "cuda" else ("bf16", "fp32"):
        runtime = resolve_runtime(device, precision)
        for shape in shapes:
            for layout in ("nchw", "channels_last"):
                with float32_products(runtime.tf32):
                    calls = operations(*shape, runtime, channels_last=layout == "channels_last")
                    for name, operation in calls.items():
                        differing = differing_runs(operation, runs, place)
                        record = {"op": name, "precision": precision, "shape": list(shape), "layout": layout}
                        records.append({**record, "runs": runs, "differing": differing})
    return records


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs of each (default: 20)")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda … (default: auto)")
    parser.add_argument("--small", action="store_true", help="small shapes of odd sizes")
    parsed = parser.parse_args(arguments)
    if parsed.runs < 1:
        parser.error(f"{parsed.runs} runs were asked for; give 1 or more")
    records = check(SMALL if parsed.small else FULL, parsed.device, parsed.runs)
    unequal = [record for record in records if record["differing"]]
    device = resolve_runtime(parsed.device).device
    report = {**conditions(device), "runs": parsed.runs, "unequal": len(unequal), "operations": records}
    print(json.dumps(report))
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
