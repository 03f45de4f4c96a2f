"""What `fastnst profile` prints: the measurements of a precision, or the model of a GPU, as tables."""

import os
import sys
from itertools import groupby

from fastnst.gpu_model import Modelled, datasheet_roofline
from fastnst.measure import conditions
from fastnst.network.runtime import Runtime
from fastnst.profiling import Measurement, measure_roofline


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


def model_lines(rows: list[Modelled], rest: list[Modelled], product: str, precision: str, size: int) -> list[str]:
    """The model as a table; `rows` and `rest` are of one target and precision."""
    roofline = datasheet_roofline(rows[0].target, precision)
    features, workspace = sum(row.features for row in rows) // 2, max(row.workspace for row in rows)
    moved, least = sum(row.plan_bytes for row in rows), sum(row.work.bytes for row in rows)
    share = sum(row.least_seconds for row in rows) / sum(row.plan_seconds for row in rows)
    columns = (
        f"{'layer':9}{'operation':25}{'kernel':20}{'blocks':>8}{'rounds':>8}{'moved MB':>10}{'least MB':>10}"
        f"{'GFLOP':>8}{'least µs':>10}{'moved µs':>10}{'at most':>9}{'workspace MB':>14}"
    )
    return [
        f"of {product} ({rows[0].target}), {precision}, {size}×{size} px; nothing here was measured",
        f"ceilings of its data sheet: {roofline.bandwidth / 1e9:.0f} GB/s, {roofline.rate / 1e12:.4g} TFLOP/s",
        "blocks / multiprocessors = rounds; latency and what blocks read again from the cache are not in it",
        columns,
        *(line for row in rows for line in _row_lines(row)),
        f"all layers: moved {moved / 1e6:.0f} MB, least {least / 1e6:.0f} MB; at most {share:.0%} of the roofline; "
        f"peak workspace {workspace / 1e6:.1f} MB, {workspace / features:.1%} of the features' {features / 1e6:.0f} MB",
        columns,
        *(line for row in rest for line in _row_lines(row)),
    ]


def _row_lines(row: Modelled) -> list[str]:
    """One operation, and beneath it its kernels where they are several."""
    launched = [f"{one.kernel:20}{one.blocks:8}{one.waves:8.2f}" for one in row.kernels]
    lines = [
        f"{row.layer:9}{row.operation:25}{launched[0] if len(launched) == 1 else ' ' * 36}{row.plan_bytes / 1e6:10.2f}"
        f"{row.work.bytes / 1e6:10.2f}{row.work.flops / 1e9:8.2f}{row.least_seconds * 1e6:10.1f}"
        f"{row.plan_seconds * 1e6:10.1f}{row.roofline_share:9.0%}{row.workspace / 1e6:14.2f}"
    ]
    if len(launched) > 1:
        for words, one in zip(launched, row.kernels, strict=True):
            lines.append(f"{'':34}{words}" + ("" if one.bytes is None else f"{one.bytes / 1e6:10.2f}"))
    return lines
