"""The tables of options and of presets in `docs/options.md`, from their one definition.

python -m bench.options_table            prints the tables
python -m bench.options_table --write    writes them into docs/options.md
"""

from dataclasses import fields
from pathlib import Path

from bench.page_tables import print_or_write, table
from fastnst.app.cli.arguments import describe_default, flag_of, typed
from fastnst.options.options import GROUPS, Options
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
MODULE = "bench.options_table"
_OPTIONS = {option.name: option for option in fields(Options)}


def tables() -> dict[str, str]:
    """Under each heading a table of its options, with name, default and meaning; then what presets set."""
    return {"options": "\n\n".join([*(_group(heading, names) for heading, names in GROUPS.items()), _presets()])}


def _group(heading: str, names: tuple[str, ...]) -> str:
    rows = []
    for option in (_OPTIONS[name] for name in names):
        meaning = option.metadata["meaning"]
        if option.metadata["choices"]:
            meaning += f" ({', '.join(option.metadata['choices'])})"
        rows.append([f"`{flag_of(option)}`", f"`{describe_default(option)}`", meaning])
    return f"## {heading.capitalize()}\n\n{table(['Option', 'Default', 'Meaning'], rows)}"


def _presets() -> str:
    presets = {name: values for name, values in PRESETS.items() if values}
    rows = []
    resolved = {name: resolve_options(preset=name) for name in presets}
    for name in (name for names in GROUPS.values() for name in names):
        if any(name in values for values in presets.values()):
            cells = [
                f"`{typed(name, getattr(resolved[preset], name))}`" if name in values else ""
                for preset, values in presets.items()
            ]
            rows.append([f"`{flag_of(_OPTIONS[name])}`", *cells])
    return f"## What presets set\n\n{table(['', *(f'`{name}`' for name in presets)], rows)}"


if __name__ == "__main__":
    print_or_write(__doc__, tables(), PAGE, MODULE)
