"""Transfers of features: their statistics against float64; whole runs with masks, tiles, several styles and resume."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import drawn
from network_samples import patches as picture
from network_samples import prepared
from torch import Tensor

import fastnst
from fastnst.app import cli
from fastnst.errors import OptionError
from fastnst.image.read import load_image
from fastnst.loss.masks import Guidance
from fastnst.loss.transforms import feature_transforms
from fastnst.network.backbone import Backbone
from fastnst.options.resolve import resolve_options

LAYERS = ("conv2_1", "conv1_1")
SMALL: dict[str, Any] = {"precision": "fp32", "weights": "random", "style_layers": LAYERS}
RUN: dict[str, Any] = {**SMALL, "size": 48, "scales": [24, 48], "iterations": (5, 3), "transfer": "wct"}


def moved(transfer: str, **given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, positions) of a content at conv2_1, the same after the transform, and a style's; float64."""
    styles, masks = given.pop("styles", [(picture(3, 64, 64), 1.0)]), given.pop("masks", (None,))
    options, runtime, backbone = prepared(**SMALL, transfer=transfer, content_layers="conv2_1", **given)
    image = picture(2, 48, 64)
    transforms = feature_transforms(
        backbone,
        image,
        styles,
        options,
        runtime,
        layers=("conv2_1",),
        guidance=Guidance(48, 64, masks),
        regions=None if masks == (None,) else [{0: None} for _ in masks],
        tile=None,
    )
    network = fastnst.FeatureExtractor("random", layers=["conv2_1"])
    features = network(image)["conv2_1"]
    result = features.clone()
    transforms["conv2_1"].apply_(result, (slice(0, 24), slice(0, 32)))
    style = network(styles[0][0])["conv2_1"]
    before, after, target = (each[0].double().flatten(1) for each in (features, result, style))
    return before, after, target


@pytest.mark.parametrize("transfer", ["wct", "adain"])
def test_features_that_are_all_zero_stay_finite(transfer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Backbone.read
    monkeypatch.setattr(Backbone, "read", lambda *args: read(*args[:3], lambda name, x: args[3](name, x.zero_())))
    _, after, _ = moved(transfer)
    assert after.isfinite().all()


def covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(1, keepdim=True)
    return centred @ centred.T / features.shape[1]


def test_whitening_and_colouring_gives_the_style_s_mean_and_covariance() -> None:
    before, after, style = moved("wct")
    torch.testing.assert_close(after.mean(1), style.mean(1), rtol=1e-4, atol=1e-4)
    scale = covariance(style).norm()
    assert (
        (covariance(after) - covariance(style)).norm() < 0.02 * scale < (covariance(before) - covariance(style)).norm()
    )


def test_adaptive_instance_normalisation_gives_the_style_s_mean_and_deviations() -> None:
    before, after, style = moved("adain")
    torch.testing.assert_close(after.mean(1), style.mean(1), rtol=1e-4, atol=1e-4)
    varies = before.std(1) > 0.02 * before.std(1).max()
    torch.testing.assert_close(after.std(1)[varies], style.std(1)[varies], rtol=2e-2, atol=1e-4)


def test_a_blend_and_the_shares_of_styles_are_means_of_features() -> None:
    before, after, _ = moved("wct")
    _, half, _ = moved("wct", blend=0.5)
    torch.testing.assert_close(half, (before + after) / 2, rtol=1e-4, atol=1e-3)
    other = picture(5, 32, 64)
    _, second, _ = moved("wct", styles=[(other, 1.0)])
    _, both, _ = moved("wct", styles=[(picture(3, 64, 64), 0.25), (other, 0.75)])
    torch.testing.assert_close(both, 0.25 * after + 0.75 * second, rtol=1e-4, atol=1e-3)


def test_what_no_region_covers_keeps_its_features() -> None:
    left = torch.zeros(1, 1, 48, 64)
    left[..., :32] = 1
    before, after, _ = moved("wct", masks=(left,))
    changed = (after - before).abs().amax(0).view(24, 32) > 1e-3
    assert changed[:, :16].any()
    assert not changed[:, 16:].any()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    return drawn(tmp_path, "content.png", "style.png")


def style_term(result: fastnst.Result, style: str) -> float:
    loss = fastnst.PerceptualLoss(style, size=48, weights="random", style_layers=LAYERS, content_weight=0)
    with torch.no_grad():
        return float(loss.terms(result.tensor[None]).style)


@pytest.mark.parametrize("transfer", ["wct", "adain"])
def test_a_transfer_nears_the_style_and_a_blend_of_nothing_does_not(transfer: str, pictures: list[str]) -> None:
    result = fastnst.stylize(*pictures, **{**RUN, "transfer": transfer})
    still = fastnst.stylize(*pictures, **{**RUN, "transfer": transfer}, blend=0.0)
    assert style_term(result, pictures[1]) < 0.5 * style_term(still, pictures[1])
    assert [record.scale for record in result.losses if record.iteration == 0] == [24]


def test_tiles_masks_and_several_styles_go_together(pictures: list[str]) -> None:
    mask = torch.zeros(48, 64)
    mask[:, :40] = 1
    options = {**RUN, "size": 64, "scales": None, "iterations": 4, "masks": [(mask.numpy(), None)]}
    content, style = pictures
    whole = fastnst.stylize(content, [style, content], **options)
    tiled = fastnst.stylize(content, [style, content], **options, tile=16)
    torch.testing.assert_close(tiled.tensor, whole.tensor, rtol=0, atol=2e-3)


def test_a_transfer_may_tile(pictures: list[str]) -> None:
    content, style = pictures
    options = {**RUN, "size": 64, "scales": None, "iterations": 4, "padding": "circular", "optimizer": "adam"}
    result = fastnst.stylize(content, style, **options).tensor
    shifted = load_image(content).rgb.roll((8, 16), (1, 2))
    same = fastnst.stylize(shifted, style, **options).tensor.roll((-8, -16), (1, 2))
    # Rounding alone changes the sign of a gradient near zero, and with it one of Adam's first steps: a seam would show
    # in far more of them.
    difference = (same - result).abs().flatten()
    assert difference.quantile(0.99) < 5e-4
    assert difference.median() < 1e-5


def test_a_stopped_transfer_goes_on_bit_for_bit(pictures: list[str], tmp_path: Path) -> None:
    expected = fastnst.stylize(*pictures, **RUN)
    for evaluations in (3, 6, 9, 15):
        counter = count(1)
        checkpoint = tmp_path / f"{evaluations}.ckpt"
        stopping = {"callback": lambda _, counter=counter, last=evaluations: next(counter) < last}
        fastnst.stylize(*pictures, **RUN, checkpoint=checkpoint, **stopping)
        assert torch.equal(fastnst.resume(checkpoint).tensor, expected.tensor), evaluations


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"blend": 0.5}, "blend 0.5 has no effect with transfer none; take transfer wct or adain"),
        ({"transfer": "wct", "style_weight": 0}, "--style-weight above 0"),
        ({"transfer": "adain", "style_loss": "sliced"}, "--style-loss"),
        ({"transfer": "dct"}, "wct"),
        ({"transfer": "wct", "blend": 1.5}, "blend"),
    ],
)
def test_what_a_transfer_cannot_do_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        resolve_options(**given)


def test_a_texture_has_no_features_to_move(pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="needs a content"):
        fastnst.synthesize_texture(pictures[1], size=64, weights="random", transfer="wct")
    assert cli.main(["stylize", *pictures, "-o", "out.png", "--blend", "0.5"]) != 0
    assert "transfer" in capsys.readouterr().err
