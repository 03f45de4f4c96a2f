"""`fastnst video` and `fastnst score-video`: a clip made frame by frame, and how much one flickers."""

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from tqdm import tqdm

from fastnst.app.cli import say
from fastnst.app.cli.arguments import OPTIONS, OUTPUTS, Outputs, given_options, read_config, read_option
from fastnst.app.cli.job import Job, style_paths
from fastnst.app.cli.run import on_stop_signal
from fastnst.errors import FastnstError, Interrupted, OptionError, counted
from fastnst.image.files import check_apart, is_in_folder
from fastnst.image.write import check_output_path, save_image
from fastnst.options.parse import in_words
from fastnst.video.clip import open_clip
from fastnst.video.flow import as_planes
from fastnst.video.options import TRACKED, VIDEO_OPTIONS, Part, VideoOptions
from fastnst.video.run import FrameDone, Production, VideoResult
from fastnst.video.score import score_clip


def run(parsed: argparse.Namespace) -> int:
    config = {} if parsed.config is None else read_config(parsed.config)
    for name in (name for name in config if name in OUTPUTS):
        if name not in parsed:
            raise OptionError(f"config {parsed.config!r}: {name} has no effect on a clip; leave it out")
        setattr(parsed, name, getattr(parsed, name) or config[name])
    values = given_options({**config, **vars(parsed)}, (*OPTIONS, *VIDEO_OPTIONS))
    for name in TRACKED:
        if isinstance(values.get(name), str) and ":" not in values[name]:
            values[name] = read_option(name, values[name])
    if parsed.preview is not None:
        check_output_path(parsed.preview)
        if is_in_folder(parsed.preview, parsed.clip):
            raise OptionError(f"--preview {parsed.preview} is among the frames of the clip; give another folder")
    outputs = Outputs(output=parsed.output, preview=parsed.preview)
    styles = style_paths(parsed.styles, *outputs.paths)
    check_apart(outputs.paths, Job(parsed.clip, styles, values, outputs).inputs)
    watch = _Watch(parsed.preview, quiet=parsed.quiet)
    with on_stop_signal():
        try:
            production = Production(parsed.clip, styles, parsed.output, resume=parsed.resume, **values)
            watch.begin(production)
            with tqdm(total=production.total, unit="frame", disable=parsed.quiet or None, file=sys.stderr) as watch.bar:
                result = production.run(watch)
        except KeyboardInterrupt:
            raise Interrupted(watch.rescue(parsed.output)) from None
    if parsed.json:
        print(json.dumps(_as_dict(result)))
    if not parsed.quiet:
        height, width = result.size
        say(
            f"saved {result.output} ({counted(result.frames, 'frame')} of {width}×{height} px, "
            f"{float(result.rate):g} a second, {counted(len(result.scenes), 'scene')}) in "
            f"{sum(result.seconds.values()):.1f} s",
        )
    if result.broken is not None:
        raise FastnstError(f"{result.broken}; {result.output} has the {counted(result.frames, 'frame')} before it")
    return 0


def score(parsed: argparse.Namespace) -> int:
    part = VideoOptions(**given_options(vars(parsed), VIDEO_OPTIONS))
    out = open_clip(parsed.output, Part(max_frames=part.max_frames))
    result = score_clip(out, open_clip(parsed.clip, part))
    if parsed.json:
        print(json.dumps({"warping_error": result.mean, "errors": result.errors, "valid": result.valid}))
    else:
        share = 100 * sum(result.valid) / len(result.valid)
        print(f"warping error {result.mean:.3g} ({len(result.errors)} pairs of frames, {share:.1f} % of their pixels)")
    return 0


def _as_dict(result: VideoResult) -> dict[str, Any]:
    height, width = result.size
    return {
        "output": str(result.output),
        "frames": result.frames,
        "width": width,
        "height": height,
        "rate": float(result.rate),
        "scenes": list(result.scenes),
        "seconds": [
            {"pass": number, "frame": index, "seconds": seconds} for (number, index), seconds in result.seconds.items()
        ],
        "broken": result.broken,
    }


class _Watch:
    """Says beforehand what a run will be, moves the bar, and keeps the preview."""

    def __init__(self, preview: str | None, *, quiet: bool) -> None:
        self.bar: Any = None
        self._preview, self._quiet, self._done = preview, quiet, 0
        self._fresh, self._later = list[float](), list[float]()
        self._starts: Sequence[int] = ()

    def begin(self, production: Production) -> None:
        """Prints the forecast; after two frames their seconds are known, and the bar says how much is left."""
        self._starts = production.scenes
        if self._quiet:
            return
        (height, width), scenes = production.size, len(self._starts)
        passes = f" in {production.video.passes} passes" if production.video.passes > 1 else ""
        parts = f" in {scenes} scenes" if scenes > 1 else ""
        say(
            f"{counted(production.count, 'frame')} of {width}×{height} px{parts}{passes}, peak memory about "
            f"{in_words(production.peak_bytes)}"
        )
        if production.broken is not None:
            say(f"warning: {production.broken}; the clip ends before it")
        ratio = production.restless_style()
        if ratio is not None:
            say(
                f"note: the style's features are {ratio:.1f} times as strong as the clip's, and such styles flicker "
                "most (Gupta et al. 2017); if this one does, raise --temporal-weight, or give --look-back 1 2 4 8"
            )

    def __call__(self, done: FrameDone) -> None:
        self._done = done.done
        if self._preview is not None:
            save_image(self._preview, as_planes(done.frame))
        if done.seconds is not None:
            (self._fresh if done.begins_scene else self._later).append(done.seconds)
            if len(self._fresh) == len(self._later) == 1 and not self._quiet:
                first, later = sum(self._fresh), self._later[0]
                say(f"{first:.3g} s for the first frame, {later:.2g} s for the next: {self._left(done)}")
        self.bar.set_postfix_str(self._left(done), refresh=False)
        self.bar.update(done.done - self.bar.n)

    def _left(self, done: FrameDone) -> str:
        """The time that is left, as far as frames of either kind have been made."""
        fresh = sum(start >= done.done for start in self._starts)
        later = done.total - done.done - fresh
        known = self._later or self._fresh or [0.0]
        seconds = fresh * (sum(self._fresh) / max(1, len(self._fresh))) + later * median(known)
        return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"

    def rescue(self, output: str) -> str:
        if not self._done:
            return "No frame was finished yet"
        return f"{self._done} finished frames are in {output}.frames; to continue, repeat it with --resume"
