"""The style losses and masks on a GPU: the gradient of the CPU, and an iteration that can be captured."""

from typing import Any

import pytest
import torch

from fastnst import stylize
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import make_objective
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.options.options import resolve_options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
LOSSES = ["gram", "covariance", "mean-std", "wasserstein", "sliced"]
NAMES: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    large = torch.nn.functional.interpolate(torch.rand((1, 3, 6, 6), generator=generator), (height, width))
    return (0.7 * large + 0.3 * torch.rand((1, 3, height, width), generator=generator)).contiguous()


def gradient(device: str, loss: str, masked: bool) -> tuple[float, torch.Tensor]:
    options = resolve_options(**NAMES, style_loss=loss, precision="fp32", device=device)
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    weights = load_weights("original", "vgg19", taps=options.taps)
    backbone = build_backbone(weights, options.taps, runtime)
    mask = torch.linspace(0, 1, 80).expand(1, 1, 96, 80).contiguous()
    guidance = Guidance(96, 80, (mask, 1 - mask), opaque=mask.sqrt()) if masked else None
    regions = [{0: None}, {0: None}] if masked else None
    style = [(picture(3, 64, 64).to(runtime.device), 1.0)]
    targets = style_targets(backbone, style, options, runtime, regions)
    content = picture(1, 96, 80).to(runtime.device)
    objective = make_objective(backbone, content, targets, options, runtime, guidance=guidance)
    terms, found = objective.loss_and_gradient(picture(2, 96, 80).to(runtime.device))
    return float(terms.style), found.cpu()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_a_cpu(loss: str, masked: bool) -> None:
    term, found = gradient("cuda", loss, masked)
    expected_term, expected = gradient("cpu", loss, masked)
    # The root of a matrix is found in fewer digits there.
    assert term == pytest.approx(expected_term, rel=5e-3 if loss == "wasserstein" else 1e-4)
    error = float((found - expected).norm() / expected.norm())
    assert error < (2e-2 if loss == "wasserstein" else 2e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_iterations_run_without_a_warning(loss: str, masked: bool) -> None:
    """One that cannot be captured is a warning, which is an error here."""
    mask = torch.linspace(0, 1, 80).expand(1, 96, 80).contiguous()
    masks = [(mask, None), (1 - mask, None)] if masked else None
    options: dict[str, Any] = {**NAMES, "size": 96, "scales": None, "iterations": 12, "weights": "original"}
    result = stylize(picture(1, 96, 80), picture(3, 64, 64), **options, style_loss=loss, masks=masks, device="cuda")
    assert result.losses[-1].style < result.losses[0].style
