"""Where points of a frame were in an earlier one: dense flow, where it can be trusted, and pictures warped along it.

A flow between a later frame and an earlier one is (H, W, 2) float32, x then y, in pixels: the point p of the later
frame was at p + flow(p). Trust is by the checks of Ruder, Dosovitskiy and Brox (2016), as in Sundaram et al. (2010).
"""

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.image.resize import resize

Frame = npt.NDArray[np.uint8]
"""A frame of a clip, (H, W, 3) RGB."""
Flow = npt.NDArray[np.float32]

_FLO_MAGIC = 202021.25
# What a warp by half a pixel leaves of the trust in its result: a frame that is held to a blurred one stays blurred.
_BLURRED, _BLUR_POWER = 0.01, 8
# The radius in which the tone around is looked at, as a part of the long side, and the weight below which it fades.
_TONE_PART, _TONE_LEAST = 32, 0.02
# Pixels beside a border that look as they do because of it: strokes end there.
_BORDER = 12
# Frames whose neighbourhoods differ by less, in grey levels, stand still: their flow is none, not nearly none.
_STILL, _STILL_WINDOWS, _NEARLY = 1.5, (15, 3), 0.5
# How far around another flow is looked for, in pixels: DIS blurs a boundary by its patches. It is another one from so
# many pixels on, and better where the colours around, in grey levels of all channels, differ by so much less, up to a
# most: beyond that all are as wrong.
_REACH, _OTHER, _BETTER, _MOST = (4, 8), 0.25, 0.3, 30.0
# Colours of a point in two frames that differ by more, in 0…1, are not those of one point under one light.
_SAME_COLOUR = 0.2


@dataclass(frozen=True, eq=False)
class Motion:
    """The way from an earlier frame to a later one, seen from the later one.

    Attributes:
        flow: where each point was, (H, W, 2).
        covered: where it is known what was there: the point is in both frames, (H, W) bool.
        trusted: where the flow is no motion boundary either, or none at all.
    """

    flow: Flow
    covered: npt.NDArray[np.bool_]
    trusted: npt.NDArray[np.bool_]


def motion(earlier: Frame, later: Frame, flows: tuple[Flow, Flow] | None = None) -> Motion:
    """The motion between two frames of one size. `flows` are those from `later` to `earlier` and back; None computes
    them (DIS: Kroeger et al. 2016), and takes what stands still for unmoved."""
    if flows is None:
        before, after = _grey(earlier), _grey(later)
        backward = _sharpened(dense_flow(after, before), later, earlier)
        forward = _sharpened(dense_flow(before, after), earlier, later)
        for flow in (backward, forward):
            # A flat part looks the same wherever it goes: what moves, by its surroundings, moves.
            flow[_still(before, after, flow) & (np.abs(flow).max(2) < _NEARLY)] = 0
    else:
        backward, forward = flows
    covered = ~disoccluded(forward, backward)
    return Motion(backward, covered, covered & (~boundaries(backward) | (backward == 0).all(2)))


def dense_flow(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> Flow:
    """Where each point of `first` is in `second`, both (H, W) grey, as an offset."""
    return np.asarray(_dis().calc(first, second, None))


@cache
def _dis() -> Any:
    import cv2 as opencv

    cv2: Any = opencv  # its stubs leave this out
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return dis


def _sharpened(flow: Flow, first: Frame, second: Frame) -> Flow:
    """The flow from `first` to `second`, in which a point near a motion boundary goes with those of the points around
    it that go to where its colours are."""
    import cv2

    height, width = flow.shape[:2]
    kernel = np.ones((2 * _REACH[-1] + 1,) * 2, np.uint8)
    varies = (cv2.dilate(flow, kernel) - cv2.erode(flow, kernel)).max(2) > _OTHER
    near = np.flatnonzero(cv2.dilate(varies.astype(np.uint8), np.ones((3, 3), np.uint8)))
    if near.size == 0:
        return flow
    # A map of points has fewer than 2¹⁵ rows.
    y, x = np.divmod(np.resize(near, (-(-near.size // 256), 256)), width)
    colours, whole = first[y, x].astype(np.int16), np.zeros((height, width), np.float32)

    def apart(way: Flow) -> npt.NDArray[np.float32]:
        place = (x + way[..., 0]).astype(np.float32), (y + way[..., 1]).astype(np.float32)
        there = cv2.remap(second, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        whole[y, x] = np.minimum(np.abs(there - colours).sum(2), _MOST)
        return np.asarray(cv2.blur(whole, (3, 3), borderType=cv2.BORDER_REPLICATE)[y, x])

    own = flow[y, x]
    best, least = own.copy(), apart(own) - _BETTER
    for right, down in itertools.product((*_REACH, 0, *(-reach for reach in _REACH)), repeat=2):
        other = flow[np.clip(y + down, 0, height - 1), np.clip(x + right, 0, width - 1)]
        now = apart(other)
        better = (np.abs(other - own).max(2) > _OTHER) & (now < least)
        best[better], least[better] = other[better], now[better]
    sharpened = flow.copy()
    sharpened[y, x] = best
    return sharpened


def _grey(frame: Frame) -> npt.NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


def _still(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], flow: Flow) -> npt.NDArray[np.bool_]:
    """Where two frames look alike around a point: next to what moves, close around it."""
    import cv2

    difference = cv2.absdiff(before, after).astype(np.float32)
    wide, close = (cv2.blur(difference, (size, size), borderType=cv2.BORDER_REPLICATE) for size in _STILL_WINDOWS)
    beside = cv2.dilate(boundaries(flow).astype(np.uint8), np.ones((_STILL_WINDOWS[0],) * 2, np.uint8)) > 0
    return np.asarray((wide < _STILL) | ((close < _STILL) & beside))


def disoccluded(forward: Flow, backward: Flow) -> npt.NDArray[np.bool_]:
    """The points of the later frame that the earlier one does not show, (H, W): those whose flow `backward` leads out
    of it, or to a point whose flow `forward` does not lead back,

        |w̃ + ŵ|² > 0.01 (|w̃|² + |ŵ|²) + 0.5        w̃(p) = w(p + ŵ(p))
    """
    height, width = backward.shape[:2]
    x, y = np.moveaxis(_places(backward) + backward, 2, 0)
    outside = (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)
    there = sampled(torch.from_numpy(np.moveaxis(forward, 2, 0).copy())[None], backward, "INTER_LINEAR")[0]
    returned = np.moveaxis(there.numpy(), 0, 2)
    apart = np.square(returned + backward).sum(2)
    lengths = np.square(returned).sum(2) + np.square(backward).sum(2)
    return np.asarray(outside | (apart > 0.01 * lengths + 0.5))


def boundaries(flow: Flow) -> npt.NDArray[np.bool_]:
    """The motion boundaries of a flow ŵ = (u, v), (H, W): |∇u|² + |∇v|² > 0.01 |ŵ|² + 0.002."""
    steep = sum(np.square(slope) for part in np.moveaxis(flow, 2, 0) for slope in np.gradient(part))
    return np.asarray(steep > 0.01 * np.square(flow).sum(2) + 0.002)


def warped(image: Tensor, flow: Flow) -> Tensor:
    """An image of the earlier frame, (1, C, H, W) on the CPU, where its points are in the later one; not clamped.

    The kernel is Lanczos' of 8 × 8 pixels: the bicubic one of 4 × 4 blurs twice as much, and warps are warped again.
    """
    return sampled(image, flow, "INTER_LANCZOS4")


def sampled(image: Tensor, flow: Flow, kernel: str) -> Tensor:
    """The image at the points that the flow leads to, by a kernel of OpenCV; beyond the border the border goes on."""
    import cv2

    origins = (_places(flow) + flow).astype(np.float32)
    samples = np.moveaxis(image[0].float().numpy(), 0, 2)
    result = cv2.remap(samples, origins, None, getattr(cv2, kernel), borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.moveaxis(np.atleast_3d(result), 2, 0).copy())[None]


def _places(flow: Flow) -> npt.NDArray[np.float64]:
    """The x and the y of each pixel, (H, W, 2)."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float64)
    return np.stack([x, y], axis=2)


def sharpness(flow: Flow) -> npt.NDArray[np.float32]:
    """How little of an image a warp blurs, (H, W) in 0…1: 1 for a way of whole pixels, least for one of halves."""
    off = np.abs(flow - np.round(flow)).max(2)
    return np.asarray(_BLURRED + (1 - _BLURRED) * (1 - 2 * off) ** _BLUR_POWER, np.float32)


def inwards(flow: Flow) -> npt.NDArray[np.float32]:
    """How far each point that has moved away from the border was within the earlier frame, (H, W) in 0…1, by the pixels
    beside the border in which a style draws it; 1 for all others."""
    last = np.array(flow.shape[1::-1]) - 1
    now = _places(flow)
    before = now + flow
    was, is_now = (np.minimum(place, last - place).min(2) for place in (before, now))
    within = np.clip((was + 1) / _BORDER, 0, 1)
    return np.where(is_now > was + 0.5, within, 1).astype(np.float32)


def toned(image: Tensor, content: Tensor, begun: Tensor) -> Tensor:
    """The `content` where no image has `begun`, (1, 1, H, W) bool, in the tone that the image has around it: with the
    mean difference of the two near by, (1, 3, H, W) in 0…1."""
    import cv2

    mask = begun[0, 0].float().numpy()
    apart = np.moveaxis((image - content)[0].numpy(), 0, 2) * mask[..., None]
    radius = max(content.shape[-2:]) / _TONE_PART
    near, weight = (cv2.GaussianBlur(x, (0, 0), radius, borderType=cv2.BORDER_REPLICATE) for x in (apart, mask))
    tone = near / np.maximum(weight, _TONE_LEAST)[..., None]
    toned_content = (content + torch.from_numpy(np.moveaxis(tone, 2, 0).copy())[None]).clamp(0, 1)
    return torch.where(begun, image, toned_content)


def is_cut(earlier: Frame, later: Frame, moved: Motion, *, least: float) -> bool:
    """True where less than the part `least` of the later frame shows points of the earlier one in their colours."""
    before = warped(as_planes(earlier), moved.flow)
    same = (before - as_planes(later)).abs().amax(1)[0].numpy() < _SAME_COLOUR
    return bool((same & moved.covered).mean() < least)


def as_planes(frame: Frame) -> Tensor:
    """A frame as the network takes it: (1, 3, H, W) float32 in 0…1."""
    return torch.from_numpy(np.moveaxis(frame, 2, 0).astype(np.float32) / 255)[None]


def as_frame(planes: Tensor) -> Frame:
    """(1, 3, H, W) or (3, H, W) in 0…1 as a frame, rounded."""
    samples = planes.reshape(3, *planes.shape[-2:]).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(np.moveaxis(samples.cpu().numpy(), 0, 2))


def fitted(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame brought to a size, (height, width)."""
    return as_frame(resize(as_planes(frame), size))


def read_flow(path: Path, size: tuple[int, int]) -> Flow:
    """The flow of a Middlebury .flo file brought to `size`, (height, width). Raises ImageError."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"flow {str(path)!r} cannot be read ({reason}); check the path") from None
    width, height = (int(side) for side in np.frombuffer(data[4:12].ljust(8, b"\0"), "<i4"))
    whole = data[:4] == np.float32(_FLO_MAGIC).tobytes() and min(width, height) > 0
    if not whole or len(data) != 12 + 8 * width * height:
        raise ImageError(f"flow {str(path)!r} is not a .flo file, or it was cut short; write it again")
    values = np.frombuffer(data, "<f4", offset=12)
    flow: Flow = values.reshape(height, width, 2).astype(np.float32)
    if not np.isfinite(flow).all():
        raise ImageError(f"flow {str(path)!r} has values that are not finite; write it again")
    if (height, width) != size:
        planes = torch.from_numpy(np.moveaxis(flow, 2, 0).copy())[None]
        planes = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True)
        flow = np.moveaxis(planes[0].numpy(), 0, 2) * np.array([size[1] / width, size[0] / height], np.float32)
    return np.ascontiguousarray(flow, np.float32)
