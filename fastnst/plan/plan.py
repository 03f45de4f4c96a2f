"""What a run would do to fit into memory, and what that would take."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from fastnst.network.tiles import TileGrid

WHOLE = "whole"
_NO_GRID = TileGrid(0, 0, (), ())


@dataclass(frozen=True)
class Plan:
    """What a scale of a run would do.

    `tile` is the edge in pixels of what inner tiles own, or None for the whole image; `level` one of `WHOLE` and those
    of `tiled_objective`, `again` the steps of the backbone that its second pass computes again, `content` a place of
    `content`. `grid` is (1 tile, without halo) for the whole image. With `image_on_host` image, gradient and
    optimiser lie in main memory, with `best_aside` the best image alone.
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
    best_aside: bool
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
