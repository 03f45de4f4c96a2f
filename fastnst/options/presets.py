"""The presets: named starting values for the options of a run."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from fastnst.errors import warn
from fastnst.network.architecture import PAPER_STYLE_LAYERS, is_original
from fastnst.options.keywords import OptionValues

if TYPE_CHECKING:
    from fastnst.network.weights import Weights
    from fastnst.options.options import Options

TRANSFER_ITERATIONS = (10, 6)
"""Steps of each level of a transfer: at the first scale, and at those after it."""
PRESETS: Mapping[str, OptionValues] = MappingProxyType(
    {
        "default": OptionValues(),
        "gatys": OptionValues(
            objective="paper",
            content_weight=1.0,
            style_weight=1e7,
            tv_weight=0.0,
            filter_scaling="unit-mean",
            pooling="avg",
            padding="zeros",
            init="grey",
            optimizer="lbfgs",
            iterations=500,
            scales=None,
        ),
        "texture": OptionValues(content_weight=0.0, style_weight=5.0, init="noise", scales=3, iterations=100),
        "reconstruction": OptionValues(style_weight=5.0, init="noise", scales=None, iterations=200, tv_weight=0.01),
        "neural-style": OptionValues(
            content_reduction="mean",
            content_weight=5.0,
            style_reduction="channel-mean",
            style_weight=100.0,
            style_layers=dict.fromkeys(PAPER_STYLE_LAYERS, 1.0),
            tv_reduction="sum",
            tv_weight=1e-3 * 256**2 / 2,
            pooling="max",
            init="grey",
            optimizer="lbfgs",
            iterations=1000,
            scales=None,
        ),
        "gatys-notebook": OptionValues(
            content_reduction="mean",
            content_weight=1.0,
            style_reduction="channel-mean",
            style_weight=1e3,
            style_layers=dict.fromkeys(PAPER_STYLE_LAYERS, 1.0),
            tv_weight=0.0,
            pooling="max",
            init="content",
            optimizer="lbfgs",
            iterations=(500, 200),
            size=800,
            edge="short",
            scales=2,
            scale_factor=800 / 512,
        ),
        "style-transfer-pytorch": OptionValues(
            content_reduction="mean",
            content_weight=0.015,
            style_loss="wasserstein",
            style_reduction="mean",
            style_weight=1.0,
            style_layers={name: 4.0 ** (4 - block) / 341 for block, name in enumerate(PAPER_STYLE_LAYERS)},
            tv_kind="nine-point",
            tv_weight=2.0,
            pooling="max",
            padding="replicate",
            init="content",
            optimizer="adam",
            learning_rate=0.02,
            average=0.99,
            iterations=(1000, 500),
            scales=5,
            scale_factor=math.sqrt(2),
        ),
    }
)
"""The values that each preset sets; anything it leaves out keeps the default of `Options`.

"gatys" is the paper; "neural-style", "gatys-notebook" and "style-transfer-pytorch" have the objectives and schedules of
those programs (docs/moving-over.md).
"""

UNSCALED: Mapping[str, OptionValues] = MappingProxyType(
    {"gatys": OptionValues(filter_scaling="none", style_weight=1e3)},
)
"""Values that a preset sets instead where the filters are as they are, by the option or for want of their means.

The content term goes with the square of the features, the style term with their fourth power: the same balance has
another β.
"""


def warn_of_other_network(options: "Options", weights: "Weights") -> None:
    """Warns where the preset's terms would be far out of balance with this network.

    Content grows with the square of the features, style with their fourth power, and the total variation not at all.
    That of neural-style is for features of Caffe's VGG, which sees pixels of 0…255; the α/β of the paper for filters of
    mean activation 1. Random weights are for experiments, and warn of nothing.
    """
    message = None
    summed = options.tv_reduction == "sum" and options.tv_weight > 0
    if options.preset == "gatys" and not is_original(options.network, weights.source):
        message = (
            "preset gatys is for the original VGG-19, whose filters it scales to a mean activation of 1; those of "
            f"{weights.source} stay as they are, so the same α/β gives another balance; try several, or pass "
            "--weights original"
        )
    elif options.preset == "neural-style" and summed and weights.preprocessing.scale == 1:
        message = (
            "preset neural-style weighs its terms for Caffe's VGG-19, whose features are far larger than those of "
            f"{weights.source}: the total variation will outweigh them and leave an even colour; pass that network "
            "with --weights original, or take another preset"
        )
    if message is not None and weights.source != "random":
        warn(message)
