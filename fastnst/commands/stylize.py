"""`fastnst stylize`: runs the function, shows how far it is, and leaves the last good image whatever happens."""

import argparse
import glob
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastnst.cli import EXIT_INTERRUPTED
from fastnst.errors import FastnstError, FastnstWarning, ImageError, Interrupted, OptionError
from fastnst.images import load_image
from fastnst.options import Options
from fastnst.output import check_output_path
from fastnst.result import DivergedError, Iterate, Result
from fastnst.runtime import is_out_of_memory
from fastnst.stylizer import Stylizer

# SIGHUP, where there is one, comes when the terminal goes away.
_STOPPING_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def run(parsed: argparse.Namespace) -> int:
    given = {option.name: getattr(parsed, option.name) for option in fields(Options) if option.name in parsed}
    if "scales" in given and len(given["scales"]) == 1:
        given["scales"] = given["scales"][0]
    _check_output(parsed)
    watch = _Watch(Path(parsed.output), parsed.save_every)
    try:
        content = load_image(parsed.content, role="content")
        stylizer = Stylizer(parsed.styles, **given)
        check_output_path(parsed.output, list(stylizer.scales(content).values())[-1])
        stylizer.load(progress=not parsed.quiet)
        with _stop_on_signal(watch):
            with tqdm(total=None, unit="it", disable=True if parsed.quiet else None, file=sys.stderr) as watch.bar:
                result = stylizer(content, callback=watch, callback_every=parsed.save_every)
            watch.save(result)
    except DivergedError as error:
        watch.save(error.result)
        _print_json(parsed, error.result)
        raise FastnstError(f"{error}. The best image before that is in {parsed.output}") from None
    except KeyboardInterrupt:
        raise Interrupted(watch.rescue()) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise FastnstError(f"out of memory; lower --size, --style-scale or --scales. {watch.rescue()}") from None
        if watch.last is not None:
            print(f"fastnst: {watch.rescue()}", file=sys.stderr)
        raise
    result = watch.labelled(result)
    _print_json(parsed, result)
    if watch.interrupted or not parsed.quiet:
        _print_summary(parsed.output, result)
    return EXIT_INTERRUPTED if watch.interrupted else 0


@dataclass
class _Watch:
    """The callback: moves the bar, writes the numbered images, keeps the last image, stops when asked to."""

    output: Path
    save_every: int | None
    bar: "tqdm[Any] | None" = None
    interrupted: bool = False
    saving: bool = False
    last: Iterate | None = field(default=None, repr=False)
    numbered: int = 0

    def __call__(self, iterate: Iterate) -> bool:
        self.last = iterate
        record = iterate.record
        if self.bar is not None:
            self.bar.total = iterate.iterations
            self.bar.set_description(f"scale {record.scale} px", refresh=False)
            self.bar.set_postfix_str(f"loss {record.total:.4g}", refresh=False)
            self.bar.update(record.iteration - self.bar.n)
        # A scale's first record repeats the last iteration of the scale before it, which is the one to keep.
        if self.save_every and record.iteration % self.save_every == 0 and record.iteration > self.numbered:
            self.numbered = record.iteration
            path = numbered_path(self.output, record.iteration)
            try:
                iterate.save(path)
            except ImageError as error:
                warnings.warn(f"{error}; the run goes on", FastnstWarning, stacklevel=2)
        return not self.interrupted

    def labelled(self, result: Result) -> Result:
        """The result, saying that the user stopped it if so."""
        if not self.interrupted:
            return result
        return replace(result, stopped="interrupted", parameters={**result.parameters, "stopped": "interrupted"})

    def save(self, result: Result) -> None:
        """Writes the result; Ctrl-C waits until that is done."""
        self.saving = True
        self.labelled(result).save(self.output)

    def rescue(self) -> str:
        """Writes the last image of a run that failed, and says so."""
        if self.last is None:
            return "Nothing was computed yet, so nothing was saved"
        self.last.save(self.output)
        return f"The image of iteration {self.last.record.iteration} is in {self.output}"


@contextmanager
def _stop_on_signal(watch: _Watch) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, SIGHUP) ends the run after the present iteration, the second one at once."""

    def stop(number: int, frame: object) -> None:
        if watch.saving:
            return
        if watch.interrupted or watch.last is None:
            raise KeyboardInterrupt
        watch.interrupted = True

    # What was ignored when we came stays so: nohup, and a shell's background jobs, mean it.
    heard = [number for number in _STOPPING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def numbered_path(output: Path, iteration: int) -> Path:
    """Where the image of `iteration` goes with --save-every: out_00050.png beside out.png."""
    return output.with_name(f"{output.stem}_{iteration:05d}{output.suffix}")


def _check_output(parsed: argparse.Namespace) -> None:
    output = Path(parsed.output)
    check_output_path(parsed.output)
    targets = [output]
    if parsed.save_every is not None:
        if parsed.save_every < 1:
            raise OptionError(f"--save-every {parsed.save_every} is too small; it must be 1 or more")
        check_output_path(numbered_path(output, parsed.save_every))
        targets += output.parent.glob(f"{glob.escape(output.stem)}_[0-9]*{glob.escape(output.suffix)}")
    for given in (parsed.content, *parsed.styles, getattr(parsed, "init", "content")):
        for target in targets:
            if _same_file(Path(given), target):
                raise OptionError(f"{target} is also an input and would be overwritten; give another name with -o")


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is missing or out of reach: what reads it says so
        return False


def _print_json(parsed: argparse.Namespace, result: Result) -> None:
    if parsed.json:
        losses = [record.as_dict() for record in result.losses]
        print(json.dumps({"output": parsed.output, **result.parameters, "losses": losses}))


def _print_summary(output: str, result: Result) -> None:
    last = result.losses[-1]
    height, width = result.tensor.shape[-2:]
    how = {None: "saved", "time": "the time is up; saved"}.get(result.stopped, "interrupted; saved the image so far,")
    print(
        f"fastnst: {how} {output} ({width}×{height}) after {last.iteration} iterations in {last.seconds:.1f} s,"
        f" loss {last.total:.4g}",
        file=sys.stderr,
    )
