"""The pairs of pictures that a benchmark runs on, and its other arguments that several have."""

import argparse
from pathlib import Path
from typing import Any

from fastnst.examples import example
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options

_STYLES = ("swirls", "mosaic", "woodcut")


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --pairs, --weights and --json."""
    parser.add_argument("--pairs", type=Path, nargs="+", metavar="PATH", help="content style …; default: the examples")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")


def add_schedule_arguments(parser: argparse.ArgumentParser, schedules: tuple[str, ...]) -> None:
    """Adds --schedules, of which those are the default, --preset, --style-weight and --device."""
    parser.add_argument("--schedules", nargs="+", default=schedules, metavar="OPTIONS", help='"name=value …" for each')
    parser.add_argument("--preset", default="default")
    parser.add_argument("--style-weight", type=float, metavar="β", help="default: the preset's")
    parser.add_argument("--device", default="auto")


def base_options(parsed: argparse.Namespace, **options: Any) -> Options:
    """The options of those arguments, with one scale unless `options` say otherwise. Raises OptionError."""
    if parsed.style_weight is not None:
        options["style_weight"] = parsed.style_weight
    return resolve_options(
        **{
            "preset": parsed.preset,
            "size": parsed.size,
            "scales": None,
            "weights": parsed.weights,
            "device": parsed.device,
            **options,
        }
    )


def pairs_of(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Content and style of each pair; those of the examples where none are given. Exits for an odd number of them."""
    if parsed.pairs is None:
        return [(example("content"), example(f"style_{style}")) for style in _STYLES]
    if len(parsed.pairs) % 2:
        parser.error(f"{len(parsed.pairs)} pictures are no pairs; name a style after each content")
    return list(zip(parsed.pairs[::2], parsed.pairs[1::2], strict=True))
