"""The losses as modules: float64 formulas, batches, autocast, torch.compile, and what they refuse."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from network_samples import prepared
from PIL import Image
from style_references import features
from torch import Tensor, nn

from fastnst.errors import FastnstError, ImageError
from fastnst.loss.modules import ContentLoss, GramLoss, TVLoss
from fastnst.loss.objective import Objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.loss.targets import style_targets
from fastnst.network.architecture import CAFFE, IMAGENET, Preprocessing
from fastnst.network.extractor import FeatureExtractor
from fastnst.network.weights import load_weights
from fastnst.options.resolve import resolve_options

NAMES = {"content_layers": ["conv2_1"], "style_layers": ["conv1_1", "conv2_1=2"], "weights": "random"}
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(count: int = 2, side: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side + 4, generator=torch.Generator().manual_seed(seed))


def exact_gram(features: Tensor) -> Tensor:
    matrix = features.double().flatten(2)
    return matrix @ matrix.mT / matrix.shape[2]


def exact_style(features: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    return weight / (4 * features.shape[1] ** 2) * (exact_gram(features) - target).square().sum((1, 2))


def exact_content(features: Tensor, target: Tensor, form: str) -> Tensor:
    squares = (features.double() - target.double()).square().sum((1, 2, 3))
    energy = target.double().square().sum((1, 2, 3))
    return squares * {"paper": 0.5, "mean": 1 / target[0].numel(), "relative": 1 / energy}[form]


def exact_tv(x: Tensor, power: int) -> Tensor:
    x = x.double()
    across = (x[..., 1:] - x[..., :-1]).abs() ** power
    down = (x[..., 1:, :] - x[..., :-1, :]).abs() ** power
    return (across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / (x.shape[2] * x.shape[3])


def close(found: Tensor, exact: Tensor) -> None:
    """A float32 sum against float64."""
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=0)


def gradients_agree(loss: nn.Module, exact: Any, features: Tensor, *targets: Tensor) -> None:
    found, wanted = features.clone().requires_grad_(), features.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(found, *targets), found)
    (expected,) = torch.autograd.grad(exact(wanted), wanted)
    assert gradient.dtype == features.dtype
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
def test_gram_loss(batch: int, layout: torch.memory_format) -> None:
    features = noise(batch, 8, 9, 7).to(memory_format=layout)
    style = noise(1, 8, 5, 6, seed=1)
    expected = exact_style(features, exact_gram(style), 3.0)
    for target in (style, exact_gram(style).float(), exact_gram(style)[0]):
        close(GramLoss(target, weight=3.0, reduction="none")(features).double(), expected)
    close(GramLoss(style, weight=3.0)(features).double(), expected.mean())
    close(GramLoss(style, weight=3.0, reduction="sum")(features).double(), expected.sum())
    gradients_agree(GramLoss(style), lambda x: exact_style(x, exact_gram(style)).mean(), features)
    # Of a batch with a target for each.
    targets = noise(batch, 8, 9, 7, seed=1).requires_grad_()
    grams = exact_gram(targets.detach())
    close(GramLoss(weight=3.0, reduction="none")(features, targets).double(), exact_style(features, grams, 3.0))
    gradients_agree(GramLoss(), lambda x: exact_style(x, grams).mean(), features, targets)


@pytest.mark.parametrize("form", ["paper", "mean", "relative"])
@pytest.mark.parametrize("targets", [1, 3])
def test_content_loss(form: str, targets: int) -> None:
    features, target = noise(3, 4, 6, 5), noise(targets, 4, 6, 5, seed=1)
    expected = 2 * exact_content(features, target, form)
    close(ContentLoss(target, weight=2, form=form, reduction="none")(features).double(), expected)
    close(ContentLoss(form=form, weight=2)(features, target).double(), expected.mean())
    gradients_agree(ContentLoss(target, form=form), lambda x: exact_content(x, target, form).mean(), features)
    black = torch.zeros(1, 4, 6, 5)
    assert ContentLoss(black, form=form)(black) == 0
    assert math.isfinite(ContentLoss(black, form=form)(black + 1e-3))


@pytest.mark.parametrize(("kind", "power"), [("squared", 2), ("absolute", 1)])
def test_tv_loss(kind: str, power: int) -> None:
    x = images(3)
    close(TVLoss(kind=kind, reduction="none")(x).double(), exact_tv(x, power))
    close(TVLoss(kind=kind, weight=4)(x).double(), 4 * exact_tv(x, power).mean())
    gradients_agree(TVLoss(kind=kind), lambda y: exact_tv(y, power).mean(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    features, style, content = noise(2, 8, 9, 7), noise(1, 8, 9, 7, seed=1), noise(2, 8, 9, 7, seed=2)
    for loss, target in ((GramLoss(style.to(dtype)), style), (ContentLoss(content.to(dtype)), content)):
        found = features.to(dtype).requires_grad_()
        value = loss(found)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        (gradient,) = torch.autograd.grad(value, found)
        assert gradient.dtype == dtype
        wanted = type(loss)(target.double())(features.double())
        torch.testing.assert_close(value.double(), wanted, rtol=2e-2, atol=0)
    assert TVLoss()(images().to(dtype)).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("pooling", "padding", "preprocessing"),
    [("avg", "zeros", IMAGENET), ("max", "replicate", IMAGENET), ("avg", "replicate", CAFFE)],
)
def test_extractor(pooling: str, padding: str, preprocessing: Preprocessing) -> None:
    weights = replace(load_weights("random", "vgg16", taps=("conv2_2",)), preprocessing=preprocessing)
    layers = ["conv1_1", "pool1", "conv2_2"]
    extractor = FeatureExtractor(weights, "vgg16", layers=["relu2_2", *layers], pooling=pooling, padding=padding)
    assert f"pooling='{pooling}', padding='{padding}', weights='random'" in repr(extractor)
    # It is neither trained nor saved.
    assert list(extractor.parameters()) == []
    assert extractor.state_dict() == {}
    image = images(1).requires_grad_()
    outputs = extractor(image)
    assert list(outputs) == layers
    outputs["conv2_2"].sum().backward()
    assert image.grad is not None
    wanted = features(weights, images(1).double(), layers, pooling=pooling, padding=padding)
    scale = preprocessing.scale
    exact = extractor.double()(images(1).double())
    for name in layers:
        torch.testing.assert_close(outputs[name][0].double(), wanted[name], rtol=1e-4, atol=3e-6 * scale)
        # The preprocessing is in float32.
        torch.testing.assert_close(exact[name][0], wanted[name], rtol=1e-4, atol=1e-6 * scale)


PERCEPTUAL: dict[str, Any] = {**NAMES, "size": 24, "style_weight": 5}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A module with targets, and what it is called with."""
    if name == "perceptual":
        return PerceptualLoss(images(1)[0], **PERCEPTUAL), images()
    target = noise(1, 4, 5, 5, seed=1)
    return (GramLoss(target) if name == "gram" else ContentLoss(target)), noise(2, 4, 5, 5)


@pytest.mark.parametrize("name", ["gram", "content", "perceptual"])
def test_a_module_made_in_inference_mode_works_outside(name: str) -> None:
    usual, given = made(name)
    with torch.inference_mode():
        module, content = made(name)
        _ = module(given, content) if name == "perceptual" else module(given)
    gradients = []
    for loss in (usual, module):
        x = given.clone().requires_grad_()
        value = loss(x, content) if name == "perceptual" else loss(x)
        value.backward()
        gradients.append(x.grad)
    assert torch.equal(gradients[0], gradients[1])
    # A target for the call alone, made there too.
    if name != "perceptual":
        with torch.inference_mode():
            target = noise(1, 4, 5, 5, seed=1)
        type(module)()(given.clone().requires_grad_(), target).backward()


@pytest.mark.parametrize("name", ["gram", "content", "perceptual"])
def test_torch_func_sees_through_the_modules(name: str) -> None:
    module, given = made(name)

    def loss(x: Tensor) -> Tensor:
        value: Tensor = module(x[None], given[:1]) if name == "perceptual" else module(x[None])
        return value

    x = given.clone().requires_grad_()
    torch.stack([loss(each) for each in x]).sum().backward()
    assert x.grad is not None
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(given), x.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["gram", "content", "perceptual"])
def test_what_is_kept_moves_and_is_no_buffer(name: str) -> None:
    """DistributedDataParallel sends buffers to all ranks before every forward."""
    module, given = made(name)
    whole = nn.Sequential(nn.Conv2d(3, 3, 1), module)
    assert not list(whole.buffers())
    assert all(
        tensor.dtype == torch.float64
        for each in whole.double().modules()
        for tensor in vars(each).values()
        if isinstance(tensor, Tensor)
    )
    assert copy.deepcopy(module)(given.double(), given.double()).dtype in (torch.float32, torch.float64)
    if name == "perceptual":
        return
    other = type(module)(torch.zeros_like(given[:1]))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.target, module.target.float())
    with pytest.raises(RuntimeError, match=r"size mismatch for target: .* from checkpoint, the shape in current"):
        other.load_state_dict({"target": torch.zeros(2, 9, 9)})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_extractor_stops_at_the_deepest_tap() -> None:
    extractor = FeatureExtractor("random", layers=["conv1_1", "conv5_1"])
    seen: list[str] = []
    extractor.through(images(1, 8), {"conv1_1": lambda x: seen.append("conv1_1") or x})  # type: ignore[func-returns-value]
    assert seen == ["conv1_1"]
    with pytest.raises(ImageError, match="12×8 pixels are too small for conv5_1; each side must be at least 16"):
        extractor(images(1, 8))


def test_sums_are_not_rounded_under_autocast() -> None:
    features, style, content = noise(2, 64, 9, 7), noise(1, 64, 9, 7, seed=1), noise(2, 64, 9, 7, seed=2)
    losses = [(GramLoss(style), ()), (ContentLoss(content), ()), (GramLoss(), (style,)), (ContentLoss(), (content,))]
    perceptual = PerceptualLoss(images(1)[0], **NAMES, size=28)
    image = images(2, seed=1).requires_grad_()
    wanted, exact = [loss(features, *targets) for loss, targets in losses], perceptual.terms(image, images(2, seed=2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = perceptual.terms(image, images(2, seed=2))
        for (loss, targets), value in zip(losses, wanted, strict=True):
            assert torch.equal(loss(features, *targets), value)
        torch.testing.assert_close(TVLoss()(images()), exact_tv(images(), 2).mean().float())
    for name in ("total", "content", "style", "tv"):
        torch.testing.assert_close(getattr(rounded, name), getattr(exact, name), rtol=3e-2, atol=0)
    (gradient,) = torch.autograd.grad(rounded.total.sum(), image)
    assert gradient.dtype == rounded.total.dtype == torch.float32


def test_perceptual_loss_scales_the_filters() -> None:
    layers: dict[str, Any] = {"style_layers": "conv1_1", "content_layers": "conv1_2", "size": 32}
    plain, scaled = (
        PerceptualLoss(images(1, 28)[0], preset="gatys", filter_scaling=scaling, **layers)
        for scaling in ("none", "unit-mean")
    )
    assert plain.extractor.sha256 == load_weights("original", taps=("conv1_2",)).sha256
    assert scaled.extractor.sha256 != plain.extractor.sha256


@pytest.mark.parametrize("objective", ["relative", "paper"])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_perceptual_loss_is_the_objective_of_stylize(objective: str, weights: list[float] | None) -> None:
    styles = [images(1, 28, seed)[0] for seed in (5, 6)]
    given: dict[str, Any] = {**NAMES, "objective": objective, "style_weights": weights, "size": 32, "style_weight": 30}
    perceptual = PerceptualLoss(styles, **given)
    batch, content = images(2, seed=1), images(2, seed=2)
    terms = perceptual.terms(batch, content)

    options, runtime, backbone = prepared(**given, device="cpu")
    shares = [0.5, 0.5] if weights is None else [0.25, 0.75]
    targets = style_targets(
        backbone, list(zip([style[None] for style in styles], shares, strict=True)), options, runtime
    )
    for index in range(2):
        objective_of_one = Objective(backbone, content[index : index + 1], targets, options, runtime)
        image = batch[index : index + 1].clone()
        loss, gradient = objective_of_one.loss_and_gradient(image)
        for name in ("total", "content", "style", "tv"):
            torch.testing.assert_close(getattr(terms, name)[index], getattr(loss, name).squeeze(), rtol=1e-4, atol=0)
        one = image.requires_grad_()
        (found,) = torch.autograd.grad(perceptual(one, content[index : index + 1]), one)
        assert (found - gradient).norm() < 1e-4 * gradient.norm()


def test_perceptual_loss_of_one_content_and_of_none() -> None:
    perceptual = PerceptualLoss(images(1)[0], **NAMES, size=28)
    one = perceptual.terms(images(2, seed=1), images(1, seed=2))
    two = perceptual.terms(images(2, seed=1), images(1, seed=2).repeat(2, 1, 1, 1))
    torch.testing.assert_close(one.total, two.total)
    texture = PerceptualLoss(images(1)[0], **NAMES, size=28, content_weight=0, tv_weight=0)
    terms = texture.terms(images(2, seed=1))
    torch.testing.assert_close(terms.total, resolve_options().style_weight * terms.style)
    features_only = PerceptualLoss(**NAMES, style_weight=0, tv_weight=0)
    assert features_only(images(seed=1), images(seed=1)) == 0
    # It moves, and saves nothing.
    assert texture.state_dict() == {}
    assert list(texture.parameters()) == []
    assert texture.double()(images(2, seed=1).double()).dtype == torch.float64


@compiles
@pytest.mark.parametrize("module", ["gram", "content", "tv", "perceptual"])
def test_modules_compile_without_a_graph_break(module: str) -> None:
    torch._dynamo.reset()
    target = noise(1, 3, 24, 28, seed=1)
    loss: Any = {
        "gram": lambda: GramLoss(target),
        "content": lambda: ContentLoss(target, form="relative"),
        "tv": TVLoss,
        "perceptual": lambda: PerceptualLoss(images(1)[0], **NAMES, size=28),
    }[module]()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        x = images(batch).requires_grad_()
        given = (x, images(batch, seed=2)) if module == "perceptual" else (x,)
        (eager,) = torch.autograd.grad(loss(*given), x)
        (gradient,) = torch.autograd.grad(compiled(*given), x)
        tolerance = {"rtol": 1e-4, "atol": 1e-7} if module == "perceptual" else {}
        torch.testing.assert_close(gradient, eager, **tolerance)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: GramLoss(reduction="median"), "unknown reduction 'median'; choose one of: mean, sum, none"),
        (lambda: ContentLoss(weight=math.nan), "weight nan is not finite; give a number"),
        (lambda: GramLoss()(noise(1, 4, 3, 3)), "GramLoss has no target"),
        (lambda: ContentLoss()(noise(1, 4, 3, 3)), "ContentLoss has no target"),
        (lambda: ContentLoss(form="l1"), "unknown form 'l1'"),
        (lambda: TVLoss(kind="l3"), "unknown kind 'l3'"),
        (lambda: FeatureExtractor("random", layers=[]), "give at least one"),
        (lambda: FeatureExtractor("random", layers="conv1_1"), "not a list of layers"),
        (lambda: FeatureExtractor("random", layers=["conv9_1"]), "unknown layer 'conv9_1'"),
        (lambda: FeatureExtractor("random", layers=["conv1_1"], pooling="min"), "unknown pooling 'min'"),
        (lambda: FeatureExtractor("random", layers=["conv1_1"], padding="same"), "unknown padding 'same'"),
        (lambda: FeatureExtractor("random", layers=["conv1_1"])(images()[0]), r"images are \(3, 24, 28\)"),
        (lambda: FeatureExtractor("random", layers=["conv1_1"])(images().byte()), "uint8; give"),
        (lambda: PerceptualLoss(**NAMES), "no style image was given"),
        (lambda: PerceptualLoss([], **NAMES), "no style image was given"),
        (lambda: PerceptualLoss(images(1)[0], objective="other"), "unknown objective"),
        (lambda: PerceptualLoss(images(1)[0], iterations=3), "iterations is not an option of PerceptualLoss"),
        (lambda: PerceptualLoss(images(1)[0], **NAMES, style_weights=[1, 2]), "2 style weights for 1 style image;"),
        (lambda: PerceptualLoss(images(1)[0], **NAMES, size=28)(images()), "no content was given"),
        (lambda: PerceptualLoss(images(1)[0], **NAMES, size=28)(images(2), images(3)), r"content is \(3, 3, 24, 28\)"),
    ],
)
def test_refused(call: Any, said: str) -> None:
    with pytest.raises(FastnstError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_style_image_from_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / "style.png")
    perceptual = PerceptualLoss(tmp_path / "style.png", **NAMES, size=20)
    assert perceptual.terms(images(1), images(1)).total.shape == (1,)
