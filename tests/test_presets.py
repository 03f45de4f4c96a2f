"""The presets of other tools: their objectives, written down again from the formulas in float64; schedules; runs."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import drawn
from network_samples import biased_network, prepared, smooth_and_rough
from style_references import features
from torch import Tensor

from fastnst.app.batch.manifest import read_manifest
from fastnst.app.cli import main
from fastnst.app.cli.arguments import read_config
from fastnst.errors import FastnstWarning, OptionError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.loss.objective import Objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.loss.targets import style_targets
from fastnst.network.architecture import IMAGENET, Preprocessing
from fastnst.network.weights import Weights, save_weights
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options
from fastnst.transfer.scales import by_scale, scale_edges
from fastnst.transfer.stylizer import Stylizer

STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CAFFE_MEAN = (103.939, 116.779, 123.68)
# Both feed the Caffe network: BGR in 0…256 or 0…255, less the mean.
OF_256 = Preprocessing(mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0), scale=256.0, bgr=True)
OF_255 = Preprocessing(mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0), scale=255.0, bgr=True)

Look = Callable[[Tensor], Mapping[str, Tensor]]
Formula = Callable[[Look, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, Tensor]:
    return biased_network().tensors


def gram(x: Tensor) -> Tensor:
    return x.flatten(1) @ x.flatten(1).T


def by_grams(
    look: Look,
    image: Tensor,
    content: Tensor,
    style: Tensor,
    *,
    alpha: float,
    beta: Callable[[int], float],
    divisor: Callable[[Tensor], int],
    weights: Mapping[str, float],
) -> Tensor:
    """α · mean (F − P)² + Σ_l β(C) · w_l · mean (G/d − A/d)²."""
    seen, wanted, painted = look(image), look(content), look(style)
    loss = alpha * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name, weight in weights.items():
        own, target = (gram(x[name]) / divisor(x[name]) for x in (seen, painted))
        loss = loss + beta(len(own)) * weight * (own - target).square().mean()
    return loss


def positions(x: Tensor) -> int:
    return x[0].numel()


ALIKE = dict.fromkeys(STYLE, 1.0)
STYLEMOD_WEIGHTS = dict(zip(STYLE, (1.0, 0.8, 0.5, 0.3, 0.1), strict=True))


def neural_style(look: Look, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """5 · mean (F − P)² + 100 · Σ_l mean (G/CM − A/CM)² + 10⁻³ · ½ Σ (differences of the network's input)²."""
    loss = by_grams(
        look, image, content, style, alpha=5, beta=lambda _: 100, divisor=lambda x: x.numel(), weights=ALIKE
    )
    pixels = 256 * image
    variation = pixels.diff(dim=3).square().sum() + pixels.diff(dim=2).square().sum()
    return loss + 1e-3 * variation / 2


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def style_transfer_pytorch(look: Look, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """0.015 · mean (F − P)² + Σ_l w_l (mean_c (μ − ν)² + 1/C · tr(Σ + T − 2 (T^½ Σ T^½)^½)) + 2 · the nine-point form.

    μ, ν are the means, Σ and T the covariances plus 10⁻⁴ of image and style; w_l are 256 : 64 : 16 : 4 : 1, of sum 1.
    """
    seen, wanted, painted = look(image), look(content), look(style)
    loss = 0.015 * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name, weight in zip(STYLE, (256, 64, 16, 4, 1), strict=True):
        moments = []
        for x in (seen[name].flatten(1), painted[name].flatten(1)):
            covariance = torch.cov(x, correction=0) + 1e-4 * torch.eye(len(x), dtype=x.dtype)
            moments.append((x.mean(1), covariance))
        (mean, covariance), (target_mean, target) = moments
        half = root(target)
        # The trace of the root of a positive matrix: the sum of the roots of its eigenvalues.
        traces = torch.linalg.eigvalsh(half @ covariance @ half).clamp_min(0).sqrt().sum()
        distance = covariance.trace() + target.trace() - 2 * traces
        loss = loss + weight / 341 * ((mean - target_mean).square().mean() + distance / len(mean))
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    inside = x[..., 1:-1, 1:-1]
    straight = (x[..., 1:-1, 2:] - inside).square().mean() + (x[..., 2:, 1:-1] - inside).square().mean()
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    return loss + 2 * 2 * (straight / 3 + (falling.square().mean() + rising.square().mean()) / 12)


def channel_means(alpha: float, beta: float) -> Formula:
    """α · mean (F − P)² + Σ_l β/C² · mean (G/M − A/M)²."""
    return partial(by_grams, alpha=alpha, beta=lambda count: beta / count**2, divisor=positions, weights=ALIKE)


# 10⁴ · mean (F − P)² + 10² · Σ_l w_l · mean (G − A)², G not divided by M; the style is as large as the image.
STYLEMOD = partial(by_grams, alpha=1e4, beta=lambda _: 1e2, divisor=lambda _: 1, weights=STYLEMOD_WEIGHTS)
MAX_OF_MEANS = {"pooling": "max", "content_reduction": "mean", "tv_weight": 0}
TOOLS: dict[str, tuple[Formula, Preprocessing, tuple[int, int], dict[str, Any]]] = {
    "neural-style": (neural_style, OF_256, (45, 33), {"preset": "neural-style"}),
    "gatys-notebook": (channel_means(1, 1e3), OF_255, (45, 33), {"preset": "gatys-notebook"}),
    "style-transfer-pytorch": (style_transfer_pytorch, IMAGENET, (45, 33), {"preset": "style-transfer-pytorch"}),
    "pastiche": (
        channel_means(1e-2, 10),
        OF_255,
        (45, 33),
        MAX_OF_MEANS
        | {"content_weight": 0.01, "style_reduction": "channel-mean", "style_weight": 10, "style_layers": ALIKE},
    ),
    "stylemod": (
        STYLEMOD,
        IMAGENET,
        (35, 50),
        MAX_OF_MEANS
        | {
            "content_weight": 1e4,
            "style_reduction": "mean",
            "style_weight": 1e2,
            # The positions of each layer, squared, as the page on moving over has it.
            "style_layers": {
                name: weight * ((35 >> block) * (50 >> block)) ** 2
                for block, (name, weight) in enumerate(STYLEMOD_WEIGHTS.items())
            },
        },
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_objective_is_that_of_the_tool(tool: str, tensors: dict[str, Tensor]) -> None:
    formula, preprocessing, style_size, given = TOOLS[tool]
    content, image, style = smooth_and_rough(1, 35, 50), smooth_and_rough(2, 35, 50), smooth_and_rough(3, *style_size)
    weights = Weights("random", "vgg19", tensors, preprocessing, "")
    options, runtime, backbone = prepared(weights, **given, device="cpu")
    targets = style_targets(backbone, [(style, 1.0)], options, runtime)
    loss, gradient = Objective(backbone, content, targets, options, runtime).loss_and_gradient(image)

    def look(x: Tensor) -> Mapping[str, Tensor]:
        return features(weights, x, (*STYLE, "conv4_2"), pooling="max", padding=options.padding)

    leaf = image.double().requires_grad_()
    expected = formula(look, leaf, content.double(), style.double())
    (exact,) = torch.autograd.grad(expected, leaf)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - exact).norm() <= 2e-5 * exact.norm()


SCHEDULES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "neural-style": ({}, (512,), (1000,)),
    "gatys-notebook": ({}, (512, 800), (500, 200)),
    "style-transfer-pytorch": ({}, (128, 181, 256, 362, 512), (1000, 500, 500, 500, 500)),
    "style-transfer-pytorch, larger": (
        {"size": 1024, "scales": 7},
        (128, 181, 256, 362, 512, 724, 1024),
        (1000,) + 6 * (500,),
    ),
    "style-transfer-pytorch, once": ({"scales": None}, (512,), (1000,)),
    "gatys-notebook, once": ({"size": 512, "scales": None}, (512,), (500,)),
    "gatys-notebook, named": ({"scales": [300, 400]}, (300, 400), (500, 200)),
    "gatys-notebook, larger": ({"size": 1250}, (800, 1250), (500, 200)),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_schedule_is_that_of_the_tool(case: str) -> None:
    given, edges, iterations = SCHEDULES[case]
    options = resolve_options(preset=case.partition(",")[0], **given)
    scales = scale_edges(options.scales, options.size, 600, 800, edge=options.edge, factor=options.scale_factor)
    assert scales == edges
    assert by_scale(options.iterations, len(scales)) == iterations


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("scales", [None, 2, 6])
def test_the_options_of_a_run_make_it_again(name: str, scales: int | None) -> None:
    options = resolve_options(preset=name, scales=scales)
    assert options.preset == name
    recorded = json.loads(json.dumps({**vars(options), "style_layers": dict(options.style_layers)}))
    recorded["content_layers"] = dict(options.content_layers)
    assert resolve_options(**recorded) == options


def test_weights_that_leave_the_terms_out_of_balance_are_warned_of(
    tensors: Mapping[str, Tensor], tmp_path: Path
) -> None:
    picture = torch.rand((3, 32, 32))
    path = tmp_path / "of-torchvision.safetensors"
    save_weights(path, "vgg19", tensors, IMAGENET)
    options: dict[str, Any] = {"preset": "neural-style", "weights": str(path), "size": 32, "device": "cpu"}
    gatys = {"preset": "gatys"}
    for silent in (
        {"tv_weight": 0},
        {"preset": "gatys-notebook"},
        {"weights": "original"},
        {**gatys, "weights": "random"},
        {**gatys, "weights": "original"},
    ):
        Stylizer(picture, **{**options, **silent}).load()
    with pytest.warns(FastnstWarning, match="preset neural-style weighs its terms for Caffe's VGG-19"):
        Stylizer(picture, **options).load()
    with pytest.warns(FastnstWarning, match="preset gatys is for the original VGG-19, whose filters it scales"):
        Stylizer(picture, **{**options, **gatys}).load()


def test_the_module_has_gram_matrices_alone() -> None:
    with pytest.raises(OptionError, match="PerceptualLoss cannot take the style loss wasserstein"):
        PerceptualLoss(torch.rand((3, 32, 32)), preset="style-transfer-pytorch", weights="random")


def test_config_files_and_manifests_have_the_options(tmp_path: Path) -> None:
    text = 'preset = "neural-style"\ntv-kind = "absolute"\nscale-factor = 1.5\nscales = 3\n'
    (tmp_path / "run.toml").write_text(text)
    assert read_config(tmp_path / "run.toml") == {
        "preset": "neural-style",
        "tv_kind": "absolute",
        "scale_factor": 1.5,
        "scales": 3,
    }
    path = tmp_path / "rows.csv"
    path.write_text("content,style,preset,init,tv-kind\na.png,b.png,gatys-notebook,style-mean,nine-point\n")
    (row,) = read_manifest(path)
    assert dict(row.options) == {"preset": "gatys-notebook", "init": "style-mean", "tv_kind": "nine-point"}


@pytest.mark.parametrize("preset", ["neural-style", "gatys-notebook", "style-transfer-pytorch"])
def test_a_result_is_made_again(preset: str, tmp_path: Path) -> None:
    made, remade = tmp_path / "made.png", tmp_path / "remade.png"
    small: list[Any] = ["--size", 48, "--scales", "none", "--iterations", 2, "--device", "cpu", "--quiet"]
    small += ["--style-layers", "conv1_1", "conv2_1", "--content-layers", "conv2_1", "--weights", "random"]
    given = [*drawn(tmp_path, "content.png", "style.png"), "-o", made, "--preset", preset, *small]
    assert main(["stylize", *map(str, given)]) == 0
    options = read_parameters(made)["options"]
    assert (options["preset"], options["pooling"]) == (preset, "max")
    assert main(["rerun", str(made), "-o", str(remade), "--quiet"]) == 0
    assert np.array_equal(load_image(remade).rgb, load_image(made).rgb)
