"""The tables of options and of presets in `docs/options.md`, from their one definition.

python -m bench.options_table            prints the tables
python -m bench.options_table --write    writes them into docs/options.md
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from fastnst.arguments import describe_default, flag_of
from fastnst.option_groups import GROUPS
from fastnst.options import Options, resolve_options
from fastnst.presets import PRESETS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
BEGIN, END = "<!-- options: begin (python -m bench.options_table --write) -->", "<!-- options: end -->"
_OPTIONS = {option.name: option for option in fields(Options)}


def options_table() -> str:
    """Markdown: under each heading a table of its options, with name, default and meaning; then what presets set."""
    return "\n\n".join([*(_group(heading, names) for heading, names in GROUPS.items()), _presets()])


def _group(heading: str, names: tuple[str, ...]) -> str:
    rows = [f"## {heading.capitalize()}", "", "| Option | Default | Meaning |", "| --- | --- | --- |"]
    for option in (_OPTIONS[name] for name in names):
        meaning = option.metadata["meaning"]
        if option.metadata["choices"]:
            meaning += f" ({', '.join(option.metadata['choices'])})"
        rows.append(f"| `{flag_of(option)}` | `{describe_default(option)}` | {meaning} |")
    return "\n".join(rows)


def _presets() -> str:
    presets = {name: values for name, values in PRESETS.items() if values}
    rows = ["## What presets set", "", f"| | {' | '.join(f'`{name}`' for name in presets)} |"]
    rows.append("| --- |" + " --- |" * len(presets))
    resolved = {name: resolve_options(preset=name) for name in presets}
    for name in (name for names in GROUPS.values() for name in names):
        if any(name in values for values in presets.values()):
            cells = [
                _code(getattr(resolved[preset], name)) if name in values else "" for preset, values in presets.items()
            ]
            rows.append(f"| `{flag_of(_OPTIONS[name])}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _code(value: object) -> str:
    """The value as the command takes it."""
    if value is None:
        return "`none`"
    if isinstance(value, tuple):
        return " ".join(_layer(*item) if isinstance(item, tuple) else _code(item) for item in value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _layer(name: str, weight: float) -> str:
    return f"`{name}={weight:.3g}`"


def with_table(text: str) -> str:
    """`text` with the tables between its marks, where there are others now. Raises ValueError without the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no {BEGIN} before an {END}; add the two lines")
    return f"{before}{BEGIN}\n\n{options_table()}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/options.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(options_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
