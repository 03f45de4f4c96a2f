"""The time of one iteration by size, on this machine, as a row of the table in docs/answers.md.

python -m bench.times --size 256 512 1024 2048 4096

Each size runs at one scale, from the content, with the weights that the engine would take; the time is the median of
the iterations after the first. Above 1024 px the optimiser is Adam, and tiles are as large as memory allows.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence

from fastnst_kernels.profiling.measure import device_name

import fastnst
from fastnst.examples import example
from fastnst.network.runtime import resolve_runtime

_ADAM_FROM = 1025


def seconds_of(size: int, iterations: int, weights: str = "auto", device: str = "auto") -> float:
    """The median seconds of an iteration at `size` pixels."""
    result = fastnst.stylize(
        example("content"),
        example("style_swirls"),
        size=size,
        scales=None,
        iterations=iterations,
        weights=weights,
        device=device,
        optimizer="adam" if size >= _ADAM_FROM else "lbfgs",
    )
    moments = [record.seconds for record in result.losses]
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(moments[1:]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="sizes in pixels")
    parser.add_argument("--iterations", type=int, default=6, help="iterations of each, 3 or more (default: 6)")
    parser.add_argument("--weights", default="auto", help="the network's weights (default: auto)")
    parser.add_argument("--device", default="auto", help="the device (default: auto)")
    parsed = parser.parse_args(arguments)
    if parsed.iterations < 3:
        parser.error(f"--iterations {parsed.iterations} is too small; give 3 or more")
    runtime = resolve_runtime(parsed.device)
    sizes = sorted(parsed.size)
    print("| Seconds for one iteration |" + "".join(f" {size} px |" for size in sizes), flush=True)
    print("| --- |" + " --- |" * len(sizes))
    print(f"| {device_name(runtime.device)}, {runtime.precision} |", end="", flush=True)
    for size in sizes:
        seconds = seconds_of(size, parsed.iterations, parsed.weights, parsed.device)
        print(f" {seconds:.3g}{' (Adam)' if size >= _ADAM_FROM else ''} |", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
