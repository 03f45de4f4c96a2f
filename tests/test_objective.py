"""The objective and its gradient against an independent float64 NumPy implementation; each kind of total variation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_samples import biased_network, prepared
from network_samples import smooth_and_rough as picture
from numpy_gatys import Network, objective

from fastnst.loss.objective import Objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.loss.targets import style_targets
from fastnst.network.weights import Weights
from fastnst.options.resolve import resolve_options


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    return {network: biased_network(network) for network in ("vgg19", "vgg16")}


SHALLOW = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
CASES = {
    "gatys": {"preset": "gatys", "tv_weight": 0.5},
    "default": {"tv_weight": 3.0},
    "max pooling": {"pooling": "max"},
    "replicate padding": {"padding": "replicate", "preset": "gatys"},
    "vgg16": {"network": "vgg16", "preset": "gatys"},
    "shared layer": {"content_layers": ["conv3_1", "relu2_2=0.3"], "style_layers": ["conv3_1=2", "pool1=0.25"]},
    "two styles": {"preset": "gatys", "style_weights": [1, 3], **SHALLOW},
    "two styles relative": {"style_weights": [1, 3], **SHALLOW},
    "style only": {"content_weight": 0, **SHALLOW},
    "content only": {"style_weight": 0, **SHALLOW},
    "shallow": {"style_layers": "conv1_1", "content_layers": "conv1_2"},
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradient_equal_numpy(case: str, weights: dict[str, Weights]) -> None:
    options = resolve_options(**CASES[case])
    # None of this image's units is so near the kink of its ReLU that rounding decides on which side it lies.
    content, image = picture(1, 37, 50), picture(5, 37, 50)
    styles = [(picture(3, 45, 33), 1.0)]
    if options.style_weights is not None:
        styles = [(picture(3, 45, 33), 0.25), (picture(4, 40, 61), 0.75)]

    exact = {name: tensor.double().numpy() for name, tensor in weights[options.network].tensors.items()}
    expected, expected_gradient = objective(
        Network(options.network, exact, options.pooling, options.padding),
        image[0].double().numpy(),
        content[0].double().numpy(),
        [(style[0].double().numpy(), share) for style, share in styles],
        content_layers=dict(options.active_content_layers),
        style_layers=dict(options.active_style_layers),
        alpha=options.content_weight,
        beta=options.style_weight,
        gamma=options.tv_weight,
        relative=options.objective == "relative",
    )
    for precision in ("fp32", "winograd"):
        given, runtime, backbone = prepared(weights[options.network], **CASES[case], precision=precision)
        targets = style_targets(backbone, styles, given, runtime)
        loss, gradient = Objective(backbone, content, targets, given, runtime).loss_and_gradient(image)
        for name, value in expected.items():
            assert getattr(loss, name).item() == pytest.approx(value, rel=2e-5), (precision, name)
        error = np.linalg.norm(gradient[0].double().numpy() - expected_gradient) / np.linalg.norm(expected_gradient)
        assert error < 2e-5, precision


def variation(image: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean over pixels, from the formulas, in the image's dtype."""
    if kind != "nine-point":
        differences = torch.cat((image.diff(dim=3).flatten(), image.diff(dim=2).flatten()))
        return (differences.square() if kind == "squared" else differences.abs()).sum() / image[0, 0].numel()
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    inside = x[..., 1:-1, 1:-1]
    straight = (x[..., 1:-1, 2:] - inside).square().mean() + (x[..., 2:, 1:-1] - inside).square().mean()
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    return 2 * (straight / 3 + (falling.square().mean() + rising.square().mean()) / 12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["squared", "absolute", "nine-point"])
def test_variation_of_each_kind(kind: str, reduction: str) -> None:
    given = {"style_weight": 0, "content_layers": "conv1_2", "tv_kind": kind, "tv_reduction": reduction}
    options, runtime, backbone = prepared(**given, tv_weight=0.3)
    # An image that shows its content: all that its objective has is the variation.
    image = torch.rand((1, 3, 23, 18), generator=torch.Generator().manual_seed(0))
    loss, gradient = Objective(backbone, image, {}, options, runtime).loss_and_gradient(image)
    exact = image.double().requires_grad_()
    value = variation(exact, kind) * (23 * 18 if reduction == "sum" else 1)
    (expected,) = torch.autograd.grad(0.3 * value, exact)
    assert loss.tv.item() == pytest.approx(value.item(), rel=1e-6)
    assert loss.total.item() == pytest.approx(0.3 * value.item(), rel=1e-6)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()
    terms = PerceptualLoss(**given, content_reduction="mean", weights="random").terms(image, image)
    assert terms.tv.item() == pytest.approx(value.item(), rel=1e-6)
