"""What the planner would do on GPUs that are not at hand, with the operations, bytes and seconds that it models.

python -m bench.highres_model --size 8192 --memory 16GB 6GB --precision fp16 tf32

Nothing is measured. A GPU stands for its rate of convolutions and that of copies to and from pinned main memory; its
untiled step is the unit, memory for which is taken to be there. What can make a tiled step longer:

    operations      of the halo, and of what is computed again; over those of the untiled step
    waiting         for copies between the GPU's memory and main memory that take longer than what is computed beside
                    them, and for what lies in main memory altogether
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastnst.network.runtime import Runtime
from fastnst.options.options import Options, resolve_options
from fastnst.options.parse import in_words
from fastnst.plan.machine import Room
from fastnst.plan.memory import network_of
from fastnst.plan.plan import Plan
from fastnst.plan.planner import plan_run


@dataclass(frozen=True)
class Gpu:
    """FLOP per second of the convolutions by precision, and bytes per second to or from main memory."""

    name: str
    rates: dict[str, float]
    transfer_rate: float


# What the planner takes where nothing was measured; then about half of what the makers say for dense products, and what
# copies over PCI Express 4 and 5 reach.
GPUS = (
    Gpu("the planner's", {"tf32": 1e14, "fp16": 1e14}, 20e9),
    Gpu("like an A100", {"tf32": 0.8e14, "fp16": 1.6e14}, 25e9),
    Gpu("like an H100", {"tf32": 2.5e14, "fp16": 5e14}, 50e9),
)
_DTYPES = {"fp16": torch.float16, "tf32": torch.float32}


@dataclass(frozen=True)
class Row:
    """One plan: seconds and operations of an iteration over those of the untiled step."""

    gpu: str
    rate: float
    transfer_rate: float
    precision: str
    memory: str
    tile: int | None
    level: str
    again: int
    content: str
    halo_overhead: float
    peak_bytes: int
    host_bytes: int
    operations: float
    seconds: float


def rows(size: int, memories: Sequence[str], precisions: Sequence[str]) -> Iterator[Row]:
    """The rows of an image of `size` pixels square, with Adam."""
    for gpu in GPUS:
        for precision in precisions:
            runtime = Runtime(torch.device("cuda"), precision, _DTYPES[precision], precision == "tf32", False, "auto")
            options = resolve_options(preset="gatys", size=size, optimizer="adam", weights="random")
            untiled = _planned(gpu, options, runtime, size, None)
            for memory in memories:
                plan = _planned(gpu, options, runtime, size, memory)
                yield Row(
                    gpu.name,
                    gpu.rates[precision],
                    gpu.transfer_rate,
                    precision,
                    memory,
                    plan.tile,
                    plan.level,
                    plan.again,
                    plan.content,
                    plan.grid.overhead,
                    plan.peak_bytes,
                    plan.host_bytes,
                    plan.flops / untiled.flops,
                    (plan.seconds or 0) / (untiled.seconds or 1),
                )


def _planned(gpu: Gpu, options: Options, runtime: Runtime, size: int, memory: str | None) -> Plan:
    held = network_of(options, runtime).weight_bytes
    return plan_run(
        options,
        runtime,
        (size, size),
        tile="none" if memory is None else "auto",
        max_memory=memory,
        rate=gpu.rates[runtime.precision],
        transfer_rate=gpu.transfer_rate,
        room=Room(held, None),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, metavar="PX", help="(default: 8192)")
    parser.add_argument("--memory", nargs="+", default=["16GB", "6GB"], metavar="SIZE", help="(default: 16GB 6GB)")
    parser.add_argument("--precision", nargs="+", default=["fp16", "tf32"], choices=list(_DTYPES))
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parsed = parser.parse_args(arguments)
    found = list(rows(parsed.size, parsed.memory, parsed.precision))
    print(f"{parsed.size}×{parsed.size} px, Adam, MODELLED; operations and seconds over those of the untiled step")
    print(
        f"{'GPU':15}{'':6}{'memory':>7}{'tile':>6} {'level':12}{'again':>5} {'content':10}{'halo ×':>7}{'peak':>9}"
        f"{'host':>9}{'operations':>12}{'seconds':>9}"
    )
    for row in found:
        print(
            f"{row.gpu:15}{row.precision:6}{row.memory:>7}{row.tile or '-':>6} {row.level:12}{row.again:>5} "
            f"{row.content:10}{row.halo_overhead:7.2f}{in_words(row.peak_bytes):>9}{in_words(row.host_bytes):>9}"
            f"{row.operations:12.2f}{row.seconds:9.2f}"
        )
    if parsed.json:
        report = {
            "model": True,
            "size": parsed.size,
            "gpus": [asdict(gpu) for gpu in GPUS],
            "rows": [asdict(row) for row in found],
        }
        parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
