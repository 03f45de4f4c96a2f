"""The normal form of each option's value, and what is out of its range."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal

from fastnst.errors import OptionError
from fastnst.network.architecture import canonical_layer
from fastnst.options.masks import parse_masks
from fastnst.options.tile_options import parse_memory, parse_tile

LayerWeights = tuple[tuple[str, float], ...]
Scales = int | tuple[int, ...] | Literal["auto"] | None
Iterations = int | tuple[int, ...]
StyleWeight = float | tuple[float, ...]

CONTENT_FORMS = ("relative", "paper", "mean", "root")
STYLE_FORMS = ("relative", "paper", "mean", "channel-mean")
"""The constants in which the content and the style term are written; see `fastnst.loss.terms`."""
OF_THE_OBJECTIVE = "objective"
"""The form that the option `objective` names."""

MOST_SCALES = 12
"""Of those that are counted."""

# No option takes more; Python refuses to print a number of some thousand digits.
_MOST_BITS = 128


def normal_form(name: str, value: Any, network: str) -> Any:
    """The value of the option `name` as `Options` keeps it; layers are those of `network`. Raises OptionError where it
    is of a wrong type."""
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


def normal_scales(value: Any) -> Scales:
    """None, "auto", a count of scales, or their edges in pixels. Raises OptionError for anything else."""
    if value is None or (isinstance(value, str) and value == "none"):
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise OptionError(
            f"scales {value!r} is neither auto, nor none, nor a number of scales, nor a list of long edges in pixels"
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
        "scales": lambda _, value: normal_scales(value),
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


def check_layers(kind: str, layers: LayerWeights, network: str) -> None:
    """Raises OptionError where there are no `layers` of that `kind`, one twice, or weights that will not do."""
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


def check_range(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raises OptionError where the normal form of the option `name` is not what the metadata of its field allow."""
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
