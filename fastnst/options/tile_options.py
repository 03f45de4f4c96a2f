"""What `--tile` and `--max-memory` mean."""

import re
from typing import Any

from fastnst.errors import OptionError

_MOST_BITS = 63
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_memory(value: Any) -> int | None:
    """Bytes of "8GB" (10⁹ each), "512 MB", "6GiB" (2³⁰ each) or a whole number of bytes; None is no limit.

    Raises OptionError for anything else, and for less than a megabyte.
    """
    if value is None:
        return None
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise OptionError("max memory is more than any machine has; write it as 8GB")
    text = str(value).strip()
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgt]?i?)b?", text.lower())
    if isinstance(value, bool) or match is None or match[2] not in _UNITS:
        raise OptionError(f"max memory {value!r} is not an amount of memory; write 8GB, 512MB or 6GiB")
    bytes_wanted = float(match[1]) * _UNITS[match[2]]
    if bytes_wanted >= 2**_MOST_BITS:
        raise OptionError("max memory is more than any machine has; write it as 8GB")
    size = int(bytes_wanted)
    if size < 1_000_000:
        raise OptionError(f"max memory {value!r} is less than a megabyte; write its unit, as in 8GB")
    return size


def parse_tile(value: Any) -> int | str:
    """ "auto", "none" or a number of pixels, 1 or more; None is "none". Raises OptionError for anything else."""
    if value is None:
        return "none"
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("auto", "none"):
            return word
        if not word.isdecimal() or len(word) > _MOST_BITS:
            raise OptionError(f"tile {value!r} is neither auto, nor none, nor a number of pixels")
        value = int(word)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"tile {value!r} is neither auto, nor none, nor a number of pixels")
    if value.bit_length() > _MOST_BITS:
        raise OptionError("tile is larger than any picture; give a number of pixels, auto or none")
    if value < 1:
        raise OptionError(f"tile {value} is too small; give a number of pixels, 1 or more, auto or none")
    return value


def in_words(size: float) -> str:
    """Bytes as a person reads them: "1.23 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
