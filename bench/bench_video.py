"""How little a clip flickers, and what it costs: four ways to make three clips whose motion is known exactly.

python -m bench.bench_video    prints the table of docs/video.md

The clips are drawn here from the example photograph, the town: a pan by 4 pixels a frame, a disc with a painting in it
that moves to the right in front of the ground, which moves to the left, and a zoom by 0.6 % a frame about the middle.
The flow that they are scored along is that of the drawing; the flow that frames are made along is estimated.

The warping error is the mean over all pairs of frames; of frames made alone, over the first pairs, for each of these
frames takes the time of a picture. Style is the Gram distance of the last frame over that of the first, and over that
of the last frame made alone: a content that is harder to paint has a larger one, whatever is done. Seconds are
those of the process on one thread, for a frame after the first, with the part of the first frame's seconds.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.video.flow import Flow, Frame, as_planes, motion
from fastnst.video.options import Look, VideoOptions
from fastnst.video.score import warping_error
from fastnst.video.studio import Made, Studio

STYLE = "style_swirls"
_STEP, _ZOOM, _OBJECT = 4, 1.006, (3, -2)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A clip with the flow from each frame but the first to the one before, and where it holds, (H, W) bool."""

    name: str
    frames: list[Frame]
    flows: list[Flow]
    valid: list[npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Row:
    clip: str
    way: str
    error: float
    style: float  # of the last frame
    first_style: float
    seconds: float
    share: float


def pan(count: int, height: int, width: int) -> Drawn:
    town = _town(height, width + _STEP * count)
    frames = [town[:, _STEP * index : _STEP * index + width].copy() for index in range(count)]
    flow = np.broadcast_to(np.array([_STEP, 0], np.float32), (height, width, 2)).copy()
    valid = np.ones((height, width), bool)
    valid[:, width - _STEP :] = False
    return Drawn("pan", frames, [flow] * (count - 1), [valid] * (count - 1))


def passing(count: int, height: int, width: int) -> Drawn:
    own, other = _OBJECT
    town = _town(height, width - other * count)
    radius = height // 4
    with Image.open(example("style_mosaic")) as painting:
        square = np.asarray(painting.convert("RGB").resize((2 * radius, 2 * radius)))
    frames, flows, valid, before = list[Frame](), list[Flow](), list[npt.NDArray[np.bool_]](), None
    for index in range(count):
        left = radius // 2 + own * index
        disc = Image.new("L", (width, height))
        box = (left, height // 2 - radius, left + 2 * radius - 1, height // 2 + radius - 1)
        ImageDraw.Draw(disc).ellipse(box, fill=255)
        inside = np.asarray(disc) > 0
        frame = town[:, -other * index : -other * index + width].copy()
        layer = frame.copy()
        layer[height // 2 - radius : height // 2 + radius, left : left + 2 * radius] = square
        frame[inside] = layer[inside]
        frames.append(frame)
        if before is not None:
            flow = np.where(inside[..., None], [-own, 0], [-other, 0]).astype(np.float32)
            # The ground that the disc has just left, and what has come in from the side, were not to be seen.
            uncovered = ~inside & np.roll(before, other, axis=1)
            known = ~uncovered
            known[:, width + other :] &= inside[:, width + other :]
            flows.append(flow)
            valid.append(known)
        before = inside
    return Drawn("object", frames, flows, valid)


def zoom(count: int, height: int, width: int) -> Drawn:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    flow = np.stack([x - (width - 1) / 2, y - (height - 1) / 2], axis=2) * (1 / _ZOOM - 1)
    with Image.open(example("content")) as town:
        frames = []
        for index in range(count):
            across = min(town.width, town.height * width / height) / _ZOOM**index
            down = across * height / width
            left, top = (town.width - across) / 2, (town.height - down) / 2
            box = (left, top, left + across, top + down)
            small = town.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box=box)
            frames.append(np.asarray(small))
    # Zooming in, all of a frame was in the one before.
    everywhere = np.ones((height, width), bool)
    # A frame shows what lay nearer to the middle before.
    return Drawn("zoom", frames, [flow.astype(np.float32)] * (count - 1), [everywhere] * (count - 1))


def _town(height: int, width: int) -> Frame:
    with Image.open(example("content")) as town:
        scale = max(height / town.height, width / town.width)
        size = (round(town.width * scale), round(town.height * scale))
        return np.asarray(town.convert("RGB").resize(size, Image.Resampling.LANCZOS))[:height, :width]


def measure(clip: Drawn, way: str, values: dict[str, Any], options: dict[str, Any], loss: PerceptualLoss) -> Row:
    """One way to make a clip: `values` are its video options."""
    video = VideoOptions(**values)
    studio = Studio(load_image(example(STYLE), role="style"), Look.of(options), video)
    stylizer = studio.stylizer(0.0)
    stylizer.load(progress=False)
    made, seconds = list[Made](), list[float]()
    for index, content in enumerate(clip.frames):
        began = time.process_time()
        if index == 0 or way == "alone":
            made.append(studio.afresh(content, stylizer))
        else:
            backs = [back for back in video.look_back if back <= index]
            known = [(made[index - back], motion(clip.frames[index - back], content)) for back in backs]
            made.append(studio.after(content, stylizer, known, before=made[-1]))
        seconds.append(time.process_time() - began)
    frames = [each.frame for each in made if each.frame is not None]
    errors = [
        warping_error(frames[index], frames[index + 1], clip.flows[index], clip.valid[index])
        for index in range(len(clip.flows))
    ]
    with torch.no_grad():
        first, last = (float(loss.terms(as_planes(frames[k]), as_planes(clip.frames[k])).style) for k in (0, -1))
    later = float(np.median(seconds[1:]))
    error = float(np.mean(errors))
    return Row(clip.name, way, error, style=last, first_style=first, seconds=later, share=later / seconds[0])


WAYS: dict[str, dict[str, Any]] = {
    "warped start": {"temporal_weight": 0.0},
    "+ temporal term": {},
    "+ long term": {"look_back": (1, 2, 4, 8)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="width of the frames (default: 160)")
    parser.add_argument("--frames", type=int, default=16, help="frames of each clip (default: 16)")
    parser.add_argument("--alone", type=int, default=4, help="first frames of each that are made alone (default: 4)")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    width, height = parsed.size, parsed.size * 3 // 4
    options = {"size": width}
    loss = PerceptualLoss(example(STYLE), size=width)
    columns = ("clip", "way", "warping error", "of alone", "style, last / first", "/ alone", "s a later frame")
    print("|", " | ".join([*columns, "of the first"]), "|")
    print("| --- " * (len(columns) + 1) + "|")
    for draw in (pan, passing, zoom):
        clip, pairs = draw(parsed.frames, height, width), parsed.alone - 1
        single = Drawn(
            clip.name, [*clip.frames[: pairs + 1], clip.frames[-1]], clip.flows[:pairs], valid=clip.valid[:pairs]
        )
        alone = measure(single, "alone", {}, options=options, loss=loss)
        made = (measure(clip, way, values, options=options, loss=loss) for way, values in WAYS.items())
        for row in itertools.chain([alone], made):
            ratios = [f"1/{alone.error / row.error:.0f}", f"{row.style / row.first_style:.2f}"]
            cells = [row.clip, row.way, f"{row.error:.2g}", *ratios, f"{row.style / alone.style:.2f}"]
            print("|", " | ".join([*cells, f"{row.seconds:.2f}", f"1/{1 / row.share:.1f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
