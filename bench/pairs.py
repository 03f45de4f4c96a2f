"""The pairs of pictures that a benchmark runs on, and the arguments that go with them."""

import argparse
from pathlib import Path

from fastnst.examples import example

_STYLES = ("swirls", "mosaic", "woodcut")


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --pairs, --weights and --json."""
    parser.add_argument("--pairs", type=Path, nargs="+", metavar="PATH", help="content style …; default: the examples")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")


def pairs_of(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Content and style of each pair; those of the examples where none are given. Exits for an odd number of them."""
    if parsed.pairs is None:
        return [(example("content"), example(f"style_{style}")) for style in _STYLES]
    if len(parsed.pairs) % 2:
        parser.error(f"{len(parsed.pairs)} pictures are no pairs; name a style after each content")
    return list(zip(parsed.pairs[::2], parsed.pairs[1::2], strict=True))
