"""How the value of each option is read: whatever form a caller may give becomes the one that `Options` keeps.

An option of several values takes a sequence, or a text with commas or spaces between them: `"0.3,0.7"`.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, TypedDict, Unpack, get_type_hints

from fastnst.errors import OptionError, check_choice
from fastnst.network.architecture import canonical_layer
from fastnst.options.masks import is_series, parse_masks

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
"""The most scales that can be asked for by their number."""
LEAST_AUTOMATIC_EDGE = 256
"""The edge of the first automatic scale.

From the content at once, a picture of this size keeps its forms, faces too, and takes on the style's largest figures; a
larger one passes through such a size first, for later the network sees only parts of such a figure.
"""

# No option takes more; Python refuses to print a number of some thousand digits.
_MOST_BITS = 128
_MEMORY_BITS = 63
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Facts(TypedDict, total=False):
    """The facts in an option's field beside its default: how it is written, and what values it may have.

    `heading` stands above the option, and above those that follow it; `shown` is the default in words, `many` says that
    it takes several values, and a `flag` of its own that it is given once for each of its items.
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


def option_field(default: Any, meaning: str, **facts: Unpack[Facts]) -> Any:
    """The field of a dataclass of options; the command's arguments are made of its metadata."""
    return field(default=default, metadata={**dict.fromkeys(get_type_hints(Facts)), "meaning": meaning, **facts})


def parse_option(option: "Field[Any]", value: Any, network: str) -> Any:
    """The value of an option as `Options` keeps it; layers are those of `network`.

    Raises OptionError for a wrong type, and for what the metadata of its field exclude.
    """
    spoken = option.name.replace("_", " ")
    if option.name.endswith("_layers"):
        return _layers(spoken, value, network)
    parse = _BY_NAME.get(option.name) or _BY_TYPE[option.type]
    parsed = None if value is None and option.default is None else parse(spoken, value)
    _check_range(spoken, parsed, option.metadata)
    return parsed


def parse_size(value: Any) -> int | Fraction | tuple[int, int]:
    """The size of a result as people say it: pixels, `512` or "512px"; a part of the content's, "50%" or "content"; or
    the (width, height) of the box "1920x1080". Raises OptionError for anything else."""
    if not isinstance(value, str):
        return _integer("size", value)
    text = value.strip().lower()
    pixels = re.fullmatch(r"([0-9]{1,9}) *(?:px|pixels)?", text)
    part = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *%", text)
    box = re.fullmatch(r"([0-9]{1,9}) *[x×*] *([0-9]{1,9}) *(?:px|pixels)?", text)
    if pixels is not None:
        return int(pixels[1])
    if box is not None:
        return int(box[1]), int(box[2])
    if length := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *(cm|mm|in|inch|inches|\")", text):
        pixels_there = round(float(length[1]) * {"cm": 300 / 2.54, "mm": 30 / 2.54}.get(length[2], 300))
        raise OptionError(
            f"size {value!r} is a length, and sizes are in pixels: at 300 an inch it is {pixels_there}; {_PRINTS}"
        )
    if part is None and text != "content":
        raise OptionError(f"size {value!r} is not a size; write 512, 1920x1080 (width by height), 50% or content")
    return Fraction(1) if part is None else Fraction(part[1]) / 100


def _name(spoken: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{spoken} {value!r} is not a name; give a text")
    return value


def _number(spoken: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{spoken} {value!r} is not a number; write one such as 0.5")
    try:
        return float(value)
    except OverflowError:
        raise OptionError(f"{spoken} is too large for a float; give a smaller number") from None


def _integer(spoken: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(f"{spoken} {value!r} is not a whole number; write one such as 7")
    bits = int(value).bit_length()
    if bits > _MOST_BITS:
        raise OptionError(f"{spoken} has {bits} bits and is too large; give {_MOST_BITS} at most")
    return int(value)


def _items(value: Any) -> list[Any]:
    """The items of a sequence, or the value alone; words of a text are numbers where they read as such."""
    if isinstance(value, str):
        return [_literal(word) for word in value.replace(",", " ").split()]
    if not is_series(value):
        return [value]
    return [part for item in value for part in (_items(item) if isinstance(item, str) else [item])]


def _literal(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _by_scale(read: Callable[[str, Any], Any], spoken: str, value: Any) -> Any:
    """A value, or several for as many scales."""
    values = tuple(read(spoken, item) for item in _items(value))
    if not values:
        raise OptionError(f"{spoken} has no value; give one, or one for each scale")
    return values[0] if len(values) == 1 else values


def _style_weights(spoken: str, value: Any) -> tuple[float, ...]:
    weights = tuple(_number(spoken.removesuffix("s"), weight) for weight in _items(value))
    if not weights:
        raise OptionError("no style weights were given; give one for each style image, or none for equal ones")
    return weights


def parse_scales(value: Any) -> Scales:
    """None, "auto", a count of scales, or their edges in pixels, which grow. Raises OptionError for anything else."""
    if value is None or (isinstance(value, str) and value in ("none", "auto")):
        return "auto" if value == "auto" else None
    items = _items(value)
    is_list = is_series(value) and not isinstance(value, str)
    if not is_list and not all(isinstance(edge, Integral) for edge in items or [""]):
        raise OptionError(
            f"scales {value!r} is not possible; give auto, none, a number of scales, or a list of long edges in pixels"
        )
    edges = tuple(_integer("scale", edge) for edge in items)
    if len(edges) == 1 and not is_list:
        if not 1 <= edges[0] <= MOST_SCALES:
            raise OptionError(
                f"{edges[0]} scales were asked for; give 1 to {MOST_SCALES} scales, or their long edges in pixels"
            )
        return edges[0]
    if min(edges, default=0) < 2:
        raise OptionError(f"scales {edges} are too small; give at least one, each 2 pixels or more")
    if any(low >= high for low, high in pairwise(edges)):
        raise OptionError(f"scales {edges} do not grow; list the long edges from small to large")
    return edges


def scale_count(scales: Scales, size: int) -> int:
    """How many scales there are up to `size`, in pixels; counted ones, before those that a picture is too small for."""
    if scales is None:
        return 1
    if scales == "auto":
        return max(1, (size // LEAST_AUTOMATIC_EDGE).bit_length())
    return scales if isinstance(scales, int) else len(scales)


def _path(spoken: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{spoken} {value!r} is neither a name nor a path; give one of them")
    return os.fspath(value)


def _device(spoken: str, value: Any) -> str:
    if not isinstance(value, str) and type(value).__name__ != "device":
        raise OptionError(f"{spoken} {value!r} is not a device; give a name, such as cpu or cuda:1, or a torch.device")
    return str(value)


def parse_memory(value: Any) -> int | None:
    """Bytes of "8GB" (10⁹ each), "512 MB", "6GiB" (2³⁰ each) or a whole number of bytes; None is no limit.

    Raises OptionError for anything else, and for less than a megabyte.
    """
    if value is None:
        return None
    too_much = "max memory is more than any machine has; write it as 8GB"
    if isinstance(value, int) and value.bit_length() > _MEMORY_BITS:
        raise OptionError(too_much)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgt]?i?)b?", str(value).strip().lower())
    if isinstance(value, bool) or match is None or match[2] not in _UNITS:
        raise OptionError(f"max memory {value!r} is not an amount of memory; write 8GB, 512MB or 6GiB")
    size = float(match[1]) * _UNITS[match[2]]
    if size >= 2**_MEMORY_BITS:
        raise OptionError(too_much)
    if size < 1_000_000:
        raise OptionError(f"max memory {value!r} is less than a megabyte; write its unit, as in 8GB")
    return int(size)


def parse_tile(value: Any) -> int | str:
    """ "auto", "none" or a number of pixels, 1 or more; None is "none". Raises OptionError for anything else."""
    word = "none" if value is None else value.strip().lower() if isinstance(value, str) else value
    if word in ("auto", "none"):
        return str(word)
    if isinstance(word, str) and word.isdecimal() and len(word) <= _MEMORY_BITS:
        word = int(word)
    if isinstance(word, bool) or not isinstance(word, Integral):
        raise OptionError(f"tile {value!r} is not possible; give auto, none, or a number of pixels")
    edge = int(word)
    if edge.bit_length() > _MEMORY_BITS:
        raise OptionError("tile is larger than any picture; give a number of pixels, auto or none")
    if edge < 1:
        raise OptionError(f"tile {edge} is too small; give a number of pixels, 1 or more, auto or none")
    return edge


_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        other: name
        for name, others in {
            "size": "image_size img_size imsize max_size end_scale resolution width height size_pixels",
            "iterations": "steps num_steps iters num_iter num_iterations max_iter max_iterations n_iter epochs "
            "initial_iterations",
            "learning_rate": "lr step_size",
            "content_weight": "alpha content_strength",
            "style_weight": "beta style_strength strength",
            "tv_weight": "gamma tv tv_loss_weight gaussian_force",
            "style_weights": "style_blend_weights style_imgs_weights style_interpolation_weights",
            "style_scale": "style_scale_fac style_size style_size_pixels",
            "seed": "random_seed",
            "device": "gpu gpu_index cuda devices supplemental_device multigpu_strategy",
            "network": "model arch vgg backbone",
            "weights": "model_file model_weights proto_file vgg_path",
            "history": "lbfgs_num_correction num_correction",
            "preserve_color": "original_colors preserve_colors preserve_colour preserve_colours color colour "
            "color_convert_type keep_colors",
            "init": "init_image init_img_type random_init noise_ratio starting_image",
            "output": "output_image output_img out out_file save_path result",
            "pooling": "pooling_type",
            "average": "avg_decay",
            "mask": "style_mask style_mask_imgs content_mask",
            "plot": "plot_loss",
            "save_every": "save_iter print_iter info_step workspace_step",
            "content_reduction": "content_loss_function normalize_weights",
            "objective": "normalize_gradients",
            "scale_factor": "scale_step",
            "scales": "min_scale multiscale num_scales octaves",
        }.items()
        for other in others.split()
    }
)
"""The names that other programs have for options (docs/moving-over.md), and ours."""
_PRINTS = "docs/answers.md has a table for prints"
_PICTURES = {
    **dict.fromkeys(("content", "content_image", "content_img", "input", "image"), "content"),
    **dict.fromkeys(("style", "styles", "style_image", "style_img", "style_images", "style_imgs"), "style"),
}


def picture_of(flag: str) -> str | None:
    """The picture, content or style, that a flag such as --style_image means in other programs."""
    return _PICTURES.get(flag.strip("-").replace("-", "_").lower()) if flag.startswith("-") else None


def hint_for(name: str, known: Iterable[str], otherwise: str) -> str:
    """The name that an unknown one may have meant, here or in another program, or else `otherwise`."""
    plain, names = name.strip("-").replace("-", "_").lower(), list(known)
    if (picture := picture_of(name)) is not None:
        hint = f"give the {picture} picture without a name: CONTENT STYLE -o OUT"
        shipped = "; for a style that comes with fastnst, such as swirls: fastnst apply CONTENT --style swirls -o OUT"
        return hint + (shipped if picture == "style" else "")
    if plain in ("print_size", "dpi", "ppi"):
        return f"sizes are in pixels: 20 cm at 300 an inch are 2362; {_PRINTS}"
    ours = [option for option in names if option.strip("-").replace("-", "_") == _ELSEWHERE.get(plain)]
    close = ours or difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def in_words(size: float) -> str:
    """Bytes as a person reads them: "1.23 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


_BY_TYPE: Mapping[Any, Callable[[str, Any], Any]] = MappingProxyType(
    {str: _name, int: _integer, int | None: _integer, float: _number, float | None: _number}
)
_BY_NAME: Mapping[str, Callable[[str, Any], Any]] = MappingProxyType(
    {
        "iterations": partial(_by_scale, _integer),
        "scales": lambda _, value: parse_scales(value),
        "style_weight": partial(_by_scale, _number),
        "style_weights": _style_weights,
        "masks": lambda _, value: parse_masks(value),
        "init": lambda _, value: value,
        "weights": _path,
        "device": _device,
        "tile": lambda _, value: parse_tile(value),
        "max_memory": lambda _, value: parse_memory(value),
    }
)


def _layers(spoken: str, value: Any, network: str) -> LayerWeights:
    """The layers of a name, a sequence of `NAME` or `NAME=WEIGHT`, or a mapping from name to weight, each once."""
    kind = spoken.removesuffix(" layers")
    if isinstance(value, Mapping):
        value = [(str(layer), weight) for layer, weight in value.items()]
    if not is_series(value):
        raise OptionError(f"{spoken} {value!r} are not possible; give names, or a mapping from name to weight")
    named = [layer for item in ([value] if isinstance(value, str) else value) for layer in _named_layers(item)]
    layers = tuple(
        (canonical_layer(layer, network), 1 / len(named) if weight is None else weight) for layer, weight in named
    )
    if not layers:
        raise OptionError(f"no {kind} layers were given; name one, such as conv4_2, or set the {kind} weight to 0")
    names = [layer for layer, _ in layers]
    for layer, weight in layers:
        if names.count(layer) > 1:
            raise OptionError(f"{kind} layer {layer} is named twice; name each layer once")
        if not math.isfinite(weight) or weight < 0:
            raise OptionError(
                f"weight {weight} of {kind} layer {layer} is out of range; weights must be finite and 0 or more"
            )
    if all(weight == 0 for _, weight in layers):
        raise OptionError(f"the weights of the {kind} layers are all 0; at least one must be more")
    return layers


def _named_layers(item: Any) -> Iterator[tuple[str, float | None]]:
    """The layers of "conv1_1, conv2_1=0.5", or of a (name, weight) pair, with the weights that are given."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        yield item[0], _number("layer weight", item[1])
        return
    if not isinstance(item, str):
        raise OptionError(f"layer {item!r} is not a name; write conv4_1 or conv4_1=0.5")
    for word in item.replace(",", " ").split():
        layer, equals, weight = word.partition("=")
        try:
            yield layer, float(weight) if equals else None
        except ValueError:
            raise OptionError(f"the weight {weight!r} of layer {layer} is not a number; write {layer}=0.5") from None


def _check_range(spoken: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raises OptionError where a value, or a number of several, is not what the metadata of its field allow."""
    if facts["choices"]:
        check_choice(spoken, value, facts["choices"])
    if isinstance(value, tuple):
        spoken = spoken.removesuffix("s")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            raise OptionError(f"{spoken} {number} is not finite; give an ordinary number")
        if facts["minimum"] is not None and number < facts["minimum"]:
            raise OptionError(f"{spoken} {number} is too small; it must be {facts['minimum']} or more")
        if facts["maximum"] is not None and number > facts["maximum"]:
            raise OptionError(f"{spoken} {number} is too large; it must be {facts['maximum']} or less")
        if facts["above"] is not None and number <= facts["above"]:
            raise OptionError(f"{spoken} {number} is too small; it must be more than {facts['above']}")
