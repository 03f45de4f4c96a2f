"""Every option of a run, once: name, type, default, range and meaning, for the command, the function and the README."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypedDict

from fastnst.architecture import NETWORKS, canonical_layer
from fastnst.errors import OptionError
from fastnst.masks import Mask, parse_masks
from fastnst.reductions import CONTENT_FORMS, OF_THE_OBJECTIVE, STYLE_FORMS
from fastnst.tile_options import parse_memory, parse_tile

START_WORDS = ("content", "noise", "grey", "style-mean")
"""What `init` may be beside a picture."""
PRESET_NAMES = (
    "default",
    "gatys",
    "texture",
    "reconstruction",
    "neural-style",
    "gatys-notebook",
    "style-transfer-pytorch",
)

MOST_SCALES = 12
"""Of those that are counted."""

_OF_GATYS = tuple(f"conv{block}_1" for block in range(1, 6))

LayerWeights = tuple[tuple[str, float], ...]
Scales = int | tuple[int, ...] | None
Iterations = int | tuple[int, ...]
StyleWeight = float | tuple[float, ...]

MAX_PIXELS = 200_000_000
"""Of a picture that is read; decoded whole, it takes 3 to 8 GB at the peak."""


# No option takes more; Python refuses to print a number of some thousand digits.
_MOST_BITS = 128


def _option(
    default: Any,
    meaning: str,
    *,
    shown: str | None = None,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    many: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    flag: str | None = None,
) -> Any:
    facts = {
        "meaning": meaning,
        "shown": shown,
        "choices": tuple(choices),
        "metavar": metavar,
        "many": many,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "flag": flag,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, complete and checked; `resolve_options` makes one from a preset and what is given.

    Raises OptionError where a value has a wrong type, is out of range, or contradicts another one.
    """

    preset: str = _option("default", "starting values for the other options", choices=PRESET_NAMES)
    size: int = _option(
        512,
        "edge of the result, the long one unless --edge is short, in pixels",
        metavar="PX",
        minimum=2,
        maximum=65_535,
    )
    edge: str = _option("long", "the edge that size, scales and style scale measure", choices=("long", "short"))
    iterations: Iterations = _option(
        100,
        "optimiser steps at each scale: one count for all, or several that end with the last scale's",
        metavar="N",
        many=True,
        minimum=1,
    )
    scales: Scales = _option(
        3, "coarse to fine: none, a number of scales (see --scale-factor), or their edges", metavar="S", many=True
    )
    scale_factor: float = _option(
        2.0,
        "how much larger each scale is than the last, where scales are a number",
        metavar="X",
        minimum=1.1,
        maximum=8,
    )
    tile: int | str = _option(
        "auto", "exact tiles: auto (none, or the largest that memory allows), none, or their edge", metavar="PX"
    )
    max_memory: int | None = _option(
        None, "memory that a run may take, such as 8GB", shown="what is free", metavar="SIZE"
    )
    max_pixels: int = _option(
        MAX_PIXELS,
        "the most pixels of a picture that is read: a guard against files that say they are huge",
        metavar="N",
        minimum=4,
    )
    seconds: float | None = _option(
        None,
        "end after so many seconds; each scale before the last takes at most half of what is left",
        shown="no limit",
        metavar="X",
        above=0,
    )
    tolerance: float | None = _option(
        None,
        "end a scale when ten steps lower the loss by less than this fraction of it",
        shown="off",
        metavar="X",
        above=0,
        maximum=1,
    )
    optimizer: str = _option("lbfgs", "the optimiser", choices=("lbfgs", "adam"))
    learning_rate: float | None = _option(
        None,
        "step length; for adam in units of the 0…1 pixel range",
        shown="1 (lbfgs), 0.02 (adam)",
        metavar="X",
        above=0,
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
    history: int = _option(20, "lbfgs alone: pairs of steps that it remembers", metavar="N", minimum=1, maximum=200)
    history_precision: str = _option(
        "fp32", "lbfgs alone: what it remembers them in; 16 bit halves its memory", choices=("fp32", "bf16", "fp16")
    )
    average: float | None = _option(
        None,
        "the result is a mean of the iterates, each counting this much of the next: 0.99 is about the last hundred",
        shown="off",
        metavar="X",
        above=0,
        maximum=0.9999,
    )
    content_weight: float = _option(1.0, "α, the weight of the content term", metavar="X", minimum=0)
    style_weight: StyleWeight = _option(
        5.0,
        "β, the weight of the style term: one for all scales, or several that end with the last scale's",
        metavar="X",
        many=True,
        minimum=0,
    )
    tv_weight: float = _option(0.05, "γ, the weight of the total variation", metavar="X", minimum=0)
    tv_kind: str = _option(
        "squared",
        "total variation: squared (L2) or absolute (L1) differences to the right and down, or nine-point, squared ones "
        "that count the diagonals too",
        choices=("squared", "absolute", "nine-point"),
    )
    tv_reduction: str = _option(
        "mean", "total variation: the mean over positions, or their sum", choices=("mean", "sum")
    )
    style_weights: tuple[float, ...] | None = _option(
        None,
        "one weight for each style image, scaled to sum to 1",
        shown="equal",
        metavar="X",
        many=True,
        minimum=0,
    )
    style_scale: float = _option(
        1.0, "long edge of the style images relative to the result's", metavar="X", above=0, maximum=100
    )
    content_layers: LayerWeights = _option(
        (("conv4_2", 1.0),),
        "content layers, each NAME or NAME=WEIGHT; 1/count where no weight is given",
        metavar="LAYER",
        many=True,
    )
    style_layers: LayerWeights = _option(
        tuple((name, 0.2) for name in _OF_GATYS),
        "style layers, each NAME or NAME=WEIGHT; 1/count where no weight is given",
        metavar="LAYER",
        many=True,
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
    style_loss: str = _option(
        "gram",
        "what of the style's features is matched: their Gram matrices, covariance, mean and deviation, mean and "
        "covariance by the Wasserstein distance, or all of their distribution in sorted projections",
        choices=("gram", "covariance", "mean-std", "wasserstein", "sliced"),
    )
    preserve_color: str = _option(
        "none",
        "the content's colours: luminance keeps them under the result's lightness, histogram moves the style's colours "
        "to their mean and covariance",
        choices=("none", "luminance", "histogram"),
    )
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
    pooling: str = _option("avg", "average or maximum pooling", choices=("avg", "max"))
    padding: str = _option(
        "zeros",
        "padding of the first convolution: zeros or replicate; circular: of all, and wherever else neighbours count, "
        "so that the result tiles (styles are seen with replicate in all)",
        choices=("zeros", "replicate", "circular"),
    )
    init: Any = _option(
        "content",
        "the image to start from: content, noise, grey or style-mean (the network's or the styles' mean colour, with a "
        "trace of noise), or a picture's path",
        metavar="INIT",
    )
    network: str = _option("vgg19", "the network", choices=tuple(NETWORKS))
    weights: str = _option(
        "auto", "the network's weights: auto, imagenet, embedded, random, or a file", metavar="WEIGHTS"
    )
    precision: str = _option(
        "auto",
        "arithmetic of the network; auto is winograd (float32) on a CPU that can, else fp32, and tf32 on a GPU",
        choices=("auto", "fp32", "winograd", "tf32", "bf16", "fp16"),
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 …", metavar="DEVICE")
    backend: str = _option("auto", "implementation of the losses", choices=("auto", "triton", "torch", "reference"))
    seed: int = _option(0, "seed of the noise", metavar="N", minimum=0, maximum=2**63 - 1)

    def __post_init__(self) -> None:
        _check_range(
            "network", _normal_form("network", self.network, ""), self.__dataclass_fields__["network"].metadata
        )
        for option in fields(self):
            value = _normal_form(option.name, getattr(self, option.name), self.network)
            object.__setattr__(self, option.name, value)
            _check_range(option.name, value, option.metadata)
        _check_layers("content", self.content_layers, self.network)
        _check_layers("style", self.style_layers, self.network)
        if isinstance(self.scales, tuple):
            if min(self.scales, default=0) < 2:
                raise OptionError(f"scales {self.scales} are too small; give at least one, each 2 pixels or more")
            if any(low >= high for low, high in zip(self.scales, self.scales[1:], strict=False)):
                raise OptionError(f"scales {self.scales} do not grow; list the long edges from small to large")
            if self.scales[-1] != self.size:
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
        if self.style_weights is not None and sum(self.style_weights) == 0:
            raise OptionError("the style weights are all 0; at least one must be more")
        if self.style_form == "channel-mean" and self.style_loss not in ("gram", "covariance"):
            raise OptionError(f"style reduction channel-mean is that of matrices, not of style loss {self.style_loss}")
        if self.wraps and self.tv_kind == "nine-point":
            raise OptionError("tv kind nine-point replicates the border, which padding circular has not; take squared")
        if self.content_weight == self.style_weight == 0:
            raise OptionError("content weight and style weight are both 0; at least one must be more")

    @property
    def active_content_layers(self) -> LayerWeights:
        """The content layers whose weight counts: none where the content weight is 0."""
        return tuple((name, weight) for name, weight in self.content_layers if weight > 0 and self.content_weight > 0)

    @property
    def active_style_layers(self) -> LayerWeights:
        """The style layers whose weight counts: none where the style weight is 0."""
        return tuple((name, weight) for name, weight in self.style_layers if weight > 0 and self.last_style_weight > 0)

    @property
    def wraps(self) -> bool:
        """Whether the result is to tile."""
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


class UnsizedValues(TypedDict, total=False):
    """The fields of `Options` but the size, before they are normalised."""

    preset: str
    edge: str
    iterations: int | Sequence[int]
    scales: int | str | Sequence[int] | None
    scale_factor: float
    tile: int | str | None
    max_memory: int | str | None
    max_pixels: int
    seconds: float | None
    tolerance: float | None
    optimizer: str
    learning_rate: float | None
    line_search: str
    hessian: str
    history: int
    history_precision: str
    average: float | None
    content_weight: float
    style_weight: float | Sequence[float]
    tv_weight: float
    tv_kind: str
    tv_reduction: str
    style_weights: Sequence[float] | None
    style_scale: float
    content_layers: str | Sequence[str] | Mapping[str, float]
    style_layers: str | Sequence[str] | Mapping[str, float]
    masks: Sequence[Any] | None
    style_loss: str
    preserve_color: str
    objective: str
    content_reduction: str
    style_reduction: str
    pooling: str
    padding: str
    init: Any
    network: str
    weights: str | os.PathLike[str]
    precision: str
    device: str
    backend: str
    seed: int


class OptionValues(UnsizedValues, total=False):
    """The keyword arguments of `stylize` and `Stylizer`: the fields of `Options`, before they are normalised."""

    size: int


PRESETS: Mapping[str, OptionValues] = MappingProxyType(
    {
        "default": OptionValues(),
        "gatys": OptionValues(
            objective="paper",
            content_weight=1.0,
            style_weight=1e3,
            tv_weight=0.0,
            pooling="avg",
            padding="zeros",
            init="noise",
            optimizer="lbfgs",
            iterations=500,
            scales=None,
        ),
        "texture": OptionValues(content_weight=0.0, init="noise"),
        "reconstruction": OptionValues(init="noise", scales=None, iterations=200, tv_weight=0.01),
        "neural-style": OptionValues(
            content_reduction="mean",
            content_weight=5.0,
            style_reduction="channel-mean",
            style_weight=100.0,
            style_layers=dict.fromkeys(_OF_GATYS, 1.0),
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
            style_layers=dict.fromkeys(_OF_GATYS, 1.0),
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
            style_layers={name: 4.0 ** (4 - block) / 341 for block, name in enumerate(_OF_GATYS)},
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
"""What each preset sets; anything it leaves out keeps the default of `Options`.

"gatys" is the paper; "neural-style", "gatys-notebook" and "style-transfer-pytorch" have the objectives and schedules of
those programs (docs/moving-over.md).
"""


def resolve_options(**given: Any) -> Options:
    """Options from the defaults, then the preset, then what is `given`.

    Layers may be a name, a sequence of `NAME` or `NAME=WEIGHT`, or a mapping from name to weight. Scales may be
    `None` or "none", a number of scales, or the long edges; the last of these sets `size` unless that is given too.
    Iterations and the style weight may be a number or a sequence of them, no longer than the scales that are given
    with it; of a preset's iterations the first is for the first scale and the last for those beyond them.
    Raises OptionError for an unknown name, a wrong type, a value out of range or a contradiction.
    """
    known = {option.name: option for option in fields(Options)}
    for name in given:
        if name not in known:
            raise OptionError(f"unknown option {name!r}; the options are: {', '.join(known)}")
    preset = given.get("preset", "default")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise OptionError(f"unknown preset {preset!r}; choose one of: {', '.join(PRESETS)}")
    values: dict[str, Any] = {**PRESETS[preset], **given}
    scales = _scales("scales", values.get("scales"))
    if isinstance(scales, tuple) and scales and "size" not in given:
        values["size"] = scales[-1]
    if "iterations" not in given and "iterations" in values:
        values["iterations"] = _fitted_counts(values["iterations"], scales)
    options = replace(Options(), **values)
    if "iterations" in given and isinstance(options.iterations, tuple):
        _check_counts("counts of iterations", options.iterations, options.scales)
    if "style_weight" in given and isinstance(options.style_weight, tuple):
        _check_counts("style weights", options.style_weight, options.scales)
    return options


def _count(scales: Scales) -> int:
    return 1 if scales is None else scales if isinstance(scales, int) else len(scales)


def _fitted_counts(iterations: Any, scales: Scales) -> Any:
    """A preset's counts of iterations for as many scales as there are."""
    if isinstance(iterations, int):
        return iterations
    count = min(_count(scales), MOST_SCALES) if isinstance(scales, int) else _count(scales)
    return tuple(iterations[min(index, len(iterations) - 1)] for index in range(max(count, 1)))


def _check_counts(what: str, values: tuple[float, ...], scales: Scales) -> None:
    count = _count(scales)
    if len(values) > count:
        raise OptionError(
            f"{len(values)} {what} for {count} scale{'s' if count > 1 else ''}; "
            "give one for all scales, or at most one for each"
        )


def _normal_form(name: str, value: Any, network: str) -> Any:
    if name in _NORMALISE:
        return _NORMALISE[name](name, value)
    if name.endswith("_layers"):
        return _layer_weights(name, value, network)
    if name != "init" and not isinstance(value, str):
        raise OptionError(f"{_spoken(name)} {value!r} is not a name")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{_spoken(name)} {value!r} is not a number; write one as 0.5")
    try:
        return float(value)
    except OverflowError:
        raise OptionError(f"{_spoken(name)} is beyond what a float can hold; give an ordinary number") from None


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(f"{_spoken(name)} {value!r} is not a whole number; write one as 512")
    if int(value).bit_length() > _MOST_BITS:
        raise OptionError(
            f"{_spoken(name)} has {int(value).bit_length()} bits and is too large; give {_MOST_BITS} at most"
        )
    return int(value)


def _optional_number(name: str, value: Any) -> float | None:
    return None if value is None else _number(name, value)


def _style_weight(name: str, value: Any) -> StyleWeight:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _number(name, value)
    weights = tuple(_number(name, weight) for weight in value)
    if not weights:
        raise OptionError("no style weight given; give one, or one for each scale")
    return weights[0] if len(weights) == 1 else weights


def _style_weights(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = [value]
    weights = tuple(_number("style weight", weight) for weight in value)
    if not weights:
        raise OptionError("no style weights given; give one for each style image, or none for equal ones")
    return weights


def _scales(name: str, value: Any) -> Scales:
    if value is None or (isinstance(value, str) and value == "none"):
        return None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise OptionError(
            f"scales {value!r} is neither none, nor a number of scales, nor a list of long edges in pixels"
        )
    return tuple(_integer("scale", edge) for edge in value)


def _iterations(name: str, value: Any) -> Iterations:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _integer(name, value)
    counts = tuple(_integer(name, count) for count in value)
    if not counts:
        raise OptionError("no iterations given; give one count, or one for each scale")
    return counts[0] if len(counts) == 1 else counts


def _path_text(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{_spoken(name)} {value!r} is neither a name nor a path")
    return os.fspath(value)


def _device_text(name: str, value: Any) -> str:
    if not isinstance(value, str) and type(value).__name__ != "device":
        raise OptionError(f"device {value!r} is neither a name such as cpu or cuda:1 nor a torch.device")
    return str(value)


_NORMALISE: Mapping[str, Callable[[str, Any], Any]] = MappingProxyType(
    {
        "size": _integer,
        "iterations": _iterations,
        "history": _integer,
        "max_pixels": _integer,
        "seed": _integer,
        "tile": lambda _, value: parse_tile(value),
        "max_memory": lambda _, value: parse_memory(value),
        "scales": _scales,
        "learning_rate": _optional_number,
        "seconds": _optional_number,
        "tolerance": _optional_number,
        "average": _optional_number,
        "content_weight": _number,
        "style_weight": _style_weight,
        "tv_weight": _number,
        "style_scale": _number,
        "scale_factor": _number,
        "style_weights": _style_weights,
        "masks": lambda _, value: parse_masks(value),
        "weights": _path_text,
        "device": _device_text,
    }
)


def _layer_weights(name: str, value: Any, network: str) -> LayerWeights:
    if isinstance(value, Mapping):
        named = [(str(layer), _number("layer weight", weight)) for layer, weight in value.items()]
    else:
        if not isinstance(value, Iterable):
            raise OptionError(f"{_spoken(name)} {value!r} are neither names nor a mapping from name to weight")
        words = [word for item in ([value] if isinstance(value, str) else value) for word in _words(item)]
        named = [_named_layer(word, len(words)) for word in words]
    return tuple((canonical_layer(layer, network), weight) for layer, weight in named)


def _words(item: Any) -> list[str]:
    """The words of "conv1_1, conv2_1=0.5"; a (name, weight) pair is one word."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return [f"{item[0]}={_number('layer weight', item[1])!r}"]
    if not isinstance(item, str):
        raise OptionError(f"layer {item!r} is not a name; write conv4_1 or conv4_1=0.5")
    return item.replace(",", " ").split()


def _named_layer(word: str, count: int) -> tuple[str, float]:
    layer, equals, weight = word.partition("=")
    if not equals:
        return layer, 1 / count
    try:
        return layer, float(weight)
    except ValueError:
        raise OptionError(f"the weight {weight!r} of layer {layer} is not a number; write {layer}=0.5") from None


def _check_layers(kind: str, layers: LayerWeights, network: str) -> None:
    names = [canonical_layer(layer, network) for layer, _ in layers]
    if not layers:
        raise OptionError(f"no {kind} layers given; name at least one, such as conv4_2, or set the {kind} weight to 0")
    for layer, weight in layers:
        if names.count(layer) > 1:
            raise OptionError(f"{kind} layer {layer} is named twice; name each layer once")
        if not math.isfinite(weight) or weight < 0:
            raise OptionError(
                f"weight {weight} of {kind} layer {layer} is out of range; weights must be finite and 0 or more"
            )
    if all(weight == 0 for _, weight in layers):
        raise OptionError(f"the weights of the {kind} layers are all 0; at least one must be more")


def _check_range(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    if facts["choices"] and value not in facts["choices"]:
        raise OptionError(f"unknown {_spoken(name)} {value!r}; choose one of: {', '.join(facts['choices'])}")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        spoken = _spoken(name).removesuffix("s") if isinstance(value, tuple) else _spoken(name)
        if isinstance(number, float) and not math.isfinite(number):
            raise OptionError(f"{spoken} {number} is not finite; give an ordinary number")
        if facts["minimum"] is not None and number < facts["minimum"]:
            raise OptionError(f"{spoken} {number} is too small; it must be {facts['minimum']} or more")
        if facts["maximum"] is not None and number > facts["maximum"]:
            raise OptionError(f"{spoken} {number} is too large; it must be {facts['maximum']} or less")
        if facts["above"] is not None and number <= facts["above"]:
            raise OptionError(f"{spoken} {number} is too small; it must be more than {facts['above']}")
    if name == "scales" and isinstance(value, int) and not 1 <= value <= MOST_SCALES:
        raise OptionError(
            f"{value} scales were asked for; give 1 to {MOST_SCALES} scales, or their long edges in pixels"
        )


def _spoken(name: str) -> str:
    return name.replace("_", " ")
