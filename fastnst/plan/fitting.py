"""An objective that fits itself into memory: as it was planned, and in smaller tiles once memory has run out.

A GPU, and a limit such as `ulimit -v`, say that memory has run out; Linux as a rule kills the process instead, which is
what the planner's room is for.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from fastnst.errors import FastnstWarning
from fastnst.loss.guidance import Guidance
from fastnst.loss.objective import Loss, Objective, make_objective
from fastnst.loss.scale import LossScale
from fastnst.loss.tile_taps import StyleTarget
from fastnst.loss.tiled_objective import TiledObjective, make_tiled_objective
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime, is_out_of_memory
from fastnst.options.options import Options
from fastnst.plan.plan import Plan
from fastnst.plan.planner import next_smaller

T = TypeVar("T")


class FittingObjective:
    """`Objective` or `TiledObjective`, by `plan`. Where memory runs out it halves the tile, warns, and evaluates the
    same image again; what it raises in the end is what ran out of memory with the smallest tile.

    `guidance` is that of `make_objective`. With `tile_is_fixed` it stays with what was asked for, and raises at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        content: Tensor,
        style: Mapping[str, StyleTarget],
        options: Options,
        runtime: Runtime,
        plan: Plan,
        *,
        guidance: Guidance | None = None,
        tile_is_fixed: bool = False,
    ) -> None:
        self.runtime = runtime
        self.plan = plan
        self._backbone = backbone
        self._content = content
        self._style = style
        self._options = options
        self._guidance = guidance
        self._tile_is_fixed = tile_is_fixed
        self._inner: Objective | TiledObjective | None = None
        self.loss_scale = LossScale(runtime)
        self._fitted(lambda objective: objective)

    @property
    def is_tiled(self) -> bool:
        """Whether it works in tiles now: then it allocates, waits and moves memory as no captured graph may."""
        return self.plan.tile is not None or self._options.style_loss == "sliced"

    def loss(self, image: Tensor) -> Loss:
        """As `Objective.loss`."""
        return self._fitted(lambda objective: objective.loss(image))

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """As `Objective.loss_and_gradient`; `image` is not changed, so that it can be evaluated again."""
        return self._fitted(lambda objective: objective.loss_and_gradient(image))

    def _fitted(self, use: Callable[[Objective | TiledObjective], T]) -> T:
        while True:
            try:
                if self._inner is None:
                    self._inner = self._made()
                return use(self._inner)
            except Exception as error:
                smaller = plan_after(error, self.plan, self._options, self.runtime, tile_is_fixed=self._tile_is_fixed)
                if smaller is None:
                    raise
            # Outside of the handler: what the failed frames held is free again.
            self._inner, self.plan = None, smaller
            make_room(smaller, self.runtime)

    def _made(self) -> Objective | TiledObjective:
        plan, content = self.plan, self._content
        if plan.tile is None:
            whole = make_objective(
                self._backbone,
                content.to(self.runtime.device),
                self._style,
                self._options,
                self.runtime,
                self._guidance,
            )
            return replace(whole, loss_scale=self.loss_scale)
        tiled = make_tiled_objective(
            self._backbone,
            content,
            self._style,
            self._options,
            self.runtime,
            plan.grid,
            guidance=self._guidance,
            level=plan.level,
            content_place=plan.content,
            again=plan.again if plan.level != "recompute" else None,
        )
        return replace(tiled, loss_scale=self.loss_scale)


def plan_after(error: Exception, plan: Plan, options: Options, runtime: Runtime, *, tile_is_fixed: bool) -> Plan | None:
    """The plan with smaller tiles to go on with after `error`; None where there is none, or it is another error."""
    capturing = runtime.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if tile_is_fixed or capturing or not is_out_of_memory(error):
        return None
    return next_smaller(plan, options, runtime)


def make_room(plan: Plan, runtime: Runtime) -> None:
    """Gives back what torch has kept of the larger tiles, and warns of the smaller ones of `plan`."""
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()
    message = f"memory ran out; going on with tiles of {plan.tile} pixels, computed twice"
    warnings.warn(message, FastnstWarning, stacklevel=3)
