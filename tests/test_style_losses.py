"""The style losses and masks, and their gradients, against float64; weights of scales; roots of covariances."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from network_samples import biased_network, prepared, relative_error
from network_samples import patches as picture
from style_references import DISTANCES, exact_terms

from fastnst import OptionError, Stylizer, stylize
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import Objective
from fastnst.loss.statistics import iterated_root_trace, root, root_trace
from fastnst.loss.targets import style_targets
from fastnst.network.weights import Weights
from fastnst.options.resolve import resolve_options
from fastnst.plan.planner import plan_run
from fastnst.plan.processes import Ranks

LOSSES = [*DISTANCES, "sliced"]
SMALL: dict[str, Any] = {
    "style_layers": {"conv1_1": 0.5, "conv2_1": 1.0, "conv3_1": 0.25},
    "content_layers": {"conv1_1": 0.5, "conv2_2": 0.5},
    "tv_weight": 0,
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return biased_network(deepest="conv3_1")


def soft(seed: int, height: int, width: int) -> torch.Tensor:
    """A mask with black, white and grey parts, (1, 1, height, width)."""
    coarse = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return (2 * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") - 0.5).clamp(0, 1)


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("objective", ["relative", "paper"])
@pytest.mark.parametrize("loss", LOSSES)
def test_terms_and_gradient_equal_the_formula(loss: str, objective: str, guided: bool, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, **SMALL, style_loss=loss, objective=objective, style_weight=3.0)
    # The sliced loss is written down for masks that fall on the border of a pool's window alone.
    height, width = (40, 48) if loss == "sliced" else (41, 50)
    content, image = picture(4, height, width), picture(1, height, width)
    styles = [(picture(2, 33, 45) ** 2, 0.25), (picture(3, 40, 36), 0.75)]
    guidance, regions = Guidance(height, width), None
    if guided and loss == "sliced":
        left = torch.where(torch.arange(width) < 24, 1.0, 0.2).expand(1, 1, height, width)
        guidance, regions = Guidance(height, width, (left,)), [{1: None}]
    elif guided:
        first = soft(7, height, width)
        guidance = Guidance(height, width, (first, 1 - first), opaque=soft(8, height, width))
        regions = [{0: soft(5, 33, 45)}, {0: None, 1: soft(6, 40, 36)}]

    targets = style_targets(backbone, styles, options, runtime, regions)
    ours = Objective(backbone, content, targets, options, runtime, guidance=guidance)
    terms, gradient = ours.loss_and_gradient(image)

    exact = image.double().requires_grad_()
    content_term, style_term = exact_terms(weights, options, content, exact, styles, regions, guidance)
    (expected,) = torch.autograd.grad(options.content_weight * content_term + 3.0 * style_term, exact)
    assert float(terms.content) == pytest.approx(content_term.item(), rel=2e-5)
    assert float(terms.style) == pytest.approx(style_term.item(), rel=1e-4 if loss == "sliced" else 2e-5)
    assert relative_error(gradient, expected) < (1e-3 if loss == "sliced" else 1e-4)


def test_what_is_sorted_is_not_shared() -> None:
    with pytest.raises(OptionError, match="tile 64 cannot be used with the style loss sliced, which sorts"):
        resolve_options(style_loss="sliced", tile=64)
    options, runtime, _ = prepared(**SMALL, style_loss="sliced")
    assert plan_run(options, runtime, (300, 200)).tile is None
    with pytest.raises(OptionError, match=r"the whole image at once of .* choose another --style-loss"):
        plan_run(replace(options, max_memory=20_000_000), runtime, (300, 200))
    two = Stylizer(picture(1, 40, 40), ranks=Ranks(size=2), **SMALL, style_loss="sliced", size=64, scales=None)
    with pytest.raises(OptionError, match="several processes cannot share an image whose features are sorted"):
        two.prepare(picture(2, 64, 64))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_makes_a_picture(loss: str) -> None:
    options: dict[str, Any] = {**SMALL, "size": 48, "scales": None, "iterations": 4}
    result = stylize(picture(1, 48, 40), picture(2, 40, 48), style_loss=loss, weights="random", **options)
    assert result.losses[-1].style < 0.7 * result.losses[0].style
    assert result.parameters["options"]["style_loss"] == loss


def test_a_style_weight_for_each_scale() -> None:
    options: dict[str, Any] = {**SMALL, "weights": "random", "iterations": 2}
    given = {**options, "scales": [16, 32, 64], "style_weight": [2, 7]}
    losses = stylize(picture(1, 64, 64), picture(2, 40, 48), **given).losses
    betas = {record.scale: round((record.total - record.content) / record.style, 2) for record in losses}
    assert betas == {16: 2.0, 32: 2.0, 64: 7.0}
    assert resolve_options(style_weight=[3]).style_weight == 3.0
    assert resolve_options(style_weight=(1, 2), scales=2).last_style_weight == 2.0


def test_roots_of_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn((2, 24, 24), generator=generator, dtype=torch.float64))
    values = torch.logspace(2, -3, 24, dtype=torch.float64)
    matrix = (vectors * values) @ vectors.mT
    assert torch.allclose(root(matrix) @ root(matrix), matrix)
    inverse = (vectors / values.sqrt()) @ vectors.mT
    trace, gradient = root_trace(matrix)
    assert torch.allclose(trace, values.sqrt().sum())
    assert torch.allclose(gradient, inverse)
    for dtype, error in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
        trace, gradient = iterated_root_trace(matrix.to(dtype))
        assert torch.allclose(trace.double(), values.sqrt().sum(), rtol=1e-3)
        assert relative_error(gradient, inverse) < error
