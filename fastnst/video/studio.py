"""How a frame is made: anew where a scene begins, else from earlier frames, warped to where their points are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.image.picture import AnyPicture
from fastnst.loss.temporal import Coherence
from fastnst.network.runtime import as_before
from fastnst.optim import LBFGS
from fastnst.options.masks import Mask
from fastnst.options.options import Options
from fastnst.transfer.callbacks import EarlyStop
from fastnst.transfer.inputs import Start, Styles, load_inputs
from fastnst.transfer.run import Run, Watch
from fastnst.transfer.stylizer import Networks, Stylizer
from fastnst.video.flow import Flow, Frame, Motion, as_planes, motion, read_flow, sharpness, warped
from fastnst.video.options import Look, VideoOptions

# A frame after the first of its scene takes at most this part of the steps.
_LATER_SHARE = 0.1
# It ends when so many evaluations lower its loss by less than the tolerance, this one unless another is given.
_PATIENCE, _TOLERANCE = 3, 1e-3
# A mask that is black in a frame is so grey there: of no weight, but not of none.
_FAINT = 1 / 255


@dataclass(frozen=True, eq=False)
class Known:
    """An image that is made already of another frame, with the motion from there: (1, 3, H, W), not warped."""

    image: Tensor
    motion: Motion


class Studio:
    """Makes frames in the style of `style`, by the options that `look` gives for their moments."""

    def __init__(self, style: Styles, look: Look, video: VideoOptions) -> None:
        options = look.at(0.0)
        self.styles: Sequence[AnyPicture] = load_inputs(style, replace(options, masks=None)).styles
        self._look, self._video, self._networks = look, video, Networks(kept=1)
        self._stylizer: Stylizer | None = None

    @property
    def options(self) -> Options:
        """The options of the first frame."""
        return self._look.at(0.0)

    def go_on_in(self, device: str, precision: str) -> None:
        """Takes the precision that `auto` was where the clip was begun."""
        if self.options.precision == "auto":
            before = as_before(self.stylizer(0.0).runtime, device, precision).precision
            self._look = replace(self._look, given={**self._look.given, "precision": before})
            self._stylizer = None

    def stylizer(self, seconds: float, masks: Mapping[int, Frame] | None = None) -> Stylizer:
        """The stylizer of a frame at that moment, whose moving `masks`, by their region, are these."""
        changes = bool(self._look.tracks or masks)
        if self._stylizer is None or changes:
            values: dict[str, Any] = {**self._look.values_at(seconds), "tolerance": None}
            if masks:
                regions = list(self.options.masks or ())
                for number, frame in masks.items():
                    grey = np.maximum(frame.mean(2, dtype=np.float32) / 255, np.float32(_FAINT))
                    regions[number] = Mask(grey, regions[number].styles)
                values["masks"] = regions
            self._stylizer = Stylizer(list(self.styles), networks=self._networks, **values)
        return self._stylizer

    def afresh(self, content: Frame, stylizer: Stylizer) -> Run:
        """The first frame of a scene: the whole schedule."""
        return stylizer.made(stylizer.prepare(content), Watch())

    def after(
        self,
        content: Frame,
        stylizer: Stylizer,
        known: Sequence[Known],
        own: Tensor | None = None,
        curvature: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Run:
        """A frame that follows others, the nearest first; `own` is what an earlier pass made of it, if one did, and
        `curvature` what was known after the frame that was made before."""
        image, coherence = start_of(as_planes(content), known, self._video, own)
        start = Start(image, self._later_iterations(), coherence, curvature)
        tolerance = self.options.tolerance or _TOLERANCE
        watch = Watch(EarlyStop(patience=_PATIENCE, tolerance=tolerance), callback_every=_PATIENCE)
        run = stylizer.made(stylizer.prepare(content, start=start), watch)
        run.image = coherence.on(run.image.device).held(run.image)
        return run

    def _later_iterations(self) -> int:
        counts = self.options.iterations
        last = counts[-1] if isinstance(counts, tuple) else counts
        return self._video.later_iterations or max(1, round(_LATER_SHARE * last))


def curvature_of(run: Run) -> dict[str, Tensor]:
    """What the run's optimiser knows that holds for the next frame too."""
    return run.optimizer.curvature() if isinstance(run.optimizer, LBFGS) else {}


def start_of(
    content: Tensor, known: Sequence[Known], video: VideoOptions, own: Tensor | None = None
) -> tuple[Tensor, Coherence]:
    """The image that a frame begins as, and what it is held to.

    It begins as the nearest image in which a point is visible, warped; where none shows it, as the content. Where the
    flow can be trusted it is held to that. With `own` it begins as the mean of both, and where none shows it as `own`.
    """
    start = content.clone() if own is None else own.clone()
    target, held = start.clone(), torch.zeros_like(content[:, :1])
    begun = torch.zeros_like(held, dtype=torch.bool)
    for each in known:
        image = warped(each.image, each.motion.flow).clamp(0, 1)
        covered, trusted = (torch.from_numpy(mask)[None, None] for mask in (each.motion.covered, each.motion.trusted))
        if own is None:
            start = torch.where(covered & ~begun, image, start)
        else:
            start = torch.where(trusted & (held == 0), (image + own) / 2, start)
        begun |= covered
        target = torch.where(trusted & (held == 0), image, target)
        trust = torch.from_numpy(sharpness(each.motion.flow))[None, None]
        held = torch.where(trusted & (held == 0), trust, held)
    return start, Coherence(target, held, video.temporal_weight, is_frozen=video.freeze)


@dataclass(frozen=True)
class Motions:
    """The motion between frames of a clip: computed, or from the .flo files of a `folder`, which begin at frame 1."""

    folder: Path | None

    def between(self, earlier: tuple[int, Frame], later: tuple[int, Frame]) -> Motion:
        """The motion from a frame to one that is made after it, each with its index from 0. Raises ImageError."""
        (first, before), (second, after) = earlier, later
        if self.folder is None:
            return motion(before, after)
        size = before.shape[:2]
        flows: tuple[Flow, Flow] = (
            read_flow(self.path(second, first), size),
            read_flow(self.path(first, second), size),
        )
        return motion(before, after, flows)

    def path(self, begin: int, end: int) -> Path:
        way = "forward" if begin < end else "backward"
        return Path(self.folder or "") / f"{way}_{begin + 1}_{end + 1}.flo"

    def check(self, count: int, steps: Sequence[int]) -> None:
        """Raises ImageError where the folder lacks the flow between frames of a clip that are so far apart."""
        if self.folder is None:
            return
        for step in steps:
            for index in range(count - step):
                for path in (self.path(index, index + step), self.path(index + step, index)):
                    if not path.is_file():
                        raise ImageError(
                            f"flow folder {os.fspath(self.folder)!r} has no {path.name}; it needs forward_i_j.flo and "
                            "backward_j_i.flo, frames counted from 1, for all that --look-back says"
                        )
