"""Counts what one iteration of a run moves and launches on a GPU, by its launch plans; no GPU is needed.

python -m bench.count --size 1024 --precision fp16

An iteration, of the default layers and with the optimiser that is named, is run on meta tensors: Triton's launches are
planned and noted, and torch's operations counted as a launch each, which reads its inputs and writes its outputs. Bytes
are the least: each tensor once for each time that it is read or written, whatever a cache holds, and what programs read
twice counts once. Convolutions are counted apart. The first layer convolves in kernels of its own: its maps, which a
convolution would read and write just so, are counted as a convolution's, its other work is not.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fastnst_kernels import BlendedTarget
from fastnst_kernels.launch.launch import Launch, planned
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.targets import TARGETS
from fastnst.loss.objective import Objective
from fastnst.network.architecture import layers_up_to
from fastnst.network.backbone import build_backbone
from fastnst.network.runtime import Runtime
from fastnst.network.weights import load_weights
from fastnst.optim import make_optimizer
from fastnst.options.resolve import resolve_options
from fastnst.transfer.descent import Descent

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
# The map of 64 channels that a convolution would write, or read, just so.
_FIRST_MAPS = {"first_forward": ("y",), "first_backward": ("upstream",)}
# How often each element of a kernel's argument passes between memory and chip at the least, once for what is read or
# written, twice for what is both; or how that follows from the kernel's other arguments.
Times = float | Callable[[Mapping[str, Any]], float]
_MOVES: Mapping[str, Mapping[str, Times]] = {
    "partial_content": {"features": 1, "content": 1, "partial": 1},
    "partial_gram": {"features": 1, "partial": 1, "activations": 1},
    "reduce_gram": {"partial": 1, "target": 1, "result": lambda on: 1 + on["ACCUMULATE"]},
    "finish_loss": {"tile_loss": 1, "tile_peak": 1, "exact": lambda on: on["difference"] is not None, "difference": 1},
    "finish_sum": {"partial": 1, "result": 1},
    "tap_backward": {
        "features": lambda on: on["difference"] is not None or on["content"] is not None or on["RELU"],
        **dict.fromkeys(("difference", "content", "upstream", "gradient"), 1),
    },
    "adam": {"image": 2, "gradient": 1, "first": 2, "second": 2, "best": 1},
    "image": {"image": 1, "source": 1, "result": 1, "partial": 1},
    "bias_relu": {"x": 1, "y": 1, "bits": 1},
    "bias_relu_pool": {"x": 1, "y": 1, "bits": 1},
    "relu_backward": {"gradient": 1, "bits": 1, "result": 1},
    "unpool_backward": {"gradient": 1, "bits": 1, "result": 1},
    "first_forward": {"image": 1, "weight": 1, "bias": 1, "y": 1, "partial": 1},
    "first_backward": {
        **dict.fromkeys(("image", "weight", "bias", "gradient", "upstream", "difference"), 1),
        "partial": lambda on: (on["VARIATION"] + (on["divisor"] is not None)) / 2,
    },
    "free": {"image": 1, "gradient": 1, "result": 1},
    # The newest y is written where none is read.
    "products": {
        **dict.fromkeys(("red", "green", "blue", "place", "pairs", "units", "partial"), 1),
        "previous": 2,
    },
    "reduce": {"partial": 1, "products": 1, "yy": lambda on: 2 / on["HISTORY"]},
    "algebra": {"products": 1, "yy": 1, "sy": 2},
    # All pairs are read, and one s is written.
    "direction": {
        **dict.fromkeys(("gradient", "units", "place", "squares"), 1),
        "pairs": lambda on: 1 + 1 / (2 * on["HISTORY"]),
        "result": lambda on: 1 + (on["place"] is None),
    },
    "move": {"image": 2, "direction": 1, "squares": 1, "best": 1},
}
# Written without being read.
_FILLED = ("zero_", "fill_", "copy_", "zeros", "ones", "full", "empty")


class TorchOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch's operations, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.__name__.partition(".")[0]
        if name == "convolution":
            # As cuDNN answers; meta tensors lose it.
            result = result.contiguous(memory_format=torch.channels_last)
        is_view = any(out.alias_info is not None and not out.alias_info.is_write for out in function._schema.returns)
        if not is_view and not name.startswith(("empty", "new_empty", "detach", "_to_copy_view")):
            given = _tensors([args, {name: value for name, value in (kwargs or {}).items() if name != "out"}])
            if name.startswith(_FILLED):
                given = given[1:]
            # cuFFT passes once over the map for each axis.
            passes = len(args[1]) if name.startswith("_fft") else 1
            self.launches[name] += passes
            self.bytes[name] += passes * sum(x.numel() * x.element_size() for x in [*given, *_tensors(result)])
        return result


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    members = values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ()
    return [x for member in members for x in _tensors(member)]


def count(size: int, precision: str, target: str, optimizer: str) -> list[dict[str, Any]]:
    """A row for each kernel and each operation of torch: name, whose it is, launches and bytes, in one iteration."""
    options = resolve_options(weights="random", objective="paper", optimizer=optimizer, size=size)
    device = torch.device("meta")
    runtime = Runtime(device, precision, _DTYPES[precision], precision == "tf32", False, "triton")
    image = torch.empty((1, 3, size, size), device=device)
    with planned(TARGETS[target]) as launches:
        network = build_backbone(load_weights("random", taps=options.taps), options.taps, runtime)
        channels = {layer.name: layer.out_channels for layer in layers_up_to(options.network, options.taps)}
        style = {name: _target(channels[name]) for name, _ in options.active_style_layers}
        objective = Objective(network, image, style, options, runtime)
        descent = Descent(image, objective, lambda: make_optimizer(options, runtime))
        # The first steps make what the later ones go on with.
        for _ in range(2):
            descent.advance()
        launches.clear()
        with TorchOperations() as operations:
            descent.advance()
    return [*_kernels(launches), *_torch(operations)]


def _target(channels: int) -> BlendedTarget:
    return BlendedTarget(torch.empty((1, channels, channels), device="meta"), 1.0, torch.empty(1, device="meta"))


def _kernels(launches: Sequence[Launch]) -> list[dict[str, Any]]:
    counts, moved, first = Counter[str](), Counter[str](), 0
    for launch in launches:
        name = launch.kernel.__name__.removesuffix("_kernel")
        own = sum(_size(launch.arguments[key]) for key in _FIRST_MAPS.get(name, ()))
        counts[name] += 1
        moved[name] += launch_bytes(launch) - own
        first += own
    rows = [{"name": name, "of": "triton", "launches": counts[name], "bytes": moved[name]} for name in counts]
    return [*rows, {"name": "maps of the first layer", "of": "convolutions", "launches": 0, "bytes": first}]


def launch_bytes(launch: Launch) -> int:
    """The bytes that a launch moves at the least."""
    total = 0.0
    for name, times in _MOVES[launch.kernel.__name__.removesuffix("_kernel")].items():
        total += (times(launch.arguments) if callable(times) else times) * _size(launch.arguments[name])
    return round(total)


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _torch(operations: TorchOperations) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "of": "convolutions" if "convolution" in name else "torch",
            "launches": operations.launches[name],
            "bytes": operations.bytes[name],
        }
        for name in operations.launches
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.count", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="edge of the square image in pixels (default: 1024)")
    parser.add_argument("--precision", choices=list(_DTYPES), default="fp16")
    parser.add_argument(
        "--target", choices=list(TARGETS), default="sm_90", help="the GPU that launches are planned for"
    )
    parser.add_argument("--optimizer", nargs="+", choices=["adam", "lbfgs"], default=["adam", "lbfgs"])
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON object")
    parsed = parser.parse_args(words)
    rows = {name: count(parsed.size, parsed.precision, parsed.target, name) for name in parsed.optimizer}
    if parsed.json:
        print(json.dumps({"size": parsed.size, "precision": parsed.precision, "target": parsed.target, "rows": rows}))
        return 0
    for optimizer, own in rows.items():
        print(f"{optimizer}, {parsed.size} px, {parsed.precision}, {parsed.target}")
        for row in sorted(own, key=lambda row: -row["bytes"]):
            print(f"  {row['name']:32}{row['of']:14}{row['launches']:5}{row['bytes'] / 1e6:10.1f} MB")
        for what, members in (
            ("convolutions", [row for row in own if row["of"] == "convolutions"]),
            ("all else", [row for row in own if row["of"] != "convolutions"]),
        ):
            launches, moved = (sum(row[key] for row in members) for key in ("launches", "bytes"))
            print(f"  {what:46}{launches:5}{moved / 1e6:10.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
