"""`fastnst rerun OUT`: an image made again from its own metadata."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import FastnstWarning, OptionError

if TYPE_CHECKING:
    from fastnst.image.picture import AnyPicture, Picture
    from fastnst.options.options import Options
    from fastnst.transfer.result import Iterate, Result


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import add_input_places, add_output_arguments

    parser = commands.add_parser(
        "rerun",
        help="make an image again from its metadata",
        description="Makes IMAGE again from the options in its metadata, after a check that pictures and weights are "
        "those that it was made of, and says how far the new one is from it. Inputs are looked for where they were, "
        "and beside IMAGE.",
        allow_abbrev=False,
    )
    parser.add_argument("image", metavar="IMAGE", help="an image that fastnst wrote")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="where the new one goes, as for stylize")
    add_input_places(parser)
    parser.add_argument("--device", metavar="DEVICE", help="another device than the one it was made on")
    parser.add_argument("--changed", action="store_true", help="go on with inputs that are not the same any more")
    add_output_arguments(parser)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.execution import execute
    from fastnst.app.cli.job import Job, Outputs
    from fastnst.image.files import MAX_PIXELS
    from fastnst.image.metadata import read_parameters
    from fastnst.image.picture import opaque
    from fastnst.image.read import load_image, open_picture
    from fastnst.options.options import START_WORDS, resolve_options
    from fastnst.transfer.inputs import Canvas, recorded_canvas

    record = read_parameters(parsed.image)
    options = _options(record, parsed)
    original = load_image(parsed.image, role="the")
    outputs = Outputs.of(vars(parsed))
    content: str | Canvas | None = recorded_canvas(record)
    if content is None:
        content = _place(parsed.content, record["content"], parsed.image, "content")
    given = parsed.styles or [None] * len(record["styles"])
    if len(given) != len(record["styles"]):
        raise OptionError(f"{len(given)} styles given, and it was made of {len(record['styles'])}; give all, in order")
    styles = [_place(path, style, parsed.image, "style") for path, style in zip(given, record["styles"], strict=True)]
    if options["init"] not in START_WORDS:
        options["init"] = _place(parsed.init, {"name": options["init"]}, parsed.image, "init")
    most = options.get("max_pixels", MAX_PIXELS)
    if options.get("masks") is not None:
        options["masks"] = parsed.masks or [
            {name: source and _place(None, {"name": source}, parsed.image, "mask") for name, source in mask.items()}
            for mask in options["masks"]
        ]
        _check_masks(options["masks"], record.get("masks"), parsed.changed)
    if isinstance(content, str):
        picture = open_picture(content, role="content", max_pixels=most)
        _check_picture(picture, record["content"], "content", parsed.changed)
    for path, style in zip(styles, record["styles"], strict=True):
        picture = opaque(open_picture(path, role="style", max_pixels=most))
        _check_picture(picture, style, "style", parsed.changed)
    resolved = resolve_options(**options)
    _check_weights(resolved, record["weights"], parsed.changed)
    _warn_of_differences(record, resolved)
    final = (record.get("final") or {}) if record.get("stopped") else {}

    def stop_where_it_stopped(iterate: "Iterate") -> bool:
        return (iterate.record.iteration, iterate.record.scale) != (final.get("iteration"), final.get("scale"))

    code, result = execute(Job(content, styles, options, outputs), stop_where_it_stopped)
    if not outputs.quiet:
        print(f"fastnst: {_difference(result, original)}", file=sys.stderr)
    return code


def _options(record: dict[str, Any], parsed: argparse.Namespace) -> dict[str, Any]:
    """The recorded options. Raises OptionError where the metadata have not all that is needed."""
    needed = {"options": dict, "styles": list, "weights": dict}
    missing = [name for name, kind in needed.items() if not isinstance(record.get(name), kind)]
    missing += [] if isinstance(record.get("content", 0), dict) or _has_canvas(record) else ["content"]
    inputs = [] if missing else [*([] if record["content"] is None else [record["content"]]), *record["styles"]]
    if missing or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in inputs):
        raise OptionError(f"{parsed.image!r} lacks {', '.join(missing) or 'its inputs'} in its metadata; make it anew")
    options = dict(record["options"])
    if "init" not in options:
        raise OptionError(f"{parsed.image!r} lacks the option init in its metadata; make it anew")
    if parsed.device is not None:
        options["device"] = parsed.device
    return options


def _has_canvas(record: dict[str, Any]) -> bool:
    """Whether it says that there was no content, and how large the image is."""
    sizes = record.get("sizes")
    last = sizes[-1] if isinstance(sizes, list) and sizes else None
    return record.get("content", 0) is None and isinstance(last, dict) and {"height", "width"} <= last.keys()


def _place(given: str | None, recorded: dict[str, Any], image: str, role: str) -> str:
    """Where an input is: at the path given now, or at the recorded one, from here or from the image's own folder."""
    if given is not None:
        return given
    name = str(recorded["name"])
    flag = {"content": "--content", "style": "--styles", "init": "--init", "mask": "--mask"}[role]
    for path in (Path(name), Path(image).parent / name, Path(image).parent / Path(name).name):
        try:
            if path.is_file():
                return str(path)
        except (OSError, ValueError):  # a name that is no path
            continue
    raise OptionError(f"the {role} {name!r} is not where it was, nor beside {image!r}; say where with {flag} PATH")


def _check_picture(picture: "AnyPicture", recorded: dict[str, Any], role: str, changed: bool) -> None:
    if picture.sha256 != recorded.get("sha256"):
        _different(f"the {role} {picture.name!r} is not the picture that the image was made of", changed)


def _check_masks(masks: Any, recorded: Any, changed: bool) -> None:
    from fastnst.image.read import load_image
    from fastnst.options.masks import mask_hashes, parse_masks

    def sha256(source: Any) -> str | None:
        return None if source is None else load_image(source, role="mask").sha256

    now = [{name: sha256(source) for name, source in mask.as_dict().items()} for mask in parse_masks(masks) or ()]
    if now != mask_hashes(recorded):
        _different("the masks are not those that the image was made with", changed)


def _check_weights(options: "Options", recorded: dict[str, Any], changed: bool) -> None:
    from fastnst.network.weights import load_weights

    found = load_weights(options.weights, options.network, taps=options.taps, filter_scaling=options.filter_scaling)
    if found.sha256 != recorded.get("sha256"):
        _different(f"the weights {found.source} are not those that the image was made with", changed)


def _different(problem: str, changed: bool) -> None:
    if not changed:
        raise OptionError(f"{problem}; give the one that it was, or --changed to go on with this one")
    warnings.warn(f"{problem}; going on with this one", FastnstWarning, stacklevel=3)


def _warn_of_differences(record: dict[str, Any], options: "Options") -> None:
    """One line where the arithmetic or the versions are others, or time ended the run."""
    from fastnst.network.runtime import resolve_runtime, versions

    runtime = resolve_runtime(options)
    now = {"device": str(runtime.device), "precision": runtime.precision, **versions()}
    recorded = record.get("versions")
    then = {
        "device": record.get("device"),
        "precision": record.get("precision"),
        **(recorded if isinstance(recorded, dict) else {}),
    }
    changed = [f"{name} {then[name]} (now {now[name]})" for name in now if name in then and then[name] != now[name]]
    if changed:
        warnings.warn(f"it was made with {', '.join(changed)}; pixels may differ", FastnstWarning, stacklevel=2)
    if options.seconds is not None:
        warnings.warn(
            f"it had {options.seconds:g} seconds; how many iterations they are differs from run to run",
            FastnstWarning,
            stacklevel=2,
        )


def _difference(result: "Result", original: "Picture") -> str:
    """How far the new image is from the old one, in steps of 8 bits."""
    new = result.tensor
    if new.shape != original.rgb.shape:
        return (
            f"the new image is {tuple(new.shape[1:])} and the old one {tuple(original.rgb.shape[1:])} (height, width)"
        )
    steps = ((new * 255).round() - (original.rgb * 255).round()).abs()
    worst = int(steps.max())
    if worst == 0:
        return "every pixel is the same, at 8 bits"
    share = float((steps.amax(dim=0) > 0).float().mean())
    return f"{share:.2%} of the pixels differ, by at most {worst} of 255, on average by {float(steps.mean()):.3g}"
