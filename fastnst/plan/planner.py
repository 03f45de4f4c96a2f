"""How a run fits into memory: the whole image at once where it does, else in the tiles that take the least time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fastnst.errors import OptionError
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import TileGrid, reach_of
from fastnst.options.options import Options
from fastnst.options.parse import in_words, parse_memory, parse_tile
from fastnst.plan.machine import Room, room_on
from fastnst.plan.memory import IMAGE_BYTES, Network, forward_bytes, network_of
from fastnst.plan.plan import Plan
from fastnst.plan.plan_space import TRANSFER_RATE, Space

# What is foreseen may be a little less than what is needed: tiles that leave some room are preferred.
_SAFE = 0.95
# Where nothing fits: so much over the least memory that there is, for fewer and larger tiles.
_NEAR_LEAST = 1.02


def plan_run(
    options: Options,
    runtime: Runtime,
    size: tuple[int, int],
    *,
    tile: Any = "auto",
    max_memory: Any = None,
    style_sizes: Sequence[tuple[int, int]] = (),
    network_is_loaded: bool = True,
    rate: float | None = None,
    transfer_rate: float = TRANSFER_RATE,
    sharers: int = 1,
    room: Room | None = None,
) -> Plan:
    """The quickest way to iterate on an image of `size`, (height, width), that fits into memory.

    Args:
        tile: "auto", "none" for the whole image whatever it needs, or the edge in pixels of what inner tiles own.
        max_memory: bytes or text such as "8GB" that the device's memory is held to; None for what is free of it.
        style_sizes: (height, width) of the style images.
        network_is_loaded: False if the weights are still to come.
        rate: FLOP per second of `measure_rate`; without one no seconds are given, and nominal rates are compared.
        transfer_rate: bytes per second between main memory and a GPU, each way.
        sharers: processes that begin now and share what is free.
        room: what there is of the device's memory, for a device that is not at hand.

    Raises OptionError where the tile or the memory cannot be understood, and where nothing that was asked for fits into
    a `max_memory` that was given; without one the least that is possible is planned, and `fits` says that it is too
    much.
    """
    tile, allowed = parse_tile(tile), parse_memory(max_memory)
    whole_alone = options.style_loss == "sliced"
    if whole_alone and tile == "auto":
        tile = "none"
    network = network_of(options, runtime)
    room = room or room_on(runtime.device, 0 if network_is_loaded else _loading_bytes(network, runtime), sharers)
    limit = room.limit
    if allowed is not None:
        limit = allowed if limit is None else min(limit, allowed)
    space = Space(options, runtime, network, size, replace(room, limit=limit), rate, transfer_rate)
    plans = list(space.plans(tile))
    plans = [plan for plan in plans if room.main is None or plan.host_bytes <= room.main] or plans
    fitting = [plan for plan in plans if plan.fits]
    fitting = [plan for plan in fitting if plan.peak_bytes <= _SAFE * (limit or plan.peak_bytes)] or fitting
    if fitting:
        best = min(fitting, key=lambda plan: (space.cost(plan), plan.peak_bytes + plan.host_bytes))
    else:
        least = min(plan.peak_bytes for plan in plans)
        best = min((plan for plan in plans if plan.peak_bytes <= _NEAR_LEAST * least), key=space.cost)
        if allowed is not None and limit == allowed:
            raise OptionError(_too_much(best, tile, options, allowed))
    return best if whole_alone else replace(best, style_tile=_style_tile(network, style_sizes, best))


def plan_tiles(
    options: Options,
    runtime: Runtime,
    tile: int,
    grid: TileGrid,
    level: str,
    *,
    again: int = 0,
    content: str = "device",
    rate: float | None = None,
    room: Room | None = None,
) -> Plan:
    """The plan to go over the tiles of `grid`, which own `tile` pixels each way, at `level`, whether or not it is the
    quickest or fits; other arguments are as in `Plan` and `plan_run`. Everything but the content's features is on the
    network's device."""
    room = room or room_on(runtime.device, 0, 1)
    space = Space(options, runtime, network_of(options, runtime), (grid.height, grid.width), room, rate)
    return replace(space.over(grid, tile, level, again, content, image_on_host=False), style_tile=tile)


def next_smaller(plan: Plan, options: Options, runtime: Runtime) -> Plan | None:
    """The plan to go on with when `plan` ran out of memory: half the tile, nothing kept; None if there is no less."""
    reach = reach_of(options.network, options.taps, options.padding)
    edge = max(min(plan.tile or max(plan.height, plan.width), max(plan.height, plan.width)) // 2, reach.grid)
    edge = max(edge // reach.grid * reach.grid, reach.grid)
    if options.style_loss == "sliced" or (plan.tile is not None and edge >= plan.tile):
        return None
    network = network_of(options, runtime)
    room = Room(plan.held_bytes, plan.limit_bytes)
    space = Space(options, runtime, network, (plan.height, plan.width), room, None)
    content = plan.content if runtime.device.type == "cpu" or plan.content != "device" else "host"
    smaller = space.recomputed(edge, content, image_on_host=plan.image_on_host)
    return replace(smaller, style_tile=edge)


def _loading_bytes(network: Network, runtime: Runtime) -> int:
    """The weights on the device, and as they were read, which a CPU keeps as well."""
    read = sum(4 * step.parameters for step in network.steps)
    return network.weight_bytes + (read if runtime.device.type == "cpu" else 0)


def _style_tile(network: Network, sizes: Sequence[tuple[int, int]], plan: Plan) -> int | None:
    """The whole style images where they fit, else the plan's tile, or one of half their edge."""
    if plan.tile is not None:
        return plan.tile
    if plan.limit_bytes is None or not sizes:
        return None
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    needed = plan.held_bytes + forward_bytes(network, height, width) + IMAGE_BYTES * height * width
    return None if needed <= plan.limit_bytes else max(plan.height, plan.width)


def _too_much(least: Plan, tile: int | str, options: Options, allowed: int) -> str:
    what = {"none": "the whole image at once", "auto": "any tile"}.get(str(tile), f"tiles of {tile} pixels")
    advice = ["raise --max-memory", "lower --size"]
    if options.optimizer == "lbfgs":
        advice += ["lower --history", "let --history-precision be bf16", "take --optimizer adam"]
    if options.style_loss == "sliced":
        advice.append("choose another --style-loss")
    elif tile != "auto":
        advice.append("let --tile be auto")
    *others, last = advice
    return (
        f"{what} of {least.width}×{least.height} pixels needs at least {in_words(least.peak_bytes)}, and "
        f"{in_words(allowed)} are allowed; {', '.join(others)}, or {last}"
    )


def device_of(plan: Plan, runtime: Runtime) -> torch.device:
    """Where the image, its gradient and the optimiser of `plan` lie."""
    return torch.device("cpu") if plan.image_on_host else runtime.device
