"""A command's run: it shows how far it is, and leaves the last good image whatever happens.

Of processes that torchrun started the first does what it does alone, the others only compute:

    torchrun --nproc-per-node=4 -m fastnst stylize CONTENT STYLE -o OUT
"""

import json
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable as Function
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fastnst.app.cli import EXIT_INTERRUPTED, drop_output, say
from fastnst.app.cli.arguments import STANDARD, Outputs
from fastnst.app.cli.job import Job, callbacks_of, watch_of
from fastnst.errors import FastnstError, FastnstWarning, ImageError, Interrupted, OptionError, counted, warn
from fastnst.image.write import check_output_path
from fastnst.network.runtime import is_out_of_memory, resolve_runtime
from fastnst.options.resolve import unsized_options
from fastnst.plan.processes import ALONE, Ranks, RanksError, are_launched, joined
from fastnst.replacing import rescued
from fastnst.transfer.callbacks import chain, run_bar
from fastnst.transfer.checkpoint import load_run
from fastnst.transfer.inputs import most_pixels, opened
from fastnst.transfer.plot import draw_losses
from fastnst.transfer.result import Callback, DivergedError, Iterate, Result
from fastnst.transfer.stylizer import Stylizer

# SIGHUP, where there is one, comes when the terminal goes away.
_STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def execute_together(job: Job, *, saved: Path | None = None) -> int:
    """`execute`, in this process or shared with the others of torchrun; returns the exit code."""
    if not are_launched():
        return execute(job, saved=saved)[0]
    if STANDARD in (job.content, *job.styles, job.options.get("init")):
        raise OptionError("several processes cannot all read the standard input; give a path instead of -")
    options = unsized_options(job.options)
    device = resolve_runtime(options.device, options.precision, options.backend).device
    with joined(device) as ranks:
        return execute(job, saved=saved, ranks=ranks)[0] if ranks.leads else _follow(job, ranks, saved)


def execute(job: Job, *callbacks: Callback, saved: Path | None = None, ranks: Ranks = ALONE) -> tuple[int, Result]:
    """Runs the job, or goes on from `saved`, and returns its exit code and its result; `callbacks` see the run too.

    With `ranks` it is the first of several processes. Raises FastnstError and Interrupted after the last good image is
    written.
    """
    job.check()
    outputs = job.outputs
    content, styles, options = job.sources()
    watch = _Watch(outputs)
    with on_stop_signal(watch.stop), chain(watch, *callbacks_of(outputs), *callbacks) as callback:
        try:
            picture = opened(content, most_pixels(options))
            stylizer = Stylizer(styles, ranks=ranks, **options)
            prepared = stylizer.prepare(picture, None if saved is None else load_run(saved))
            check_output_path(outputs.target, prepared.scales[-1].size, **outputs.form)
            prepared.check_checkpoint(outputs.checkpoint)
            # The others begin when all is well here.
            ranks.wait()
            stylizer.load(progress=not outputs.quiet)
            with run_bar(disable=outputs.quiet or None, file=sys.stderr) as watch.bar:
                if prepared.kernels is not None:
                    prepared.kernels.wait(
                        lambda left: watch.bar.set_description(f"building the GPU's kernels, {left} left")
                    )
                result = prepared.run(watch_of(outputs, callback))
            if watch.interrupted:
                result = result.interrupted
            watch.save(result)
        except DivergedError as error:
            saved_in = watch.place(error.result)
            _report(job, error.result)
            raise FastnstError(f"{error}. The best image before that is in {saved_in}") from None
        except KeyboardInterrupt:
            raise Interrupted(watch.rescue()) from None
        except Exception as error:
            if is_out_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold what the image is to be written with
                message = f"the run is out of memory; lower --size, --style-scale or --scales. {watch.rescue()}"
                raise FastnstError(message) from None
            if watch.last is not None:
                say(watch.rescue())
            raise
    _report(job, result)
    if watch.interrupted or not outputs.quiet:
        _print_summary(outputs, result)
    return (EXIT_INTERRUPTED if watch.interrupted else 0), result


def _follow(job: Job, ranks: Ranks, saved: Path | None) -> int:
    """The part of a process that writes and prints nothing, and that the first one stops.

    torchrun ends all processes where one fails, or where it is told to end itself: the first one may be writing then.
    """
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore", FastnstWarning)
    try:
        # Problems that the first one finds before the run, it reports for all; torchrun reports each that fails.
        ranks.wait()
    except RanksError:
        raise SystemExit(0) from None
    content, styles, options = job.sources()
    stylizer = Stylizer(styles, ranks=ranks, **options)
    stylizer.load(progress=False)
    with suppress(DivergedError):  # the first one says so
        # The callback only stands for that of the first process, which alone is called.
        prepared = stylizer.prepare(content, None if saved is None else load_run(saved))
        prepared.run(watch_of(job.outputs, lambda _: None))
    return 0


@dataclass
class _Watch:
    """The callback: moves the bar, keeps the last image, stops when asked to."""

    outputs: Outputs
    bar: Any = None
    interrupted: bool = False
    last: Iterate | None = field(default=None, repr=False)
    lazy: ClassVar[bool] = True

    def __call__(self, iterate: Iterate) -> bool:
        self.last = iterate
        self.bar.show(iterate)
        return not self.interrupted

    def save(self, result: Result) -> None:
        place, problem = written(result.save, self.outputs)
        if problem is not None:
            self.last = None  # it is saved
            raise FastnstError(f"{problem}; the image is saved in {place}")

    def place(self, image: Result | Iterate) -> str:
        """Writes the image, and says where it is, and why there."""
        place, problem = written(image.save, self.outputs)
        return place if problem is None else f"{place}, because {problem}"

    def stop(self, number: int, frame: object) -> None:
        """Ends the run at the first signal after the present iteration, at the second one at once."""
        if self.interrupted or self.last is None:
            raise KeyboardInterrupt
        self.interrupted = True

    def rescue(self) -> str:
        """Writes the last image of a run that failed, and says so."""
        if self.last is None:
            return "Nothing was computed yet, so nothing was saved"
        try:
            return f"The image of iteration {self.last.record.iteration} is in {self.place(self.last)}"
        except ImageError as error:
            return f"The image of iteration {self.last.record.iteration} is lost: {error}"


def written(save: Function[..., None], outputs: Outputs) -> tuple[str, FastnstError | None]:
    """Writes an image by its `save`; where that fails, to another place than was asked for. Returns where it is, and
    why there if so. Ctrl-C has no effect meanwhile, nor has torchrun's SIGTERM.

    Raises ImageError where it can be written nowhere.
    """
    with on_stop_signal(lambda *_: None):
        try:
            save(outputs.target, **outputs.form)
            return outputs.label, None
        except ImageError as error:
            problem = error
        except BrokenPipeError:
            drop_output()
            problem = ImageError("nobody reads the standard output any more")
        suffix = f".{outputs.format or 'png'}" if outputs.output == STANDARD else Path(outputs.output).suffix
        path = rescued(lambda path: save(path, **outputs.form), suffix)
        # It needs next to no memory to be written.
        path = path or rescued(lambda path: save(path, format="npy"), ".npy")
        if path is None:
            raise problem
        return str(path), problem


class Stop:
    """A handler of signals: the first asks for an end, and a second one makes it, by KeyboardInterrupt."""

    asked = False

    def __call__(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def on_stop_signal(handler: Function[[int, Any], object] = signal.default_int_handler) -> Iterator[None]:
    """Within it, Ctrl-C, SIGTERM and SIGHUP call `handler`, which by default raises KeyboardInterrupt. Only the main
    thread of Python hears them.

    A signal that was ignored before stays so: nohup, and a shell's background jobs, mean it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _report(job: Job, result: Result) -> None:
    """The plot and the JSON, where they are asked for; the image is saved already, so that a failure is a warning."""
    outputs = job.outputs
    if outputs.plot is not None:
        try:
            draw_losses(result.losses, Path(outputs.plot), result.parameters, note=job.title)
        except FastnstError as error:
            warn(error)
    if outputs.json:
        losses = [record.as_dict() for record in result.losses]
        print(json.dumps({"output": outputs.output, **result.parameters, "losses": losses}))


def _print_summary(outputs: Outputs, result: Result) -> None:
    last, final = result.losses[-1], result.parameters["final"]
    height, width = result.tensor.shape[-2:]
    how = {None: "saved", "time": "the time is up; saved"}.get(result.stopped, "interrupted; saved the image so far,")
    say(
        f"{how} {outputs.label} ({width}×{height}) after {counted(last.iteration, 'iteration')} in "
        f"{last.seconds:.1f} s, loss {final['total']:.4g}",
    )
    if result.stopped == "interrupted" and outputs.checkpoint is not None:
        say(f"to continue, type: fastnst resume {shlex.quote(outputs.checkpoint)} -o OUT")
