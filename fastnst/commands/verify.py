"""`fastnst verify`: the checks as a table or as JSON, and the exit code that says whether all passed."""

import argparse
import json
import sys
from collections.abc import Iterable

import torch

from fastnst.measure import device_name
from fastnst.runtime import versions
from fastnst.verification import MODES, Check, Skipped, verify


def run(parsed: argparse.Namespace) -> int:
    checks: list[Check] = []
    skipped: list[Skipped] = []
    for found in verify(parsed.backend, parsed.size):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        checks.append(found)
        if not parsed.json:
            _show_progress(len(checks))
    failed = [check for check in checks if not check.passed]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if parsed.json:
        report = {
            "device": device_name(device),
            "versions": versions(),
            "passed": len(checks) - len(failed),
            "failed": len(failed),
            "skipped": [{"backend": skip.backend, "reason": skip.reason} for skip in skipped],
            "checks": [check.as_dict() for check in checks],
        }
        print(json.dumps(report))
    else:
        _clear_progress()
        _print_tables(checks)
        for skip in skipped:
            print(f"skipped: backend {skip.backend}, because {skip.reason}")
        for check in failed:
            print(_failure(check))
        print(f"{len(checks) - len(failed)} passed, {len(failed)} failed on {device_name(device)}")
    return 1 if failed else 0


def _print_tables(checks: list[Check]) -> None:
    for backend, device in dict.fromkeys((check.backend, check.device) for check in checks):
        of_backend = [check for check in checks if (check.backend, check.device) == (backend, device)]
        shapes = dict.fromkeys((check.layer, check.shape) for check in of_backend)
        print(f"{backend} on {device}: error / budget, the worse of NCHW and channels-last; ! marks one that failed")
        print(" " * 24 + "".join(f"{layer:>18}" for layer, _ in shapes))
        print(" " * 24 + "".join(f"{'×'.join(map(str, shape)):>18}" for _, shape in shapes))
        for op, direction in dict.fromkeys((check.op, check.direction) for check in of_backend):
            for mode in MODES:
                row = [
                    check
                    for check in of_backend
                    if (check.op, check.direction) == (op, direction) and _mode_name(check) == mode.name
                ]
                if row:
                    cells = (_cell(check for check in row if check.layer == layer) for layer, _ in shapes)
                    print(f"{op:10}{direction:9} {mode.name:4}" + "".join(f"{cell:>18}" for cell in cells))
        print()


def _mode_name(check: Check) -> str:
    dtype = f"torch.{check.dtype}"
    return next(mode.name for mode in MODES if (str(mode.dtype), mode.precision) == (dtype, check.precision))


def _cell(checks: Iterable[Check]) -> str:
    check = max(checks, key=lambda check: (not check.passed, check.error / check.budget))
    return f"{check.error:.1e}/{check.budget:.1e}{' ' if check.passed else '!'}"


def _failure(check: Check) -> str:
    what = f"{check.op} {check.direction}, {check.backend} on {check.device}, {_mode_name(check)} {check.layout}"
    shape = f"{check.layer} {'×'.join(map(str, check.shape))}"
    return f"failed: {what}, {shape}: {check.problem or f'error {check.error:.3g}, budget {check.budget:.3g}'}"


def _show_progress(count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{count} checks", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
