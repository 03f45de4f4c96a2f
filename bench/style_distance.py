"""How near results of several methods are to the style, and how long they take, side by side on the same pairs.

python -m bench.style_distance --size 512 --threads 2
python -m bench.style_distance --pairs content.jpg style.jpg --methods wct adain

The style distance is the mean over conv1_1, conv2_1, conv3_1, conv4_1 and conv5_1 of `‖G - A‖² / ‖A‖²` in the original
network, at `--size`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastnst
from bench.pairs import add_pair_arguments, pairs_of
from fastnst.image.read import load_image
from fastnst.image.resize import resize

METHODS: Mapping[str, Mapping[str, Any]] = {
    "optimisation": {},
    "wct": {"transfer": "wct"},
    "wct 0.6": {"transfer": "wct", "blend": 0.6},
    "adain": {"transfer": "adain"},
}


def distance_to(style: Path, size: int) -> Callable[[Tensor], float]:
    """The style distance of a picture (3, H, W)."""
    loss = fastnst.PerceptualLoss(str(style), size=size, weights="original", content_weight=0)

    def distance(picture: Tensor) -> float:
        with torch.no_grad():
            return float(loss.terms(picture[None]).style)

    return distance


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_arguments(parser)
    parser.set_defaults(weights="original")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = []
    print("| pair | method | style distance | s | CPU s |\n|---|---|---:|---:|---:|")
    for content, style in pairs_of(parser, given):
        pair, distance = f"{content.stem} × {style.stem}", distance_to(style, given.size)
        original = resize(load_image(content).rgb, given.size)
        rows.append(_row(pair, "the content itself", distance(original), None))
        for name in given.methods:
            options = {"size": given.size, "weights": given.weights, **METHODS[name]}
            began, cpu = time.perf_counter(), time.process_time()
            result = fastnst.stylize(content, style, **options)
            seconds = time.perf_counter() - began, time.process_time() - cpu
            rows.append(_row(pair, name, distance(result.tensor), seconds))
    if given.json is not None:
        given.json.write_text(json.dumps({"size": given.size, "rows": rows}, indent=1))
    return 0


def _row(pair: str, method: str, distance: float, seconds: tuple[float, float] | None) -> dict[str, Any]:
    times = " | ".join(f"{each:.1f}" for each in seconds) if seconds else "— | —"
    print(f"| {pair} | {method} | {distance:.3f} | {times} |", flush=True)
    return {"pair": pair, "method": method, "style_distance": distance, "seconds": seconds and seconds[0]}


if __name__ == "__main__":
    raise SystemExit(main())
