"""The table of options in `docs/options.md`, from their one definition.

python -m bench.options_table            prints the table
python -m bench.options_table --write    writes it into docs/options.md
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from fastnst.arguments import flag_of
from fastnst.cli import describe_default
from fastnst.options import PRESETS, Options, resolve_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
BEGIN, END = "<!-- options: begin (python -m bench.options_table --write) -->", "<!-- options: end -->"


def options_table() -> str:
    """A Markdown table: each option's name, default, and meaning; and what the presets make of it."""
    rows = ["| Option | Default | `gatys` | Meaning |", "| --- | --- | --- | --- |"]
    gatys = resolve_options(preset="gatys")
    for option in fields(Options):
        flag = f"`{flag_of(option)}`"
        preset = _code(getattr(gatys, option.name)) if option.name in PRESETS["gatys"] else ""
        meaning = option.metadata["meaning"]
        if option.metadata["choices"]:
            meaning += f" ({', '.join(option.metadata['choices'])})"
        rows.append(f"| {flag} | `{describe_default(option)}` | {preset} | {meaning} |")
    return "\n".join(rows)


def _code(value: object) -> str:
    if value is None:
        return "`none`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def with_table(text: str) -> str:
    """`text` with the table between its marks, where there is another one now. Raises ValueError without the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no {BEGIN} before an {END}; add the two lines")
    return f"{before}{BEGIN}\n\n{options_table()}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/options.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(options_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
