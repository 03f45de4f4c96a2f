"""The style losses beside the Gram matrix, and their gradients, against float64, in tiles and in bands."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from style_references import DISTANCES, features, moments

from fastnst.backbone import Backbone, build_backbone
from fastnst.matrix_root import iterated_root_trace, root, root_trace
from fastnst.objective import make_objective, style_targets
from fastnst.options import Options, resolve_options
from fastnst.runtime import Runtime, resolve_runtime
from fastnst.style_statistics import Moments, moment_loss, moment_targets
from fastnst.tile_grid import make_grid, reach_of
from fastnst.tile_style import tiled_style_targets
from fastnst.tiled_objective import make_tiled_objective
from fastnst.weights import Weights, load_weights

SMALL: dict[str, Any] = {
    "precision": "fp32",
    "style_layers": {"conv1_1": 0.5, "conv2_1": 1.0, "conv3_1": 0.25},
    "content_layers": "conv2_2",
    "content_weight": 0,
    "tv_weight": 0,
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Random, with biases, so that every ReLU counts."""
    found = load_weights("random", "vgg19", taps=("conv3_1",))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: 0.3 * torch.randn(tensor.shape, generator=generator) if name.endswith("bias") else tensor
        for name, tensor in found.tensors.items()
    }
    return Weights(found.source, "vgg19", tensors, found.preprocessing, found.sha256)


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    """Patches with some grain, (1, 3, height, width): features whose spread is no less than their mean."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand((1, 3, 7, 7), generator=generator) ** 2
    large = torch.nn.functional.interpolate(patches, (height, width))
    return (large + 0.3 * torch.rand((1, 3, height, width), generator=generator)).clamp(0, 1)


def prepared(weights: Weights, given: Mapping[str, Any]) -> tuple[Options, Runtime, Backbone]:
    options = resolve_options(**{**SMALL, **given})
    runtime = resolve_runtime(options)
    return options, runtime, build_backbone(weights, options.taps, runtime)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("objective", ["relative", "paper"])
@pytest.mark.parametrize("loss", DISTANCES)
def test_loss_and_gradient_equal_the_formula(loss: str, objective: str, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, {"style_loss": loss, "objective": objective, "style_weight": 3.0})
    image, styles = picture(1, 41, 50), [(picture(2, 33, 45) ** 2, 0.25), (picture(3, 40, 36), 0.75)]

    targets = style_targets(backbone, styles, options, runtime)
    terms, gradient = make_objective(backbone, image, targets, options, runtime).loss_and_gradient(image)

    exact = image.double().requires_grad_()
    layers = dict(options.style_layers)
    own = features(weights, exact, tuple(layers))
    theirs = [features(weights, style.double(), tuple(layers)) for style, _ in styles]
    expected = torch.zeros((), dtype=torch.float64)
    for name, weight in layers.items():
        known = [moments(found[name], None) for found in theirs]
        pairs = list(zip(known, (share for _, share in styles), strict=True))
        if loss == "wasserstein":
            mixture = tuple(sum(share * pair[part] for pair, share in pairs) for part in (0, 1))
            pairs = [((torch.as_tensor(mixture[0]), torch.as_tensor(mixture[1])), 1.0)]
        for style, share in pairs:
            distance = DISTANCES[loss](moments(own[name], None), style, objective == "relative")
            expected = expected + weight * share * distance
    (expected_gradient,) = torch.autograd.grad(3.0 * expected, exact)
    assert float(terms.style) == pytest.approx(expected.item(), rel=2e-5)
    assert relative_error(gradient, expected_gradient) < 1e-4


@pytest.mark.parametrize("level", ["kept", "recompute"])
@pytest.mark.parametrize("loss", [loss for loss in DISTANCES if loss != "gram"])
def test_tiles_have_the_gradient_of_the_whole(loss: str, level: str, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, {"style_loss": loss, "content_weight": 1, "tv_weight": 0.1})
    content, image, styles = picture(1, 64, 47), picture(2, 64, 47), [(picture(3, 60, 45), 1.0)]
    targets = style_targets(backbone, styles, options, runtime)
    whole, expected = make_objective(backbone, content, targets, options, runtime).loss_and_gradient(image)

    tiled_targets = tiled_style_targets(backbone, styles, options, runtime, 16)
    grid = make_grid(64, 47, 16, reach_of(options.network, options.taps))
    objective = make_tiled_objective(backbone, content, tiled_targets, options, runtime, grid, level=level)
    terms, gradient = objective.loss_and_gradient(image)

    assert len(grid) > 3
    assert float(terms.style) == pytest.approx(float(whole.style), rel=1e-5)
    assert relative_error(gradient, expected) < 1e-5
    assert float(objective.loss(image).total) == pytest.approx(float(whole.total), rel=1e-5)


@pytest.mark.parametrize("loss", DISTANCES)
def test_a_style_is_no_distance_from_itself(loss: str, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, {"style_loss": loss})
    image = picture(1, 48, 40)
    targets = style_targets(backbone, [(image, 1.0)], options, runtime)
    objective = make_objective(backbone, image, targets, options, runtime)
    assert abs(float(objective.loss(image).style)) < 1e-5
    assert float(objective.loss(picture(2, 48, 40) ** 3).style) > 1e-3


@pytest.mark.parametrize("loss", DISTANCES)
def test_relative_losses_do_not_depend_on_the_scale_of_features(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    style, own = (torch.rand((6, 50), generator=generator, dtype=torch.float64) for _ in range(2))

    def found(scale: float) -> float:
        pairs = [(scale * matrix @ matrix.T * scale / 50, scale * matrix.mean(1)) for matrix in (style, own)]
        target, image = (Moments(gram[None], mean[None]) for gram, mean in pairs)
        (known,) = moment_targets(loss, [target], [1.0], 1.0, "relative")
        return float(moment_loss(known, image)[0])

    assert found(1.0) == pytest.approx(found(300.0), rel=1e-9)
    assert found(1.0) == pytest.approx(found(0.01), rel=1e-9)


def test_roots_of_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn((2, 24, 24), generator=generator, dtype=torch.float64))
    values = torch.logspace(2, -3, 24, dtype=torch.float64)
    matrix = (vectors * values) @ vectors.mT
    assert torch.allclose(root(matrix) @ root(matrix), matrix)
    inverse = (vectors / values.sqrt()) @ vectors.mT
    trace, found = root_trace(matrix)
    assert torch.allclose(trace, values.sqrt().sum())
    assert torch.allclose(found, inverse)
    for dtype, error in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
        trace, found = iterated_root_trace(matrix.to(dtype))
        assert torch.allclose(trace.double(), values.sqrt().sum(), rtol=1e-3)
        assert relative_error(found, inverse) < error
