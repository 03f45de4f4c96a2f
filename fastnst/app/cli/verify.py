"""`fastnst verify`: the checks as a table or as JSON, and the exit code that says whether all passed."""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

import torch
from fastnst_kernels.profiling.measure import device_name, versions
from fastnst_kernels.verify import MODES, Check, Selection, Skipped, verify
from tqdm import tqdm

from fastnst.app.cli import say
from fastnst.app.cli.arguments import check_heeded
from fastnst.app.cli.run import on_stop_signal
from fastnst.errors import Interrupted, OptionError

_DURATION = {
    True: "they take about 20 s on two idle cores; --all checks every shape, layout and dtype",
    False: "they take several minutes",
}
_SECONDS = 10.0  # between two lines
_FIRST = 0.1  # of the checks have to be made before they tell how long the others take


def run(parsed: argparse.Namespace) -> int:
    quick, results, interrupted = not parsed.all, list[Check | Skipped](), False
    if quick:
        check_heeded("--all", {"--size": parsed.size is not None})
    try:
        count = Selection(parsed.backend, parsed.size, quick).count()
        if not parsed.json:
            say(f"{count} checks; {_DURATION[quick]}")
        with on_stop_signal(), closing(verify(parsed.backend, parsed.size, quick=quick)) as made:
            for result in _counted(made, count, shown=not parsed.json):
                results.append(result)
    except KeyboardInterrupt:
        interrupted = True
    except (ValueError, RuntimeError) as error:
        raise OptionError(str(error)) from None
    skipped = [result for result in results if isinstance(result, Skipped)]
    checks = [result for result in results if not isinstance(result, Skipped)]
    failed = [check for check in checks if not check.passed]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if parsed.json:
        report = {
            "device": device_name(device),
            "versions": versions(),
            "passed": len(checks) - len(failed),
            "failed": len(failed),
            "not_run": count - len(checks),
            "skipped": [asdict(skip) for skip in skipped],
            "checks": [check.as_dict() for check in checks],
        }
        print(json.dumps(report))
    else:
        _print_tables(checks)
        for skip in skipped:
            print(f"skipped: backend {skip.backend}, because {skip.reason}")
        for check in failed:
            print(_failure(check))
        if interrupted:
            print(f"{len(checks)} checked, {len(failed)} failed, {count - len(checks)} not run")
        else:
            print(f"{len(checks) - len(failed)} passed, {len(failed)} failed on {device_name(device)}")
    if interrupted:
        raise Interrupted
    return 1 if failed else 0


def _counted(results: Iterator[Check | Skipped], count: int, *, shown: bool) -> Iterator[Check | Skipped]:
    """The results, while a bar, or where there is no terminal a line now and then, says how far they are."""
    lines, began = shown and not sys.stderr.isatty(), time.perf_counter()
    due, estimated = began + _SECONDS, False
    for made, result in enumerate(tqdm(results, total=count, unit="check", disable=not shown or lines, leave=False), 1):
        yield result
        now = time.perf_counter()
        known = made >= _FIRST * count
        if lines and made < count and (now >= due or known > estimated):
            left = f", about {(now - began) / made * (count - made):.0f} s are left" if known else ""
            say(f"{made} of {count} checks are done{left}")
            due, estimated = now + _SECONDS, known


def _print_tables(checks: list[Check]) -> None:
    for backend, device in dict.fromkeys((check.backend, check.device) for check in checks):
        of_backend = [check for check in checks if (check.backend, check.device) == (backend, device)]
        print(f"{backend} on {device}: the worst error / budget of all shapes and layouts; ! marks one that failed")
        shapes = sorted({(check.layer, check.shape) for check in of_backend})
        named = ", ".join(f"{layer} {'×'.join(map(str, shape))}" for layer, shape in shapes)
        print(textwrap.fill(named, width=110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
        # Processes beside each other report in any order.
        names = sorted(
            {(check.name, check.direction) for check in of_backend}, key=lambda row: (row[0], row[1][0] == "b")
        )
        modes = [mode.name for mode in MODES if any(check.mode == mode.name for check in of_backend)]
        width = max(len(name) for name, _ in names) + 1
        print(" " * (width + 9) + "checks" + "".join(f"{mode:>17} " for mode in modes))
        for name, direction in names:
            row = [check for check in of_backend if (check.name, check.direction) == (name, direction)]
            cells = "".join(f"{_cell([check for check in row if check.mode == mode]):>18}" for mode in modes)
            print(f"{name:{width}}{direction:9}{len(row):6}{cells}".rstrip())
        print()


def _cell(checks: list[Check]) -> str:
    if not checks:
        return ""
    check = max(checks, key=lambda check: (not check.passed, check.share))
    error = "equal" if check.error == check.budget == 0 else f"{check.error:.1e}/{check.budget:.1e}"
    return error + (" " if check.passed else "!")


def _failure(check: Check) -> str:
    what = f"{check.name} {check.direction}, {check.backend} on {check.device}, {check.mode} {check.layout}"
    shape = f"{check.layer} {'×'.join(map(str, check.shape))}"
    return f"failed: {what}, {shape}: {check.problem or f'error {check.error:.3g}, budget {check.budget:.3g}'}"
