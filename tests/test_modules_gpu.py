"""The losses as modules on a GPU: mixed precision with a gradient scale, both layouts, torch.compile."""

import pytest
import torch

from examples.feed_forward import Network
from fastnst.loss.perceptual import PerceptualLoss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
NAMES = {"content_layers": ["conv3_1"], "style_layers": ["conv1_1", "conv2_1", "conv3_1"], "weights": "random"}


def batch(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_as_on_a_cpu(layout: torch.memory_format) -> None:
    perceptual = PerceptualLoss(batch(0)[0], size=80, **NAMES)
    wanted = perceptual.terms(batch(1), batch(2))
    placed = perceptual.to("cuda").to(memory_format=layout)
    images = batch(1).cuda().contiguous(memory_format=layout)
    found = placed.terms(images, batch(2).cuda())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_mixed_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    perceptual = PerceptualLoss(batch(0)[0], size=80, style_weight=1.0, **NAMES).cuda()
    network = Network(8, 1).cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    images = batch(1).cuda()
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype=dtype):
            loss = perceptual(network(images), images)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled() -> None:
    perceptual = PerceptualLoss(batch(0)[0], size=80, **NAMES).cuda()
    compiled = torch.compile(perceptual, fullgraph=True)
    images = batch(1).cuda().requires_grad_()
    (eager,) = torch.autograd.grad(perceptual(images, batch(2).cuda()), images)
    (gradient,) = torch.autograd.grad(compiled(images, batch(2).cuda()), images)
    assert (gradient - eager).norm() < 1e-2 * eager.norm()
