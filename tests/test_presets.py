"""The presets of other tools: their objectives, written down again from the formulas in float64, and schedules."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_samples import biased_network, smooth_and_rough
from torch import Tensor

from fastnst.errors import FastnstWarning, OptionError
from fastnst.loss.objective import make_objective
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.loss.targets import style_targets
from fastnst.network.architecture import IMAGENET, Preprocessing
from fastnst.network.backbone import build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights, load_weights, save_weights
from fastnst.options.options import resolve_options
from fastnst.options.presets import PRESETS
from fastnst.transfer.scales import by_scale, scale_edges
from fastnst.transfer.stylizer import Stylizer

BLOCKS = ((1, 2), (2, 2), (3, 4), (4, 4), (5, 1))
STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CAFFE_MEAN = (103.939, 116.779, 123.68)
# Both feed the Caffe network: BGR in 0…256 or 0…255, less the mean.
OF_256 = Preprocessing(mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0), scale=256.0, bgr=True)
OF_255 = Preprocessing(mean=CAFFE_MEAN, std=(1.0, 1.0, 1.0), scale=255.0, bgr=True)

Features = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, Tensor]:
    return biased_network().tensors


def vgg(tensors: Mapping[str, Tensor], x: Tensor, *, replicate: bool = False) -> dict[str, Tensor]:
    """Every layer of a VGG-19 with maximum pools, to conv5_1, for its input x."""
    found = {}
    for block, count in BLOCKS:
        for index in range(1, count + 1):
            name = f"conv{block}_{index}"
            edge = replicate and name == "conv1_1"
            padded = F.pad(x, (1, 1, 1, 1), mode="replicate" if edge else "constant")
            x = F.conv2d(padded, tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double()).relu()
            found[name] = x
        x = F.max_pool2d(x, 2)
    return found


def gram(x: Tensor) -> Tensor:
    flat = x[0].flatten(1)
    return flat @ flat.T


def neural_style(look: Callable[[Tensor], Features], image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """5 · mean (F − P)² + 100 · Σ_l mean (G/CM − A/CM)² + 10⁻³ · ½ Σ (differences of the network's input)²."""
    seen, wanted, painted = look(image), look(content), look(style)
    loss = 5 * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name in STYLE:
        found, target = (gram(x[name]) / x[name].numel() for x in (seen, painted))
        loss = loss + 100 * (found - target).square().mean()
    pixels = 256 * image
    variation = pixels.diff(dim=3).square().sum() + pixels.diff(dim=2).square().sum()
    return loss + 1e-3 * variation / 2


def gatys_notebook(look: Callable[[Tensor], Features], image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """mean (F − P)² + Σ_l 10³/C² · mean (G/M − A/M)²."""
    seen, wanted, painted = look(image), look(content), look(style)
    loss = (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name in STYLE:
        found, target = (gram(x[name]) / x[name][0, 0].numel() for x in (seen, painted))
        loss = loss + 1e3 / len(found) ** 2 * (found - target).square().mean()
    return loss


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def style_transfer_pytorch(look: Callable[[Tensor], Features], image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """0.015 · mean (F − P)² + Σ_l w_l (mean_c (μ − ν)² + 1/C · tr(Σ + T − 2 (T^½ Σ T^½)^½)) + 2 · the nine-point form.

    μ, ν are the means, Σ and T the covariances plus 10⁻⁴ of image and style; w_l are 256 : 64 : 16 : 4 : 1, of sum 1.
    """
    seen, wanted, painted = look(image), look(content), look(style)
    loss = 0.015 * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name, weight in zip(STYLE, (256, 64, 16, 4, 1), strict=True):
        moments = []
        for x in (seen[name][0].flatten(1), painted[name][0].flatten(1)):
            centred = x - x.mean(1, keepdim=True)
            covariance = centred @ centred.T / x.shape[1] + 1e-4 * torch.eye(len(x), dtype=x.dtype)
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


def pastiche(look: Callable[[Tensor], Features], image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """10⁻² · mean (F − P)² + Σ_l 10/C² · mean (G/M − A/M)²."""
    seen, wanted, painted = look(image), look(content), look(style)
    loss = 1e-2 * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name in STYLE:
        found, target = (gram(x[name]) / x[name][0, 0].numel() for x in (seen, painted))
        loss = loss + 10 / len(found) ** 2 * (found - target).square().mean()
    return loss


STYLEMOD_WEIGHTS = dict(zip(STYLE, (1.0, 0.8, 0.5, 0.3, 0.1), strict=True))


def stylemod(look: Callable[[Tensor], Features], image: Tensor, content: Tensor, style: Tensor) -> Tensor:
    """10⁴ · mean (F − P)² + 10² · Σ_l w_l · mean (G − A)², G not divided by M; the style is as large as the image."""
    seen, wanted, painted = look(image), look(content), look(style)
    loss = 1e4 * (seen["conv4_2"] - wanted["conv4_2"]).square().mean()
    for name, weight in STYLEMOD_WEIGHTS.items():
        loss = loss + 1e2 * weight * (gram(seen[name]) - gram(painted[name])).square().mean()
    return loss


TOOLS: dict[str, tuple[Callable[..., Tensor], Preprocessing, tuple[int, int], dict[str, Any]]] = {
    "neural-style": (neural_style, OF_256, (45, 33), {"preset": "neural-style"}),
    "gatys-notebook": (gatys_notebook, OF_255, (45, 33), {"preset": "gatys-notebook"}),
    "style-transfer-pytorch": (style_transfer_pytorch, IMAGENET, (45, 33), {"preset": "style-transfer-pytorch"}),
    "pastiche": (
        pastiche,
        OF_255,
        (45, 33),
        {
            "pooling": "max",
            "content_reduction": "mean",
            "content_weight": 0.01,
            "style_reduction": "channel-mean",
            "style_weight": 10,
            "style_layers": dict.fromkeys(STYLE, 1.0),
            "tv_weight": 0,
        },
    ),
    "stylemod": (
        stylemod,
        IMAGENET,
        (35, 50),
        {
            "pooling": "max",
            "content_reduction": "mean",
            "content_weight": 1e4,
            "style_reduction": "mean",
            "style_weight": 1e2,
            # The positions of each layer, squared, as the page on moving over has it.
            "style_layers": {
                name: weight * ((35 >> block) * (50 >> block)) ** 2
                for block, (name, weight) in enumerate(STYLEMOD_WEIGHTS.items())
            },
            "tv_weight": 0,
        },
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_objective_is_that_of_the_tool(tool: str, tensors: dict[str, Tensor]) -> None:
    formula, preprocessing, style_size, given = TOOLS[tool]
    options = resolve_options(**given, precision="fp32", device="cpu")
    content, image, style = smooth_and_rough(1, 35, 50), smooth_and_rough(2, 35, 50), smooth_and_rough(3, *style_size)

    runtime = resolve_runtime(options.device, options.precision, options.backend)
    weights = Weights("random", "vgg19", tensors, preprocessing, "")
    backbone = build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    targets = style_targets(backbone, [(style, 1.0)], options, runtime)
    loss, gradient = make_objective(backbone, content, targets, options, runtime).loss_and_gradient(image)

    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (preprocessing.mean, preprocessing.std))

    def look(x: Tensor) -> Features:
        x = (x.flip(1) if preprocessing.bgr else x) * preprocessing.scale
        return vgg(tensors, (x - mean) / std, replicate=options.padding == "replicate")

    leaf = image.double().requires_grad_()
    expected = formula(look, leaf, content.double(), style.double())
    (exact,) = torch.autograd.grad(expected, leaf)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - exact).norm() <= 2e-5 * exact.norm()


def test_weights_of_caffe_are_written_anew(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """As the page on moving over has it."""
    path = str(tmp_path / "caffe.safetensors")
    save_weights(path, "vgg19", tensors, OF_256)
    found = load_weights(path, "vgg19", taps=("conv5_1",))
    assert found.preprocessing == OF_256
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_the_variation_of_neural_style_leaves_out_the_last_row_and_column() -> None:
    """The one part of the Lua program's objective that is not ours: differences along the last row and column."""
    image = smooth_and_rough(1, 12, 9).double()
    right, down = image.diff(dim=3), image.diff(dim=2)
    theirs = right[:, :, :-1].square().sum() + down[..., :-1].square().sum()
    ours = right.square().sum() + down.square().sum()
    along = right[:, :, -1].square().sum() + down[..., -1].square().sum()
    torch.testing.assert_close(ours - theirs, along)


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
    with pytest.warns(FastnstWarning, match="preset neural-style weighs its terms for Caffe's VGG-19"):
        Stylizer(picture, **options).load()
    Stylizer(picture, **options, tv_weight=0).load()
    Stylizer(picture, **{**options, "preset": "gatys-notebook"}).load()
    Stylizer(picture, **{**options, "weights": "original"}).load()
    with pytest.warns(FastnstWarning, match="preset gatys is for the original VGG-19, whose filters it scales"):
        Stylizer(picture, **{**options, "preset": "gatys"}).load()
    for weights in ("random", "original"):
        Stylizer(picture, **{**options, "preset": "gatys", "weights": weights}).load()


def test_the_module_has_gram_matrices_alone() -> None:
    with pytest.raises(OptionError, match="PerceptualLoss has no style loss wasserstein"):
        PerceptualLoss(torch.rand((3, 32, 32)), preset="style-transfer-pytorch", weights="random")


def test_the_names_of_the_presets() -> None:
    for name in PRESETS:
        assert resolve_options(preset=name).preset == name
