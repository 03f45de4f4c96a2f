"""`fastnst rerun OUT`: an image made again from its own metadata."""

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastnst.app.cli import say
from fastnst.app.cli.arguments import Outputs
from fastnst.app.cli.job import Job, style_paths
from fastnst.app.cli.run import execute
from fastnst.errors import OptionError, counted, warn
from fastnst.feedforward.file import load_network
from fastnst.image.files import check_apart
from fastnst.image.metadata import blend_in, read_parameters
from fastnst.image.picture import Picture
from fastnst.image.read import load_image
from fastnst.loss.networks import weights_of
from fastnst.network.runtime import as_before, resolve_runtime, versions
from fastnst.options.masks import parse_masks
from fastnst.options.options import START_WORDS, Options
from fastnst.options.resolve import resolve_options
from fastnst.transfer.inputs import Canvas, changed_inputs, check_given, fingerprint, recorded_canvas
from fastnst.transfer.result import Iterate, Result


def run(parsed: argparse.Namespace) -> int:
    record = read_parameters(parsed.image)
    if (command := _apply_command(record, parsed)) is not None:
        raise OptionError(f"{parsed.image!r} was made by fastnst apply; to make it again, type: {command}")
    _check_complete(record, parsed.image)
    check_given(record, content=parsed.content, init=parsed.init, mask=parsed.masks)
    outputs = Outputs.of(vars(parsed))
    check_apart(outputs.paths, [parsed.image])
    original = load_image(parsed.image, role="the")
    missing: list[tuple[str, str]] = []
    place = partial(_place, parsed.image, missing)
    content = recorded_canvas(record) or place("content", record["content"]["name"], parsed.content)
    given: Sequence[str | None] = style_paths(parsed.styles or [], *outputs.paths) or [None] * len(record["styles"])
    if len(given) != len(record["styles"]):
        raise OptionError(
            f"you gave {counted(len(given), 'style')}, and the image was made from {len(record['styles'])}; give all "
            "of them, in order"
        )
    styles = [place("style", style["name"], path) for path, style in zip(given, record["styles"], strict=True)]
    options = dict(record["options"])
    if parsed.device is not None:
        options["device"] = parsed.device
    if options["init"] not in START_WORDS:
        options["init"] = place("init", options["init"], parsed.init)
    if options.get("masks") is not None:
        recorded = parse_masks(options["masks"]) or ()
        options["masks"] = parsed.masks or [mask.mapped(partial(place, "mask")) for mask in recorded]
    if missing:
        raise OptionError(
            f"{', '.join(f'the {role} {name!r}' for role, name in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} neither where the run read "
            f"{'it' if len(missing) == 1 else 'them'} nor beside {parsed.image!r}; give the path with "
            + " ".join(dict.fromkeys(f"--{'styles' if role == 'style' else role} PATH" for role, _ in missing))
        )
    resolved = resolve_options(**options)
    if resolved.precision == "auto":
        # A trial may end otherwise now.
        now = resolve_runtime(resolved.device, backend=resolved.backend)
        then = as_before(now, record.get("device"), record.get("precision"))
        if then != now:
            options["precision"] = then.precision
            resolved = replace(resolved, precision=then.precision)
    for problem in _changes(content, styles, resolved, record):
        if not parsed.changed:
            raise OptionError(f"{problem}; give the right one, or add --changed to continue with this one")
        warn(f"{problem}; the run continues with this one")
    _warn_of_differences(record, resolved)
    final = record["final"] if record.get("stopped") and isinstance(record.get("final"), dict) else {}

    def stop_where_it_stopped(iterate: Iterate) -> bool:
        return (iterate.record.iteration, iterate.record.scale) != (final.get("iteration"), final.get("scale"))

    code, result = execute(Job(content, styles, options, outputs), stop_where_it_stopped)
    if not outputs.quiet:
        say(f"{_difference(result, original)}")
    return code


def _apply_command(record: Mapping[str, Any], parsed: argparse.Namespace) -> str | None:
    """The command that makes the picture of `record` again where `fastnst apply` made it."""
    blend, content, network = blend_in(record), record.get("content"), record.get("network")
    if not (blend and isinstance(content, dict) and isinstance(network, dict)):
        return None
    words = ["fastnst", "apply"]
    if network.get("sha256") != load_network().sha256:
        words.append(str(network.get("name") or "NET.safetensors"))
    words += [_place(parsed.image, [], "content", content.get("name"), parsed.content), "-o", parsed.output]
    named = [f"{name}={share:g}" for name, share in blend.items()]
    if len(named) > 1 and len(" ".join(named).replace(",", " ").split()) > len(named):  # a name is of several words
        named = [f"{share:g}" for share in network["blend"]]
    words += ["--style", *blend] if len(blend) == 1 else ["--blend", *named]
    sides = [side for side in (content.get("height"), content.get("width")) if isinstance(side, int)]
    words += ["--size", str(max(sides))] if sides else []
    if (kept := record.get("preserve_color", "none")) != "none":
        words += ["--preserve-color", str(kept)]
    command = shlex.join(words)
    return command if command.isprintable() else None


def _check_complete(record: dict[str, Any], image: str) -> None:
    needed = {"options": dict, "styles": list, "weights": dict}
    missing = [name for name, kind in needed.items() if not isinstance(record.get(name), kind)]
    content, sizes = record.get("content", 0), record.get("sizes")
    last = sizes[-1] if isinstance(sizes, list) and sizes else None
    has_canvas = content is None and isinstance(last, dict) and {"height", "width"} <= last.keys()
    if not has_canvas and not isinstance(content, dict):
        missing.append("content")
    inputs = [] if missing else [*([] if content is None else [content]), *record["styles"]]
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in inputs):
        missing.append("its inputs")
    elif not missing and "init" not in record["options"]:
        missing.append("the option init")
    if missing:
        raise OptionError(f"{image!r} lacks {', '.join(missing)} in its metadata; make it again with fastnst stylize")


def _place(image: str, missing: list[tuple[str, str]], role: str, recorded: object, given: str | None = None) -> str:
    """The path of an input: the given one, or the recorded one, from here or from the image's own folder; one that is
    in none of these places goes to the `missing`."""
    if given is not None:
        return given
    name, beside = str(recorded), Path(image).parent
    places = [Path(name), beside / name, beside / Path(name).name]
    if (plain := name.replace("\\", "/")).startswith("//"):  # a record is not to make Windows call another machine
        places = [beside / plain.rpartition("/")[2]]
    for path in places:
        try:
            if path.is_file():
                return str(path)
        except (OSError, ValueError):  # a name that is no path
            continue
    missing.append((role, name))
    return name


def _changes(content: str | Canvas, styles: list[str], options: Options, record: dict[str, Any]) -> Iterator[str]:
    path = content if isinstance(content, str) else None
    yield from changed_inputs(record, path, styles, options, partial(fingerprint, options.max_pixels))
    weights = weights_of(options)
    if weights.sha256 != record["weights"].get("sha256"):
        yield f"the weights {weights.source} are not those that the image was made with"


def _warn_of_differences(record: dict[str, Any], options: Options) -> None:
    """Warns, in a line each, where the arithmetic or the versions are others, or time ended the run."""
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    now = {"device": str(runtime.device), "precision": runtime.precision, **versions()}
    recorded = record.get("versions")
    then = {**record, **(recorded if isinstance(recorded, dict) else {})}
    changed = [f"{name} {then[name]} (now {now[name]})" for name in now if name in then and then[name] != now[name]]
    if changed:
        warn(f"it was made with {', '.join(changed)}; pixels may differ")
    if options.seconds is not None:
        warn(
            f"it was made with --seconds {options.seconds:g}, and the number of iterations in that time differs "
            "from run to run"
        )


def _difference(result: Result, original: Picture) -> str:
    new, old = result.tensor, original.rgb
    if new.shape != old.shape:
        return f"the new image is {tuple(new.shape[1:])} and the old one {tuple(old.shape[1:])} (height, width)"
    steps = ((new * 255).round() - (old * 255).round()).abs()
    worst = int(steps.max())
    if worst == 0:
        return "every pixel is the same, at 8 bits"
    share = float((steps.amax(dim=0) > 0).float().mean())
    return f"{share:.2%} of the pixels differ, by at most {worst} of 255, on average by {float(steps.mean()):.3g}"
