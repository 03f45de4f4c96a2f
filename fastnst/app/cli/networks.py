"""`fastnst train` and `fastnst apply`: a network that stylizes in one pass, made and used."""

import argparse
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastnst.app.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED, say
from fastnst.app.cli.arguments import NETWORK_OPTIONS, STANDARD, Outputs, given_options, standard_input
from fastnst.app.cli.job import style_paths
from fastnst.app.cli.run import Stop, on_stop_signal
from fastnst.errors import FastnstError, OptionError, counted
from fastnst.feedforward.applying import Applier
from fastnst.feedforward.file import SHIPPED, load_network
from fastnst.feedforward.loop import SUFFIX
from fastnst.feedforward.network import Architecture
from fastnst.feedforward.onnx import check_onnx, export_onnx
from fastnst.feedforward.schedule import Progress, Schedule
from fastnst.feedforward.training import train_network
from fastnst.image.files import check_apart, make_folder, pictures_at
from fastnst.image.write import FORMATS, Form, check_output_path
from fastnst.transfer.movie import SUFFIXES
from fastnst.video.applied import apply_to_clip
from fastnst.video.clip import moves


def run_train(parsed: argparse.Namespace) -> int:
    names = (*NETWORK_OPTIONS, "names", "add_to", "checkpoint", "resume", "previews", "save_every", "size")
    options = given_options(vars(parsed), names)
    given = {name: getattr(parsed, name) for name in ("channels", "blocks") if getattr(parsed, name) is not None}
    begin_with = None if parsed.begin_with == "none" else parsed.begin_with or SHIPPED
    schedule = Schedule(**{each.name: getattr(parsed, each.name) for each in fields(Schedule)})
    stop = Stop()
    with tqdm(total=100, unit="%", disable=True if parsed.quiet else None, file=sys.stderr, bar_format=_BAR) as bar:

        def show(progress: Progress) -> bool:
            bar.set_description(f"step {progress.step}", refresh=False)
            bar.set_postfix_str(f"loss {progress.loss:.4g}", refresh=False)
            bar.update(100 * progress.done - bar.n)
            return not stop.asked

        with on_stop_signal(stop):
            trained = train_network(
                style_paths(parsed.styles, parsed.output),
                parsed.photos,
                parsed.output,
                schedule=schedule,
                architecture=Architecture(**given) if given else None,
                begin_with=begin_with,
                callback=show,
                **options,
            )
    if not parsed.quiet:
        for reason in trained.skipped.values():
            say(f"a photo was left out: {reason}")
    if stop.asked or not parsed.quiet:
        size = Path(parsed.output).stat().st_size / 1e6
        how = "interrupted; saved the network so far," if stop.asked else "saved"
        say(
            f"{how} {parsed.output} ({', '.join(trained.network.names)}; "
            f"{size:.1f} MB) after {counted(trained.steps, 'step')} in {trained.seconds:.0f} s",
        )
    return EXIT_INTERRUPTED if stop.asked else 0


_BAR = "{desc}: {percentage:3.0f}% [{elapsed}<{remaining}{postfix}]"


def run_apply(parsed: argparse.Namespace) -> int:
    parsed.network = SHIPPED
    if parsed.images and Path(parsed.images[0]).suffix.lower() == SUFFIX:
        parsed.network, *parsed.images = parsed.images
    if not parsed.images and parsed.onnx is None:
        raise OptionError("no picture was given; give at least one, or --onnx FILE to export the network")
    if bool(parsed.images) != (parsed.output is not None):
        raise OptionError("IMAGE and -o OUT need each other; give both")
    if parsed.onnx is not None:
        check_onnx(parsed.onnx)
    if parsed.json and parsed.output in (None, STANDARD):
        raise OptionError("--json prints how pictures were made on the standard output; give a path with -o")
    is_clip = len(parsed.images) == 1 and _is_clip(parsed.images[0], parsed.output)
    idle = ("format", "bit_depth", "quality") if is_clip else ("hold",)
    if given := [name for name in idle if getattr(parsed, name) is not None]:
        flag, what = given[0].replace("_", "-"), "clip" if is_clip else "picture"
        raise OptionError(f"--{flag} has no effect on a {what}; leave it out")
    if is_clip:
        return _apply_to_clip(parsed)
    pairs = _pairs(parsed.images, parsed.output) if parsed.images else []
    form: Form = {"format": parsed.format, "bit_depth": parsed.bit_depth, "quality": parsed.quality}
    if len(pairs) == 1:
        check_output_path(Outputs(output=pairs[0][1]).target, **form)
    network = load_network(parsed.network)
    apply = Applier(network, blend=parsed.blend, **_options(parsed))
    if parsed.onnx is not None:
        difference = export_onnx(parsed.onnx, network.network)
        if not parsed.quiet:
            say(f"saved {parsed.onnx} (within {difference:.1g} of torch)")
    failed = 0
    for source, place in pairs:
        began = time.monotonic()
        try:
            applied = apply(standard_input() if source == STANDARD else source)
            applied.save(Outputs(output=place).target, **form)
        except FastnstError as error:
            if len(pairs) == 1:
                raise
            failed += 1
            say(f"error: {error}")
            continue
        if parsed.json:
            print(json.dumps({"output": place, **applied.parameters}), flush=True)
        if not parsed.quiet:
            height, width = applied.tensor.shape[1:]
            label = Outputs(output=place).label
            say(f"saved {label} ({width}×{height}) in {time.monotonic() - began:.2f} s")
    if failed:
        say(f"{failed} of {len(pairs)} pictures failed")
    return EXIT_BAD_INPUT if failed else 0


def _is_clip(source: str, output: str) -> bool:
    """True for a moving picture, and for a folder whose frames become a film."""
    if Path(source).is_dir():
        return Path(output).suffix.lower() in SUFFIXES
    return source != STANDARD and moves(source)


def _apply_to_clip(parsed: argparse.Namespace) -> int:
    began = time.monotonic()
    with tqdm(unit="frame", disable=True if parsed.quiet else None, file=sys.stderr) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        clip = apply_to_clip(
            parsed.network,
            parsed.images[0],
            parsed.output,
            blend=parsed.blend,
            hold=0.5 if parsed.hold is None else parsed.hold,
            callback=show,
            **_options(parsed),
        )
    (height, width), rate, seconds = clip.size, float(clip.rate), time.monotonic() - began
    if parsed.json:
        facts = {"output": parsed.output, "frames": clip.frames, "width": width, "height": height, "rate": rate}
        print(json.dumps({**facts, "seconds": seconds, "broken": clip.broken, **clip.parameters}))
    if not parsed.quiet:
        say(
            f"saved {parsed.output} ({clip.frames} frames of {width}×{height} px, {rate:g} a second) in {seconds:.1f} s"
        )
    if clip.broken is not None:
        raise FastnstError(f"{clip.broken}; {parsed.output} has the {clip.frames} frames before it")
    return 0


def _options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments that an `Applier` takes for pictures and clips alike."""
    names = ("style", "size", "preserve_color", "device", "precision", "max_pixels")
    return given_options(vars(parsed), names) | {"low_memory": parsed.low_memory or None}


def _pairs(images: list[str], output: str) -> list[tuple[str, str]]:
    """Each picture and where it goes: for several of them, or a folder, into the folder `output`."""
    if len(images) == 1 and not Path(images[0]).is_dir():
        check_apart([] if output == STANDARD else [output], images)
        return [(images[0], output)]
    if STANDARD in (*images, output):
        raise OptionError("- works for one picture only; give paths for several, and a folder with -o")
    sources = [path for image in images for path in pictures_at(image, "content")]
    known = {extension for form in FORMATS.values() for extension in form.extensions}
    folder, pairs = Path(output), dict[str, str]()
    if folder.is_file() or (folder.suffix.lower() in known and not folder.is_dir()):
        raise OptionError(f"several pictures need a folder after -o, and {output!r} is a file, or the name of a file")
    make_folder(output)
    for source in sources:
        path = Path(source)
        target = folder / (path.name if path.suffix.lower() in known else f"{path.stem}.png")
        if str(target) in pairs:
            raise OptionError(f"{pairs[str(target)]} and {source} would both become {target}; rename one of them")
        pairs[str(target)] = source
    check_apart(pairs, sources)
    return [(source, target) for target, source in pairs.items()]
