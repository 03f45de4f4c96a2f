"""All that a run could do to fit into memory: each with the memory that `memory` foresees and the operations that
`speed` counts.

    the whole image            nothing is computed twice
    kept                       each tile goes forward once and back once; its bits and tapped features are kept, but
                               for those up to a tapped layer, which the way back computes again
    kept-host                  the same, kept in main memory while the network is on a GPU
    recompute                  each tile goes forward twice and back once; nothing is kept

and, for each, the content's features in the network's memory, in main memory, on a disk, or computed anew; on a GPU
image, gradient and optimiser there or in main memory. What a GPU keeps in main memory goes there and back while it
computes other tiles, and takes time only where that is longer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from fastnst.loss.content import PLACES
from fastnst.loss.tiled_objective import least_again
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Reach, TileGrid, levels_of, make_grid, reach_of
from fastnst.options.options import Options
from fastnst.plan.machine import Room
from fastnst.plan.memory import (
    IMAGE_BYTES,
    Network,
    kept_bytes,
    mask_bytes,
    sorting_bytes,
    tiled_bytes,
    untiled_bytes,
)
from fastnst.plan.plan import WHOLE, Plan
from fastnst.plan.speed import beside_seconds, forward_flops, style_flops

# A scale holds the image that it moves, the best and a gradient.
_IMAGES = 3
# What a step of L-BFGS takes for a while: six vectors, and as many as malloc was seen to keep of them.
_STEP_IMAGES = 8
# Fourier bands are filled up to whole blocks, by half a block of 1/128 each, and have for each frequency where it lies.
_PADDING, _PLACES_BYTES = 1.04, 16
# Where nothing was measured: bytes per second of main memory, of its way to a GPU and of a disk, and FLOP per second.
_HOST_RATE, TRANSFER_RATE, _DISK_RATE = 8e9, 20e9, 1e9
NOMINAL_RATE = {"cpu": 1e11, "cuda": 1e14}
# Tile sizes that are tried: each about so much larger than the one before.
_GROWTH = 1.08


@dataclass(frozen=True)
class Space:
    """All that could be done with an image of `size`, (height, width). Without a `rate` in FLOP per second of the
    convolutions costs are at a nominal one, and plans have no seconds."""

    options: Options
    runtime: Runtime
    network: Network
    size: tuple[int, int]
    room: Room
    rate: float | None
    transfer_rate: float = TRANSFER_RATE

    def plans(self, tile: int | str) -> Iterator[Plan]:
        """Those of tiles that own `tile` pixels each way, of any tiles ("auto"), or of the whole image ("none")."""
        on_cpu = self.network.on_cpu
        images = (False,) if on_cpu else (False, True)
        # A tile that is as large as the image is the whole image.
        if tile in ("auto", "none") or len(make_grid(*self.size, int(tile), self._reach)) == 1:
            wholes = [self.whole(image_on_host=on_host) for on_host in images]
            yield from wholes
            # Nothing is quicker.
            if tile != "auto" or wholes[0].fits:
                return
        levels = ("kept", "recompute") if on_cpu else ("kept", "kept-host", "recompute")
        places: tuple[str, ...] = ("device",)
        if self.options.active_content_layers:
            places = ("device", "disk", "recompute") if on_cpu else PLACES
        ways = [(level, again) for level in levels for again in (self._prefixes() if level != "recompute" else [0])]
        for edge in self._edges() if tile == "auto" else [int(tile)]:
            tiles = self._tiles_of(edge)
            for way, place, on_host in product(ways, places, images):
                yield self.over(*tiles, *way, place, image_on_host=on_host)

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

    @cached_property
    def _reach(self) -> Reach:
        return reach_of(self.options.network, self.options.taps, self.options.padding)

    def whole(self, *, image_on_host: bool) -> Plan:
        """The untiled step."""
        grid = make_grid(*self.size, max(self.size), self._reach)
        content = self._content_bytes
        device = untiled_bytes(self.network, *self.size) + content + self._style_bytes
        flops = 2 * forward_flops(self.network, *self.size) + self._style_flops
        return self._plan(None, WHOLE, 0, "device", image_on_host, grid, device, 0, 0, flops)

    def recomputed(self, edge: int, place: str, *, image_on_host: bool) -> Plan:
        """Tiles that own `edge` pixels each way, of which nothing is kept."""
        return self.over(*self._tiles_of(edge), "recompute", 0, place, image_on_host=image_on_host)

    def _tiles_of(self, edge: int) -> tuple[TileGrid, int]:
        """Tiles that own `edge` pixels each way, rounded to the grid, and that edge."""
        edge = max(edge // self._reach.grid, 1) * self._reach.grid
        return make_grid(*self.size, edge, self._reach), edge

    def over(self, grid: TileGrid, edge: int, level: str, again: int, place: str, *, image_on_host: bool) -> Plan:
        """The tiles of `grid`, which own `edge` pixels each way."""
        crop, count = max(grid.crops, key=math.prod), len(grid)
        content = self._content_bytes
        part = content // count
        device = tiled_bytes(self.network, *crop, count, level, again) + (content if place == "device" else 2 * part)
        device += self._style_bytes
        host = content if place == "host" else 0
        # Pinned memory comes in powers of two.
        host += 2 * count * kept_bytes(self.network, *crop, again) if level == "kept-host" else 0
        disk = content if place == "disk" else 0
        passes = 3 if level == "recompute" else 2
        flops = passes * self._forward_flops(grid) + self._style_flops
        if level != "recompute" and again:
            flops += self._forward_flops(grid, (self.network.steps[again - 1].name,))
        if place == "recompute":
            flops += 2 * self._forward_flops(grid, tuple(name for name, _ in self.options.active_content_layers))
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
        best_aside = not (edge is None or image_on_host or self.network.on_cpu)
        count = _IMAGES + (self.options.average is not None) - best_aside
        images = height * width * (count * IMAGE_BYTES + optimizer_bytes(self.options))
        # The content's own pixels, in main memory.
        pixels = height * width * IMAGE_BYTES
        # And one that may become the best.
        host += 2 * 2 * pixels if best_aside else 0
        if image_on_host:
            host += images + pixels
            crop = next(iter(grid)).shape
            device += 2 * IMAGE_BYTES * crop[0] * crop[1]
        else:
            device += images + (pixels if self.network.on_cpu else 0)
            host += 0 if self.network.on_cpu else pixels
        plan = Plan(
            height=height,
            width=width,
            tile=edge,
            level=level,
            again=again,
            content=place,
            image_on_host=image_on_host,
            best_aside=best_aside,
            grid=grid,
            style_tile=None,
            peak_bytes=self.room.held + device,
            held_bytes=self.room.held,
            host_bytes=host,
            disk_bytes=disk,
            limit_bytes=self.room.limit,
            flops=flops,
            seconds=None,
        )
        return plan if self.rate is None else replace(plan, seconds=self.cost(plan))

    def _forward_flops(self, grid: TileGrid, through: tuple[str, ...] | None = None) -> float:
        return sum(count * forward_flops(self.network, *crop, through) for crop, count in grid.crops.items())

    def cost(self, plan: Plan) -> float:
        """Seconds of one iteration, by the model."""
        rate = self.rate or NOMINAL_RATE.get(self.runtime.device.type, NOMINAL_RATE["cpu"])
        pixels = plan.height * plan.width
        kept = content = 0.0
        if plan.level == "kept-host":
            kept = sum(count * kept_bytes(self.network, *crop, plan.again) for crop, count in plan.grid.crops.items())
        if plan.content == "host":
            content = self._content_bytes
        forward = self._forward_flops(plan.grid) / rate
        kept, content = kept / self.transfer_rate, content / self.transfer_rate
        seconds = beside_seconds(forward, plan.flops / rate - forward, kept, content, len(plan.grid))
        seconds += 2 * plan.disk_bytes / _DISK_RATE
        if plan.image_on_host:
            moved = pixels * IMAGE_BYTES * 3 * plan.grid.overhead
            seconds += moved / self.transfer_rate + 2 * pixels * optimizer_bytes(self.options) / _HOST_RATE
        return seconds

    @cached_property
    def _style_bytes(self) -> int:
        names = tuple(name for name, _ in self.options.active_style_layers)
        levels = levels_of(self.options.network, names)
        regions = len(self.options.masks or ())
        masks = mask_bytes(self.network, levels, regions, *self.size)
        return masks + (sorting_bytes(self.network, levels, *self.size) if self.options.style_loss == "sliced" else 0)

    @cached_property
    def _content_bytes(self) -> int:
        names = tuple(name for name, _ in self.options.active_content_layers)
        height, width = self.size
        filters = {step.name: step.filters for step in self.network.steps}
        return sum(
            self.network.element * filters[name] * (height >> level) * (width >> level)
            for name, level in levels_of(self.options.network, names).items()
        )

    @cached_property
    def _style_flops(self) -> float:
        return style_flops(self.network, tuple(name for name, _ in self.options.active_style_layers), *self.size)


def optimizer_bytes(options: Options) -> int:
    """Of the optimiser's state and what it uses in a step, for each pixel."""
    if options.optimizer == "adam":
        return 2 * IMAGE_BYTES
    element = 4 if options.history_precision == "fp32" else 2
    pairs = 2 * options.history * 3 * element
    # The last gradient, and a line's start and direction.
    kept = 1 if options.line_search == "none" else 3
    if options.hessian == "bands":
        return int(_PADDING * pairs) + _PLACES_BYTES + (kept + _STEP_IMAGES) * IMAGE_BYTES
    return pairs + (kept + _STEP_IMAGES) * IMAGE_BYTES
