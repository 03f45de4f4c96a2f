"""Every option of a run, once: name, type, default, range and meaning, for command, function and documents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypedDict, Unpack, get_type_hints

from fastnst.errors import OptionError
from fastnst.image.files import MAX_PIXELS
from fastnst.network.architecture import (
    FILTER_SCALINGS,
    NETWORKS,
    PAPER_STYLE_LAYERS,
    check_filter_scaling,
    is_original,
    layers_of,
)
from fastnst.options.masks import Mask
from fastnst.options.parse import (
    CONTENT_FORMS,
    OF_THE_OBJECTIVE,
    STYLE_FORMS,
    Iterations,
    LayerWeights,
    Scales,
    StyleWeight,
    hint_for,
    parse_option,
    parse_scales,
    scale_count,
)
from fastnst.options.presets import PRESETS, TRANSFER_ITERATIONS, UNSCALED

START_WORDS = ("content", "recoloured", "noise", "grey", "style-mean")
"""The words that `init` takes beside a picture."""


class _Facts(TypedDict, total=False):
    """The facts in an option's field beside its default: how it is written, and what values it may have.

    `heading` stands above the option, and above those that follow it.
    """

    heading: str
    shown: str
    choices: tuple[str, ...]
    metavar: str
    many: bool
    minimum: float
    maximum: float
    above: float
    flag: str


def _option(default: Any, meaning: str, **facts: Unpack[_Facts]) -> Any:
    return field(default=default, metadata={**dict.fromkeys(get_type_hints(_Facts)), "meaning": meaning, **facts})


_OF_LBFGS: tuple[str, Callable[[Any], bool], str] = (
    "optimizer",
    lambda optimizer: optimizer == "lbfgs",
    "only the optimizer lbfgs looks at it; choose that one, or leave this option out",
)
_NEEDS: Mapping[str, tuple[str, Callable[[Any], bool], str]] = MappingProxyType(
    {
        **dict.fromkeys(("line_search", "hessian", "history", "history_precision"), _OF_LBFGS),
        "scale_factor": (
            "scales",
            lambda scales: isinstance(scales, int),
            "it sets how far apart scales are that are given as a number; add --scales 3, or leave this option out",
        ),
        "blend": (
            "transfer",
            lambda transfer: transfer != "none",
            "there is nothing to blend without a transfer; add --transfer wct or adain, or leave this option out",
        ),
    }
)
"""Options that are looked at only beside certain values of another option, and what to do where they are not."""


def _is_heeded(name: str, values: Mapping[str, Any]) -> bool:
    """True where the option `name` has an effect beside the other `values`."""
    other, suits, _ = _NEEDS[name]
    return suits(values.get(other, getattr(Options, other)))


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, complete and checked; `resolve_options` makes one from a preset and what is given.

    Raises OptionError where a value has a wrong type, is out of range, or contradicts another one.
    """

    preset: str = _option("default", "starting values for the other options", choices=tuple(PRESETS), heading="look")
    style_weight: StyleWeight = _option(
        20.0,
        "β, the weight of the style term: one for all scales, or several that end with the last scale's",
        metavar="X",
        many=True,
        minimum=0,
    )
    content_weight: float = _option(1.0, "α, the weight of the content term", minimum=0)
    tv_weight: float = _option(0.05, "γ, the weight of the total variation", minimum=0)
    style_weights: tuple[float, ...] | None = _option(
        None, "one weight for each style image, scaled to sum to 1", shown="equal", metavar="X", many=True, minimum=0
    )
    style_scale: float = _option(1.0, "long edge of the style images relative to the result's", above=0, maximum=100)
    preserve_color: str = _option(
        "none",
        "the content's colours: luminance keeps them under the result's lightness, histogram moves the style's colours "
        "to their mean and covariance",
        choices=("none", "luminance", "histogram"),
    )
    masks: tuple[Mask, ...] | None = _option(
        None,
        "a region: content=FILE shows where it is, style=FILE what of the first style it gets, style:2=FILE of the "
        "second; white is inside; once for each region",
        shown="none",
        metavar="WORD",
        many=True,
        flag="--mask",
    )
    init: Any = _option(
        "content",
        "the image to start from: content, recoloured (the content in the styles' colours), noise, grey or style-mean "
        "(the network's or the styles' mean colour, with a trace of noise), or a picture's path",
        metavar="INIT",
    )
    seed: int = _option(0, "seed of the noise", minimum=0, maximum=2**63 - 1)
    size: int = _option(
        512,
        "edge of the result, the long one unless --edge is short, in pixels; or content, a percentage of that, or a "
        "box to fit into, 1920x1080",
        metavar="PX",
        minimum=2,
        maximum=65_535,
        heading="size and schedule",
    )
    edge: str = _option("long", "the edge that size, scales and style scale measure", choices=("long", "short"))
    iterations: Iterations = _option(
        50,
        "optimiser steps at each scale: one count for all, or several that end with the last scale's",
        metavar="N",
        many=True,
        minimum=1,
    )
    scales: Scales = _option(
        "auto",
        "coarse to fine: auto (from 256 pixels on, each twice the last), none, a number of scales (see "
        "--scale-factor), or their edges",
        metavar="S",
        many=True,
    )
    scale_factor: float = _option(
        2.0, "how much larger each scale is than the last, where scales are a number", minimum=1.1, maximum=8
    )
    seconds: float | None = _option(
        None,
        "end after so many seconds; each scale before the last takes at most half of what is left",
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
        "the result is a mean of the iterates, each counting this much of the next: 0.99 is about the last hundred",
        shown="off",
        above=0,
        maximum=0.9999,
    )
    content_layers: LayerWeights = _option(
        (("conv4_2", 1.0),),
        "content layers, each NAME or NAME=WEIGHT; 1/count where no weight is given",
        metavar="LAYER",
        many=True,
        heading="loss",
    )
    style_layers: LayerWeights = _option(
        tuple((name, 0.2) for name in PAPER_STYLE_LAYERS),
        "style layers, each NAME or NAME=WEIGHT; 1/count where no weight is given",
        metavar="LAYER",
        many=True,
    )
    style_loss: str = _option(
        "gram",
        "what of the style's features is matched: their Gram matrices, covariance, mean and deviation, mean and "
        "covariance by the Wasserstein distance, or all of their distribution in sorted projections",
        choices=("gram", "covariance", "mean-std", "wasserstein", "sliced"),
    )
    transfer: str = _option(
        "none",
        "in place of the style term, features moved to the style's, layer by layer from the deepest: to its mean and "
        "covariance (wct), or its mean and deviations (adain)",
        choices=("none", "wct", "adain"),
    )
    blend: float = _option(1.0, "transfer: how far the features are moved", minimum=0, maximum=1)
    objective: str = _option(
        "relative",
        "relative: each term divided by its target's own energy; paper: the sums of Gatys et al.",
        choices=("relative", "paper"),
    )
    content_reduction: str = _option(
        OF_THE_OBJECTIVE,
        "the content term alone: as the objective says, relative or as in the paper (half the sum of squares), their "
        "mean, or their sum divided by 2√count",
        choices=(OF_THE_OBJECTIVE, *CONTENT_FORMS),
    )
    style_reduction: str = _option(
        OF_THE_OBJECTIVE,
        "the style term alone: as the objective says, relative or as in the paper (the sum over 4N²), the mean of "
        "squares, or that of Gram matrices divided by N",
        choices=(OF_THE_OBJECTIVE, *STYLE_FORMS),
    )
    tv_kind: str = _option(
        "squared",
        "total variation: squared (L2) or absolute (L1) differences to the right and down, or nine-point, squared ones "
        "that count the diagonals too",
        choices=("squared", "absolute", "nine-point"),
    )
    tv_reduction: str = _option(
        "mean", "total variation: the mean over positions, or their sum", choices=("mean", "sum")
    )
    optimizer: str = _option("lbfgs", "the optimiser", choices=("lbfgs", "adam"), heading="optimiser")
    learning_rate: float | None = _option(
        None, "step length; for adam in units of the 0…1 pixel range", shown="1 (lbfgs), 0.02 (adam)", above=0
    )
    line_search: str = _option(
        "none",
        "lbfgs alone: steps of length 1, or a line search, which evaluates again where a step was too long",
        choices=("none", "strong_wolfe"),
    )
    hessian: str = _option(
        "bands",
        "lbfgs alone: its first guess of the inverse Hessian, a matrix by band of frequencies, or torch's scalar",
        choices=("bands", "scalar"),
    )
    history: int = _option(20, "lbfgs alone: pairs of steps that it remembers", minimum=1, maximum=200)
    history_precision: str = _option(
        "auto",
        "lbfgs alone: what it remembers them in; 16 bit halves its memory; auto is fp16 on a GPU, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    network: str = _option("vgg19", "the network", choices=tuple(NETWORKS), heading="network")
    weights: str = _option(
        "auto",
        "the network's weights: original (the paper's VGG-19), imagenet (torchvision's, fetched), random, or a file; "
        "auto is original for vgg19, imagenet for vgg16",
        metavar="WEIGHTS",
    )
    filter_scaling: str = _option(
        "none",
        "the network's filters as they are, or each scaled to a mean activation of 1, as in the paper (original alone)",
        choices=FILTER_SCALINGS,
    )
    pooling: str = _option("avg", "average or maximum pooling", choices=("avg", "max"))
    padding: str = _option(
        "zeros",
        "padding of the first convolution: zeros or replicate; circular: of all, and wherever else neighbours count, "
        "so that the result tiles (styles are seen with replicate in all)",
        choices=("zeros", "replicate", "circular"),
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 …", metavar="DEVICE", heading="machine")
    precision: str = _option(
        "auto",
        "arithmetic of the network; auto is fp16 on a GPU, the quickest of bf16, winograd and fp32 on a CPU",
        choices=("auto", "fp32", "winograd", "tf32", "bf16", "fp16"),
    )
    backend: str = _option("auto", "implementation of the losses", choices=("auto", "triton", "torch", "reference"))
    tile: int | str = _option(
        "auto", "exact tiles: auto (none, or the largest that memory allows), none, or their edge", metavar="PX"
    )
    max_memory: int | None = _option(
        None, "memory that a run may take, such as 8GB", shown="what is free", metavar="SIZE"
    )
    max_pixels: int = _option(
        MAX_PIXELS, "the most pixels of a picture that is read: a guard against files that say they are huge", minimum=4
    )

    def __post_init__(self) -> None:
        options = {option.name: option for option in fields(self)}
        network = parse_option(options["network"], self.network, "")
        for name, option in options.items():
            object.__setattr__(self, name, parse_option(option, getattr(self, name), network))
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
                f"tile {self.tile} was given, and style loss sliced sorts all of the image together; let tile be none, "
                "or choose another style loss"
            )
        check_filter_scaling(self.filter_scaling, self.network, self.weights)
        defaults = {option.name: option.default for option in fields(self)}
        for name in _NEEDS:
            value = getattr(self, name)
            if value != defaults[name] and not _is_heeded(name, vars(self)):
                shown = f"{value:g}" if isinstance(value, float) else value
                raise OptionError(f"{name.replace('_', ' ')} {shown} has no effect here: {_NEEDS[name][2]}")
        if self.transfer != "none" and not (self.levels and self.style_loss == "gram"):
            raise OptionError(
                f"transfer {self.transfer} moves features in place of a style loss; leave --style-loss as it is, and "
                "--style-weight above 0"
            )
        if self.style_weights is not None and sum(self.style_weights) == 0:
            raise OptionError("the style weights are all 0; at least one must be more")
        if self.style_form == "channel-mean" and self.style_loss not in ("gram", "covariance"):
            raise OptionError(f"style reduction channel-mean is that of matrices, not of style loss {self.style_loss}")
        if self.wraps and self.tv_kind == "nine-point":
            raise OptionError("tv kind nine-point replicates the border, which padding circular has not; take squared")
        if self.content_weight == self.style_weight == 0:
            raise OptionError("content weight and style weight are both 0; at least one must be more")

    def as_dict(self) -> dict[str, Any]:
        """The options by name, layers as mappings from name to weight."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: dict(value) if name.endswith("_layers") else value for name, value in values.items()}

    @property
    def active_content_layers(self) -> LayerWeights:
        """The content layers whose weight counts: none where the content weight is 0."""
        return tuple((name, weight) for name, weight in self.content_layers if weight > 0 and self.content_weight > 0)

    @property
    def active_style_layers(self) -> LayerWeights:
        """The style layers whose weight counts: none where the style weight is 0."""
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


def resolve_options(**given: Any) -> Options:
    """Options from the defaults, then the preset, then what is `given`.

    The last of the scales' edges sets `size` unless that is given too. Iterations and the style weight may be a number
    or a sequence of them, no longer than the scales that are given with it; of a preset's iterations the first is for
    the first scale and the last for those beyond them. A preset's filter scaling is for the original network; with
    another one, or filter scaling none, `UNSCALED` holds. Raises OptionError.
    """
    known = {option.name: option for option in fields(Options)}
    for name in given:
        if name not in known:
            hint = hint_for(name, known, f"the options are: {', '.join(known)}")
            raise OptionError(f"unknown option {name!r}; {hint}")
    preset = given.get("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise OptionError(f"unknown preset {preset!r}; choose one of: {', '.join(PRESETS)}")
    original = is_original(given.get("network", Options.network), str(given.get("weights", Options.weights)))
    scaled = given.get("filter_scaling", "unit-mean" if original else "none") != "none"
    values: dict[str, Any] = {**PRESETS[preset], **({} if scaled else UNSCALED.get(preset, {})), **given}
    if values.get("transfer", "none") != "none":
        values.setdefault("iterations", TRANSFER_ITERATIONS)
    scales = parse_scales(values.get("scales", Options.scales))
    # What a preset sets for a choice that is not made after all.
    for name in (name for name in _NEEDS if name in values and name not in given):
        if not _is_heeded(name, {**values, "scales": scales}):
            del values[name]
    if isinstance(scales, tuple) and "size" not in given:
        values["size"] = scales[-1]
    counts, size = values.get("iterations"), values.get("size", Options.size)
    if "iterations" not in given and isinstance(counts, tuple) and isinstance(size, int):
        values["iterations"] = tuple(counts[min(index, len(counts) - 1)] for index in range(scale_count(scales, size)))
    options = replace(Options(), **values)
    count = scale_count(options.scales, options.size)
    for name, spoken in (("iterations", "counts of iterations"), ("style_weight", "style weights")):
        counts = getattr(options, name)
        if name in given and isinstance(counts, tuple) and len(counts) > count:
            raise OptionError(
                f"{len(counts)} {spoken} for {count} scale{'s' if count > 1 else ''}; "
                "give one for all scales, or at most one for each"
            )
    return options
