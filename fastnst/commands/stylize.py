"""`fastnst stylize`: runs the function, shows how far it is, and leaves the last good image whatever happens."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fastnst.errors import FastnstError, OptionError
from fastnst.images import load_image
from fastnst.options import Options
from fastnst.output import check_output_path
from fastnst.result import DivergedError, Iterate, Result
from fastnst.stylizer import Stylizer


def run(parsed: argparse.Namespace) -> int:
    given = {option.name: getattr(parsed, option.name) for option in fields(Options) if option.name in parsed}
    if "scales" in given and len(given["scales"]) == 1:
        given["scales"] = given["scales"][0]
    check_output_path(parsed.output)
    _check_not_an_input(parsed.output, [parsed.content, *parsed.styles])
    if parsed.save_every is not None and parsed.save_every < 1:
        raise OptionError(f"--save-every {parsed.save_every} is too small; it must be 1 or more")

    content = load_image(parsed.content, role="content")
    stylizer = Stylizer(parsed.styles, **given)
    check_output_path(parsed.output, list(stylizer.scales(content).values())[-1])
    stylizer.load(progress=not parsed.quiet)
    bar = tqdm(total=None, unit="it", disable=True if parsed.quiet else None, file=sys.stderr)
    watch = _Watch(Path(parsed.output), parsed.save_every, bar)
    try:
        with _stop_on_signal(watch), bar:
            result = stylizer(content, callback=watch)
    except DivergedError as error:
        error.result.save(parsed.output)
        raise FastnstError(f"{error}. The last good image is in {parsed.output}") from None
    except (torch.OutOfMemoryError, MemoryError):
        raise FastnstError(f"out of memory; lower --size or the number of --scales. {watch.rescue()}") from None
    except BaseException:
        if watch.last is not None:
            print(f"fastnst: {watch.rescue()}", file=sys.stderr)
        raise
    if watch.interrupted:
        result = replace(result, stopped="interrupted", parameters={**result.parameters, "stopped": "interrupted"})
    result.save(parsed.output)
    _report(parsed, result, interrupted=watch.interrupted)
    return 130 if watch.interrupted else 0


@dataclass
class _Watch:
    """The callback: moves the bar, writes the numbered images, keeps the last image, stops when asked to."""

    output: Path
    save_every: int | None
    bar: "tqdm[Any]"
    interrupted: bool = False
    last: Iterate | None = field(default=None, repr=False)

    def __call__(self, iterate: Iterate) -> bool:
        self.last = iterate
        record = iterate.record
        self.bar.total = iterate.iterations
        self.bar.set_description(f"scale {record.scale} px", refresh=False)
        self.bar.set_postfix_str(f"loss {record.total:.4g}", refresh=False)
        self.bar.update(record.iteration - self.bar.n)
        if self.save_every and record.iteration and record.iteration % self.save_every == 0:
            name = f"{self.output.stem}_{record.iteration:05d}{self.output.suffix}"
            iterate.save(self.output.with_name(name))
        return not self.interrupted

    def rescue(self) -> str:
        """Writes the last image of a run that failed, and says so."""
        if self.last is None:
            return "Nothing was computed yet, so nothing was saved"
        self.last.save(self.output)
        return f"The image of iteration {self.last.record.iteration} is in {self.output}"


@contextmanager
def _stop_on_signal(watch: _Watch) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after the present iteration, the second one at once."""

    def stop(number: int, frame: object) -> None:
        if watch.interrupted or watch.last is None:
            raise KeyboardInterrupt
        watch.interrupted = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_not_an_input(output: str, inputs: list[str]) -> None:
    target = Path(output)
    for path in map(Path, inputs):
        if path.exists() and target.exists() and path.samefile(target):
            raise OptionError(f"{output} is also an input and would be overwritten; give another name with -o")


def _report(parsed: argparse.Namespace, result: Result, *, interrupted: bool) -> None:
    last = result.losses[-1]
    if parsed.json:
        report = {"output": parsed.output, **result.parameters, "losses": [r.as_dict() for r in result.losses]}
        print(json.dumps(report, ensure_ascii=False))
    if interrupted or not parsed.quiet:
        height, width = result.tensor.shape[-2:]
        how = "interrupted; saved the image so far," if interrupted else "saved"
        print(
            f"fastnst: {how} {parsed.output} ({width}×{height}) after {last.iteration} iterations"
            f" in {last.seconds:.1f} s, loss {last.total:.4g}",
            file=sys.stderr,
        )
