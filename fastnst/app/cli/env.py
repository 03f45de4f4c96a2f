"""`fastnst env`: the environment, for bug reports."""

import argparse
import json
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    parser = commands.add_parser(
        "env",
        help="print what a bug report needs to know of this machine",
        description="Prints versions, processor, GPUs, torch's build, weights and settings, for a bug report. It holds "
        "no paths and no names of users or hosts.",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object on stdout")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.environment import report

    facts = report()
    if parsed.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name.removesuffix('_bytes'):12} {_readable(name, value)}")
    return 0


def _readable(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, dict):
        return (
            ", ".join(f"{key.removesuffix('_bytes')} {_readable(key, part)}" for key, part in value.items()) or "none"
        )
    if isinstance(value, list):
        return "; ".join(_readable("", part) for part in value) or "none"
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
