"""The README's table of options, from their one definition: `python -m bench.options_table`."""

from dataclasses import fields

from fastnst.cli import describe_default
from fastnst.options import PRESETS, Options, resolve_options


def options_table() -> str:
    """A Markdown table: each option's name, default, and meaning; and what the presets make of it."""
    rows = ["| Option | Default | `gatys` | Meaning |", "| --- | --- | --- | --- |"]
    gatys = resolve_options(preset="gatys")
    for option in fields(Options):
        flag = f"`--{option.name.replace('_', '-')}`"
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


if __name__ == "__main__":
    print(options_table())
