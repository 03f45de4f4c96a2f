"""The objective and its gradient against an independent float64 NumPy implementation of the formulas."""

import numpy as np
import pytest
import torch
from network_samples import biased_network, smooth_and_rough
from numpy_gatys import Network, objective

from fastnst.loss.objective import make_objective
from fastnst.loss.targets import style_targets
from fastnst.network import winograd
from fastnst.network.backbone import build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights
from fastnst.options.options import Options, resolve_options

HEIGHT, WIDTH = 37, 50
needs_nnpack = pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this CPU")


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    return {network: biased_network(network) for network in ("vgg19", "vgg16")}


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return smooth_and_rough(seed, height, width)


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
    content, image = picture(1), picture(2)
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
    for precision in ("fp32", "winograd") if winograd.available() else ("fp32",):
        given = resolve_options(**CASES[case], precision=precision)
        terms, gradient = ours(given, weights[options.network], content, image, styles)
        for name, value in expected.items():
            assert terms[name] == pytest.approx(value, rel=2e-5), (precision, name)
        error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
        assert error < 2e-5, precision


def ours(
    options: Options,
    weights: Weights,
    content: torch.Tensor,
    image: torch.Tensor,
    styles: list[tuple[torch.Tensor, float]],
) -> tuple[dict[str, float], np.ndarray]:
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    backbone = build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    targets = style_targets(backbone, styles, options, runtime)
    loss, gradient = make_objective(backbone, content, targets, options, runtime).loss_and_gradient(image)
    terms = {name: getattr(loss, name).item() for name in ("total", "content", "style", "tv")}
    return terms, gradient[0].double().numpy()
