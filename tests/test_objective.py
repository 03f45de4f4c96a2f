"""The objective and its gradient against an independent float64 NumPy implementation of the formulas."""

import numpy as np
import pytest
import torch
from numpy_gatys import Network, objective

from fastnst import winograd
from fastnst.backbone import build_backbone
from fastnst.objective import make_objective, style_targets
from fastnst.options import Options, resolve_options
from fastnst.runtime import resolve_runtime
from fastnst.weights import Weights, load_weights

HEIGHT, WIDTH = 37, 50
needs_nnpack = pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this CPU")


@pytest.fixture(scope="module")
def weights() -> dict[str, Weights]:
    """Random networks with random biases, so that every ReLU and every border counts."""
    networks = {}
    for network in ("vgg19", "vgg16"):
        found = load_weights("random", network, taps=("conv5_1",))
        generator = torch.Generator().manual_seed(1)
        tensors = {
            name: 0.3 * torch.randn(tensor.shape, generator=generator) if name.endswith("bias") else tensor
            for name, tensor in found.tensors.items()
        }
        networks[network] = Weights(found.source, network, tensors, found.preprocessing, found.sha256)
    return networks


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Smooth and rough parts, in 0…1: (1, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (0.7 * smooth + 0.3 * torch.rand((1, 3, height, width), generator=generator)).contiguous()


CASES = {
    "gatys": {"preset": "gatys", "tv_weight": 0.5},
    "default": {"tv_weight": 3.0},
    "max pooling": {"pooling": "max"},
    "replicate padding": {"padding": "replicate", "preset": "gatys"},
    "vgg16": {"network": "vgg16", "preset": "gatys"},
    "shared layer": {"content_layers": ["conv3_1", "relu2_2=0.3"], "style_layers": ["conv3_1=2", "pool1=0.25"]},
    "two styles": {"preset": "gatys", "style_weights": [1, 3]},
    "two styles relative": {"style_weights": [1, 3]},
    "style only": {"content_weight": 0},
    "content only": {"style_weight": 0},
    "shallow": {"style_layers": "conv1_1", "content_layers": "conv1_2"},
}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("winograd", marks=needs_nnpack)])
@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradient_equal_numpy(case: str, precision: str, weights: dict[str, Weights]) -> None:
    options = resolve_options(**CASES[case], precision=precision)
    content, image = picture(1), picture(2)
    styles = [(picture(3, 45, 33), 1.0)]
    if options.style_weights is not None:
        styles = [(picture(3, 45, 33), 0.25), (picture(4, 40, 61), 0.75)]

    terms, gradient = ours(options, weights[options.network], content, image, styles)

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
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=2e-5), name
    error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    assert error < 2e-5


def ours(
    options: Options,
    weights: Weights,
    content: torch.Tensor,
    image: torch.Tensor,
    styles: list[tuple[torch.Tensor, float]],
) -> tuple[dict[str, float], np.ndarray]:
    runtime = resolve_runtime(options)
    backbone = build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    targets = style_targets(backbone, styles, options, runtime)
    loss, gradient = make_objective(backbone, content, targets, options, runtime).loss_and_gradient(image)
    terms = {name: getattr(loss, name).item() for name in ("total", "content", "style", "tv")}
    return terms, gradient[0].double().numpy()
