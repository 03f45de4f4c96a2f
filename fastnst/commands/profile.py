"""`fastnst profile`: the measurements as a table or as JSON."""

import argparse
import json
import sys
from itertools import groupby

import torch

from fastnst.errors import OptionError
from fastnst.measure import conditions
from fastnst.options import resolve_options
from fastnst.profiling import Measurement, check_size, measure_roofline, precisions, profile
from fastnst.runtime import Runtime, resolve_runtime


def run(parsed: argparse.Namespace) -> int:
    check_size(parsed.size)
    device = resolve_runtime(resolve_options(device=parsed.device)).device
    runtimes = [
        resolve_runtime(resolve_options(device=parsed.device, precision=precision, backend=parsed.backend))
        for precision in precisions(parsed.precision, device)
    ]
    sections = []
    for runtime in runtimes:
        try:
            measurements = list(profile(parsed.size, runtime, rounds=parsed.rounds, compiled=not parsed.no_compile))
        except (torch.OutOfMemoryError, MemoryError):
            raise OptionError(f"size {parsed.size} does not fit into the memory of {device}; lower --size") from None
        if not parsed.json:
            _print_table(parsed.size, runtime, measurements)
        sections.append((runtime, measurements))
    if parsed.json:
        report = {
            **conditions(device),
            "size": parsed.size,
            "rounds": parsed.rounds,
            "ceilings": {
                runtime.precision: {
                    "gigabytes_per_second": measure_roofline(runtime).bandwidth / 1e9,
                    "teraflops_per_second": measure_roofline(runtime).rate / 1e12,
                }
                for runtime in runtimes
            },
            "measurements": [one.as_dict() for _, measurements in sections for one in measurements],
        }
        print(json.dumps(report))
    return 0


def _print_table(size: int, runtime: Runtime, measurements: list[Measurement]) -> None:
    roofline = measure_roofline(runtime)
    facts = conditions(runtime.device)
    print(
        f"{facts['device']}, {runtime.precision}, {size}×{size} px, torch {facts['versions']['torch']}, "
        f"{facts['machine']['threads']} threads, load {facts['machine']['load']}"
    )
    print(
        f"ceilings: copy {roofline.bandwidth / 1e9:.1f} GB/s, product {roofline.rate / 1e12:.3g} TFLOP/s; "
        "times are medians in ms ± half the spread"
    )
    print(
        f"{'layer':9}{'operation':10}{'fastnst':>17}{'GB/s':>8}{'TFLOP/s':>9}{'roofline':>9}{'eager':>17}{'compile':>17}"
        f"{'× eager':>9}{'× compile':>10}"
    )
    for (layer, operation), group in groupby(measurements, key=lambda one: (one.layer, one.operation)):
        by_name = {one.implementation: one for one in group}
        ours = by_name["fastnst"]
        rates = ours.as_dict()
        print(
            f"{layer:9}{operation:10}{_time(ours):>17}{rates['gigabytes_per_second']:8.1f}"
            f"{rates['teraflops_per_second']:9.3g}{ours.roofline_share:9.0%}{_time(by_name['eager']):>17}"
            f"{_time(by_name.get('compile')):>17}{_ratio(by_name['eager'], ours):>9}"
            f"{_ratio(by_name.get('compile'), ours):>10}"
        )
    for problem in dict.fromkeys(
        f"{one.implementation} {one.operation}: {one.problem}" for one in measurements if one.problem
    ):
        print(f"not timed: {problem}")
    print()
    sys.stdout.flush()


def _time(measurement: Measurement | None) -> str:
    if measurement is None or measurement.timing is None:
        return "-"
    timing = measurement.timing
    return f"{timing.median * 1e3:.3f} ±{timing.spread / 2:4.0%}"


def _ratio(other: Measurement | None, ours: Measurement) -> str:
    if other is None or other.timing is None or ours.timing is None:
        return "-"
    return f"{other.timing.median / ours.timing.median:.2f}"
