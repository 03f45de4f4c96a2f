"""An objective that fits itself into memory: as it was planned, and in smaller tiles once memory has run out.

A GPU, and a limit such as `ulimit -v`, say that memory has run out; Linux as a rule kills the process instead, which is
what the planner's room is for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fastnst.errors import warn
from fastnst.loss.objective import LossScale, Objective, Share
from fastnst.loss.terms import Loss
from fastnst.network.runtime import Runtime, is_out_of_memory
from fastnst.options.options import Options
from fastnst.plan.planner import WHOLE, Plan, next_smaller
from fastnst.plan.processes import ALONE, Ranks

T = TypeVar("T")


class _OtherRanOutError(Exception):
    """Memory ran out for another process: all evaluate the image again."""


class FittingObjective:
    """The objective of `plan`, of which each of `ranks` computes its tiles; `make` is `Objective` with all but those.

    Where memory runs out, for one process, all halve the tile, warn, and evaluate the same image again; what is raised
    in the end is what ran out of memory with the smallest tile. With `tile_is_fixed` the plan stays, and it raises at
    once.
    """

    def __init__(
        self,
        make: Callable[..., Objective],
        options: Options,
        runtime: Runtime,
        *,
        plan: Plan,
        tile_is_fixed: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.runtime, self.plan = runtime, plan
        self.loss_scale = LossScale(runtime)
        self._options, self._tile_is_fixed, self._ranks = options, tile_is_fixed, ranks
        share = Share(ranks.rank, ranks.size, self._add_up)
        self._make = partial(make, loss_scale=self.loss_scale, share=share)
        self._objective: Objective | None = None
        # Of the sums of an evaluation, how many are done, and how many numbers each of them has, once that is known.
        self._sums_done = 0
        self._sizes: dict[int, int] = {}
        self._fitted(lambda objective: objective)

    @property
    def is_tiled(self) -> bool:
        """True where it allocates, waits and moves memory now as no captured graph may."""
        return self._objective is None or self._objective.is_tiled

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`: see `Objective.loss`."""
        return self._fitted(lambda objective: objective.loss(image))

    def loss_and_gradient(self, image: Tensor, out: Tensor | None = None) -> tuple[Loss, Tensor]:
        """The loss and its gradient: see `Objective.loss_and_gradient`; `image` can be evaluated again."""
        return self._fitted(lambda objective: objective.loss_and_gradient(image, out))

    def _fitted(self, use: Callable[[Objective], T]) -> T:
        """The result of `use`, once memory suffices on every process."""
        while True:
            try:
                if self._objective is None:
                    plan = self.plan
                    self._objective = self._make(
                        grid=plan.grid,
                        level="kept" if plan.level == WHOLE else plan.level,
                        redone_steps=plan.redone_steps,
                        content_is_kept=plan.content_is_kept,
                        is_tight=plan.is_tight,
                    )
                    # All have made it, or all make it anew.
                    self._add_up(())
                    self._sizes.clear()
                self._sums_done = 0
                return use(self._objective)
            except Exception as error:
                is_own = not isinstance(error, _OtherRanOutError)
                smaller = self._smaller() if not is_own or is_out_of_memory(error) else None
                if smaller is None:
                    raise
            # Outside of the handler: what the failed frames held is free again.
            if is_own:
                size = self._sizes.get(self._sums_done)
                if size is None:
                    self._ranks.any(True)
                else:
                    self._ranks.add_up([torch.zeros(size, dtype=torch.float32, device=self.runtime.device)], True)
            self._objective, self.plan = None, smaller
            self._sizes.clear()
            if self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()
            message = f"memory ran out; the run continues with tiles of {smaller.tile} pixels, each computed twice"
            warn(message, level=3)

    def _smaller(self) -> Plan | None:
        """The plan with smaller tiles to go on with; None where there is none."""
        capturing = self.runtime.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return None if self._tile_is_fixed or capturing else next_smaller(self.plan, self._options, self.runtime)

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        """Adds the other processes' tensors to these, unless memory ran out for one before it came here.

        That one says so in place of its sums. The first evaluation asks before each sum; from the second on all know
        how many numbers a sum has, and the word goes with it.
        """
        is_known = self._sums_done in self._sizes
        if self._ranks.any(False) if not is_known else self._ranks.add_up(tensors):
            raise _OtherRanOutError
        if not is_known:
            self._ranks.add_up(tensors)
            if self._objective is not None:
                self._sizes[self._sums_done] = sum(tensor.numel() for tensor in tensors)
        self._sums_done += 1
