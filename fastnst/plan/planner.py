"""How a run fits into memory: the whole image at once where it does, else in the tiles that take the least time.

    the whole image            nothing is computed twice
    kept                       each tile goes forward once and back once; its features (a GPU: bits) are kept, but
                               for those up to a tapped layer, which the way back computes again
    recompute                  each tile goes forward twice and back once; nothing is kept

and, for each, the content's features kept or computed anew. `memory` foresees the bytes of each way, `speed` counts its
operations. Several processes share an image by its tiles: each way is that of the process that has the most of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from fastnst.errors import OptionError
from fastnst.loss.objective import least_redone
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Reach, TileGrid, make_grid, reach_of
from fastnst.options.options import Options
from fastnst.options.parse import in_words
from fastnst.plan.machine import Room, room_on
from fastnst.plan.memory import (
    IMAGE_BYTES_PER_PIXEL,
    Network,
    forward_bytes,
    mask_bytes,
    most_elements,
    network_of,
    optimizer_bytes_per_pixel,
    sorting_bytes,
    tiled_bytes,
    untiled_bytes,
)
from fastnst.plan.speed import Speed, forward_flops, style_flops

WHOLE = "whole"
# A scale holds the image that it moves, the best and a gradient.
_IMAGES = 3
# What is foreseen may be a little less than what is needed: tiles that leave some room are preferred.
_SAFE = 0.95
# From this part of the limit on the heap is kept small.
_TIGHT = 0.7
# Where nothing fits: so much over the least memory that there is, for fewer and larger tiles.
_NEAR_LEAST = 1.02
# Tile sizes that are tried: each about so much larger than the one before.
_GROWTH = 1.08
# Smaller tiles are not worth the talk about them.
_LEAST_SHARED = 16
# The libraries of a GPU's convolutions count a map's elements in 32 bits.
_COUNTED = 2**31


@dataclass(frozen=True)
class Plan:
    """How a scale of a run is computed.

    Attributes:
        tile: the edge in pixels of what inner tiles own, or None for the whole image.
        level: `WHOLE`, or one of `fastnst.loss.objective.LEVELS`.
        redone_steps: the steps of the backbone that the second pass computes again in the level "kept".
        content_is_kept: whether the content's features are kept, or computed anew each time.
        grid: the tiles; one, without halo, for the whole image.
        style_tile: the tile in which the style's targets are computed, or None.
        processes: how many share the tiles.
        peak_bytes: the device's memory at the peak: on a CPU the resident size of the process, on a GPU its tensors.
        held_bytes: what of it was held before, with the network's weights.
        limit_bytes: what there is, or what is allowed; None if nobody knows.
        flops: operations of one iteration, of the process that has the most tiles.
        uncounted: elements of the whole image's largest map, where they are more than a GPU's libraries count and it is
            in tiles therefore; else None.
    """

    height: int
    width: int
    tile: int | None
    level: str
    redone_steps: int
    content_is_kept: bool
    grid: TileGrid
    style_tile: int | None
    processes: int
    peak_bytes: int
    held_bytes: int
    limit_bytes: int | None
    flops: float
    uncounted: int | None = None

    @property
    def fits(self) -> bool:
        """True where the peak is within the limit, or there is none."""
        return self.limit_bytes is None or self.peak_bytes <= self.limit_bytes

    @property
    def is_tight(self) -> bool:
        """True where what a CPU's heap keeps of freed maps, up to a third of the peak, might not fit."""
        return self.limit_bytes is not None and self.peak_bytes > _TIGHT * self.limit_bytes

    def seconds(self, speed: Speed) -> float:
        """The time of one iteration."""
        share = math.ceil(len(self.grid) / self.processes) / len(self.grid)
        return speed.seconds(self.flops, self.height * self.width * self.grid.overhead * share)

    @property
    def added_bytes(self) -> int:
        """Bytes that the run adds to what was held before."""
        return self.peak_bytes - self.held_bytes

    def as_dict(self) -> dict[str, Any]:
        """Every field as JSON can hold it, the grid by its number of tiles, its crops and its overhead."""
        tile = next(iter(self.grid))
        return {
            **{name: value for name, value in vars(self).items() if name != "grid"},
            "tiles": len(self.grid),
            "crop": {"width": tile.shape[1], "height": tile.shape[0]},
            "halo_overhead": self.grid.overhead,
            "fits": self.fits,
        }


def plan_run(
    options: Options,
    runtime: Runtime,
    size: tuple[int, int],
    *,
    style_sizes: Sequence[tuple[int, int]] = (),
    network_is_loaded: bool = True,
    processes: int = 1,
    sharers: int = 1,
    room: Room | None = None,
) -> Plan:
    """The quickest way to iterate on an image of `size`, (height, width), that fits into memory.

    It is in tiles as the option `tile` says, and held to `max_memory`. Several processes share the image in smaller
    tiles than were asked for, where that is quicker.

    Args:
        style_sizes: (height, width) of the style images.
        network_is_loaded: False if the weights are still to come.
        processes: how many share the image.
        sharers: processes that begin now and share what is free.
        room: what there is of the device's memory, for a device that is not at hand.

    Raises OptionError where nothing that was asked for fits into a `max_memory` that was given; without one the least
    that is possible is planned, and `fits` says that it is too much.
    """
    whole_alone, allowed = options.style_loss == "sliced", options.max_memory
    tile = "none" if whole_alone else options.tile
    network = network_of(options, runtime)
    room = room or room_on(runtime.device, 0 if network_is_loaded else network.loading_bytes, sharers)
    limit = room.limit
    if allowed is not None:
        limit = allowed if limit is None else min(limit, allowed)
    ways = Ways(options, network, size, replace(room, limit=limit), processes)
    plans = list(ways.plans(tile))
    fitting = [plan for plan in plans if plan.fits]
    safe = [plan for plan in fitting if limit is None or plan.peak_bytes <= _SAFE * limit]
    if safe or fitting:
        best = min(safe or fitting, key=lambda plan: (plan.flops, plan.peak_bytes))
    else:
        least = min(plan.peak_bytes for plan in plans)
        best = min((plan for plan in plans if plan.peak_bytes <= _NEAR_LEAST * least), key=lambda plan: plan.flops)
        if allowed is not None and limit == allowed:
            raise OptionError(_too_much(best, tile, options, allowed))
    return best if whole_alone else replace(best, style_tile=_style_tile(network, style_sizes, best))


def next_smaller(plan: Plan, options: Options, runtime: Runtime) -> Plan | None:
    """The plan to go on with when `plan` ran out of memory: half the tile, nothing kept; None if there is no less."""
    reach = reach_of(options.network, options.taps, options.padding)
    largest = max(plan.height, plan.width)
    edge = max(min(plan.tile or largest, largest) // 2 // reach.grid * reach.grid, reach.grid)
    if options.style_loss == "sliced" or (plan.tile is not None and edge >= plan.tile):
        return None
    room = Room(plan.held_bytes, plan.limit_bytes)
    ways = Ways(options, network_of(options, runtime), (plan.height, plan.width), room, plan.processes)
    grid = make_grid(plan.height, plan.width, edge, reach)
    smaller = ways.over(grid, edge, "recompute", 0, content_is_kept=plan.content_is_kept)
    return replace(smaller, style_tile=edge)


def most_tiles(options: Options, size: tuple[int, int]) -> int:
    """The tiles into which an image of `size`, (height, width), can be cut at most: for so many processes."""
    reach = reach_of(options.network, options.taps, options.padding)
    return len(make_grid(*size, max(least_edge(reach), _LEAST_SHARED // reach.grid * reach.grid), reach))


def least_edge(reach: Reach) -> int:
    """The smallest tile that is worth its halo: half of the reach, or one cell of the grid."""
    return max(reach.grid, reach.pixels // 2 // reach.grid * reach.grid)


@dataclass(frozen=True)
class Ways:
    """All ways to compute an image of `size`, (height, width), in `room`, shared by `processes`."""

    options: Options
    network: Network
    size: tuple[int, int]
    room: Room
    processes: int = 1

    def plans(self, tile: int | str) -> Iterator[Plan]:
        """The ways in tiles that own `tile` pixels each way, in any tiles ("auto"), or whole ("none")."""
        reach, alone = self._reach, self.processes == 1
        # A tile that is as large as the image is the whole image.
        is_whole = tile in ("auto", "none") or len(make_grid(*self.size, int(tile), reach)) == 1
        if is_whole and (tile != "auto" or self._is_counted(self.size)):
            whole = self.over(make_grid(*self.size, max(self.size), reach), None, WHOLE)
            yield whole
            # Alone, nothing is quicker.
            if alone and (tile != "auto" or whole.fits):
                return
        steps = self.network.steps
        tapped = [count for count, step in enumerate(steps[:-1], start=1) if step.is_tapped]
        least = least_redone([step.name for step in steps], self.options.taps)
        levels = [("kept", redone_steps) for redone_steps in (least, *(count for count in tapped if count > least))]
        contents = (True, False) if self.options.active_content_layers else (True,)
        for edge in self._edges(tile):
            grid = make_grid(*self.size, edge, reach)
            if tile == "auto" and not self._is_counted(max(grid.crops, key=math.prod)):
                break
            for (level, redone_steps), content_is_kept in product([*levels, ("recompute", 0)], contents):
                yield self.over(grid, edge, level, redone_steps, content_is_kept=content_is_kept)

    def _edges(self, tile: int | str) -> list[int]:
        """The tiles that are tried: the one that was asked for, or all up to the image; for several processes all up
        to the one that was asked for."""
        grid = self._reach.grid
        asked = [] if isinstance(tile, str) else [max(tile // grid, 1) * grid]
        if asked and self.processes == 1:
            return asked
        most = max(asked or self.size)
        edges = [min(least_edge(self._reach), most)]
        while (edge := max(edges[-1] + grid, int(edges[-1] * _GROWTH) // grid * grid)) < most:
            edges.append(edge)
        return edges + asked

    def over(
        self, grid: TileGrid, edge: int | None, level: str, redone_steps: int = 0, *, content_is_kept: bool = True
    ) -> Plan:
        """The step in the tiles of `grid`, which own `edge` pixels each way; None is the whole image."""
        options, network, (height, width) = self.options, self.network, self.size
        content, style = dict(options.active_content_layers), dict(options.active_style_layers)
        crop, count = max(grid.crops, key=math.prod), math.ceil(len(grid) / self.processes)
        if edge is None:
            device = untiled_bytes(network, height, width)
        else:
            device = tiled_bytes(network, *crop, tiles=count, level=level, redone_steps=redone_steps)
        flops = (3 if level == "recompute" else 2) * self._forward_flops(grid)
        if redone_steps:
            flops += self._forward_flops(grid, (network.steps[redone_steps - 1].name,))
        if not content_is_kept:
            flops += 2 * self._forward_flops(grid, tuple(content))
        flops = flops * count / len(grid) + style_flops(network, style, height, width) * count / len(grid)
        # Of the content's features, those of a process' own tiles, or of the tile at work twice.
        held = count if content_is_kept else 2
        device += network.element * sum(map(math.prod, network.features(content, height, width))) * held // len(grid)
        device += mask_bytes(network, style, height, width, regions=len(options.masks or ()))
        if options.style_loss == "sliced":
            device += sorting_bytes(network, style, height, width)
        # On a CPU the content's own pixels, and among several processes the gradient on its way.
        images = _IMAGES + (options.average is not None) + network.on_cpu + (self.processes > 1)
        per_pixel = images * IMAGE_BYTES_PER_PIXEL
        per_pixel += optimizer_bytes_per_pixel(options, is_fused=not network.keeps_features)
        return Plan(
            height=height,
            width=width,
            tile=edge,
            level=level,
            redone_steps=redone_steps,
            content_is_kept=content_is_kept,
            grid=grid,
            style_tile=None,
            processes=self.processes,
            peak_bytes=self.room.held + device + height * width * per_pixel,
            held_bytes=self.room.held,
            limit_bytes=self.room.limit,
            flops=flops,
            uncounted=None if edge is None or self._is_counted(self.size) else most_elements(network, height, width),
        )

    def _is_counted(self, size: tuple[int, int]) -> bool:
        """True where the maps of a crop have no more elements than the device's libraries count."""
        return self.network.on_cpu or most_elements(self.network, *size) < _COUNTED

    @cached_property
    def _reach(self) -> Reach:
        return reach_of(self.options.network, self.options.taps, self.options.padding)

    def _forward_flops(self, grid: TileGrid, through: tuple[str, ...] | None = None) -> float:
        return sum(count * forward_flops(self.network, *crop, through) for crop, count in grid.crops.items())


def _style_tile(network: Network, sizes: Sequence[tuple[int, int]], plan: Plan) -> int | None:
    """None, for whole style images, where they fit, else the plan's tile, or one as large as its image."""
    if plan.tile is not None:
        return plan.tile
    if not sizes:
        return None
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    if not network.on_cpu and most_elements(network, height, width) >= _COUNTED:
        return max(plan.height, plan.width)
    if plan.limit_bytes is None:
        return None
    needed = plan.held_bytes + forward_bytes(network, height, width) + IMAGE_BYTES_PER_PIXEL * height * width
    return None if needed <= plan.limit_bytes else max(plan.height, plan.width)


def _too_much(least: Plan, tile: int | str, options: Options, allowed: int) -> str:
    what = {"none": "the whole image at once", "auto": "any tile"}.get(str(tile), f"tiles of {tile} pixels")
    advice = ["raise --max-memory", "lower --size"]
    if options.optimizer == "lbfgs":
        advice += ["lower --history", "choose --history-precision bf16", "choose --optimizer adam"]
    if options.style_loss == "sliced":
        advice.append("choose another --style-loss")
    elif tile != "auto":
        advice.append("choose --tile auto")
    *others, last = advice
    return (
        f"{what} of {least.width}×{least.height} pixels needs at least {in_words(least.peak_bytes)}, and you allow "
        f"{in_words(allowed)}; {', '.join(others)}, or {last}"
    )
