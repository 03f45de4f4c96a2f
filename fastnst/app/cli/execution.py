"""A command's run: it shows how far it is, and leaves the last good image whatever happens."""

import json
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from fastnst.app.cli.exit_codes import EXIT_INTERRUPTED
from fastnst.app.cli.job import Job, Outputs
from fastnst.app.cli.signals import heard
from fastnst.errors import FastnstError, FastnstWarning, Interrupted
from fastnst.image.write import check_output_path
from fastnst.network.runtime import is_out_of_memory
from fastnst.options.options import resolve_options
from fastnst.plan.processes import ALONE, Ranks
from fastnst.transfer.callbacks import Callback, chain
from fastnst.transfer.checkpoint import load_run
from fastnst.transfer.inputs import opened
from fastnst.transfer.plot import draw_losses
from fastnst.transfer.result import DivergedError, Iterate, Result
from fastnst.transfer.run import Watch
from fastnst.transfer.stylizer import Stylizer


def execute(job: Job, *callbacks: Callback, saved: Path | None = None, ranks: Ranks = ALONE) -> tuple[int, Result]:
    """Runs the job and returns its exit code and its result; `callbacks` see the run too.

    With `saved` it goes on from that checkpoint, and on with it; with `ranks` it is the first of several processes.
    Raises FastnstError and Interrupted; the last good image is written first.
    """
    job.check()
    outputs = job.outputs
    content, styles, options = job.sources()
    watch = _Watch(outputs)
    with chain(watch, *outputs.callbacks(), *callbacks) as callback:
        try:
            picture = opened(content, resolve_options(**options).max_pixels)
            stylizer = Stylizer(styles, ranks=ranks, **options)
            prepared = stylizer.prepare(picture, None if saved is None else load_run(saved))
            check_output_path(outputs.target, prepared.scales[-1].size, **outputs.form)
            # The others begin when all is well here.
            ranks.wait()
            stylizer.load(progress=not outputs.quiet)
            with _stop_on_signal(watch):
                hidden = True if outputs.quiet else None
                with tqdm(total=None, unit="it", disable=hidden, file=sys.stderr) as watch.bar:
                    result = prepared.run(
                        Watch(
                            callback=callback,
                            callback_every=outputs.callback_every,
                            checkpoint=outputs.checkpoint,
                            checkpoint_every=outputs.checkpoint_every,
                        )
                    )
                watch.save(result)
        except DivergedError as error:
            watch.save(error.result)
            _draw(job, error.result)
            _print_json(outputs, error.result)
            raise FastnstError(f"{error}. The best image before that is in {outputs.shown}") from None
        except KeyboardInterrupt:
            raise Interrupted(watch.rescue()) from None
        except Exception as error:
            if is_out_of_memory(error):
                message = f"out of memory; lower --size, --style-scale or --scales. {watch.rescue()}"
                raise FastnstError(message) from None
            if watch.last is not None:
                print(f"fastnst: {watch.rescue()}", file=sys.stderr)
            raise
    result = watch.labelled(result)
    _draw(job, result)
    _print_json(outputs, result)
    if watch.interrupted or not outputs.quiet:
        _print_summary(outputs, result)
    return (EXIT_INTERRUPTED if watch.interrupted else 0), result


@dataclass
class _Watch:
    """The callback: moves the bar, keeps the last image, stops when asked to."""

    outputs: Outputs
    bar: "tqdm[Any] | None" = None
    interrupted: bool = False
    saving: bool = False
    last: Iterate | None = field(default=None, repr=False)
    lazy: ClassVar[bool] = True

    def __call__(self, iterate: Iterate) -> bool:
        self.last = iterate
        record = iterate.record
        if self.bar is not None:
            self.bar.total = iterate.iterations
            self.bar.set_description(f"scale {record.scale} px", refresh=False)
            self.bar.set_postfix_str(f"loss {record.total:.4g}", refresh=False)
            self.bar.update(record.iteration - self.bar.n)
        return not self.interrupted

    def labelled(self, result: Result) -> Result:
        """The result, saying that the user stopped it if so."""
        if not self.interrupted:
            return result
        return replace(result, stopped="interrupted", parameters={**result.parameters, "stopped": "interrupted"})

    def save(self, result: Result) -> None:
        """Writes the result; Ctrl-C waits until that is done."""
        self.saving = True
        self.labelled(result).save(self.outputs.target, **self.outputs.form)

    def rescue(self) -> str:
        """Writes the last image of a run that failed, and says so."""
        if self.last is None:
            return "Nothing was computed yet, so nothing was saved"
        self.last.save(self.outputs.target, **self.outputs.form)
        return f"The image of iteration {self.last.record.iteration} is in {self.outputs.shown}"


@contextmanager
def _stop_on_signal(watch: _Watch) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, SIGHUP) ends the run after the present iteration, the second one at once."""

    def stop(number: int, frame: object) -> None:
        if watch.saving:
            return
        if watch.interrupted or watch.last is None:
            raise KeyboardInterrupt
        watch.interrupted = True

    with heard(stop):
        yield


def _draw(job: Job, result: Result) -> None:
    """The plot of the losses, if there is to be one; the image is saved already, so what fails is a warning."""
    if job.outputs.plot is None:
        return
    try:
        draw_losses(result.losses, Path(job.outputs.plot), result.parameters["options"], note=job.title)
    except FastnstError as error:
        warnings.warn(str(error), FastnstWarning, stacklevel=2)


def _print_json(outputs: Outputs, result: Result) -> None:
    if outputs.json:
        losses = [record.as_dict() for record in result.losses]
        print(json.dumps({"output": outputs.output, **result.parameters, "losses": losses}))


def _print_summary(outputs: Outputs, result: Result) -> None:
    last, final = result.losses[-1], result.parameters["final"]
    height, width = result.tensor.shape[-2:]
    how = {None: "saved", "time": "the time is up; saved"}.get(result.stopped, "interrupted; saved the image so far,")
    print(
        f"fastnst: {how} {outputs.shown} ({width}×{height}) after {last.iteration} iterations in {last.seconds:.1f} s,"
        f" loss {final['total']:.4g}",
        file=sys.stderr,
    )
    if result.stopped == "interrupted" and outputs.checkpoint is not None:
        print(f"fastnst: go on with: fastnst resume {shlex.quote(outputs.checkpoint)} -o OUT", file=sys.stderr)
