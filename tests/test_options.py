"""Defaults, presets, forms and refusals of the options."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from fastnst.errors import OptionError
from fastnst.options.keywords import OptionValues
from fastnst.options.options import GROUPS, Options
from fastnst.options.parse import in_words, parse_memory, parse_tile
from fastnst.options.resolve import resolve_options


def test_every_option_has_its_heading_and_meaning() -> None:
    assert set(get_type_hints(OptionValues)) == {option.name for option in fields(Options)}
    assert [name for names in GROUPS.values() for name in names] == [option.name for option in fields(Options)]
    assert all(option.metadata["meaning"] for option in fields(Options))


def test_the_gatys_preset_is_the_paper() -> None:
    options = resolve_options(preset="gatys")
    assert options.style_layers == tuple((f"conv{block}_1", 0.2) for block in (1, 2, 3, 4, 5))
    assert options.content_layers == (("conv4_2", 1.0),)
    assert (options.objective, options.pooling, options.init, options.optimizer) == ("paper", "avg", "grey", "lbfgs")
    assert (options.scales, options.tv_weight, options.network) == (None, 0.0, "vgg19")
    assert options.filter_scaling == "unit-mean"
    # The paper's range, where the filters are as they are.
    plain = resolve_options(preset="gatys", filter_scaling="none")
    assert 5e-4 <= plain.content_weight / plain.style_weight <= 5e-3
    assert resolve_options(preset="gatys", weights="random").style_weight == plain.style_weight
    assert resolve_options(preset="gatys", pooling="max", iterations=7).pooling == "max"
    # The filters of other networks are left as they are.
    for other in ({"weights": "random"}, {"weights": "own.pth"}, {"network": "vgg16"}):
        assert resolve_options(preset="gatys", **other).filter_scaling == "none"
        with pytest.raises(OptionError, match="filter scaling unit-mean needs the mean activation of each filter"):
            resolve_options(preset="gatys", filter_scaling="unit-mean", **other)


EQUAL_LAYERS = (("conv1_1", 0.5), ("conv2_1", 0.5))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"style_layers": "conv1_1"}, {"style_layers": (("conv1_1", 1.0),)}),
        ({"style_layers": "conv1_1, relu2_1"}, {"style_layers": EQUAL_LAYERS}),
        ({"style_layers": ["conv1_1=2", "pool4"]}, {"style_layers": (("conv1_1", 2.0), ("pool4", 0.5))}),
        ({"style_layers": {"conv3_1": 3}}, {"style_layers": (("conv3_1", 3.0),)}),
        ({"style_layers": ["conv1_1,conv2_1=2"]}, {"style_layers": (("conv1_1", 0.5), ("conv2_1", 2.0))}),
        # Layers of weight 0 are not tapped.
        ({"style_layers": {"conv1_1": 1, "conv5_1": 0}, "content_weight": 0}, {"taps": ("conv1_1",)}),
        ({"filter_scaling": "unit-mean", "weights": "original"}, {"filter_scaling": "unit-mean"}),
        # Forms are those of the objective unless given.
        ({"objective": "paper", "content_reduction": "mean"}, {"content_form": "mean", "style_form": "paper"}),
        ({"style_reduction": "mean"}, {"style_form": "mean", "content_form": "relative"}),
        ({"scales": "none"}, {"scales": None}),
        ({"scales": 2}, {"scales": 2}),
        ({"tile": np.int64(64)}, {"tile": 64}),
        ({"scales": np.array([32, 64])}, {"scales": (32, 64), "size": 64}),
        ({"scales": "64, 128"}, {"scales": (64, 128), "size": 128}),
        ({"size": np.int64(64), "style_weight": np.float32(3)}, {"size": 64, "style_weight": 3.0}),
        ({"device": torch.device("cpu")}, {"device": "cpu"}),
        ({"iterations": [50, 300], "scales": 3}, {"iterations": (50, 300)}),
        ({"iterations": "50,300", "scales": "2"}, {"iterations": (50, 300)}),
        ({"iterations": np.array([70]), "scales": None}, {"iterations": 70}),
        ({"iterations": "70"}, {"iterations": 70}),
        ({"style_weight": "5 10", "scales": 2}, {"style_weight": (5.0, 10.0)}),
        ({"style_weights": "0.3,0.7"}, {"style_weights": (0.3, 0.7)}),
        ({"style_weights": ["1,2", 3]}, {"style_weights": (1.0, 2.0, 3.0)}),
    ],
    ids=str,
)
def test_options_have_many_forms(given: dict[str, Any], expected: dict[str, Any]) -> None:
    options = resolve_options(**given)
    assert {name: getattr(options, name) for name in expected} == expected
    assert type(options.size) is int


REFUSED = [
    ({"size": 1}, "size 1 is too small; it must be 2 or more"),
    ({"size": "512"}, "size '512' is not a whole number"),
    ({"style_weight": [1, 0], "scales": 2}, "must each be more than 0; give 0 alone"),
    ({"style_weight": [1, -1], "scales": 2}, "style weight -1.0 is too small"),
    ({"style_weight": [], "scales": 2}, "style weight has no value"),
    ({"style_weight": [1, 2, 3], "scales": 2}, "3 style weights for 2 scales"),
    ({"style_weight": ["much"]}, "style weight 'much' is not a number"),
    ({"style_loss": "grams"}, "unknown style loss 'grams'; choose one of: gram, covariance"),
    ({"iterations": [5, 0]}, "iteration 0 is too small; it must be 1 or more"),
    ({"iterations": []}, "iterations has no value; give one, or one for each scale"),
    ({"iterations": [5, 6], "scales": None}, "2 counts of iterations for 1 scale; give one for all scales"),
    ({"iterations": [5, 6, 7], "scales": [32, 64]}, "3 counts of iterations for 2 scales; give one for all scales"),
    ({"history": 0}, "history 0 is too small; it must be 1 or more"),
    ({"line_search": "armijo"}, "unknown line search 'armijo'; choose one of: none, strong_wolfe"),
    ({"average": 1}, "average 1.0 is too large; it must be 0.9999 or less"),
    ({"iterations": 0}, "iterations 0 is too small; it must be 1 or more"),
    ({"style_weight": -1.0}, "style weight -1.0 is too small; it must be 0 or more"),
    ({"content_weight": float("nan")}, "content weight nan is not finite"),
    ({"tv_weight": float("inf")}, "tv weight inf is not finite"),
    ({"learning_rate": 0}, "learning rate 0.0 is too small; it must be more than 0"),
    ({"style_scale": 0}, "style scale 0.0 is too small; it must be more than 0"),
    ({"style_weights": [1, -2]}, "style weight -2.0 is too small"),
    ({"style_weights": [0, 0]}, "the style weights are all 0"),
    ({"style_weights": "1,a"}, "style weight 'a' is not a number"),
    ({"iterations": "5,1.5"}, "iterations 1.5 is not a whole number"),
    ({"scales": "64,many"}, "scales '64,many' is not possible; give auto, none"),
    ({"content_weight": 0, "style_weight": 0}, "content weight and style weight are both 0"),
    ({"style_layers": "cov2_1"}, "unknown layer 'cov2_1' of vgg19; did you mean conv2_1"),
    ({"style_layers": "conv6_1"}, "unknown layer 'conv6_1' of vgg19; its layers are: conv1_1"),
    ({"style_layers": "conv3_4", "network": "vgg16"}, "unknown layer 'conv3_4' of vgg16"),
    ({"style_layers": []}, "no style layers were given"),
    ({"style_layers": [3]}, "layer 3 is not a name"),
    ({"style_layers": "conv1_1=x"}, "the weight 'x' of layer conv1_1 is not a number"),
    ({"style_layers": "conv1_1=-1"}, "weight -1.0 of style layer conv1_1 is out of range"),
    ({"style_layers": ["conv1_1", "relu1_1"]}, "style layer conv1_1 is named twice"),
    ({"content_layers": "conv4_2=0"}, "the weights of the content layers are all 0"),
    ({"scales": 0}, "0 scales were asked for; give 1 to 12"),
    ({"scales": "many"}, "scales 'many' is not possible; give auto, none"),
    ({"scales": [256, 128]}, "do not grow"),
    ({"scales": [128, 256], "size": 512}, "the last scale, 256, is not the size, 512"),
    ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; choose one of: lbfgs, adam"),
    ({"preset": "vangogh"}, "unknown preset 'vangogh'; choose one of: default, gatys"),
    ({"network": "resnet"}, "unknown network 'resnet'"),
    ({"colour": 1}, "unknown option 'colour'; did you mean preserve_color?"),
    ({"shade": 1}, "unknown option 'shade'; the options are: preset"),
    ({"style_wieght": 1}, "unknown option 'style_wieght'; did you mean style_weight?"),
    ({"seed": -1}, "seed -1 is too small"),
    ({"weights": 3}, "weights 3 is neither a name nor a path"),
    ({"size": 10**30}, "must be 65535 or less"),
    ({"seed": 2**64}, "is too large"),
    ({"scales": []}, "scales () are too small"),
    ({"scales": [-5, 48]}, "are too small; give at least one, each 2 pixels or more"),
    ({"style_weights": []}, "no style weights were given"),
    ({"content_layers": None}, "content layers None are not possible; give names"),
    ({"style_layers": 5}, "style layers 5 are not possible; give names"),
    ({"style_layers": np.array("conv1_1")}, "style layers array('conv1_1', dtype='<U7') are not possible"),
    ({"style_weight": torch.tensor(5.0)}, "style weight tensor(5.) is not a number"),
    ({"iterations": np.array(70)}, "iterations array(70) is not a whole number"),
    ({"masks": np.array(5)}, "masks of type ndarray are not a list of regions"),
    ({"device": None}, "device None is not a device"),
    ({"preset": ["gatys"]}, "unknown preset ['gatys']"),
    ({"pooling": 3}, "pooling 3 is not a name"),
    ({"tv_kind": "l1"}, "unknown tv kind 'l1'; choose one of: squared, absolute, nine-point"),
    ({"style_reduction": "root"}, "unknown style reduction 'root'; choose one of: objective, relative, paper, mean"),
    (
        {"style_reduction": "channel-mean", "style_loss": "wasserstein"},
        "style reduction channel-mean is for matrices, and style loss wasserstein has none",
    ),
    ({"tv_kind": "nine-point", "padding": "circular"}, "tv kind nine-point repeats the border"),
    (
        {"optimizer": "adam", "line_search": "strong_wolfe"},
        "line search strong_wolfe has no effect with optimizer adam; take optimizer lbfgs, or leave it out",
    ),
    ({"optimizer": "adam", "history": 5}, "history 5 has no effect with optimizer adam"),
    ({"scale_factor": 3}, "scale factor 3 has no effect with scales auto; take scales 3 or another number of them"),
    ({"num_steps": 100}, "unknown option 'num_steps'; did you mean iterations"),
    ({"alpha": 1}, "unknown option 'alpha'; did you mean content_weight"),
    ({"scale_factor": 1}, "scale factor 1.0 is too small; it must be 1.1 or more"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_bad_options_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_options(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="size 'x' is not a whole number"):
        Options(size="x")  # type: ignore[arg-type]


def test_memory() -> None:
    for given, expected in {
        None: None,
        "8GB": 8_000_000_000,
        "8 gb": 8_000_000_000,
        "1.5G": 1_500_000_000,
        "512MB": 512_000_000,
        ".25TB": 250_000_000_000,
        "6GiB": 6 * 2**30,
        "700Mi": 700 * 2**20,
        "2000000KB": 2_000_000_000,
        3_000_000: 3_000_000,
        "3000000": 3_000_000,
    }.items():
        assert parse_memory(given) == expected
    words = [in_words(size) for size in (1234, 56_700_000, 8.9e9, 123e9)]
    assert words == ["1.23 kB", "56.7 MB", "8.9 GB", "123 GB"]
    for given, expected in {"auto": "auto", " None ": "none", None: "none", "512": 512, 1: 1}.items():
        assert parse_tile(given) == expected


@pytest.mark.parametrize(
    ("parse", "given", "message"),
    [
        *(
            (parse_memory, given, "is not an amount of memory; write 8GB, 512MB or 6GiB")
            for given in ("", "much", "8 GB RAM", "-1GB", "1,5GB", "8XB", "nan", "1e9", True, [8], float("inf"))
        ),
        *((parse_memory, given, "less than a megabyte; write its unit") for given in ("8", 8, "0GB", "900kB")),
        *(
            (parse_tile, given, "is not possible; give auto, none, or a number of pixels")
            for given in ("512px", "", "-512", "1.5", 512.0, True, [512])
        ),
        *((parse_tile, given, r"(tile .* is too small|is not possible; give auto)") for given in ("0", 0, -16)),
    ],
)
def test_no_memory_and_no_tile(parse: Callable[[Any], Any], given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(given)


def test_what_a_preset_sets_for_a_choice_that_is_not_made_is_left_out() -> None:
    assert resolve_options(preset="style-transfer-pytorch", scales=(256, 512)).scale_factor == Options.scale_factor
    assert resolve_options(preset="style-transfer-pytorch", scales=4).scale_factor == pytest.approx(2**0.5)
