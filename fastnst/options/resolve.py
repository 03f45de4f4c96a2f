"""A run's options from a preset and the given values."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from fastnst.errors import OptionError, counted
from fastnst.network.architecture import is_original
from fastnst.options.options import LONGEST, NEEDS, Options, is_heeded
from fastnst.options.parse import hint_for, parse_scales, scale_count
from fastnst.options.presets import PRESETS, TRANSFER_ITERATIONS, UNSCALED


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
    for name in (name for name in NEEDS if name in values and name not in given):
        if not is_heeded(name, {**values, "scales": scales}):
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
                f"you gave {len(counts)} {spoken} for {counted(count, 'scale')}; "
                "give one for all scales, or at most one for each"
            )
    return options


def unsized_options(given: Mapping[str, Any]) -> Options:
    """Options whose size is not known yet: the largest that there is, or the last of the scales' edges."""
    values = {name: value for name, value in given.items() if name != "size"}
    if not isinstance(parse_scales(values.get("scales", Options.scales)), tuple):
        values["size"] = LONGEST
    return resolve_options(**values)
