"""A worker of a batch: makes one picture after the other, and keeps what the next one can use."""

import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache, partial

import torch

from fastnst.app.batch.batch_resume import is_done
from fastnst.app.batch.batch_task import Outcome, Task
from fastnst.errors import FastnstError, FastnstWarning
from fastnst.image.picture import opaque
from fastnst.image.read import open_picture
from fastnst.image.write import check_output_path
from fastnst.network.runtime import is_out_of_memory
from fastnst.transfer.networks import Networks
from fastnst.transfer.result import Result
from fastnst.transfer.run import Watch
from fastnst.transfer.stylizer import Stylizer

KEPT_STYLES = 2
"""Stylizers that a worker keeps: each has its styles' pictures and targets. Tasks come by groups, so few are enough."""


class Worker:
    """Makes the pictures of tasks; what goes wrong with one is told in its outcome, and the next one is made.

    `should_stop` is asked after each evaluation; a picture that it stops is not written. With `resume`, what is there
    already is not made again.
    """

    def __init__(self, should_stop: Callable[[], bool], *, resume: bool = False) -> None:
        self._should_stop = should_stop
        self._resume = resume
        self._networks = Networks()
        self._stylizers: OrderedDict[Hashable, Stylizer] = OrderedDict()
        self._style_sha256 = cache(_style_sha256)

    def run(self, task: Task) -> Outcome:
        """Makes and writes one picture. Raises nothing but what ends the process."""
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FastnstWarning)
            status, error, trace, result = self._run(task)
        facts = None if result is None else _facts(result)
        texts = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return Outcome(task, status, time.perf_counter() - began, error, trace, facts, texts)

    def _run(self, task: Task) -> tuple[str, str | None, str | None, Result | None]:
        try:
            if self._resume and is_done(task, partial(self._sha256, task.options.max_pixels)):
                return "skipped", None, None, None
            result = self._stylized(task)
            if result.stopped == "callback":
                return "interrupted", None, None, None
            result.save(task.output)
        except FastnstError as error:
            return "failed", str(error), None, None
        except Exception as error:  # noqa: BLE001 - the batch goes on; the log has the traceback
            if is_out_of_memory(error):
                self._forget()
                return "failed", "out of memory; lower its size, style scale or scales, or the workers", None, None
            return "failed", f"{type(error).__name__}: {error}", traceback.format_exc(), None
        return "done", None, None, result

    def _stylized(self, task: Task) -> Result:
        content = open_picture(task.content, role="content", max_pixels=task.options.max_pixels)
        stylizer = self._stylizer(task)
        prepared = stylizer.prepare(content)
        check_output_path(task.output, prepared.scales[-1].size)
        return prepared.run(Watch(callback=lambda _: not self._should_stop(), callback_every=None))

    def _stylizer(self, task: Task) -> Stylizer:
        """The stylizer of the task's group, from those that were used last or a new one."""
        stylizer = self._stylizers.pop(task.group, None)
        if stylizer is None:
            while len(self._stylizers) >= KEPT_STYLES:
                self._stylizers.popitem(last=False)
            stylizer = Stylizer(list(task.styles), networks=self._networks, **task.given)
        self._stylizers[task.group] = stylizer
        return stylizer

    def _forget(self) -> None:
        """Gives back what is kept between pictures."""
        self._stylizers.clear()
        self._networks.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _sha256(self, max_pixels: int, path: str, role: str) -> str:
        if role == "style":
            return self._style_sha256(path, max_pixels)
        return open_picture(path, role=role, max_pixels=max_pixels).sha256


def _style_sha256(path: str, max_pixels: int) -> str:
    return opaque(open_picture(path, role="style", max_pixels=max_pixels)).sha256


def _facts(result: Result) -> dict[str, object]:
    height, width = result.tensor.shape[-2:]
    iterations, loss = result.losses[-1].iteration, result.parameters["final"]["total"]
    return {"width": width, "height": height, "iterations": iterations, "loss": loss}
