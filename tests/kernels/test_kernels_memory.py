"""Memory that the CPU operations allocate besides their result, against the plain form in PyTorch."""

import pytest
import torch
from fastnst_kernels import gram_loss
from fastnst_kernels.profiling.measure import peak_extra_bytes
from kernel_checks import make_features, make_target
from tap_checks import tile_gradient

DEVICE = torch.device("cpu")


def _plain_loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    matrix = features.reshape(features.shape[1], -1)
    return (matrix @ matrix.t() / matrix.shape[1] - target).square().sum()


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((1, 64, 256, 256), False),
        ((1, 64, 256, 256), True),
        ((1, 256, 128, 128), True),
        ((1, 512, 64, 64), False),
        ((1, 512, 32, 32), True),
    ],
)
def test_half_of_the_plain_form(shape: tuple[int, int, int, int], channels_last: bool) -> None:
    features = make_features(shape, torch.float32, channels_last=channels_last).requires_grad_()
    plain = features.detach().contiguous().requires_grad_()
    target = make_target(features.detach())
    own = peak_extra_bytes(lambda: lambda: torch.autograd.grad(gram_loss(features, target).sum(), features)[0], DEVICE)
    eager = peak_extra_bytes(lambda: lambda: torch.autograd.grad(_plain_loss(plain, target), plain)[0], DEVICE)
    assert own < eager / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_over_its_upstream(dtype: torch.dtype) -> None:
    features = make_features((1, 64, 512, 256), dtype, channels_last=True)
    upstream = torch.ones_like(features)

    def gradient() -> torch.Tensor:
        tile_gradient(features, upstream=upstream, gradient=upstream, content=features, backend="torch")
        return torch.empty(0)

    # A few chunks of 4 MiB each.
    assert peak_extra_bytes(lambda: gradient, DEVICE) < 4.5 * 4 * 2**20
