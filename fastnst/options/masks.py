"""Which part of the content takes its style from which part of which style: the `masks` option, before it is loaded."""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastnst.errors import OptionError

_FORM = "write content=M.png style=S.png, with style:2=… for the second style and so on"


@dataclass(frozen=True)
class Mask:
    """One region: the picture that shows where it lies in the content, and for each style of it, by its number from 1,
    the picture that shows where in that style, or None for all of it. Without styles it is all of them, whole.

    Pictures are paths, or whatever else `load_image` takes: white is inside, black outside, grey in part.
    """

    content: Any
    styles: tuple[tuple[int, Any], ...] = ()

    def mapped(self, change: Callable[[str], Any]) -> dict[str, Any]:
        """The mapping that `parse_masks` takes for this region, with what `change` makes of each path."""
        parts = {"content": self.content, **{f"style:{number}": source for number, source in self.styles}}
        return {part: source and change(source) for part, source in parts.items()}

    @property
    def sources(self) -> list[Any]:
        return [self.content, *(source for _, source in self.styles if source is not None)]


def is_series(value: Any) -> bool:
    """True for what has items, which an array without dimensions has not."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def parse_masks(value: Any) -> tuple[Mask, ...] | None:
    """The regions that `value` gives, a sequence with one item for each:

    - a pair (content mask, style mask) for the first style, or (content mask, {number: style mask, …});
    - a mapping with the keys content, style, style:2 …;
    - words as the command takes them, `"content=sky.png style:2=dusk.png"`, in one text or a sequence of them.

    None in place of a style's mask, or the word `style:2` alone, takes all of that style; None in place of the second
    of a pair takes all of every style. Raises OptionError for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str | Mapping) or not is_series(value):
        raise OptionError(f"masks {_described(value)} are not a list of regions; for each region {_FORM}")
    return tuple(_mask(item) for item in value) or None


def mask_hashes(recorded: Any) -> list[dict[str, str | None]]:
    """The fingerprints of the pictures of masks as a run's parameters have them, by what they are for."""
    return [
        {name: picture.get("sha256") if isinstance(picture, dict) else None for name, picture in region.items()}
        for region in (recorded if isinstance(recorded, list) else [])
        if isinstance(region, dict)
    ]


def _mask(item: Any) -> Mask:
    if isinstance(item, Mask):
        return item
    if isinstance(item, str):
        try:
            item = shlex.split(item.replace("\\", r"\\") if os.sep == "\\" else item)  # paths of Windows
        except ValueError as error:
            raise OptionError(f"mask {item!r} cannot be read ({error}); {_FORM}") from None
    if isinstance(item, Mapping):
        return _region(item.items())
    if not isinstance(item, Sequence):
        raise OptionError(f"mask {_described(item)} is not a region; give a content mask and a style mask, or {_FORM}")
    if all(isinstance(word, str) for word in item) and any(
        word.startswith(("content=", "style=", "style:")) for word in item
    ):
        return _region(_pair(word) for word in item)
    if len(item) != 2:
        raise OptionError(
            f"a region takes two masks, and {len(item)} {'was' if len(item) == 1 else 'were'} given; "
            f"give one for the content and one for the style, or {_FORM}"
        )
    content, style = item
    styles = style if isinstance(style, Mapping) else {} if style is None else {1: style}
    return _region([("content", content), *((f"style:{number}", source) for number, source in styles.items())])


def _pair(word: str) -> tuple[str, str | None]:
    name, equals, source = word.partition("=")
    if equals and not source:
        raise OptionError(f"mask {word!r} names no picture; {_FORM}")
    return name, source if equals else None


def _region(pairs: Iterable[tuple[Any, Any]]) -> Mask:
    """The region of pairs (content, style or style:2, its picture)."""
    content, styles = None, dict[int, Any]()
    for name, source in pairs:
        if name == "content" and content is None:
            content = source
            continue
        word, colon, digits = str(name).partition(":")
        number = int(digits) if digits.isdecimal() else 0 if colon else 1
        if name != "content" and (word != "style" or number == 0):
            raise OptionError(f"{str(name)!r} is not a part of a mask; {_FORM}")
        if name == "content" or number in styles:
            twice = "content" if name == "content" else f"style {number}"
            raise OptionError(f"{twice} is given twice in one mask; give each region a mask of its own")
        styles[number] = source
    if content is None:
        raise OptionError(f"a mask does not say where in the content it lies; {_FORM}")
    return Mask(content, tuple(sorted(styles.items())))


def _described(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
