"""A clip in the style of pictures: read, checked, made frame by frame, and written (see Ruder et al. 2016)."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from fastnst.errors import ImageError, OptionError, check_package, counted
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.resize import at_size, fitted_size
from fastnst.network.runtime import versions
from fastnst.options.options import Options
from fastnst.transfer.inputs import Canvas, Styles, sized
from fastnst.transfer.movie import check_target, even, note_of, write_clip
from fastnst.transfer.scales import image_size
from fastnst.video.clip import Clip, moves, open_clip
from fastnst.video.flow import Frame, as_frame, as_planes, fitted, is_cut
from fastnst.video.options import VIDEO_OPTIONS, Look, VideoOptions, VideoValues
from fastnst.video.studio import Made, Motions, Studio
from fastnst.video.work import Work, work_folder

# Options of which the same frames come, and of clips those that their content's hash stands for.
_FREE = ("device", "tile", "max_memory", "max_pixels", "masks", "init", "weights", "precision")
# Styles whose features are so many times as strong as the clip's flicker most; seen at this size.
_RESTLESS, _SEEN_EDGE = 3.0, 256
_FREE_OF_CLIPS = ("start", "end", "every", "rate", "max_frames", "sound", "flow")


@dataclass(frozen=True, eq=False)
class FrameDone:
    """A frame that a pass has finished, now or before the run was stopped.

    Attributes:
        index: its number, from 0; `done` of `total` have been finished, in all passes.
        frame: how it looks, (H, W, 3) uint8.
        seconds: how long it took; None for one that was finished before.
        begins_scene: True if a scene begins with it.
    """

    index: int
    done: int
    total: int
    frame: Frame
    seconds: float | None
    begins_scene: bool


@dataclass(frozen=True, eq=False)
class VideoResult:
    """A clip that was written.

    Attributes:
        output: where the clip is; it has `frames` frames of `size` (height, width), `rate` of them a second.
        scenes: the first frame of each scene, from 0.
        seconds: the time of each frame that was made now, by pass and index.
        broken: the problem with the frame of the source after the last one, or None.
    """

    output: Path
    frames: int
    size: tuple[int, int]
    rate: Fraction
    scenes: Sequence[int]
    seconds: Mapping[tuple[int, int], float]
    broken: str | None


def stylize_video(
    clip: str | os.PathLike[str],
    style: Styles,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    callback: Callable[[FrameDone], None] | None = None,
    **values: Unpack[VideoValues],
) -> VideoResult:
    """Renders each frame of `clip` in the style of `style`, so that it does not flicker, and writes them to `output`.

    Args:
        clip: a video that FFmpeg reads, a GIF, a WebP, a moving PNG or a folder of frames.
        style: as for `stylize`.
        output: .mp4, .mov, .mkv, .webm, .gif, .webp, or a name without a suffix for a folder of PNG. Until all frames
            are finished, they are kept beside it in a folder of the same name plus .frames.
        resume: True to continue from the frames in that folder; you get the same frames as without the stop.
        callback: called with each frame that is finished.
        **values: the fields of `fastnst.Options` (the tolerance ends frames after the first of their scene), of which
            `style_weight`, `content_weight`, `tv_weight`, `style_scale` and `style_weights` may change along the clip,
            such as `{0: (1, 0), 5: (0, 1)}`, by seconds, or `"0:1,0 5s:0,1"`; and those of
            `fastnst.video.options.VideoOptions`. A mask may be a clip with as many frames.

    Raises FastnstError for input that cannot be used, before any frame is made.
    """
    return Production(clip, style, output, resume=resume, **values).run(callback)


class Production:
    """A prepared clip: its frames are on the disk, none is rendered yet. There are `count` of them, of `size` (height,
    width); `broken` says what is wrong with the frame after them, or is None.

    `peak_bytes` is the most memory that a frame needs. Raises FastnstError as `stylize_video` does.
    """

    def __init__(
        self,
        clip: str | os.PathLike[str],
        style: Styles,
        output: str | os.PathLike[str],
        *,
        resume: bool = False,
        **values: Unpack[VideoValues],
    ) -> None:
        check_package("cv2", "video", "video")
        given: Mapping[str, Any] = values
        self.video = video = VideoOptions(**{name: value for name, value in given.items() if name in VIDEO_OPTIONS})
        self._source, self.target = source, target = open_clip(clip, video), Path(output)
        given = sized(given, Canvas(*source.size))
        look = Look.of({name: value for name, value in given.items() if name not in VIDEO_OPTIONS})
        options = look.at(0.0)
        if options.transfer != "none":
            raise OptionError(f"transfer {options.transfer} is for single pictures; leave it out for a clip")
        self.size = even(target, image_size(Canvas(*source.size), options.size, options))
        look = replace(look, given={**look.given, **_sized(options, self.size)})
        check_target(target, source.sound_for(target) if video.sound else None, self.size, source.rate)
        styles = style if isinstance(style, list | tuple) else [style]
        source.check_apart(
            target, (*styles, options.init, *(of for mask in options.masks or () for of in mask.sources))
        )
        masks = _moving_masks(options, source, video)
        # What is wrong with styles, masks and options is found before the clip is decoded.
        self._studio, self.work = Studio(style, look, video), Work(work_folder(target))
        with ExitStack() as claim:
            claim.enter_context(self.work.claimed())
            self._prepare(masks, source, look, resume=resume)
            self._claim = claim.pop_all()

    def _prepare(self, masks: Mapping[int, Clip], source: Clip, look: Look, *, resume: bool) -> None:
        """Checks all that frames are made of, reads the clip, and keeps its frames and the record of the run."""
        video = self.video
        saved = self.work.saved(resume=resume)
        if saved is not None:
            self._studio.go_on_in(str(saved.get("device")), str(saved.get("precision")))
        stylizer = self._studio.stylizer(0.0, {number: next(mask.frames()) for number, mask in masks.items()})
        prepared = stylizer.prepare(fitted(next(source.frames()), self.size))
        self._motions = Motions(None if video.flow is None else Path(video.flow))
        self._motions.check(len(source), video.look_back if video.passes == 1 else sorted({1, *video.look_back}))
        place = {"device": str(stylizer.runtime.device), "precision": stylizer.runtime.precision}
        content, hashes = self._extract(masks)
        same = {
            "clip": content,
            "weights": stylizer.loaded()[0].sha256,
            "flow": self._motions.sha256(),
            "styles": [picture.sha256 for picture in self._studio.styles],
            "masks": [prepared.record["masks"] if not masks else None, hashes],
            "init": prepared.record["init"],
            "size": self.size,
            **_recorded(self._studio.options, video, look),
        }
        self.work.keep_record({"same": same, **place, "versions": versions()}, saved)
        # The regions whose mask moves, and a hash of what the frames are made of, which the file is given.
        self._masks, self._note = tuple(masks), hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        self.peak_bytes = max(plan.peak_bytes for plan in prepared.plans)

    def _extract(self, masks: Mapping[int, Clip]) -> tuple[str, list[str]]:
        """Keeps the frames of the clip, and those of `masks` that move; returns their hashes."""
        self.count, content, self.broken = self.work.extract(self._source, self.size)
        sizes = {number: _fitting(mask.size, self.size) for number, mask in masks.items()}
        return content, [self.work.extract(masks[each], size, f"masks/{each}")[1] for each, size in sizes.items()]

    def restless_style(self) -> float | None:
        """How much larger the trace of the styles' Gram matrices is than that of the first frame, where it is so much
        that they are known to flicker (Gupta et al. 2017: the larger the trace, the less stable); else None."""
        stylizer = self._studio.stylizer(0.0, {region: self.work.frame(0, f"masks/{region}") for region in self._masks})
        traces = [stylizer.gram_trace(at_size(style, _seen(style))) for style in self._studio.styles]
        content = Picture(as_planes(self.work.frame(0))[0], None, "clip")
        ratio = max(traces, default=0.0) / stylizer.gram_trace(at_size(content, _seen(content)))
        return ratio if ratio >= _RESTLESS else None

    @cached_property
    def scenes(self) -> list[int]:
        """The first frame of each scene, from 0."""
        starts, before = [0], self.work.frame(0)
        for index in range(1, self.count):
            after = self.work.frame(index)
            moved = self._motions.between((index - 1, before), (index, after))
            if is_cut(before, after, moved, least=self.video.cut):
                starts.append(index)
            before = after
        return starts

    @property
    def total(self) -> int:
        """The frames that are made in all passes."""
        return self.count * self.video.passes

    def is_there(self) -> bool:
        """True where the target is a clip of the same frames."""
        return note_of(self.target) == self._note

    def run(self, callback: Callable[[FrameDone], None] | None = None) -> VideoResult:
        """Makes the frames that are not finished, and writes the clip."""
        with self._claim:
            result = self._run(callback)
            self.work.remove()
        return result

    def _run(self, callback: Callable[[FrameDone], None] | None) -> VideoResult:
        scenes, seconds = self.scenes, dict[tuple[int, int], float]()
        for number in range(1, self.video.passes + 1):
            is_last = number == self.video.passes
            order = range(self.count) if number % 2 else reversed(range(self.count))
            for place, index in enumerate(order, 1):
                began = time.perf_counter()
                if not self.work.is_finished(number, index, is_last=is_last):
                    self._make(number, index, scenes)
                    seconds[number, index] = time.perf_counter() - began
                if callback is None:
                    continue
                made = self.work.frame(index, "done") if is_last else as_frame(self._made(number, index).image)
                done = FrameDone(
                    index=index,
                    done=(number - 1) * self.count + place,
                    total=self.total,
                    frame=made,
                    seconds=seconds.get((number, index)),
                    begins_scene=number == 1 and index in scenes,
                )
                callback(done)
        sound = self._source.sound_for(self.target, self.count) if self.video.sound else None
        frames = [self.work.path("done", index) for index in range(self.count)]
        write_clip(self.target, frames, self._source.rate, sound, note=self._note)
        return VideoResult(
            self.target, self.count, self.size, self._source.rate, scenes=scenes, seconds=seconds, broken=self.broken
        )

    def _make(self, number: int, index: int, scenes: Sequence[int]) -> None:
        """Makes a frame in a pass, and keeps it."""
        content, seconds = self.work.frame(index), float(index / self._source.rate)
        masks = {region: self.work.frame(index, f"masks/{region}") for region in self._masks}
        stylizer = self._studio.stylizer(seconds, masks)
        begin = max(start for start in scenes if start <= index)
        end = min([start for start in scenes if start > index], default=self.count)
        if number == 1 and index == begin:
            made = self._studio.afresh(content, stylizer)
        else:
            between, last = self._motions.between, index + (1 if number % 2 == 0 else -1)
            others = [index - back for back in self.video.look_back] if number == 1 else [last]
            known = [
                (self._made(number, other), between((other, self.work.frame(other)), (index, content)))
                for other in others
                if begin <= other < end
            ]
            own = None if number == 1 else self._made(number - 1, index)
            before = self._made(number, last) if 0 <= last < self.count else own
            made = self._studio.after(content, stylizer, known, own=own, before=before)
        self.work.finish(number, index, made.tensors(), made.frame if number == self.video.passes else None)
        if self.video.passes == 1 and index >= max(self.video.look_back):
            self.work.forget(number, index - max(self.video.look_back))

    def _made(self, number: int, index: int) -> Made:
        return Made.of(self.work.tensors(number, index))


def _sized(options: Options, size: tuple[int, int]) -> dict[str, Any]:
    """The options of size that give frames of `size`, (height, width), which the output's format may have made even."""
    edge = min(size) if options.edge == "short" else max(size)
    if not isinstance(options.scales, tuple):
        return {"size": edge}
    return {"size": edge, "scales": (*(scale for scale in options.scales[:-1] if scale < edge), edge)}


def _recorded(options: Options, video: VideoOptions, look: Look) -> dict[str, Any]:
    """The options that the frames depend on, and their tracks."""
    return {
        **{name: value for name, value in options.as_dict().items() if name not in _FREE},
        **{name: getattr(video, name) for name in VIDEO_OPTIONS if name not in _FREE_OF_CLIPS},
        "tracks": {name: [track.times, track.values] for name, track in look.tracks.items()},
    }


def _seen(picture: AnyPicture) -> tuple[int, int]:
    return fitted_size(picture.height, picture.width, min(_SEEN_EDGE, max(picture.height, picture.width)))


def _fitting(size: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int]:
    """A mask's (height, width) brought to about that of the frames, `whole`, in its own proportions."""
    scale = max(whole) / max(size)
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


def _moving_masks(options: Options, source: Clip, video: VideoOptions) -> dict[int, Clip]:
    """The masks that are clips, by their region. Raises ImageError where they have not as many frames as the source."""
    clips = {}
    for number, mask in enumerate(options.masks or ()):
        if isinstance(mask.content, str | os.PathLike) and moves(mask.content):
            clip = open_clip(mask.content, video)
            if len(clip) != len(source):
                raise ImageError(
                    f"mask {clip.name!r} has {counted(len(clip), 'frame')} and the clip has {len(source)}; give a mask "
                    "with as many frames"
                )
            clips[number] = clip
    return clips
