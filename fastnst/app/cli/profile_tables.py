"""The tables that `fastnst profile` prints: the measurements of a precision."""

import os
import sys
from itertools import groupby

from fastnst_kernels.profiling import Measurement, conditions, measure_roofline

from fastnst.network.runtime import Runtime


def print_measurements(size: int, runtime: Runtime, measurements: list[Measurement]) -> None:
    """The losses of a square image of `size` pixels at the style layers, beneath what they were measured under."""
    roofline = measure_roofline(runtime)
    facts = conditions(runtime.device)
    print(
        f"{facts['device']}, {runtime.precision}, {size}×{size} px, torch {facts['versions']['torch']}, "
        f"{facts['machine']['threads']} threads, load {facts['machine']['load']}"
    )
    if runtime.device.type == "cpu" and (facts["machine"]["load"] or 0) > 1.5 * (os.cpu_count() or 1):
        print("other programs keep the processors busy: these times say little; measure again when they do not")
    print(
        f"ceilings: copy {roofline.bandwidth / 1e9:.1f} GB/s, product {roofline.rate / 1e12:.3g} TFLOP/s; "
        "times are medians in ms ± half the spread, × is their time over ours; memory besides inputs and result, in MB"
    )
    print(
        f"{'layer':9}{'operation':10}{'fastnst':>17}{'GB/s':>8}{'TFLOP/s':>9}{'roofline':>9}{'eager':>17}{'compile':>17}"
        f"{'× eager':>9}{'× compile':>10}{'memory':>8}{'eager':>8}"
    )
    for (layer, operation), group in groupby(measurements, key=lambda one: (one.layer, one.operation)):
        by_name = {one.implementation: one for one in group}
        ours = by_name["fastnst"]
        rates = ours.as_dict()
        print(
            f"{layer:9}{operation:10}{_time(ours):>17}{rates['gigabytes_per_second']:8.1f}"
            f"{rates['teraflops_per_second']:9.3g}{ours.roofline_share:9.0%}{_time(by_name['eager']):>17}"
            f"{_time(by_name.get('compile')):>17}{_ratio(by_name['eager'], ours):>9}"
            f"{_ratio(by_name.get('compile'), ours):>10}{_memory(ours):>8}{_memory(by_name['eager']):>8}"
        )
    print(_peaks(measurements))
    for problem in dict.fromkeys(
        f"{one.implementation} {one.operation}: {one.problem}" for one in measurements if one.problem
    ):
        print(f"not timed: {problem}")
    print()
    sys.stdout.flush()


def print_steps(measurements: list[Measurement]) -> None:
    """The other kernels of an iteration, which only move bytes."""
    print(
        f"{'layer':9}{'operation':25}{'fastnst':>17}{'GB/s':>8}{'of copy':>9}{'eager':>17}{'× eager':>9}"
        f"{'memory':>8}{'eager':>8}"
    )
    for (layer, operation), group in groupby(measurements, key=lambda one: (one.layer, one.operation)):
        by_name = {one.implementation: one for one in group}
        ours, eager = by_name["fastnst"], by_name["eager"]
        print(
            f"{layer:9}{operation:25}{_time(ours):>17}{ours.as_dict()['gigabytes_per_second']:8.1f}"
            f"{ours.roofline_share:9.0%}{_time(eager):>17}{_ratio(eager, ours):>9}{_memory(ours):>8}{_memory(eager):>8}"
        )
    print()
    sys.stdout.flush()


def _peaks(measurements: list[Measurement]) -> str:
    """The peak memory of loss and backward over the layers, one after another, against the features of all."""
    backward = [one for one in measurements if one.operation == "backward"]
    features = sum(one.features for one in backward if one.implementation == "fastnst")
    shares = []
    for name in ("fastnst", "eager"):
        found = [one.extra_bytes for one in backward if one.implementation == name and one.extra_bytes is not None]
        if found:
            shares.append(f"{name} {max(found) / 1e6:.1f} MB ({max(found) / features:.1%})")
    return f"peak memory of a layer's loss and backward, and its share of all features: {', '.join(shares)}"


def _time(measurement: Measurement | None) -> str:
    if measurement is None or measurement.timing is None:
        return "-"
    timing = measurement.timing
    return f"{timing.median * 1e3:.3f} ±{timing.spread / 2:4.0%}"


def _ratio(other: Measurement | None, ours: Measurement) -> str:
    if other is None or other.timing is None or ours.timing is None:
        return "-"
    return f"{other.timing.median / ours.timing.median:.2f}"


def _memory(measurement: Measurement) -> str:
    return "-" if measurement.extra_bytes is None else f"{measurement.extra_bytes / 1e6:.1f}"
