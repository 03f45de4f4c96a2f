"""The optimisers of a run's scales: each begins with what carries over from the one before, or from a saved run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastnst.network.runtime import Runtime
from fastnst.optim import Optimizer, make_optimizer
from fastnst.options.options import Options
from fastnst.plan.ranks import ALONE
from fastnst.plan.row_bands import Bands
from fastnst.transfer.checkpoint import SavedRun


@dataclass(frozen=True)
class ScaleOptimizers:
    """Makes the optimisers of a run with these `options`, which works as `runtime` says."""

    options: Options
    runtime: Runtime

    def fresh(self, device: torch.device, bands: Bands | None = None) -> Optimizer:
        """One for an image on `device`, which is not the network's where the plan says so, or for this process's band
        of it."""
        ranks = bands.ranks if bands is not None and bands.is_split else ALONE
        return make_optimizer(self.options, replace(self.runtime, device=device), ranks)

    def following(
        self, device: torch.device, bands: Bands, before: tuple[Optimizer, Bands] | None, saved: SavedRun | None
    ) -> Optimizer:
        """One with what carries over from the scale `before` with its bands, or else from the scale that `saved` ended
        with; a fresh one where there is neither."""
        if before is None and saved is None:
            return self.fresh(device, bands)
        carried = self._carried(before, saved, device)
        return self._loaded(device, bands, carried.rescaled((bands.height, bands.width)).state_dict())

    def resumed(self, device: torch.device, bands: Bands, saved: SavedRun) -> Optimizer:
        """One that goes on inside the scale of `saved`, to the same bits."""
        return self._loaded(device, bands, saved.optimizer_state(torch.device("cpu")))

    def _loaded(self, device: torch.device, bands: Bands, state: Mapping[str, Any]) -> Optimizer:
        """One with this process's part of `state`, that of the whole image."""
        optimizer = self.fresh(device, bands)
        own = bands.cut_state(state)
        optimizer.load_state_dict({name: x.to(device) if isinstance(x, Tensor) else x for name, x in own.items()})
        return optimizer

    def _carried(
        self, before: tuple[Optimizer, Bands] | None, saved: SavedRun | None, device: torch.device
    ) -> Optimizer:
        """The optimiser of the scale before, for the whole image where anything of it carries over."""
        if before is None:
            optimizer = self.fresh(device)
            optimizer.load_state_dict({} if saved is None else saved.optimizer_state(device))
            return optimizer
        optimizer, bands = before
        if not bands.is_split or self.options.optimizer != "adam":
            return optimizer
        whole = self.fresh(torch.device("cpu"))
        whole.load_state_dict(bands.whole_state(optimizer.state_dict()))
        return whole
