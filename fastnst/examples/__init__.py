"""The example pictures that come with the package: a content and three styles, drawn by a program for it."""

from pathlib import Path

from fastnst.errors import OptionError

NAMES = ("content", "style_mosaic", "style_swirls", "style_woodcut")


def example(name: str) -> Path:
    """The path of a picture that comes with the package: a name from `NAMES`, with or without `.jpg`.

    Raises `OptionError` for any other name.
    """
    stem = name.removesuffix(".jpg")
    if stem not in NAMES:
        raise OptionError(f"example {name!r} is unknown; choose one of {', '.join(NAMES)}")
    return Path(__file__).with_name(f"{stem}.jpg")
