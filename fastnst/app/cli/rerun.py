"""`fastnst rerun OUT`: an image made again from its own metadata."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import FastnstWarning, OptionError

if TYPE_CHECKING:
    from fastnst.image.picture import Picture
    from fastnst.options.options import Options
    from fastnst.transfer.inputs import Canvas
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
    from fastnst.app.cli.job import Job, Outputs
    from fastnst.app.cli.run import execute
    from fastnst.image.metadata import read_parameters
    from fastnst.image.read import load_image
    from fastnst.options.options import resolve_options
    from fastnst.transfer.inputs import Canvas, recorded_canvas

    record = read_parameters(parsed.image)
    options = _options(record, parsed)
    original = load_image(parsed.image, role="the")
    content: str | Canvas | None = recorded_canvas(record)
    if content is None:
        content = _place(parsed.content, record["content"]["name"], parsed.image, "content")
    given = parsed.styles or [None] * len(record["styles"])
    if len(given) != len(record["styles"]):
        raise OptionError(f"{len(given)} styles given, and it was made of {len(record['styles'])}; give all, in order")
    styles = [
        _place(path, style["name"], parsed.image, "style") for path, style in zip(given, record["styles"], strict=True)
    ]
    _place_options(options, parsed)
    resolved = resolve_options(**options)
    _check_inputs(content, styles, resolved, record, changed=parsed.changed)
    _warn_of_differences(record, resolved)
    final = (record.get("final") or {}) if record.get("stopped") else {}

    def stop_where_it_stopped(iterate: "Iterate") -> bool:
        return (iterate.record.iteration, iterate.record.scale) != (final.get("iteration"), final.get("scale"))

    outputs = Outputs.of(vars(parsed))
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
    if missing or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in inputs):
        raise OptionError(f"{parsed.image!r} lacks {', '.join(missing) or 'its inputs'} in its metadata; make it anew")
    options = dict(record["options"])
    if "init" not in options:
        raise OptionError(f"{parsed.image!r} lacks the option init in its metadata; make it anew")
    return options


def _has_canvas(record: dict[str, Any]) -> bool:
    """True where it says that there was no content, and how large the image is."""
    sizes = record.get("sizes")
    last = sizes[-1] if isinstance(sizes, list) and sizes else None
    return record.get("content", 0) is None and isinstance(last, dict) and {"height", "width"} <= last.keys()


def _place_options(options: dict[str, Any], parsed: argparse.Namespace) -> None:
    """Puts the present places of init and masks, and the device, into the recorded options."""
    from fastnst.options.options import START_WORDS

    if parsed.device is not None:
        options["device"] = parsed.device
    if options["init"] not in START_WORDS:
        options["init"] = _place(parsed.init, options["init"], parsed.image, "init")
    if options.get("masks") is not None:
        options["masks"] = parsed.masks or [
            {name: source and _place(None, source, parsed.image, "mask") for name, source in mask.items()}
            for mask in options["masks"]
        ]


def _place(given: str | None, recorded: object, image: str, role: str) -> str:
    """The path of an input: the one given now, or the recorded one, from here or from the image's own folder."""
    if given is not None:
        return given
    name = str(recorded)
    flag = {"content": "--content", "style": "--styles", "init": "--init", "mask": "--mask"}[role]
    for path in (Path(name), Path(image).parent / name, Path(image).parent / Path(name).name):
        try:
            if path.is_file():
                return str(path)
        except (OSError, ValueError):  # a name that is no path
            continue
    raise OptionError(f"the {role} {name!r} is not where it was, nor beside {image!r}; say where with {flag} PATH")


def _check_inputs(
    content: "str | Canvas", styles: list[str], options: "Options", record: dict[str, Any], *, changed: bool
) -> None:
    """Raises OptionError where pictures or weights are others than the recorded ones; warns where they may be."""
    from fastnst.image.picture import opaque
    from fastnst.image.read import load_image, open_picture
    from fastnst.network.weights import load_weights
    from fastnst.options.masks import mask_hashes

    def differs(problem: str) -> None:
        if not changed:
            raise OptionError(f"{problem}; give the one that it was, or --changed to go on with this one")
        warnings.warn(f"{problem}; going on with this one", FastnstWarning, stacklevel=3)

    def sha256(source: Any) -> str | None:
        return None if source is None else load_image(source, role="mask").sha256

    masks = [{name: sha256(source) for name, source in mask.as_dict().items()} for mask in options.masks or ()]
    if masks and masks != mask_hashes(record.get("masks")):
        differs("the masks are not those that the image was made with")
    inputs = [("style", path, entry) for path, entry in zip(styles, record["styles"], strict=True)]
    if isinstance(content, str):
        inputs.insert(0, ("content", content, record["content"]))
    for role, path, entry in inputs:
        picture = open_picture(path, role=role, max_pixels=options.max_pixels)
        picture = opaque(picture) if role == "style" else picture
        if picture.sha256 != entry.get("sha256"):
            differs(f"the {role} {picture.name!r} is not the picture that the image was made of")
    weights = load_weights(options.weights, options.network, taps=options.taps, filter_scaling=options.filter_scaling)
    if weights.sha256 != record["weights"].get("sha256"):
        differs(f"the weights {weights.source} are not those that the image was made with")


def _warn_of_differences(record: dict[str, Any], options: "Options") -> None:
    """Warns, in a line each, where the arithmetic or the versions are others, or time ended the run."""
    from fastnst.network.runtime import resolve_runtime, versions

    runtime = resolve_runtime(options.device, options.precision, options.backend)
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
    """The distance of the new image from the old one, in steps of 8 bits."""
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
