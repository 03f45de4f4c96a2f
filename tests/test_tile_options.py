"""What --tile and --max-memory take."""

from typing import Any

import pytest

from fastnst.errors import OptionError
from fastnst.options.tile_options import in_words, parse_memory, parse_tile


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("8GB", 8_000_000_000),
        ("8 gb", 8_000_000_000),
        ("1.5G", 1_500_000_000),
        ("512MB", 512_000_000),
        (".25TB", 250_000_000_000),
        ("6GiB", 6 * 2**30),
        ("700Mi", 700 * 2**20),
        ("2000000KB", 2_000_000_000),
        (3_000_000, 3_000_000),
        ("3000000", 3_000_000),
    ],
)
def test_memory(given: Any, expected: int | None) -> None:
    assert parse_memory(given) == expected


@pytest.mark.parametrize(
    "given", ["", "much", "8 GB RAM", "-1GB", "1,5GB", "8XB", "nan", "1e9", True, [8], float("inf")]
)
def test_no_memory(given: Any) -> None:
    with pytest.raises(OptionError, match="is not an amount of memory; write 8GB, 512MB or 6GiB"):
        parse_memory(given)


@pytest.mark.parametrize("given", ["8", 8, "0GB", "900kB"])
def test_too_little_memory(given: Any) -> None:
    with pytest.raises(OptionError, match="less than a megabyte; write its unit"):
        parse_memory(given)


@pytest.mark.parametrize(
    ("given", "expected"), [("auto", "auto"), (" None ", "none"), (None, "none"), ("512", 512), (1, 1)]
)
def test_tile(given: Any, expected: int | str) -> None:
    assert parse_tile(given) == expected


@pytest.mark.parametrize("given", ["512px", "", "-512", "1.5", 512.0, True, [512]])
def test_no_tile(given: Any) -> None:
    with pytest.raises(OptionError, match="is neither auto, nor none, nor a number of pixels"):
        parse_tile(given)


@pytest.mark.parametrize("given", ["0", 0, -16])
def test_too_small_a_tile(given: Any) -> None:
    with pytest.raises(OptionError, match=r"(tile .* is too small|neither auto)"):
        parse_tile(given)


def test_words() -> None:
    assert [in_words(size) for size in (1234, 56_700_000, 8.9e9, 123e9)] == ["1.23 kB", "56.7 MB", "8.9 GB", "123 GB"]
