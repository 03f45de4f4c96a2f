"""`fastnst resume CHECKPOINT`: a run that was stopped, gone on with."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import add_earlier_run

    parser = commands.add_parser(
        "resume",
        help="go on with a run from its checkpoint",
        description="Goes on with the run whose CHECKPOINT `fastnst stylize --checkpoint` wrote, and on with the "
        "checkpoint. On a CPU the image is that of the run that was not stopped, bit for bit.",
        allow_abbrev=False,
    )
    parser.add_argument("saved", metavar="CHECKPOINT", help="the file that --checkpoint wrote")
    add_earlier_run(parser)
    for name, what in (("device", "another device"), ("tile", "other tiles"), ("max-memory", "another memory limit")):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="X", help=f"{what} than the run had")
    parser.set_defaults(run=run, together=True)


def run(parsed: argparse.Namespace) -> int:
    from dataclasses import replace

    from fastnst.app.cli.job import Job, Outputs
    from fastnst.app.cli.run import execute_together
    from fastnst.options.options import START_WORDS
    from fastnst.transfer.checkpoint import CheckpointError, load_run
    from fastnst.transfer.inputs import recorded_canvas

    path = Path(parsed.saved)
    if getattr(parsed, "checkpoint", None) is not None:
        raise CheckpointError("the run goes on with its own checkpoint; leave --checkpoint out")
    saved = load_run(path, check=False)
    options = dict(saved.parameters["options"])
    if options["init"] not in START_WORDS:
        options["init"] = _place(parsed.init, saved.sources["init"], "--init")
    if options.get("masks") is not None:
        options["masks"] = parsed.masks or saved.masks_again
    options.update({name: getattr(parsed, name) for name in ("device", "tile", "max_memory") if name in parsed})
    styles = parsed.styles or [_place(None, style, "--styles") for style in saved.sources["styles"]]
    canvas = recorded_canvas(saved.parameters)
    job = Job(
        _place(parsed.content, saved.sources["content"], "--content") if canvas is None else canvas,
        styles,
        options,
        replace(Outputs.of(vars(parsed)), checkpoint=parsed.saved),
    )
    return execute_together(job, saved=path)


def _place(given: str | None, recorded: str | None, flag: str) -> str:
    """Where an input is: at the path given now, or where the run read it."""
    from fastnst.transfer.checkpoint import CheckpointError

    if given is not None:
        return given
    if recorded is None:
        raise CheckpointError(f"the checkpoint does not say where this picture was; give {flag} PATH")
    return recorded
