"""The style losses beside the Gram matrix, and their gradients, against float64, in tiles and in bands."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from network_samples import biased_network
from style_references import DISTANCES, FACTORS, features, moments

from fastnst import OptionError, Stylizer, stylize
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import make_objective
from fastnst.loss.sliced import unit_vectors
from fastnst.loss.statistics import Moments, iterated_root_trace, moment_loss, moment_targets, root, root_trace
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.tiles import make_grid, reach_of
from fastnst.network.weights import Weights
from fastnst.options.options import Options, resolve_options
from fastnst.plan.planner import plan_run
from fastnst.plan.processes import Ranks

SMALL: dict[str, Any] = {
    "precision": "fp32",
    "style_layers": {"conv1_1": 0.5, "conv2_1": 1.0, "conv3_1": 0.25},
    "content_layers": "conv2_2",
    "content_weight": 0,
    "tv_weight": 0,
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return biased_network(deepest="conv3_1")


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    """Patches with some grain, (1, 3, height, width): features whose spread is no less than their mean."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand((1, 3, 7, 7), generator=generator) ** 2
    large = torch.nn.functional.interpolate(patches, (height, width))
    return (large + 0.3 * torch.rand((1, 3, height, width), generator=generator)).clamp(0, 1)


def prepared(weights: Weights, given: Mapping[str, Any]) -> tuple[Options, Runtime, Backbone]:
    options = resolve_options(**{**SMALL, **given})
    runtime = resolve_runtime(options.device, options.precision, options.backend)
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


def plain_sliced(own: torch.Tensor, style: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """1/N Σ 1/M |sort(vᵀ F) − sort(vᵀ F_A)|², the style's values read at the quantiles (i + ½)/M."""
    values, known = (torch.sort(directions @ found.flatten(1), dim=1).values for found in (own, style))
    count, length = values.shape[1], known.shape[1]
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) * length / count - 0.5).clamp(0, length - 1)
    below = places.floor().long().clamp(max=length - 1)
    above = (below + 1).clamp(max=length - 1)
    part = places - below
    return (values - (known[:, below] * (1 - part) + known[:, above] * part)).square().mean()


@pytest.mark.parametrize("objective", ["relative", "paper"])
@pytest.mark.parametrize("mask", [None, "left"])
def test_sliced_loss_and_gradient_equal_the_formula(objective: str, mask: str | None, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, {"style_loss": "sliced", "objective": objective, "style_weight": 3})
    image, styles = picture(1, 40, 48), [(picture(2, 32, 44), 0.25), (picture(3, 40, 36), 0.75)]
    guidance, regions = Guidance(40, 48), None
    if mask is not None:
        left = torch.ones((1, 1, 40, 48))
        left[:, :, :, 24:] = 0.2
        guidance, regions = Guidance(40, 48, (left,)), [{1: None}]

    targets = style_targets(backbone, styles, options, runtime, regions)
    terms, gradient = make_objective(backbone, image, targets, options, runtime, guidance=guidance).loss_and_gradient(
        image
    )

    exact = image.double().requires_grad_()
    layers = dict(options.style_layers)
    own = features(weights, exact, tuple(layers))
    expected = torch.zeros((), dtype=torch.float64)
    for index, (style, share) in enumerate(styles):
        for name, found in features(weights, style.double(), tuple(layers)).items():
            directions = unit_vectors(name, len(found), options.seed).double()
            seen = own[name]
            if mask is not None:
                seen, share = own[name][:, :, : own[name].shape[2] // 2], 0.6 * index
            distance = plain_sliced(seen, found, directions)
            if objective == "relative":
                distance = FACTORS["sliced"] * distance / (directions @ found.flatten(1)).square().mean()
            expected = expected + layers[name] * share * distance
    (expected_gradient,) = torch.autograd.grad(3.0 * expected, exact)
    assert float(terms.style) == pytest.approx(expected.item(), rel=1e-4)
    assert relative_error(gradient, expected_gradient) < 1e-3


def test_what_is_sorted_is_not_shared() -> None:
    with pytest.raises(OptionError, match="tile 64 was given, and style loss sliced sorts all of the image"):
        resolve_options(style_loss="sliced", tile=64)
    options = resolve_options(**SMALL, style_loss="sliced")
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    assert plan_run(options, runtime, (300, 200), tile="auto").tile is None
    with pytest.raises(OptionError, match=r"the whole image at once of .* choose another --style-loss"):
        plan_run(options, runtime, (300, 200), tile="auto", max_memory=20_000_000)
    two = Stylizer(picture(1, 40, 40), ranks=Ranks(size=2), **SMALL, style_loss="sliced", size=64, scales=None)
    with pytest.raises(OptionError, match="several processes cannot share an image whose features are sorted"):
        two.prepare(picture(2, 64, 64))


@pytest.mark.parametrize("loss", [*DISTANCES, "sliced"])
def test_every_loss_makes_a_picture(loss: str) -> None:
    options: dict[str, Any] = {**SMALL, "content_weight": 1, "size": 48, "scales": None, "iterations": 4}
    result = stylize(picture(1, 48, 40), picture(2, 40, 48), style_loss=loss, weights="random", **options)
    assert result.losses[-1].style < 0.7 * result.losses[0].style
    assert result.parameters["options"]["style_loss"] == loss


def test_a_style_weight_for_each_scale() -> None:
    options: dict[str, Any] = {**SMALL, "content_weight": 1, "tv_weight": 0, "weights": "random", "iterations": 2}
    given = {**options, "scales": [16, 32, 64], "style_weight": [2, 7]}
    losses = stylize(picture(1, 64, 64), picture(2, 40, 48), **given).losses
    betas = {one.scale: round((one.total - one.content) / one.style, 2) for one in losses}
    assert betas == {16: 2.0, 32: 2.0, 64: 7.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"style_weight": [1, 0], "scales": 2}, "must each be more than 0; give 0 alone"),
        ({"style_weight": [1, -1], "scales": 2}, "style weight -1.0 is too small"),
        ({"style_weight": [], "scales": 2}, "no style weight given"),
        ({"style_weight": [1, 2, 3], "scales": 2}, "3 style weights for 2 scales"),
        ({"style_weight": ["1"]}, "style weight '1' is not a number"),
        ({"style_loss": "grams"}, "unknown style loss 'grams'; choose one of: gram, covariance"),
    ],
)
def test_bad_weights_and_losses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve_options(**given)


def test_one_style_weight_in_a_list_is_a_number() -> None:
    assert resolve_options(style_weight=[3]).style_weight == 3.0
    assert resolve_options(style_weight=(1, 2), scales=2).last_style_weight == 2.0


@pytest.mark.parametrize("level", ["kept", "recompute"])
@pytest.mark.parametrize("loss", [loss for loss in DISTANCES if loss != "gram"])
def test_tiles_have_the_gradient_of_the_whole(loss: str, level: str, weights: Weights) -> None:
    options, runtime, backbone = prepared(weights, {"style_loss": loss, "content_weight": 1, "tv_weight": 0.1})
    content, image, styles = picture(1, 64, 47), picture(2, 64, 47), [(picture(3, 60, 45), 1.0)]
    targets = style_targets(backbone, styles, options, runtime)
    whole, expected = make_objective(backbone, content, targets, options, runtime).loss_and_gradient(image)

    tiled_targets = style_targets(backbone, styles, options, runtime, tile=16)
    grid = make_grid(64, 47, 16, reach_of(options.network, options.taps))
    objective = make_objective(backbone, content, tiled_targets, options, runtime, grid=grid, level=level)
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
