"""Which part of the content takes its style from which part of which style: the `masks` option, before it is loaded."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
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

    def as_dict(self) -> dict[str, Any]:
        """As `parse_masks` takes it again, with the names of its pictures."""
        return {"content": self.content, **{f"style:{number}": source for number, source in self.styles}}

    @property
    def sources(self) -> list[Any]:
        """All its pictures."""
        return [self.content, *(source for _, source in self.styles if source is not None)]


def parse_masks(value: Any) -> tuple[Mask, ...] | None:
    """The regions that `value` gives, a sequence with one item for each:

    - a pair (content mask, style mask) for the first style, or (content mask, {number: style mask, …});
    - a mapping with the keys content, style, style:2 …;
    - words as the command takes them, `"content=sky.png style:2=dusk.png"`, in one text or a sequence of them.

    A style mask of None, or the word `style:2` alone, is all of that style; None in place of a mapping or mask all of
    all. Raises OptionError for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise OptionError(f"masks {_shown(value)} are no list of regions; {_FORM}, one such for each region")
    found = tuple(_mask(item) for item in value)
    return found or None


def mask_hashes(recorded: Any) -> list[dict[str, str | None]]:
    """The fingerprints of the pictures of masks as a run's parameters have them, by what they are for; what is no such
    record has none."""
    regions = recorded if isinstance(recorded, list) else []
    return [
        {name: one.get("sha256") if isinstance(one, dict) else None for name, one in region.items()}
        for region in regions
        if isinstance(region, dict)
    ]


def _mask(item: Any) -> Mask:
    if isinstance(item, Mask):
        return item
    if isinstance(item, str):
        try:
            item = shlex.split(item)
        except ValueError as error:
            raise OptionError(f"mask {item!r} cannot be read ({error}); {_FORM}") from None
    if isinstance(item, Mapping):
        return _of_names(item)
    if not isinstance(item, Sequence):
        raise OptionError(f"mask {_shown(item)} is no region; give a content mask and a style mask, or {_FORM}")
    if item and all(isinstance(word, str) for word in item) and any(_is_named(word) for word in item):
        return _of_words(list(item))
    if len(item) != 2:
        raise OptionError(f"a mask of {len(item)} parts is no region; give a content mask and a style mask, or {_FORM}")
    content, style = item
    if isinstance(style, Mapping):
        return _checked(content, [(_number(f"style:{number}"), source) for number, source in style.items()])
    return _checked(content, [] if style is None else [(1, style)])


def _is_named(word: str) -> bool:
    return word.startswith(("content=", "style=", "style:"))


def _of_words(words: Sequence[str]) -> Mask:
    pairs: dict[str, Any] = {}
    for word in words:
        name, equals, source = word.partition("=")
        if equals and not source:
            raise OptionError(f"mask {word!r} names no picture; {_FORM}")
        if name in pairs:
            raise OptionError(f"{name} is there twice in one mask; give each region a mask of its own")
        pairs[name] = source if equals else None
    return _of_names(pairs)


def _of_names(pairs: Mapping[Any, Any]) -> Mask:
    content, styles = None, []
    for name, source in pairs.items():
        if name == "content":
            content = source
        else:
            styles.append((_number(name), source))
    return _checked(content, styles)


def _number(name: Any) -> int:
    word, colon, number = str(name).partition(":")
    if word != "style" or (colon and not (number.isdecimal() and int(number) > 0)):
        raise OptionError(f"{str(name)!r} is no part of a mask; {_FORM}")
    return int(number) if colon else 1


def _checked(content: Any, styles: Iterable[tuple[int, Any]]) -> Mask:
    ordered = tuple(sorted(styles, key=lambda pair: pair[0]))
    if content is None:
        raise OptionError(f"a mask does not say where in the content it lies; {_FORM}")
    numbers = [number for number, _ in ordered]
    for number in numbers:
        if numbers.count(number) > 1:
            raise OptionError(f"style {number} is there twice in one mask; give each region a mask of its own")
    return Mask(content, ordered)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
