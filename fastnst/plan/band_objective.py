"""The objective of an image whose rows are shared among processes: the same loss and gradient, up to rounding.

Each process sees its band and the rows around it that the network needs, in tiles or at once. The sums over positions
that the loss is made of are added over all processes, after which each goes back through its own positions; what the
gradient gets of the halo's pixels goes to their owners, who add it. Between processes go, for each evaluation, the
Grams and twice the halo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from fastnst.loss.guidance import Guidance
from fastnst.loss.objective import Loss, Variation, variation_of
from fastnst.loss.scale import LossScale
from fastnst.loss.tile_taps import StyleTarget, sums_of
from fastnst.loss.tiled_objective import TiledObjective, assembled
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Span, TileGrid, levels_of
from fastnst.options.options import Options
from fastnst.plan.band_variation import BandVariation
from fastnst.plan.fitting import make_room, plan_after
from fastnst.plan.plan import WHOLE, Plan
from fastnst.plan.row_bands import Bands

T = TypeVar("T")


class _Again(Exception):
    """Memory ran out for a process: all evaluate the image again."""


class BandObjective:
    """The total loss as a function of this process's band, (1, 3, h, W).

    `content` is what the process sees of the content image, (1, 3, h + halo, W) float32 RGB in 0…1 on any device, and
    `plan` how an image of that size fits into memory; `guidance` is that of `make_objective`, of the whole image. All
    processes make it, and evaluate it, together. Where memory runs out for one of them it halves its tiles, warns, and
    all evaluate the same image again; with `tile_is_fixed` it raises at once, as it does where there is no smaller
    tile.
    """

    def __init__(
        self,
        backbone: Backbone,
        content: Tensor,
        style: Mapping[str, StyleTarget],
        options: Options,
        runtime: Runtime,
        bands: Bands,
        plan: Plan,
        *,
        guidance: Guidance | None = None,
        tile_is_fixed: bool = False,
    ) -> None:
        self.runtime = runtime
        self.plan = plan
        self.loss_scale = LossScale(runtime)
        self._backbone = backbone
        self._content = content
        self._style = style
        self._options = options
        self._bands = bands
        self._levels = levels_of(options.network, options.taps)
        whole = guidance or Guidance(bands.height, bands.width)
        self._guidance = replace(whole, rows=(bands.seen.start, bands.seen.stop)).at(self._levels, runtime.device)
        self._tile_is_fixed = tile_is_fixed
        self._above = bands.own.start - bands.seen.start
        self._below = bands.seen.stop - bands.own.stop
        self._height = bands.own.stop - bands.own.start
        self._seen: Tensor | None = None
        # Of the present evaluation: this process's part of the variation and then the whole, and whether the sums over
        # positions have been added up.
        self._variation = torch.zeros((), dtype=torch.float32, device=runtime.device)
        self._is_added = False
        self._energies: Tensor | None = None
        self._inner: TiledObjective | None = None
        while self._inner is None:
            self._inner = self._unless_too_large(self._made)

    @property
    def is_tiled(self) -> bool:
        """It waits for others, as no captured graph may."""
        return True

    def loss(self, image: Tensor) -> Loss:
        """The loss of the whole image, without a gradient; `image` is this process's band."""
        return self._together(image, lambda objective, seen: self._with_variation(objective.loss(seen), image))

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss of the whole image, and the gradient of its total by this process's band: (1, 3, h, W) float32,
        contiguous. In float16 it is nowhere finite unless it is everywhere."""
        loss, gradient = self._together(image, lambda objective, seen: objective.loss_and_gradient(seen))
        own = gradient[:, :, self._own].contiguous()
        rows = self._bands.halo
        from_above = own.new_empty((1, 3, rows, own.shape[3])) if self._above else None
        from_below = own.new_empty((1, 3, rows, own.shape[3])) if self._below else None
        self._bands.ranks.exchange(
            gradient[:, :, : self._above] if self._above else None,
            gradient[:, :, self._own.stop :] if self._below else None,
            from_above,
            from_below,
        )
        if from_above is not None:
            own[:, :, :rows] += from_above
        if from_below is not None:
            own[:, :, -rows:] += from_below
        self._add_variation_gradient(own)
        return self._with_variation(loss, image), self._usable(own)

    @property
    def _own(self) -> slice:
        """The band's rows among those that are seen."""
        return slice(self._above, self._above + self._height)

    def _together(self, image: Tensor, use: Callable[[TiledObjective, Tensor], T]) -> T:
        """What `use` makes of the rows that are seen, once memory suffices on every process."""
        while True:
            seen = self._looked_around(image)
            self._variation = self._own_variation(seen)
            self._is_added = False
            try:
                found = self._unless_too_large(lambda: use(self._ready(), seen))  # noqa: B023
            except _Again:
                continue
            if not self._is_added:
                self._join_in()
            elif not self._bands.ranks.any(found is None) and found is not None:
                return found

    def _ready(self) -> TiledObjective:
        if self._inner is None:
            self._inner = self._made()
        return self._inner

    def _unless_too_large(self, use: Callable[[], T]) -> T | None:
        """What `use` returns; None, with smaller tiles from now on, where memory ran out."""
        try:
            return use()
        except Exception as error:
            smaller = plan_after(error, self.plan, self._options, self.runtime, tile_is_fixed=self._tile_is_fixed)
            if smaller is None:
                raise
        # Outside of the handler: what the failed frames held is free again.
        self._inner, self.plan = None, smaller
        make_room(smaller, self.runtime)
        return None

    def _looked_around(self, image: Tensor) -> Tensor:
        """The band with the neighbours' rows around it, (1, 3, h + halo, W), in memory that is used again."""
        if self._seen is None:
            self._seen = image.new_empty((1, 3, self._above + self._height + self._below, image.shape[3]))
        seen, rows = self._seen, self._bands.halo
        seen[:, :, self._own] = image
        self._bands.ranks.exchange(
            image[:, :, :rows] if self._above else None,
            image[:, :, -rows:] if self._below else None,
            seen[:, :, : self._above] if self._above else None,
            seen[:, :, self._own.stop :] if self._below else None,
        )
        return seen

    def _add_up(self, sums: Sequence[Tensor]) -> None:
        """Adds the other processes' sums over positions to these. Raises _Again where memory ran out for one."""
        shared = torch.stack((self._variation, torch.zeros_like(self._variation)))
        self._bands.ranks.add_up([*sums, shared])
        self._is_added = True
        self._variation = shared[0]
        if shared[1].item():
            raise _Again

    def _join_in(self) -> None:
        """Takes the part of `_add_up` of a process for which memory ran out before it."""
        targets = [sums_of(target, self._guidance[name]) for name, target in self._style.items()]
        contents = len(self._options.active_content_layers)
        shared = torch.zeros(sum(targets) + contents + 2, dtype=torch.float32, device=self.runtime.device)
        shared[-1] = 1
        self._bands.ranks.add_up([shared])

    def _own_variation(self, seen: Tensor) -> Tensor:
        """This process's part of the total variation: that of its rows, and of its last row to the next."""
        above, below = self._above > 0, self._below > 0
        rows = seen[:, :, self._above : self._own.stop + below]
        return self._band_variation(seen).value(rows, above=above, below=below).to(self.runtime.device)

    def _add_variation_gradient(self, own: Tensor) -> None:
        """Adds that of the total variation, which reaches one row beyond the band, to the gradient of the band."""
        weight = self._of_the_image.weight
        if self._seen is None or not weight:
            return
        before, after = int(self._above > 0), int(self._below > 0)
        rows = self._seen[:, :, self._above - before : self._own.stop + after]
        gradient = self._band_variation(rows).gradient(rows, weight)
        own += gradient[:, :, before : before + self._height]

    def _with_variation(self, loss: Loss, image: Tensor) -> Loss:
        """The loss with the total variation of the whole image."""
        return self._of_the_image.added(loss, self._variation.to(image.device))

    @property
    def _of_the_image(self) -> Variation:
        return variation_of(self._options, self._bands.height, self._bands.width)

    def _band_variation(self, image: Tensor) -> BandVariation:
        return BandVariation(self._options.tv_kind, self._bands.height, self._image_backend(image))

    def _usable(self, gradient: Tensor) -> Tensor:
        if self.loss_scale.needed and self._bands.ranks.any(not bool(gradient.isfinite().all())):
            gradient.fill_(torch.nan)
        return gradient

    def _image_backend(self, image: Tensor) -> str:
        return "torch" if image.device.type == "cpu" else self.runtime.kernels

    def _made(self) -> TiledObjective:
        plan = self.plan
        return assembled(
            self._backbone,
            self._content,
            self._style,
            self._options,
            self.runtime,
            _own_grid(plan.grid, self._own),
            self._guidance,
            # That of the whole image is computed by `_own_variation`.
            Variation("squared", 0.0, 0.0),
            self.loss_scale,
            level="kept" if plan.level == WHOLE else plan.level,
            content_place=plan.content,
            again=plan.again if plan.level in ("kept", "kept-host") else None,
            total=self._all_energies,
            reduce=self._add_up,
        )

    def _all_energies(self, own: Tensor) -> Tensor:
        """The content layers' energies and counts over all processes, which talk about them once."""
        if self._energies is None:
            self._energies = self._bands.ranks.total(own)
        return self._energies


def _own_grid(grid: TileGrid, own: slice) -> TileGrid:
    """The tiles of the rows that are seen, which own of them those that the process owns."""
    clipped = [Span(max(row.first, own.start), min(row.last, own.stop), row.start, row.stop) for row in grid.rows]
    return TileGrid(grid.height, grid.width, tuple(row for row in clipped if row.first < row.last), grid.columns)
