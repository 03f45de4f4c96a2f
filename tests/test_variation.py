"""The total variation of the objective, in each kind, against float64 autograd, at once and in tiles."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.loss.objective import Evaluation, make_objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.network.backbone import build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.tiles import make_grid, reach_of
from fastnst.network.weights import load_weights
from fastnst.options.options import resolve_options

KINDS = ("squared", "absolute", "nine-point")
HEIGHT, WIDTH = 23, 18


def variation(image: Tensor, kind: str) -> Tensor:
    """In the image's dtype, from the formulas."""
    if kind != "nine-point":
        differences = image.diff(dim=3).flatten(), image.diff(dim=2).flatten()
        terms = torch.cat(differences)
        return (terms.square() if kind == "squared" else terms.abs()).sum() / image[0, 0].numel()
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    inside = x[..., 1:-1, 1:-1]
    straight = (x[..., 1:-1, 2:] - inside).square().mean() + (x[..., 2:, 1:-1] - inside).square().mean()
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    return 2 * (straight / 3 + (falling.square().mean() + rising.square().mean()) / 12)


def noise(seed: int) -> Tensor:
    return torch.rand((1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(seed))


def exact(image: Tensor, kind: str, weight: float) -> tuple[float, Tensor]:
    leaf = image.double().requires_grad_()
    value = weight * variation(leaf, kind)
    return value.item(), torch.autograd.grad(value, leaf)[0]


def evaluation(tiled: bool, **given: Any) -> Evaluation:
    """The objective of an image that shows its content: all that it has is the variation."""
    options = resolve_options(
        style_weight=0, content_layers="conv1_2", weights="random", precision="fp32", device="cpu", **given
    )
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    backbone = build_backbone(load_weights("random", "vgg19", taps=options.taps), options.taps, runtime)
    if not tiled:
        return make_objective(backbone, noise(0), {}, options, runtime)
    grid = make_grid(HEIGHT, WIDTH, 8, reach_of(options.network, options.taps))
    return make_objective(backbone, noise(0), {}, options, runtime, grid=grid)


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_term_and_its_gradient(kind: str, reduction: str, tiled: bool) -> None:
    factor = HEIGHT * WIDTH if reduction == "sum" else 1
    objective = evaluation(tiled, tv_kind=kind, tv_reduction=reduction, tv_weight=0.3)
    loss, gradient = objective.loss_and_gradient(noise(0))
    value, expected = exact(noise(0), kind, 0.3 * factor)
    assert loss.total.item() == pytest.approx(value, rel=1e-6)
    assert loss.tv.item() == pytest.approx(value / 0.3, rel=1e-6)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_has_the_same_term(kind: str) -> None:
    module = PerceptualLoss(
        style_weight=0,
        content_layers="conv1_2",
        weights="random",
        tv_kind=kind,
        tv_reduction="sum",
        content_reduction="mean",
    )
    terms = module.terms(noise(1), noise(0))
    assert terms.tv.item() == pytest.approx(exact(noise(1), kind, HEIGHT * WIDTH)[0], rel=1e-6)
