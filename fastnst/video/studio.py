"""How a frame is made: anew where a scene begins, else from earlier frames, warped to where their points are."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.image.picture import AnyPicture
from fastnst.loss.networks import Networks
from fastnst.loss.temporal import Coherence
from fastnst.network.runtime import as_before
from fastnst.optim import LBFGS, OnHost
from fastnst.options.masks import Mask
from fastnst.options.options import Options
from fastnst.transfer.callbacks import EarlyStop
from fastnst.transfer.inputs import Inputs, Start, Styles
from fastnst.transfer.run import Run, Watch
from fastnst.transfer.stylizer import Stylizer
from fastnst.video.flow import (
    Frame,
    Motion,
    as_frame,
    as_planes,
    inwards,
    motion,
    read_flow,
    sampled,
    sharpness,
    toned,
    warped,
)
from fastnst.video.options import Look, VideoOptions

# A frame after the first of its scene takes at most this part of the steps.
_LATER_SHARE = 0.1
# It ends when so many evaluations lower its loss by less than the tolerance, this one unless another is given.
_PATIENCE, _TOLERANCE = 3, 1e-3
# How far a point that moves is held; one that stands still is held by 1. With one hold for all, the steps would go into
# the new parts of the picture, which would take on the style of the whole frame, and change most.
_MOVING = 0.25
# How much less a frame is held to what has not had a whole schedule, and how little at least.
_FINISH_POWER, _LEAST_FINISH = 8, 0.3
# A mask that is black in a frame is so grey there: of no weight, but not of none.
_FAINT = 1 / 255


@dataclass(frozen=True, eq=False)
class Made:
    """A frame that is made, on the CPU, as the next ones need it.

    Attributes:
        image: as the optimiser left it, (1, 3, H, W) float32 in 0…1.
        finish: the part of a whole schedule that each point has had, (1, 1, H, W) in 0…1.
        level: the total loss that the first frame of its scene ended with.
        curvature: what L-BFGS knew after it.
        frame: how it looks, (H, W, 3); None where it was read back.
    """

    image: Tensor
    finish: Tensor
    level: float
    curvature: Mapping[str, Tensor]
    frame: Frame | None = None

    def tensors(self) -> dict[str, Tensor]:
        level = torch.tensor(self.level, dtype=torch.float64)
        return {"image": self.image, "finish": self.finish, "level": level, **self.curvature}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Made":
        rest = {name: tensor for name, tensor in tensors.items() if name not in ("image", "finish", "level")}
        return cls(tensors["image"], tensors["finish"], float(tensors["level"]), rest)


Known = tuple[Made, Motion]
"""Another frame that is made already, and the motion from there."""


class Studio:
    """Makes frames in the style of `style`, by the options that `look` gives for their moments."""

    def __init__(self, style: Styles, look: Look, video: VideoOptions) -> None:
        options = look.at(0.0)
        self.styles: Sequence[AnyPicture] = Inputs(style, replace(options, masks=None)).styles
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

    def afresh(self, content: Frame, stylizer: Stylizer) -> Made:
        """The first frame of a scene: the whole schedule."""
        run = stylizer.prepare(content).made(Watch())
        level = min(record.total for record in run.losses if record.scale == run.losses[-1].scale)
        return _made(run, torch.ones((1, 1, *content.shape[:2])), level)

    def after(
        self,
        content: Frame,
        stylizer: Stylizer,
        known: Sequence[Known],
        *,
        own: Made | None = None,
        before: Made | None = None,
    ) -> Made:
        """A frame that follows others, the nearest first; `own` is from an earlier pass, `before` was made last."""
        begun, coherence = start_of(as_planes(content), known, self._video, own)
        whole = self.options.iterations
        whole = whole[-1] if isinstance(whole, tuple) else whole
        steps = self._video.later_iterations or max(1, round(_LATER_SHARE * whole))
        start = Start(begun.image, steps, coherence, {} if before is None else before.curvature)
        tolerance = self.options.tolerance or _TOLERANCE
        watch = Watch(EarlyStop(patience=_PATIENCE, tolerance=tolerance), callback_every=_PATIENCE)
        run = stylizer.prepare(content, start=start).made(watch)
        run.image = coherence.on(run.image.device).image(run.image)
        return _made(run, (begun.finish + (len(run.losses) - 1) / whole).clamp(max=1), begun.level)


def _made(run: Run, finish: Tensor, level: float) -> Made:
    curvature = run.optimizer.curvature() if isinstance(run.optimizer, LBFGS | OnHost) else {}
    image = run.image.detach().float().clamp(0, 1).cpu()
    kept = {name: tensor.cpu() for name, tensor in curvature.items()}
    return Made(image, finish, level, kept, as_frame(run.result().tensor))


def start_of(
    content: Tensor, known: Sequence[Known], video: VideoOptions, own: Made | None = None
) -> tuple[Made, Coherence]:
    """The image that a frame begins as, and what it is held to.

    It begins as the nearest image in which a point is visible, warped; where none shows it, as the content in the tone
    around it. Where the flow can be trusted it is held to that, as far as that is finished: what came into view of late
    goes on to take on the style. With `own` it begins as the mean of both, and where none shows it as `own`.
    """
    nothing = torch.zeros_like(content[:, :1])
    image, finish = (content, nothing) if own is None else (own.image, own.finish)
    target, held, begun = image, nothing, nothing.bool()
    for other, way in known:
        flow = way.flow
        moved, done = warped(other.image, flow).clamp(0, 1), sampled(other.finish, flow, "INTER_LINEAR")
        # What was at the border and is no more is to lose the border's strokes.
        done = done * torch.from_numpy(inwards(flow))
        covered, trusted = (torch.from_numpy(mask)[None, None] for mask in (way.covered, way.trusted))
        new = covered & ~begun if own is None else trusted & ~begun
        image = torch.where(new, moved if own is None else (moved + own.image) / 2, image)
        finish = torch.where(new, torch.maximum(done, finish), finish)
        begun = begun | new
        held_now = trusted & (held == 0)
        target = torch.where(held_now, moved, target)
        hold = np.where(flow.any(2), np.float32(_MOVING) * sharpness(flow), np.float32(1))
        trust = torch.from_numpy(hold)[None, None] * done.clamp_min(_LEAST_FINISH) ** _FINISH_POWER
        held = torch.where(held_now, trust, held)
    if own is None:
        image = toned(image, content, begun)
        target = torch.where(held > 0, target, image)
    frozen = (finish == 1) & (held > 0) if video.freeze else None
    level = next((made.level for made in (*(other for other, _ in known), own) if made is not None), 1.0)
    return Made(image, finish, level, {}), Coherence(target, held, video.temporal_weight, level, frozen)


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
        flows = read_flow(self.path(second, first), size), read_flow(self.path(first, second), size)
        return motion(before, after, flows)

    def path(self, begin: int, end: int) -> Path:
        way = "forward" if begin < end else "backward"
        return Path(self.folder or "") / f"{way}_{begin + 1}_{end + 1}.flo"

    def sha256(self) -> str | None:
        """A hash of the names and the contents of the folder's files; None where there is no folder."""
        if self.folder is None:
            return None
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.flo")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
        return digest.hexdigest()

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
                            "backward_j_i.flo, with frames counted from 1, for every distance in --look-back"
                        )
