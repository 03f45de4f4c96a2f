"""The example pictures that come with the package, drawn by programs: a content, and the styles of its network."""

from pathlib import Path

from fastnst.errors import OptionError

STYLES = (
    *("charcoal", "dots", "facets", "fauve", "glass", "hatching", "impasto", "mosaic", "swirls", "watercolour"),
    *("waves", "woodcut"),
)
"""The styles of the network that ships: `example("style_swirls")` is the picture of one."""
NAMES = ("content", *(f"style_{name}" for name in STYLES))


def example(name: str) -> Path:
    """The path of a picture that comes with the package: a name from `NAMES`, with or without `.jpg`.

    Raises `OptionError` for any other name.
    """
    stem = name.removesuffix(".jpg")
    if stem not in NAMES:
        raise OptionError(f"example {name!r} is unknown; choose one of {', '.join(NAMES)}")
    return Path(__file__).with_name(f"{stem}.jpg")
