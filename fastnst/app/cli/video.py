"""`fastnst video` and `fastnst score-video`: a clip made frame by frame, and how much one flickers."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from fastnst.app.cli.arguments import given_options, read_config, read_option
from fastnst.app.cli.job import style_paths
from fastnst.app.cli.run import on_stop_signal
from fastnst.errors import FastnstError, Interrupted
from fastnst.image.write import check_output_path, replacing
from fastnst.options.parse import in_words
from fastnst.video.clip import open_clip
from fastnst.video.options import TRACKED, VIDEO_OPTIONS, VideoOptions
from fastnst.video.run import FrameDone, Production, VideoResult, prepare_video
from fastnst.video.score import score_clip


def run(parsed: argparse.Namespace) -> int:
    settings = {**(read_config(parsed.config) if "config" in parsed else {}), **vars(parsed)}
    values = {**given_options(settings), **_video_values(settings)}
    for name in TRACKED:
        if isinstance(values.get(name), str) and ":" not in values[name]:
            values[name] = read_option(name, values[name])
    if parsed.preview is not None:
        check_output_path(parsed.preview)
    styles = style_paths(parsed.styles, parsed.output)
    watch = _Watch(Path(parsed.preview) if parsed.preview is not None else None, quiet=parsed.quiet)
    with on_stop_signal(watch.stop):
        try:
            production = prepare_video(parsed.clip, styles, parsed.output, resume=parsed.resume, **values)
            watch.begin(production)
            with tqdm(
                total=watch.total, unit="frame", disable=True if parsed.quiet else None, file=sys.stderr
            ) as watch.bar:
                result = production.run(watch)
        except KeyboardInterrupt:
            raise Interrupted(watch.rescue(parsed.output)) from None
    if parsed.json:
        print(json.dumps(_as_dict(result)))
    if not parsed.quiet:
        height, width = result.size
        print(
            f"fastnst: saved {result.output} ({result.frames} frames of {width}×{height} px, {float(result.rate):g} a "
            f"second, {len(result.scenes)} scene{'s' if len(result.scenes) > 1 else ''}) in "
            f"{sum(result.seconds.values()):.1f} s",
            file=sys.stderr,
        )
    if result.broken is not None:
        raise FastnstError(f"{result.broken}; {result.output} has the {result.frames} frames before it")
    return 0


def score(parsed: argparse.Namespace) -> int:
    part = VideoOptions(**_video_values(vars(parsed)))
    out = open_clip(parsed.output, VideoOptions(max_frames=part.max_frames, rate=None).part)
    result = score_clip(out, open_clip(parsed.clip, part.part))
    if parsed.json:
        print(json.dumps({"warping_error": result.mean, "errors": result.errors, "valid": result.valid}))
    else:
        counted = 100 * sum(result.valid) / len(result.valid)
        print(
            f"warping error {result.mean:.3g} ({len(result.errors)} pairs of frames, {counted:.1f} % of their pixels)"
        )
    return 0


def _video_values(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in VIDEO_OPTIONS if name in settings}


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

    def __init__(self, preview: Path | None, *, quiet: bool) -> None:
        self.bar: tqdm[Any] | None = None
        self.total, self._done = 0, 0
        self._preview, self._quiet, self._told = preview, quiet, quiet

    def begin(self, production: Production) -> None:
        self.total = production.count * production.video.passes
        self._done = 0
        if self._quiet:
            return
        height, width = production.size
        passes = f" in {production.video.passes} passes" if production.video.passes > 1 else ""
        print(
            f"fastnst: {production.count} frames of {width}×{height} px{passes}, peak memory about "
            f"{in_words(production.peak_bytes)}",
            file=sys.stderr,
        )
        if production.broken is not None:
            print(f"fastnst: warning: {production.broken}; the clip ends before it", file=sys.stderr)

    def __call__(self, done: FrameDone) -> None:
        self._done = done.done
        if self._preview is not None:
            with replacing(self._preview) as file:
                Image.fromarray(done.frame).save(
                    file, Image.registered_extensions().get(self._preview.suffix.lower(), "PNG")
                )
        if self.bar is None:
            return
        self.bar.update(done.done - self.bar.n)

    def stop(self, number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def rescue(self, output: str) -> str:
        if not self._done:
            return "No frame was finished yet"
        return f"{self._done} finished frames are in {output}.frames; go on with --resume"
