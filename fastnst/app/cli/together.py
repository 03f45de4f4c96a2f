"""A command's run on the processes that torchrun started: the first does what one alone does, the others only compute.

torchrun --nproc-per-node=4 -m fastnst stylize CONTENT STYLE -o OUT
"""

import signal
import warnings
from pathlib import Path

from fastnst.app.cli.execution import execute
from fastnst.app.cli.exit_codes import EXIT_BAD_INPUT
from fastnst.app.cli.job import STANDARD, Job
from fastnst.errors import FastnstWarning, OptionError
from fastnst.network.runtime import resolve_runtime
from fastnst.options.options import resolve_options
from fastnst.plan.processes import Ranks, RanksError, are_launched, joined
from fastnst.transfer.inputs import opened
from fastnst.transfer.result import DivergedError, Iterate
from fastnst.transfer.stylizer import Stylizer


def execute_together(job: Job, *, saved: Path | None = None) -> int:
    """`execute`, on this process or shared with the others; returns the exit code. Errors are those of `execute`, and
    RanksError where another process ended or does not answer."""
    if not are_launched():
        return execute(job, saved=saved)[0]
    if STANDARD in (job.content, *job.styles, job.options.get("init")):
        raise OptionError("several processes cannot all read the standard input; give paths in place of -")
    device = resolve_runtime(resolve_options(**job.options)).device
    with joined(device) as ranks:
        return execute(job, saved=saved, ranks=ranks)[0] if ranks.leads else _follow(job, ranks, saved)


def _follow(job: Job, ranks: Ranks, saved: Path | None) -> int:
    """The part of a process that writes and prints nothing, and that the first one stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", FastnstWarning)
    outputs = job.outputs
    try:
        # What the first one finds wrong before the run, it says for all.
        ranks.wait()
    except RanksError:
        raise SystemExit(EXIT_BAD_INPUT) from None
    content, styles, options = job.sources()
    stylizer = Stylizer(styles, ranks=ranks, **options)
    stylizer.load(progress=False)
    picture, every = opened(content, stylizer.options.max_pixels), outputs.callback_every
    seconds = outputs.checkpoint_every
    try:
        if saved is None:
            stylizer(
                picture,
                callback=_unused,
                callback_every=every,
                checkpoint=outputs.checkpoint,
                checkpoint_every=seconds,
            )
        else:
            stylizer.resume(saved, picture, callback=_unused, callback_every=every, checkpoint_every=seconds)
    except DivergedError:
        raise SystemExit(EXIT_BAD_INPUT) from None
    return 0


def _unused(iterate: Iterate) -> None:
    """Stands for the callback of the first process, which alone is called."""
