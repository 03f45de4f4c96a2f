"""How much a clip flickers: the warping error (Lai et al. 2018, equation 7)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from fastnst.errors import ImageError, counted
from fastnst.video.clip import Clip
from fastnst.video.flow import Flow, Frame, as_planes, fitted, motion, warped


@dataclass(frozen=True)
class Score:
    """The warping error of a clip: that of each pair of frames, and the part of the pixels that counted in it."""

    errors: tuple[float, ...]
    valid: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.errors))


def warping_error(earlier: Frame, later: Frame, flow: Flow, valid: "np.typing.NDArray[np.bool_]") -> float:
    """Σ m (later − warp(earlier))² / (3 Σ m) of two frames, in 0…1, along the flow of another two, `valid` at m = 1."""
    apart = (warped(as_planes(earlier), flow) - as_planes(later)).square().mean(1)[0]
    mask = torch.from_numpy(valid)
    return float((apart * mask).sum(dtype=torch.float64) / max(1, int(mask.sum())))


def score_clip(out: Clip, source: Clip) -> Score:
    """The warping error of `out` along the flow of the clip that it was made of, at the size of `out`.

    Raises ImageError where the two do not have as many frames, or only one.
    """
    if len(out) != len(source):
        raise ImageError(
            f"clip {out.name!r} has {counted(len(out), 'frame')} and {source.name!r} {len(source)}; give the part that "
            "it was made from, with --start, --end and --every"
        )
    if len(out) < 2:
        raise ImageError(f"clip {out.name!r} has only one frame, and a warping error compares two; give a longer clip")
    errors, valid = [], []
    pairs = zip(pairwise(out.frames()), pairwise(fitted(frame, out.size) for frame in source.frames()), strict=True)
    for results, contents in pairs:
        moved = motion(*contents)
        errors.append(warping_error(*results, moved.flow, moved.covered))
        valid.append(float(moved.covered.mean()))
    return Score(tuple(errors), tuple(valid))
