"""Markdown tables that are written into a page between marks, each by its name, from the results of benchmarks."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def replaced(text: str, tables: Mapping[str, str], module: str) -> str:
    """`text` with each table between the marks of its name; `module` is the one that writes them.

    Raises ValueError where a pair of marks is missing.
    """
    for name, content in tables.items():
        pattern = re.compile(rf"<!-- {name}: begin .*?<!-- {name}: end -->", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page has no marks of the table {name!r}; add them")
        block = f"<!-- {name}: begin (python -m {module} --write) -->\n\n{content}\n\n<!-- {name}: end -->"
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


def print_or_write(description: str | None, tables: Mapping[str, str], page: Path, module: str) -> bool:
    """The command of such a module: prints its tables, or with `--write` puts them into the page, which it returns."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write them into docs/{page.name}")
    if parser.parse_args().write:
        page.write_text(replaced(page.read_text(encoding="utf-8"), tables, module), encoding="utf-8")
        return True
    print("\n\n".join(tables.values()))
    return False
