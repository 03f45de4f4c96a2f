"""A clip that a network stylizes in one pass a frame, each held to the one before where it shows the same points."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fastnst.errors import OptionError, check_package
from fastnst.feedforward.applying import Applier
from fastnst.feedforward.file import Blend, NetworkFile, blend_weights, in_order, load_network
from fastnst.image.resize import edge_beside, fitted_size
from fastnst.options.parse import parse_size
from fastnst.transfer.movie import check_target, even, write_clip
from fastnst.video.clip import BrokenFrameError, open_clip
from fastnst.video.flow import Frame, as_frame, fitted, motion, sharpness, warped
from fastnst.video.options import Part, read_track


@dataclass(frozen=True, eq=False)
class AppliedClip:
    """A clip that a network made: `frames` of `size`, (height, width), `rate` of them a second.

    `parameters` are those of its last frame, without the content; `broken` says what is wrong with the frame of the
    source after that, or is None.
    """

    frames: int
    size: tuple[int, int]
    rate: Fraction
    parameters: Mapping[str, Any]
    broken: str | None


def apply_to_clip(
    network: str | os.PathLike[str] | NetworkFile,
    clip: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    blend: Blend | Mapping[Any, Any] | None = None,
    size: int | str | None = None,
    hold: float = 0.5,
    part: Part | None = None,
    sound: bool = True,
    callback: Callable[[int, int], None] | None = None,
    **options: Any,
) -> AppliedClip:
    """Writes `clip` as a network stylizes it.

    Args:
        network, size, options: as for `apply_network`.
        clip, output, sound: as for `stylize_video`; `part` says which frames.
        blend: a weight for each style; `{0: (1, 0), 5: (0, 1)}` by seconds, `"0:1,0 5s:0,1"`, or with names
            `"0:swirls=1 5s:mosaic=1"` changes along the clip (Dumoulin, Shlens and Kudlur 2017).
        hold: the share of the last result, moved along the flow, in the points that both frames show; 0…1.
        callback: called with the number of frames that are done and of all.

    Raises FastnstError for input that cannot be used, before any frame is made.
    """
    if not 0 <= hold < 1:
        raise OptionError(f"hold {hold:g} is out of range; give 0 or more, and less than 1")
    if hold > 0:
        check_package("cv2", "video", "video")
    source, target = open_clip(clip, part), Path(output)
    source.check_apart(target)
    edge = edge_beside(parse_size("content" if size is None else size), source.size)
    shape = even(target, fitted_size(*source.size, edge))
    check_target(target, source.sound_for(target) if sound else None, shape, source.rate)
    network = network if isinstance(network, NetworkFile) else load_network(network)
    names = network.network.names
    if isinstance(blend, Mapping) and not blend.keys().isdisjoint(names):
        blend = in_order(names, blend)
    track = read_track("blend", blend, lambda held: in_order(names, held))
    for moment in () if track is None else track.values:
        blend_weights(network.network, moment)
    applier = Applier(network, blend=blend if track is None else track.values[0], **options)
    broken = None
    with tempfile.TemporaryDirectory(prefix=".fastnst-", dir=target.absolute().parent) as folder:
        paths: list[Path] = []
        before: tuple[Frame, Tensor] | None = None
        try:
            for index, frame in enumerate(source.frames()):
                if track is not None:
                    weights = track.at(float(index / source.rate))
                    applier.mix(weights if isinstance(weights, tuple) else (weights,))
                content = fitted(frame, shape)
                applied = applier(content)
                image = applied.tensor[None]
                if before is not None and hold > 0:
                    image = _held(image, content, before, hold)
                before = content, image
                paths.append(Path(folder) / f"{index + 1:06}.png")
                Image.fromarray(as_frame(image)).save(paths[-1], compress_level=1)
                if callback is not None:
                    callback(index + 1, len(source))
        except BrokenFrameError as error:
            if not paths:
                raise
            broken = str(error)
        write_clip(target, paths, source.rate, source.sound_for(target, len(paths)) if sound else None)
    facts = {name: value for name, value in applied.parameters.items() if name != "content"}
    return AppliedClip(len(paths), shape, source.rate, facts, broken)


def _held(image: Tensor, content: Frame, before: tuple[Frame, Tensor], hold: float) -> Tensor:
    """The image with a share of the last one, where the flow between them can be trusted and blurs little."""
    moved = motion(before[0], content)
    share = hold * torch.from_numpy(moved.trusted * sharpness(moved.flow))[None, None]
    return torch.lerp(image, warped(before[1], moved.flow).clamp(0, 1), share)
