"""How a run fits into memory: the whole image at once where it does, else in the tiles that take the least time.

What is compared, each with the memory that `plan_memory` foresees and the operations that `plan_time` counts:

    the whole image            nothing is computed twice
    kept                       each tile goes forward once and back once; its bits and tapped features are kept, but
                               for those up to a tapped layer, which the way back computes again
    kept on the host           the same, kept in main memory while the network is on a GPU
    recompute                  each tile goes forward twice and back once; nothing is kept

and, for each, the content's features in the network's memory, in main memory, on a disk, or computed anew; on a GPU
image, gradient and optimiser there or in main memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fastnst.errors import OptionError
from fastnst.options import Options
from fastnst.plan_limit import USABLE, free_bytes, held_bytes
from fastnst.plan_memory import (
    Network,
    forward_bytes,
    kept_bytes,
    mask_bytes,
    network_of,
    sorting_bytes,
    tiled_bytes,
    untiled_bytes,
)
from fastnst.plan_time import forward_flops, style_flops
from fastnst.runtime import Runtime
from fastnst.tile_content import PLACES
from fastnst.tile_grid import Reach, TileGrid, levels_of, make_grid, reach_of
from fastnst.tile_options import in_words, parse_memory, parse_tile
from fastnst.tiled_objective import least_again

WHOLE = "whole"
_IMAGE_BYTES = 12
# A scale holds the image that it moves, the best and a gradient.
_IMAGES = 3
# What a step of L-BFGS takes for a while: six vectors, and as many as malloc was seen to keep of them.
_STEP_IMAGES = 8
# Fourier bands are filled up to whole blocks, by half a block of 1/128 each, and have for each frequency where it lies.
_PADDING, _PLACES_BYTES = 1.04, 16
# Bytes per second that hold where nothing was measured: main memory, its way to a GPU, and a disk.
_HOST_RATE, _TRANSFER_RATE, _DISK_RATE = 8e9, 20e9, 1e9
_NOMINAL_RATE = {"cpu": 1e11, "cuda": 1e14}
# Tile sizes that are tried: each about so much larger than the one before.
_GROWTH = 1.08
# What is foreseen may be a little less than what is needed: tiles that leave some room are preferred.
_SAFE = 0.95
# Where nothing fits: so much over the least memory that there is, for fewer and larger tiles.
_NEAR_LEAST = 1.02


@dataclass(frozen=True)
class Plan:
    """What a scale of a run would do.

    `tile` is the edge in pixels of what inner tiles own, or None for the whole image; `level` one of `WHOLE` and those
    of `tiled_objective`, `again` the steps of the backbone that its second pass computes again, `content` a place of
    `tile_content`. `grid` is (1 tile, without halo) for the whole image.
    `style_tile` is the tile in which the style's targets are computed, or None.

    `peak_bytes` is the device's memory at the peak: on a CPU the resident size of the process, on a GPU its tensors;
    `held_bytes` of them were held before, with the network's weights.
    `host_bytes` is what lies in main memory besides (0 on a CPU), `disk_bytes` on a disk. `limit_bytes` is what there
    is, or what is allowed; None if nobody knows. `flops` are those of one iteration, `seconds` their time at a measured
    rate.
    """

    height: int
    width: int
    tile: int | None
    level: str
    again: int
    content: str
    image_on_host: bool
    grid: TileGrid
    style_tile: int | None
    peak_bytes: int
    held_bytes: int
    host_bytes: int
    disk_bytes: int
    limit_bytes: int | None
    flops: float
    seconds: float | None

    @property
    def fits(self) -> bool:
        return self.limit_bytes is None or self.peak_bytes <= self.limit_bytes

    def as_dict(self) -> dict[str, Any]:
        """Every field as JSON can hold it, the grid by its number of tiles, its crops and its overhead."""
        found = {name: value for name, value in asdict(replace(self, grid=_NO_GRID)).items() if name != "grid"}
        tile = next(iter(self.grid))
        return {
            **found,
            "tiles": len(self.grid),
            "crop": {"width": tile.shape[1], "height": tile.shape[0]},
            "halo_overhead": self.grid.overhead,
            "fits": self.fits,
        }


_NO_GRID = TileGrid(0, 0, (), ())


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
    sharers: int = 1,
) -> Plan:
    """The quickest way to iterate on an image of `size`, (height, width), that fits into memory.

    Args:
        tile: "auto", "none" for the whole image whatever it needs, or the edge in pixels of what inner tiles own.
        max_memory: bytes or text such as "8GB" that the device's memory is held to; None for what is free of it.
        style_sizes: (height, width) of the style images.
        network_is_loaded: False if the weights are still to come.
        rate: FLOP per second of `measure_rate`; without one no seconds are given, and nominal rates are compared.
        sharers: processes that begin now and share what is free.

    Raises OptionError where the tile or the memory cannot be understood, and where nothing that was asked for fits into
    a `max_memory` that was given; without one the least that is possible is planned, and `fits` says that it is too
    much.
    """
    tile, allowed = parse_tile(tile), parse_memory(max_memory)
    whole_alone = options.style_loss == "sliced"
    if whole_alone and tile == "auto":
        tile = "none"
    network = network_of(options, runtime)
    fixed = held_bytes(runtime.device) + (0 if network_is_loaded else _loading_bytes(network, runtime))
    free = free_bytes(runtime.device)
    limit = None if free is None else held_bytes(runtime.device) + int(USABLE * free / sharers)
    if allowed is not None:
        limit = allowed if limit is None else min(limit, allowed)
    space = _Space(options, runtime, network, size, fixed, limit, rate)
    plans = list(space.plans(tile))
    fitting = [plan for plan in plans if plan.fits]
    fitting = [plan for plan in fitting if plan.peak_bytes <= _SAFE * (limit or plan.peak_bytes)] or fitting
    if fitting:
        best = min(fitting, key=lambda plan: (space.cost(plan), plan.peak_bytes))
    else:
        least = min(plan.peak_bytes for plan in plans)
        best = min((plan for plan in plans if plan.peak_bytes <= _NEAR_LEAST * least), key=space.cost)
        if allowed is not None and limit == allowed:
            raise OptionError(_too_much(best, tile, options, allowed))
    return best if whole_alone else replace(best, style_tile=_style_tile(network, style_sizes, best, fixed))


def next_smaller(plan: Plan, options: Options, runtime: Runtime) -> Plan | None:
    """The plan to go on with when `plan` ran out of memory: half the tile, nothing kept; None if there is no less."""
    reach = reach_of(options.network, options.taps, options.padding)
    edge = max(min(plan.tile or max(plan.height, plan.width), max(plan.height, plan.width)) // 2, reach.grid)
    edge = max(edge // reach.grid * reach.grid, reach.grid)
    if options.style_loss == "sliced" or (plan.tile is not None and edge >= plan.tile):
        return None
    network = network_of(options, runtime)
    space = _Space(options, runtime, network, (plan.height, plan.width), plan.held_bytes, plan.limit_bytes, None)
    content = plan.content if runtime.device.type == "cpu" or plan.content != "device" else "host"
    smaller = space.tiled(edge, "recompute", 0, content, plan.image_on_host)
    return replace(smaller, style_tile=edge, seconds=None)


@dataclass(frozen=True)
class _Space:
    """All that could be done: `fixed` bytes are held whatever is chosen."""

    options: Options
    runtime: Runtime
    network: Network
    size: tuple[int, int]
    fixed: int
    limit: int | None
    rate: float | None

    def plans(self, tile: int | str) -> Iterator[Plan]:
        on_cpu = self.network.on_cpu
        images = (False,) if on_cpu else (False, True)
        # A tile that is as large as the image is the whole image.
        if tile in ("auto", "none") or len(make_grid(*self.size, int(tile), self._reach)) == 1:
            wholes = [self.whole(on_host) for on_host in images]
            yield from wholes
            # Nothing is quicker.
            if tile != "auto" or wholes[0].fits:
                return
        levels = ("kept", "recompute") if on_cpu else ("kept", "kept-host", "recompute")
        places: tuple[str, ...] = ("device",)
        if self.options.active_content_layers:
            places = ("device", "disk", "recompute") if on_cpu else PLACES
        for edge in self._edges() if tile == "auto" else [int(tile)]:
            for level in levels:
                for again in self._prefixes() if level != "recompute" else [0]:
                    for place in places:
                        yield from (self.tiled(edge, level, again, place, on_host) for on_host in images)

    def _prefixes(self) -> list[int]:
        """How many first steps can be computed again, while something is kept."""
        steps = self.network.steps
        tapped = [count for count, step in enumerate(steps[:-1], start=1) if step.is_tapped]
        least = least_again([step.name for step in steps], self.options.taps)
        return [least, *(count for count in tapped if count > least)]

    def _edges(self) -> Iterator[int]:
        """Tiles from half of the reach, or one cell of the grid, up to the image."""
        reach = self._reach
        edge = max(reach.grid, reach.pixels // 2 // reach.grid * reach.grid)
        while True:
            yield edge
            edge = max(edge + reach.grid, int(edge * _GROWTH) // reach.grid * reach.grid)
            if edge >= max(self.size):
                return

    @property
    def _reach(self) -> Reach:
        return reach_of(self.options.network, self.options.taps, self.options.padding)

    def whole(self, image_on_host: bool) -> Plan:
        grid = make_grid(*self.size, max(self.size), self._reach)
        content = self._content_bytes()
        device = untiled_bytes(self.network, *self.size) + content + self._style_bytes()
        flops = 2 * forward_flops(self.network, *self.size) + self._style_flops()
        return self._plan(None, WHOLE, 0, "device", image_on_host, grid, device, 0, 0, flops)

    def tiled(self, edge: int, level: str, again: int, place: str, image_on_host: bool) -> Plan:
        """Tiles that own `edge` pixels each way, rounded to the grid."""
        edge = max(edge // self._reach.grid, 1) * self._reach.grid
        grid = make_grid(*self.size, edge, self._reach)
        crop, count = next(iter(grid)).shape, len(grid)
        content = self._content_bytes()
        part = content // count
        device = tiled_bytes(self.network, *crop, count, level, again) + (content if place == "device" else 2 * part)
        device += self._style_bytes()
        host = content if place == "host" else 0
        # Pinned memory comes in powers of two.
        host += 2 * count * kept_bytes(self.network, *crop, again) if level == "kept-host" else 0
        disk = content if place == "disk" else 0
        passes = 3 if level == "recompute" else 2
        flops = count * passes * forward_flops(self.network, *crop) + self._style_flops()
        if level != "recompute" and again:
            flops += count * forward_flops(self.network, *crop, (self.network.steps[again - 1].name,))
        if place == "recompute":
            names = tuple(name for name, _ in self.options.active_content_layers)
            flops += 2 * count * forward_flops(self.network, *crop, names)
        return self._plan(edge, level, again, place, image_on_host, grid, device, host, disk, flops)

    def _plan(
        self,
        edge: int | None,
        level: str,
        again: int,
        place: str,
        image_on_host: bool,
        grid: TileGrid,
        device: int,
        host: int,
        disk: int,
        flops: float,
    ) -> Plan:
        height, width = self.size
        count = _IMAGES + (self.options.average is not None)
        images = height * width * (count * _IMAGE_BYTES + optimizer_bytes(self.options))
        # The content's own pixels, in main memory.
        pixels = height * width * _IMAGE_BYTES
        if image_on_host:
            host += images + pixels
            crop = next(iter(grid)).shape
            device += 2 * _IMAGE_BYTES * crop[0] * crop[1]
        else:
            device += images + (pixels if self.network.on_cpu else 0)
            host += 0 if self.network.on_cpu else pixels
        plan = Plan(
            height,
            width,
            edge,
            level,
            again,
            place,
            image_on_host,
            grid,
            None,
            self.fixed + device,
            self.fixed,
            host,
            disk,
            self.limit,
            flops,
            None,
        )
        return plan if self.rate is None else replace(plan, seconds=self.cost(plan))

    def cost(self, plan: Plan) -> float:
        """Seconds of one iteration, by the model."""
        rate = self.rate or _NOMINAL_RATE.get(self.runtime.device.type, _NOMINAL_RATE["cpu"])
        pixels = plan.height * plan.width
        seconds = plan.flops / rate + 2 * plan.disk_bytes / _DISK_RATE
        if plan.content == "host":
            seconds += 2 * self._content_bytes() / _TRANSFER_RATE
        if plan.level == "kept-host":
            crop = next(iter(plan.grid)).shape
            seconds += 2 * len(plan.grid) * kept_bytes(self.network, *crop, plan.again) / _TRANSFER_RATE
        if plan.image_on_host:
            moved = pixels * _IMAGE_BYTES * 3 * plan.grid.overhead
            seconds += moved / _TRANSFER_RATE + 2 * pixels * optimizer_bytes(self.options) / _HOST_RATE
        return seconds

    def _style_bytes(self) -> int:
        names = tuple(name for name, _ in self.options.active_style_layers)
        levels = levels_of(self.options.network, names)
        regions = len(self.options.masks or ())
        masks = mask_bytes(self.network, levels, regions, *self.size)
        return masks + (sorting_bytes(self.network, levels, *self.size) if self.options.style_loss == "sliced" else 0)

    def _content_bytes(self) -> int:
        names = tuple(name for name, _ in self.options.active_content_layers)
        height, width = self.size
        filters = {step.name: step.filters for step in self.network.steps}
        return sum(
            self.network.element * filters[name] * (height >> level) * (width >> level)
            for name, level in levels_of(self.options.network, names).items()
        )

    def _style_flops(self) -> float:
        return style_flops(self.network, tuple(name for name, _ in self.options.active_style_layers), *self.size)


def optimizer_bytes(options: Options) -> int:
    """Of the optimiser's state and what it uses in a step, for each pixel."""
    if options.optimizer == "adam":
        return 2 * _IMAGE_BYTES
    element = 4 if options.history_precision == "fp32" else 2
    pairs = 2 * options.history * 3 * element
    # The last gradient, and a line's start and direction.
    kept = 1 if options.line_search == "none" else 3
    if options.hessian == "bands":
        return int(_PADDING * pairs) + _PLACES_BYTES + (kept + _STEP_IMAGES) * _IMAGE_BYTES
    return pairs + (kept + _STEP_IMAGES) * _IMAGE_BYTES


def _loading_bytes(network: Network, runtime: Runtime) -> int:
    """The weights on the device, and as they were read, which a CPU keeps as well."""
    read = sum(4 * step.parameters for step in network.steps)
    return network.weight_bytes + (read if runtime.device.type == "cpu" else 0)


def _style_tile(network: Network, sizes: Sequence[tuple[int, int]], plan: Plan, fixed: int) -> int | None:
    """The whole style images where they fit, else the plan's tile, or one of half their edge."""
    if plan.tile is not None:
        return plan.tile
    if plan.limit_bytes is None or not sizes:
        return None
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    needed = fixed + forward_bytes(network, height, width) + _IMAGE_BYTES * height * width
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
