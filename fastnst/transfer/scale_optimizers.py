"""The optimisers of a run's scales: each begins with what carries over from the one before, or from a saved run."""

from dataclasses import dataclass

from fastnst.network.runtime import Runtime
from fastnst.optim import Optimizer, make_optimizer
from fastnst.options.options import Options
from fastnst.transfer.checkpoint import SavedRun


@dataclass(frozen=True)
class ScaleOptimizers:
    """Makes the optimisers of a run with these `options`, which works as `runtime` says."""

    options: Options
    runtime: Runtime

    def fresh(self) -> Optimizer:
        """A new optimiser."""
        return make_optimizer(self.options, self.runtime)

    def following(self, size: tuple[int, int], before: Optimizer | None, saved: SavedRun | None) -> Optimizer:
        """The optimiser for an image of `size` with what carries over from the scale `before`, or else from the scale
        that `saved` ended with; a fresh one where there is neither."""
        if before is None and saved is None:
            return self.fresh()
        carried = before or self.resumed(saved)
        return carried.rescaled(size)

    def resumed(self, saved: SavedRun | None) -> Optimizer:
        """The optimiser that goes on inside the scale of `saved`, to the same bits."""
        optimizer = self.fresh()
        optimizer.load_state_dict({} if saved is None else saved.optimizer_state(self.runtime.device))
        return optimizer
