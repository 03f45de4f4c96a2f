"""Every option of a run, once: name, type, default, range and meaning, for command, function and documents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from fastnst.errors import OptionError
from fastnst.image.files import MAX_PIXELS
from fastnst.network.architecture import FILTER_SCALINGS, NETWORKS, PAPER_STYLE_LAYERS, check_filter_scaling, layers_of
from fastnst.options.masks import Mask
from fastnst.options.parse import (
    CONTENT_FORMS,
    OF_THE_OBJECTIVE,
    STYLE_FORMS,
    Iterations,
    LayerWeights,
    Scales,
    StyleWeight,
    parse_option,
)
from fastnst.options.parse import option_field as _option
from fastnst.options.presets import PRESETS

LONGEST = 65_535
"""The most pixels that an edge may have."""
START_WORDS = ("content", "recoloured", "network", "noise", "grey", "style-mean")
"""The words that `init` takes beside a picture."""


_OF_LBFGS: tuple[str, Callable[[Any], bool], str] = ("optimizer", lambda optimizer: optimizer == "lbfgs", "lbfgs")
NEEDS: Mapping[str, tuple[str, Callable[[Any], bool], str]] = MappingProxyType(
    {
        **dict.fromkeys(("line_search", "hessian", "history", "history_precision"), _OF_LBFGS),
        "scale_factor": ("scales", lambda scales: isinstance(scales, int), "3 or another number of them"),
        "blend": ("transfer", lambda transfer: transfer != "none", "wct or adain"),
    }
)
"""Options that are looked at only beside certain values of another option, and such a value."""


def is_heeded(name: str, values: Mapping[str, Any]) -> bool:
    """True where the option `name` has an effect beside the other `values`."""
    other, suits, _ = NEEDS[name]
    return suits(values.get(other, getattr(Options, other)))


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, complete and checked; `resolve_options` makes them from a preset and the given values.

    Raises OptionError if a value has a wrong type, is out of range, or contradicts another one.
    """

    preset: str = _option(
        "default",
        "start from the values of this preset; options that you give beside it win",
        choices=tuple(PRESETS),
        heading="look",
    )
    style_weight: StyleWeight = _option(
        20.0,
        "let the style count this much (β); give one number for all scales, or several, the last for the last scale",
        metavar="X",
        many=True,
        minimum=0,
    )
    content_weight: float = _option(1.0, "let the content count this much (α)", minimum=0)
    tv_weight: float = _option(0.05, "let smoothness count this much (γ, total variation); 0 turns it off", minimum=0)
    style_weights: tuple[float, ...] | None = _option(
        None,
        "give each style picture its share, in order; the shares are scaled to sum to 1",
        shown="equal",
        metavar="X",
        many=True,
        minimum=0,
    )
    style_scale: float = _option(
        1.0,
        "show the styles at this multiple of the result's size; more makes strokes larger, less makes them finer",
        above=0,
        maximum=100,
    )
    preserve_color: str = _option(
        "none",
        "keep the content's colours: luminance takes only the lightness from the result, histogram first gives the "
        "styles the content's mean colour and covariance, none takes the styles' colours",
        choices=("none", "luminance", "histogram"),
    )
    masks: tuple[Mask, ...] | None = _option(
        None,
        "give a region its own style: content=FILE shows where it lies in the content, style=FILE which part of the "
        "first style it takes, style:2=FILE which part of the second; white is inside; repeat the option for each "
        "region",
        shown="none",
        metavar="WORD",
        many=True,
        flag="--mask",
    )
    init: Any = _option(
        "content",
        "start from content, recoloured (the content in the styles' colours), network (what `fastnst apply` makes of "
        "it, for the styles that come with fastnst), noise, grey (VGG's mean colour), style-mean (the styles' mean "
        "colour), or from the picture at this path",
        metavar="INIT",
    )
    seed: int = _option(
        0, "draw the noise from this number; the same number gives the same noise", minimum=0, maximum=2**63 - 1
    )
    size: int = _option(
        512,
        "make the long edge this long, in pixels (the short one with --edge short); you can also write content for "
        "the content's own size, a percentage of it, or a box to fit into, such as 1920x1080",
        metavar="PX",
        minimum=2,
        maximum=LONGEST,
        heading="size and schedule",
    )
    edge: str = _option("long", "measure size, scales and style scale along this edge", choices=("long", "short"))
    iterations: Iterations = _option(
        50,
        "take this many optimiser steps at each scale; give one number for all scales, or several, the last for the "
        "last scale",
        metavar="N",
        many=True,
        minimum=1,
    )
    scales: Scales = _option(
        "auto",
        "work from coarse to fine: auto begins between 256 and 511 pixels and doubles up to the size, none works at "
        "the full size alone; you can also give a number of scales, or their edges in pixels",
        metavar="S",
        many=True,
    )
    scale_factor: float = _option(
        2.0,
        "make each scale this many times as large as the one before, if you give a number of scales",
        minimum=1.1,
        maximum=8,
    )
    seconds: float | None = _option(
        None,
        "end the run after this many seconds; each scale before the last may use half of what is left",
        shown="no limit",
        above=0,
    )
    tolerance: float | None = _option(
        None,
        "end a scale when ten steps lower the loss by less than this fraction of it",
        shown="off",
        above=0,
        maximum=1,
    )
    average: float | None = _option(
        None,
        "average the last images: 0.99 takes about the last hundred",
        shown="off",
        above=0,
        maximum=0.9999,
    )
    content_layers: LayerWeights = _option(
        (("conv4_2", 1.0),),
        "compare the content at these layers; write NAME or NAME=WEIGHT, where a layer without a weight gets 1/count",
        metavar="LAYER",
        many=True,
        heading="loss",
    )
    style_layers: LayerWeights = _option(
        tuple((name, 0.2) for name in PAPER_STYLE_LAYERS),
        "compare the style at these layers; write NAME or NAME=WEIGHT, where a layer without a weight gets 1/count",
        metavar="LAYER",
        many=True,
    )
    style_loss: str = _option(
        "gram",
        "match this property of the style's features: their Gram matrices, their covariance, their means and "
        "deviations, their means and covariances by the Wasserstein distance, or their whole distribution in sorted "
        "projections (sliced)",
        choices=("gram", "covariance", "mean-std", "wasserstein", "sliced"),
    )
    transfer: str = _option(
        "none",
        "move the features to the style's instead of using a style loss, layer by layer from the deepest: wct moves "
        "their mean and covariance, adain their means and deviations",
        choices=("none", "wct", "adain"),
    )
    blend: float = _option(
        1.0,
        "move the features this far, with --transfer: 0 leaves them, 1 moves them all the way",
        minimum=0,
        maximum=1,
    )
    objective: str = _option(
        "relative",
        "divide each term by its target's own energy (relative), or take the sums of Gatys et al. (paper)",
        choices=("relative", "paper"),
    )
    content_reduction: str = _option(
        OF_THE_OBJECTIVE,
        "write the content term in this form: objective follows --objective, relative and paper (half the sum of "
        "squares) are its two, mean is the mean of squares, root is their sum divided by 2√count",
        choices=(OF_THE_OBJECTIVE, *CONTENT_FORMS),
    )
    style_reduction: str = _option(
        OF_THE_OBJECTIVE,
        "write the style term in this form: objective follows --objective, relative and paper (the sum over 4N²) are "
        "its two, mean is the mean of squares, channel-mean is that of Gram matrices divided by N",
        choices=(OF_THE_OBJECTIVE, *STYLE_FORMS),
    )
    tv_kind: str = _option(
        "squared",
        "measure smoothness by squared (L2) or absolute (L1) differences to the right and down, or by nine-point "
        "squared differences, which count the diagonals too",
        choices=("squared", "absolute", "nine-point"),
    )
    tv_reduction: str = _option(
        "mean", "take the mean of the total variation over positions, or its sum", choices=("mean", "sum")
    )
    optimizer: str = _option(
        "lbfgs",
        "minimise the loss by L-BFGS, or by Adam, which needs less memory",
        choices=("lbfgs", "adam"),
        heading="optimiser",
    )
    learning_rate: float | None = _option(
        None,
        "make steps this long; for adam the unit is the 0…1 range of pixels",
        shown="1 (lbfgs), 0.02 (adam)",
        above=0,
    )
    line_search: str = _option(
        "none",
        "search for the length of each step (strong_wolfe) instead of taking 1, for lbfgs only; a step that was too "
        "long is evaluated again",
        choices=("none", "strong_wolfe"),
    )
    hessian: str = _option(
        "bands",
        "begin from a number for each colour and band of frequencies, or from one (scalar, torch's), for lbfgs only",
        choices=("bands", "scalar"),
    )
    history: int = _option(20, "let L-BFGS use its last N steps", minimum=1, maximum=200)
    history_precision: str = _option(
        "auto",
        "remember the pairs in this precision, for lbfgs only; 16 bits halve the memory, and auto is fp16 on a GPU, "
        "else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    network: str = _option(
        "vgg19", "look at the pictures with this network", choices=tuple(NETWORKS), heading="network"
    )
    weights: str = _option(
        "auto",
        "take the network's weights from here: original is the paper's VGG-19, imagenet is torchvision's, which is "
        "downloaded, random is for tests, and a path is a file of yours; auto is original for vgg19, imagenet for "
        "vgg16",
        metavar="WEIGHTS",
    )
    filter_scaling: str = _option(
        "none",
        "leave the network's filters as they are, or scale each to a mean activation of 1, as the paper does (with "
        "the original weights only)",
        choices=FILTER_SCALINGS,
    )
    pooling: str = _option("avg", "pool by the average or by the maximum", choices=("avg", "max"))
    padding: str = _option(
        "zeros",
        "pad the first convolution with zeros or with the border's pixels (replicate); circular wraps everything "
        "around, so that the result tiles",
        choices=("zeros", "replicate", "circular"),
    )
    device: str = _option(
        "auto",
        "run on this device: auto, cpu, cuda, cuda:1 …, or mps or xpu, which are untried",
        metavar="DEVICE",
        heading="machine",
    )
    precision: str = _option(
        "auto",
        "compute the network in this precision; auto is fp16 on a GPU, and the quickest of bf16, winograd and fp32 "
        "on a CPU",
        choices=("auto", "fp32", "winograd", "tf32", "bf16", "fp16"),
    )
    backend: str = _option(
        "auto",
        "compute the losses with Triton kernels, with torch, or with the slow reference; auto chooses by the device",
        choices=("auto", "triton", "torch", "reference"),
    )
    tile: int | str = _option(
        "auto",
        "cut the image into tiles, which changes no gradient: auto cuts only if memory is short, none never cuts, a "
        "number is the tile's edge in pixels",
        metavar="PX",
    )
    max_memory: int | None = _option(
        None, "take at most this much memory, such as 8GB", shown="what is free", metavar="SIZE"
    )
    max_pixels: int = _option(
        MAX_PIXELS, "refuse pictures with more pixels; this guards against files that claim to be huge", minimum=4
    )

    def __post_init__(self) -> None:
        options = {option.name: option for option in fields(self)}
        network = parse_option(options["network"], self.network, "")
        for name, option in options.items():
            try:
                object.__setattr__(self, name, parse_option(option, getattr(self, name), network))
            except OptionError as error:
                raise OptionError(str(error), name) from None
        self._check_together()

    def _check_together(self) -> None:
        if isinstance(self.scales, tuple) and self.scales[-1] != self.size:
            raise OptionError(f"the last scale, {self.scales[-1]}, is not the size, {self.size}; make them equal")
        if isinstance(self.style_weight, tuple) and min(self.style_weight) <= 0:
            raise OptionError(
                f"the style weights of the scales, {self.style_weight}, must each be more than 0; give 0 alone to "
                "leave the style out"
            )
        if self.style_loss == "sliced" and isinstance(self.tile, int):
            raise OptionError(
                f"tile {self.tile} cannot be used with the style loss sliced, which sorts the whole image at once; "
                "take --tile none, or choose another style loss"
            )
        check_filter_scaling(self.filter_scaling, self.network, self.weights)
        for name in NEEDS:
            value = getattr(self, name)
            if value != getattr(Options, name) and not is_heeded(name, vars(self)):
                shown, (other, _, suitable) = f"{value:g}" if isinstance(value, float) else value, NEEDS[name]
                beside = getattr(self, other) or "none"
                raise OptionError(
                    f"{name.replace('_', ' ')} {shown} has no effect with {other} {beside}; take {other} {suitable}, "
                    "or leave it out",
                    name,
                    other,
                )
        if self.transfer != "none" and not (self.levels and self.style_loss == "gram"):
            raise OptionError(
                f"transfer {self.transfer} moves features instead of using a style loss; leave --style-loss out, and "
                "keep --style-weight above 0"
            )
        if self.style_weights is not None and sum(self.style_weights) == 0:
            raise OptionError("the style weights are all 0; at least one must be more")
        if self.style_form == "channel-mean" and self.style_loss not in ("gram", "covariance"):
            raise OptionError(
                f"style reduction channel-mean is for matrices, and style loss {self.style_loss} has none; choose "
                "another form, or style loss gram"
            )
        if self.wraps and self.tv_kind == "nine-point":
            raise OptionError(
                "tv kind nine-point repeats the border, and with padding circular there is none; "
                "choose squared or absolute"
            )
        if self.content_weight == self.style_weight == 0:
            problem = "content weight and style weight are both 0; at least one must be more"
            raise OptionError(problem, "content_weight", "style_weight")

    def as_dict(self) -> dict[str, Any]:
        """The options by name, layers as mappings from name to weight."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: dict(value) if name.endswith("_layers") else value for name, value in values.items()}

    @property
    def active_content_layers(self) -> LayerWeights:
        """The content layers that count; there are none if the content weight is 0."""
        return tuple((name, weight) for name, weight in self.content_layers if weight > 0 and self.content_weight > 0)

    @property
    def active_style_layers(self) -> LayerWeights:
        """The style layers that count; there are none if the style weight is 0."""
        return tuple((name, weight) for name, weight in self.style_layers if weight > 0 and self.last_style_weight > 0)

    @property
    def levels(self) -> tuple[str, ...]:
        """The style layers, deepest first: those whose features a transfer makes, one after the other."""
        names = dict(self.active_style_layers)
        return tuple(layer.name for layer in reversed(layers_of(self.network)) if layer.name in names)

    def at_level(self, layer: str) -> "Options":
        """The options of one level of a transfer: a content term of that layer alone."""
        own = ((layer, 1.0),)
        return replace(self, transfer="none", blend=1.0, content_weight=1.0, content_layers=own, style_weight=0.0)

    @property
    def wraps(self) -> bool:
        """True where the result is to tile."""
        return self.padding == "circular"

    @property
    def content_form(self) -> str:
        """One of `CONTENT_FORMS`."""
        return self.objective if self.content_reduction == OF_THE_OBJECTIVE else self.content_reduction

    @property
    def style_form(self) -> str:
        """One of `STYLE_FORMS`."""
        return self.objective if self.style_reduction == OF_THE_OBJECTIVE else self.style_reduction

    @property
    def last_style_weight(self) -> float:
        """β of the last scale, and of all of them where they have but one."""
        return self.style_weight[-1] if isinstance(self.style_weight, tuple) else self.style_weight

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers that the objective looks at, each once."""
        return tuple(dict.fromkeys(name for name, _ in self.active_content_layers + self.active_style_layers))


def _groups() -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    heading = ""
    for option in fields(Options):
        heading = option.metadata["heading"] or heading
        groups[heading] = (*groups.get(heading, ()), option.name)
    return groups


GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(_groups())
"""From a heading to its options, for the command's help, the page and the documents."""
