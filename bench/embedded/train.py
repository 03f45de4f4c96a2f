"""Train the embedded network on procedural pictures: resumable, on a CPU or a GPU.

    python -m bench.embedded.train --folder training --minutes 100

Again the same command goes on where it stopped; SIGTERM or Ctrl-C saves and ends. The schedule (rate, crop size,
jitter) follows the minutes trained so far out of `--minutes`; a longer one later goes on from the place that the
minutes then have in it.
"""

import argparse
import csv
import math
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.embedded.bank import Bank, Jitter, Plan, crops, halved, load_bank
from bench.embedded.network import FEELING, NAMING, PAINTING, Heads, Trunk
from bench.embedded.pictures import family_of
from fastnst.network.architecture import layers_up_to

RECIPE = 2
PLAN = Plan(seed=7, structures=560, palettes=96, palettes_each=3)

_FIRST_JITTER = Jitter(brightness=0.25, gain=0.15, offset=0.05, mixing=0.1, grey=0.08, noise=0.04)
_LAST_JITTER = Jitter(brightness=0.15, gain=0.08, offset=0.03, mixing=0.05, grey=0.03, noise=0.02)
# Up to which part of the schedule crops have which side in pixels.
SIDES = ((0.6, 32), (0.85, 48), (1.0, 64))
# The part of the crops from pictures at full size; the others see twice as far.
_NEAR = 0.25
_WARM_UP = 0.03
_HEADS_RATE = 0.4
_SMOOTHING = 0.1
_FAMILY_WEIGHT = 0.7
_PALETTE_WEIGHT = 0.5
_PAINTING_WEIGHT = 1.0
_FEELING_WEIGHT = 1.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EXPLAINED = ("paint4", "paint5", "feel3", "feel4", "feel5")
COLUMNS = ("seconds", "steps", "crops", "side", "rate", "loss", "structure", "family", "palette", *_EXPLAINED)
# A step that took longer was paused, not slow.
_LONGEST_STEP = 20.0


@dataclass
class Progress:
    """How far the training is: seconds spent in it, steps and crops done."""

    seconds: float = 0.0
    steps: int = 0
    crops: int = 0


def main() -> None:
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "pid").write_text(f"{os.getpid()}\n")
    bank = load_bank(PLAN, options.folder, device)
    torch.manual_seed(options.seed)
    generator = torch.Generator(device).manual_seed(options.seed)
    trunk = Trunk().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels = {layer.name: layer.out_channels for layer in layers_up_to("vgg19", ("conv5_1",)) if not layer.is_pool}
    heads = Heads(channels, PLAN.structures, PLAN.palettes).to(device)
    optimiser = _optimiser(trunk, heads, options.rate)
    progress = Progress()
    checkpoint = options.folder / "checkpoint.pt"
    if checkpoint.exists():
        progress = _resume(checkpoint, trunk, heads, optimiser, generator)
    _train(trunk, heads, optimiser, bank, progress, generator, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the bank, checkpoints and the log are kept")
    parser.add_argument("--minutes", type=float, default=100, help="training time of the whole schedule")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="crops in a step")
    parser.add_argument("--rate", type=float, default=0.02, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-seconds", type=float, default=300, help="between checkpoints")
    return parser.parse_args()


def _optimiser(trunk: Trunk, heads: Heads, rate: float) -> torch.optim.SGD:
    """Momentum; decay on the weights of convolutions and linear layers alone.

    The heads, whose inputs are many and of deviation 1, learn more slowly.
    """
    groups = []
    for parameters, part in ((list(trunk.parameters()), 1.0), (list(heads.parameters()), _HEADS_RATE)):
        for is_matrix, decay in ((True, 5e-4), (False, 0.0)):
            chosen = [p for p in parameters if (p.ndim > 1) == is_matrix]
            groups.append({"params": chosen, "weight_decay": decay, "part": part})
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def _train(
    trunk: Trunk,
    heads: Heads,
    optimiser: torch.optim.SGD,
    bank: Bank,
    progress: Progress,
    generator: torch.Generator,
    options: argparse.Namespace,
) -> None:
    stopped = False
    half = halved(bank)

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    total = 60 * options.minutes
    saved = time.monotonic()
    # Loss; structures, families and palettes right; parts of the variance that is painted and told.
    running: Tensor | None = None
    while progress.seconds < total and not stopped:
        began = time.monotonic()
        part = progress.seconds / total
        for group in optimiser.param_groups:
            group["lr"] = options.rate * group["part"] * rate_part(part)
        side = next(side for end, side in SIDES if part <= end)
        loss, figures = _losses(trunk, heads, bank, half, options.batch, side, jitter_at(part), generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trunk.parameters(), 5.0)
        optimiser.step()
        running = figures if running is None else running.lerp(figures, 0.02)
        progress.steps += 1
        progress.crops += options.batch
        if progress.steps % 50 == 0:
            values = running.tolist()
            if not math.isfinite(values[0]):
                raise SystemExit("the loss is not finite; go on from an older checkpoint with a lower --rate")
            write_log(options.folder / "log.csv", progress, side, options.rate * rate_part(part), values)
        before = progress.seconds
        progress.seconds += min(time.monotonic() - began, _LONGEST_STEP)
        if time.monotonic() - saved > options.save_seconds:
            _save(options.folder / "checkpoint.pt", trunk, heads, optimiser, generator, progress, options)
            saved = time.monotonic()
        for tenth in range(1, 10):
            if before < tenth * total / 10 <= progress.seconds:
                _write({"trunk": trunk.state_dict()}, options.folder / f"snapshot-{tenth}.pt")
    _save(options.folder / "checkpoint.pt", trunk, heads, optimiser, generator, progress, options)


def rate_part(part: float) -> float:
    """The learning rate's part of its highest: a linear rise, then half a cosine down to 0."""
    if part < _WARM_UP:
        return part / _WARM_UP * 0.95 + 0.05
    return 0.5 + 0.5 * math.cos(math.pi * min((part - _WARM_UP) / (1 - _WARM_UP), 1))


def jitter_at(part: float) -> Jitter:
    first, last = asdict(_FIRST_JITTER), asdict(_LAST_JITTER)
    return Jitter(**{key: first[key] + (last[key] - first[key]) * min(part, 1) for key in first})


def _losses(
    trunk: Trunk,
    heads: Heads,
    bank: Bank,
    half: Bank,
    batch: int,
    side: int,
    jitter: Jitter,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    near = round(_NEAR * batch)
    images, structure, palette = (
        torch.cat(pair)
        for pair in zip(
            crops(bank, near, side, jitter, generator),
            crops(half, batch - near, side, jitter, generator),
            strict=True,
        )
    )
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    normalised = (images - mean) / std
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        features = trunk(normalised.contiguous(memory_format=torch.channels_last))
        total = images.new_zeros(())
        families = torch.tensor([family_of(index) for index in range(PLAN.structures)], device=images.device)
        for layer, weight in NAMING.items():
            structure_scores, palette_scores = heads.name(layer, features[layer])
            total = total + weight * (
                F.cross_entropy(structure_scores.float(), structure, label_smoothing=_SMOOTHING)
                + _FAMILY_WEIGHT * F.nll_loss(family_scores(structure_scores.float(), families), families[structure])
                + _PALETTE_WEIGHT * F.cross_entropy(palette_scores.float(), palette, label_smoothing=_SMOOTHING)
            )
        explained = []
        for layer in PAINTING:
            painted, truth = heads.paint(layer, features[layer], normalised)
            missed = F.mse_loss(painted.float(), truth)
            explained.append(1 - missed.detach() / truth.var())
            total = total + _PAINTING_WEIGHT * missed
        for layer in FEELING:
            told, true = heads.feel(layer, features[layer], normalised)
            missed = F.mse_loss(told.float(), true)
            explained.append(1 - missed.detach())
            total = total + _FEELING_WEIGHT * missed
    right = [
        (scores.argmax(1) == labels).float().mean()
        for scores, labels in (
            (structure_scores, structure),
            (family_scores(structure_scores.float(), families), families[structure]),
            (palette_scores, palette),
        )
    ]
    return total, torch.stack([total.detach(), *right, *explained])


def family_scores(structure_scores: Tensor, families: Tensor) -> Tensor:
    """Log probabilities of the families, (B, families), from the scores of their structures, (B, structures)."""
    chances = structure_scores.softmax(1)
    sums = chances.new_zeros(len(chances), int(families.max()) + 1).index_add(1, families, chances)
    return (sums + 1e-7).log()


def write_log(path: Path, progress: Progress, side: int, rate: float, values: list[float]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        position = [round(progress.seconds), progress.steps, progress.crops, side, f"{rate:.5f}"]
        writer.writerow([*position, *(f"{value:.4f}" for value in values)])


def _save(
    path: Path,
    trunk: Trunk,
    heads: Heads,
    optimiser: torch.optim.SGD,
    generator: torch.Generator,
    progress: Progress,
    options: argparse.Namespace,
) -> None:
    state = {
        "trunk": trunk.state_dict(),
        "heads": heads.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.get_state(),
        "progress": asdict(progress),
        "recipe": RECIPE,
        "seed": options.seed,
        "plan": asdict(PLAN),
        "minutes": options.minutes,
    }
    _write(state, path)


def _write(state: dict[str, object], path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(
    path: Path,
    trunk: Trunk,
    heads: Heads,
    optimiser: torch.optim.SGD,
    generator: torch.Generator,
) -> Progress:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["recipe"] != RECIPE or state["plan"] != asdict(PLAN):
        raise SystemExit(f"{path} is of another recipe or other pictures; choose another --folder")
    trunk.load_state_dict(state["trunk"])
    heads.load_state_dict(state["heads"])
    parts = [group["part"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state["optimiser"])
    # The rates are this program's, not those that the checkpoint was written with.
    for group, part in zip(optimiser.param_groups, parts, strict=True):
        group["part"] = part
    # A GPU's generator is of another kind than a CPU's.
    if state["generator"].shape == generator.get_state().shape:
        generator.set_state(state["generator"])
    return Progress(**state["progress"])


if __name__ == "__main__":
    main()
