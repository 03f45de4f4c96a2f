"""The first layer computed from the image at once, as a GPU does it, beside the layers one by one."""

from typing import Any

import pytest
import torch
from fastnst_kernels import direct

from fastnst.loss.masks import Guidance
from fastnst.loss.objective import LossScale, Objective
from fastnst.loss.targets import style_targets
from fastnst.network import backbone
from fastnst.network.backbone import build_backbone, make_layers
from fastnst.network.layers import GpuLayers
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import make_grid, reach_of
from fastnst.network.weights import load_weights
from fastnst.options.resolve import resolve_options

SIZE = (32, 40)
CPU = torch.device("cpu")
SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1"], "content_layers": "conv2_2"}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "gatys": {"preset": "gatys", **SHALLOW},
    "replicate": {"padding": "replicate", **SHALLOW},
    "circular": {"padding": "circular", **SHALLOW},
    "nine-point": {"tv_kind": "nine-point", **SHALLOW},
    "content at the first layer": {"style_layers": ["conv1_1", "conv2_1"], "content_layers": "conv1_1"},
    "no tap of the first layer": {"style_layers": "conv2_1", "content_layers": "conv2_2"},
    "the first layer alone": {"style_layers": "conv1_1", "content_weight": 0},
    "other moments": {"style_loss": "mean-std", **SHALLOW},
    "masks": SHALLOW,
    "tiles": SHALLOW,
    "twice": SHALLOW,
}


def runtime(dtype: torch.dtype = torch.float32) -> Runtime:
    return Runtime(CPU, "fp32" if dtype == torch.float32 else "fp16", dtype, False, False, "torch")


def noise(seed: int) -> torch.Tensor:
    return torch.rand((1, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


def objective_of(case: str, place: Runtime, first_precision: str | None, monkeypatch: pytest.MonkeyPatch) -> Objective:
    monkeypatch.setattr(
        backbone,
        "make_layers",
        lambda place: GpuLayers(CPU, place.dtype, place.kernels, first_precision=first_precision),
    )
    options = resolve_options(weights="random", **CASES[case])
    network = build_backbone(
        load_weights("random", taps=options.taps), options.taps, place, pooling=options.pooling, padding=options.padding
    )
    mask = (noise(9)[:, :1] > 0.5).float()
    guidance = Guidance(*SIZE, (mask, 1 - mask)) if case == "masks" else None
    regions: list[dict[int, Any]] | None = [{0: mask}, {0: None}] if case == "masks" else None
    style = style_targets(network, [(noise(1), 1.0)], options, place, regions)
    reach = reach_of(options.network, options.taps, options.padding)
    return Objective(
        network,
        noise(2),
        style,
        options,
        place,
        guidance=guidance,
        grid=make_grid(*SIZE, 16, reach) if case == "tiles" else None,
        level="recompute" if case == "twice" else "kept",
    )


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_layers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, results = noise(3), []
    for precision in (None, "ieee"):
        objective = objective_of(case, runtime(), precision, monkeypatch)
        loss, gradient = objective.loss_and_gradient(image)
        assert torch.equal(objective.loss(image).total, loss.total)
        results.append((torch.stack((loss.total, loss.content, loss.style, loss.tv)), gradient))
    (terms, gradient), (fused_terms, fused_gradient) = results
    torch.testing.assert_close(fused_terms, terms, rtol=1e-5, atol=1e-7)
    error = (fused_gradient - gradient).norm() / gradient.norm()
    assert error < 1e-4


def test_a_loss_scale_is_divided_out(monkeypatch: pytest.MonkeyPatch) -> None:
    place = runtime(torch.float16)
    gradients = []
    for exponent in (0, 3):
        objective = objective_of("gatys", place, "ieee", monkeypatch)
        assert isinstance(objective.loss_scale, LossScale)
        objective.loss_scale.set_exponent(exponent)
        loss, gradient = objective.loss_and_gradient(noise(3))
        assert loss.check is not None
        assert loss.check.isfinite().all()
        gradients.append(gradient)
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert error < 1e-2
    objective.loss_scale.set_exponent(60)
    loss, gradient = objective.loss_and_gradient(noise(3))
    assert loss.check is not None
    assert not loss.check.isfinite().any()
    assert not gradient.isfinite().all()


@pytest.mark.parametrize(("case", "kept"), [("default", 0), ("masks", 1), ("content at the first layer", 1)])
def test_where_a_plain_style_alone_looks_nothing_is_kept(case: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = direct.first_backward

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(named)
        return real(*arguments, **named)

    monkeypatch.setattr(direct, "first_backward", counted)
    objective = objective_of(case, runtime(), "ieee", monkeypatch)
    traces = objective._forward(noise(3), record=True)[0]
    assert (traces[0].features is not None) == bool(kept)
    objective.loss_and_gradient(noise(3))
    assert len(calls) == 1 - kept


@pytest.mark.parametrize(
    ("precision", "dtype", "tf32", "kernels", "wanted"),
    [
        ("fp16", torch.float16, False, "triton", "ieee"),
        ("bf16", torch.bfloat16, False, "triton", "ieee"),
        ("tf32", torch.float32, True, "triton", "tf32"),
        ("fp32", torch.float32, False, "triton", None),
        ("fp16", torch.float16, False, "torch", None),
    ],
)
def test_who_computes_the_first_layer(
    precision: str, dtype: torch.dtype, tf32: bool, kernels: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "kernels", kernels)
    layers = make_layers(Runtime(torch.device("meta"), precision, dtype, tf32, False, "auto"))
    assert (layers.first_precision if isinstance(layers, GpuLayers) else None) == wanted
