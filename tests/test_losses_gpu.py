"""The losses on a GPU: of a run and as modules, the values of a CPU, and steps that can be captured and compiled."""

from typing import Any

import pytest
import torch
from network_samples import patches, prepared, relative_error

from fastnst import stylize
from fastnst.feedforward.network import Architecture, StyleNetwork
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import Objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.loss.targets import style_targets
from fastnst.network.weights import load_weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
NAMES: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
MODULE: dict[str, Any] = {**NAMES, "weights": "random", "size": 80}
every_loss = pytest.mark.parametrize("loss", ["gram", "covariance", "mean-std", "wasserstein", "sliced"])
with_masks = pytest.mark.parametrize("masked", [False, True])


def gradient(device: str, loss: str, masked: bool) -> tuple[float, torch.Tensor]:
    weights = load_weights("original", "vgg19", taps=("conv3_1",))
    options, runtime, backbone = prepared(weights, **NAMES, style_loss=loss, device=device)
    mask = torch.linspace(0, 1, 80).expand(1, 1, 96, 80).contiguous()
    guidance = Guidance(96, 80, (mask, 1 - mask), opaque=mask.sqrt()) if masked else None
    regions = [{0: None}, {0: None}] if masked else None
    content, image, style = (patches(seed, 96, 80).to(runtime.device) for seed in (1, 2, 3))
    targets = style_targets(backbone, [(style, 1.0)], options, runtime, regions)
    objective = Objective(backbone, content, targets, options, runtime, guidance=guidance)
    terms, result = objective.loss_and_gradient(image)
    return float(terms.style), result.cpu()


@with_masks
@every_loss
def test_the_gradient_is_that_of_a_cpu(loss: str, masked: bool) -> None:
    term, result = gradient("cuda", loss, masked)
    expected_term, expected = gradient("cpu", loss, masked)
    # The root of a matrix is computed in fewer digits there.
    assert term == pytest.approx(expected_term, rel=5e-3 if loss == "wasserstein" else 1e-4)
    assert relative_error(result, expected) < (2e-2 if loss == "wasserstein" else 2e-3)


@with_masks
@every_loss
def test_iterations_run_without_a_warning(loss: str, masked: bool) -> None:
    """An iteration that cannot be captured is a warning, which is an error here."""
    mask = torch.linspace(0, 1, 80).expand(1, 96, 80).contiguous()
    masks = [(mask, None), (1 - mask, None)] if masked else None
    options: dict[str, Any] = {**NAMES, "size": 96, "scales": None, "iterations": 12, "weights": "original"}
    result = stylize(patches(1, 96, 80), patches(3, 64, 64), **options, style_loss=loss, masks=masks, device="cuda")
    assert result.losses[-1].style < result.losses[0].style


def batch(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_module_is_that_of_a_cpu_and_compiles(layout: torch.memory_format) -> None:
    perceptual = PerceptualLoss(batch(0)[0], **MODULE)
    wanted = perceptual.terms(batch(1), batch(2))
    placed = perceptual.to("cuda").to(memory_format=layout)
    images, content = batch(1).cuda().contiguous(memory_format=layout).requires_grad_(), batch(2).cuda()
    for ours, theirs in zip(placed.terms(images, content), wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-3, atol=0)
    (eager,) = torch.autograd.grad(placed(images, content), images)
    (compiled,) = torch.autograd.grad(torch.compile(placed, fullgraph=True)(images, content), images)
    assert relative_error(compiled, eager) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_mixed_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    perceptual = PerceptualLoss(batch(0)[0], style_weight=1.0, **MODULE).cuda()
    network, blend = StyleNetwork(["style"], Architecture(8, 1)).cuda(), torch.ones(1, device="cuda")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    images = batch(1).cuda()
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype=dtype):
            loss = perceptual(network(images, blend), images)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
