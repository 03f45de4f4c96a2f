"""A small network that stylizes in one pass, trained with the perceptual loss (Johnson, Alahi and Fei-Fei 2016).

    python -m examples.feed_forward --output out.png

takes about a minute on a CPU. One picture is enough to show how it is done, not for a network of general use: for that
give many pictures, of many kinds, and some ten thousand steps.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.resize import resize
from fastnst.image.write import save_image
from fastnst.loss.perceptual import PerceptualLoss

Report = Callable[[int, float], None]


class Residual(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (_convolution(channels, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x).relu())
        return x + residual


class Network(nn.Module):
    """(B, 3, H, W) in 0…1 to the same: a quarter of the size, residual blocks, and back by nearest neighbours."""

    def __init__(self, channels: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.enter = _convolution(3, channels)
        self.down = nn.ModuleList(
            [_convolution(channels, 2 * channels, 2), _convolution(2 * channels, 3 * channels, 2)]
        )
        self.blocks = nn.ModuleList([Residual(3 * channels) for _ in range(blocks)])
        self.up = nn.ModuleList([_convolution(3 * channels, 2 * channels), _convolution(2 * channels, channels)])
        self.leave = nn.Conv2d(channels, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        x = self.enter(images).relu()
        sizes = []
        for layer in self.down:
            sizes.append(x.shape[2:])
            x = layer(x).relu()
        for block in self.blocks:
            x = block(x)
        for layer, size in zip(self.up, reversed(sizes), strict=True):
            x = layer(F.interpolate(x, size=size, mode="nearest")).relu()
        painted: Tensor = self.leave(x).sigmoid()
        return painted


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="reflect", bias=False)
    return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True))


def train(
    network: nn.Module,
    perceptual: PerceptualLoss,
    pictures: Sequence[Tensor],
    *,
    steps: int,
    batch: int = 4,
    crop: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    report: Report | None = None,
) -> list[float]:
    """Trains `network` on random crops of `pictures`, each (3, H, W) with sides of `crop` or more; returns the losses.

    `report` is called with the number of each step and its loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses = []
    for step in range(steps):
        images = torch.stack([_crop(pictures, crop, generator) for _ in range(batch)])
        loss = perceptual(network(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if report is not None:
            report(step, losses[-1])
    return losses


def _crop(pictures: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    def below(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    picture = pictures[below(len(pictures))]
    top, left = (below(side - size + 1) for side in picture.shape[1:])
    return picture[:, top : top + size, left : left + size]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Trains a small network to stylize in one pass, and runs it.")
    parser.add_argument("--content", type=Path, default=example("content"), help="the picture to train and run on")
    parser.add_argument("--style", type=Path, default=example("style_mosaic"), help="the style")
    parser.add_argument("--output", type=Path, required=True, help="where the stylized picture goes")
    parser.add_argument("--steps", type=int, default=120, help="training steps (default: 120)")
    parser.add_argument("--size", type=int, default=256, help="long edge of content and style in pixels (default: 256)")
    parser.add_argument("--crop", type=int, default=64, help="side of the crops in pixels (default: 64)")
    parser.add_argument("--weights", default="auto", help="the loss network's weights, as for fastnst stylize")
    parsed = parser.parse_args(arguments)
    torch.manual_seed(0)
    network = Network()
    perceptual = PerceptualLoss(parsed.style, size=parsed.size, style_weight=10.0, weights=parsed.weights)
    picture = resize(load_image(parsed.content).rgb, parsed.size)

    def report(step: int, loss: float) -> None:
        if step % 10 == 0 or step == parsed.steps - 1:
            print(f"step {step:4}  loss {loss:.4f}", flush=True)

    train(network, perceptual, [picture], steps=parsed.steps, crop=parsed.crop, report=report)
    with torch.no_grad():
        save_image(parsed.output, network(picture[None]))


if __name__ == "__main__":
    main()
