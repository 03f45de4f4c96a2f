"""One whole run of the command on a picture far larger than the untiled step could take: its peak memory and its time.

python -m bench.bench_far --size 4096 --max-memory 3GB
python -m bench.bench_far --size 12288 --max-memory 16GB --json far.json

The content is the example photograph stretched to a square of that size, written as a PNG some rows at a time. The
command reads it some rows at a time, iterates in the tiles that the planner chooses, and writes a 16-bit TIFF, which is
a BigTIFF where it has to be. What is measured is the command's process as the system accounts for it: the peak of its
resident memory, and its time from beginning to end. Before it begins, what it is planned to take and what the untiled
step would take are printed. Weights are random: they cost what any others do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions

from fastnst.examples import example
from fastnst.image.decode import libvips
from fastnst.image.files import MAX_PIXELS
from fastnst.network.runtime import resolve_runtime
from fastnst.options.parse import in_words
from fastnst.options.resolve import resolve_options
from fastnst.plan.planner import plan_run


def write_content(path: Path, size: int) -> None:
    """The example photograph as a square of `size` pixels."""
    photograph = libvips().Image.new_from_file(str(example("content")))
    across, down = size / photograph.width, size / photograph.height
    photograph.resize(across, vscale=down, kernel="cubic").pngsave(str(path), profile="srgb", compression=1)


def run_far(size: int, max_memory: str, iterations: int, optimizer: str, folder: Path) -> dict[str, Any]:
    """Runs the command in a process of its own, and returns the bytes of that, planned and measured, what the untiled
    step would take, and the seconds of all of it. Raises SystemExit where it fails."""
    options = resolve_options(size=size, scales=None, optimizer=optimizer, weights="random", max_memory=max_memory)
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    plan, untiled = (
        plan_run(asked, runtime, (size, size), network_is_loaded=False)
        for asked in (options, replace(options, tile="none", max_memory=None))
    )
    print(
        f"{size}×{size} px: tiles of {plan.tile} px, {plan.level}; planned peak {in_words(plan.peak_bytes)}, "
        f"the untiled step would take {in_words(untiled.peak_bytes)}",
        flush=True,
    )
    content, output = folder / "content.png", folder / "out.tif"
    write_content(content, size)
    words = [sys.executable, "-m", "fastnst", "stylize", str(content), str(example("style_swirls")), "-o", str(output)]
    asked = f"--size {size} --scales none --iterations {iterations} --optimizer {optimizer} --max-memory {max_memory}"
    words += f"{asked} --max-pixels {max(MAX_PIXELS, size * size)} --weights random --bit-depth 16".split()
    began = time.perf_counter()
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    return {
        "size": size,
        "iterations": iterations,
        "max_memory": options.max_memory,
        "tile": plan.tile,
        "level": plan.level,
        "halo_overhead": plan.grid.overhead,
        "planned_bytes": plan.peak_bytes,
        "untiled_bytes": untiled.peak_bytes,
        "peak_bytes": usage.ru_maxrss * 1024,
        "seconds": seconds,
        "output_bytes": output.stat().st_size,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, metavar="PX", help="(default: 4096)")
    parser.add_argument("--max-memory", default="3GB", metavar="SIZE", help="(default: 3GB)")
    parser.add_argument("--iterations", type=int, default=1, help="(default: 1)")
    parser.add_argument("--optimizer", default="adam", choices=("adam", "lbfgs"), help="(default: adam)")
    parser.add_argument("--folder", type=Path, help="where the pictures lie meanwhile (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result there")
    parsed = parser.parse_args(arguments)
    facts = conditions(torch.device("cpu"))
    print(f"{facts['device']}, torch {facts['versions']['torch']}, commit {facts['commit']}, {facts['date']}")
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        far = run_far(parsed.size, parsed.max_memory, parsed.iterations, parsed.optimizer, Path(folder))
    peak, planned, untiled = (far[f"{name}_bytes"] for name in ("peak", "planned", "untiled"))
    print(
        f"peak {in_words(peak)} of {in_words(far['max_memory'])} allowed, planned {in_words(planned)} "
        f"({planned / peak:.2f} ×); the untiled step would take {in_words(untiled)}; "
        f"{far['seconds']:.0f} s for {far['iterations'] + 1} evaluations and the pictures, "
        f"out {in_words(far['output_bytes'])}"
    )
    if parsed.json:
        parsed.json.write_text(json.dumps({**facts, **far}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
