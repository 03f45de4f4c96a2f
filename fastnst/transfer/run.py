"""One run from its first evaluation to its result: records, callbacks, stop rules and checkpoints."""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastnst.errors import FastnstWarning, OptionError
from fastnst.image.colour import finished
from fastnst.image.picture import Picture
from fastnst.loss.objective import Evaluation
from fastnst.options.options import Options
from fastnst.plan.processes import ALONE, Ranks
from fastnst.transfer.checkpoint import OPTIMIZER, CheckpointError, SavedRun, check_checkpoint, save_run
from fastnst.transfer.descent import Descent
from fastnst.transfer.pace import Pace
from fastnst.transfer.result import DivergedError, Iterate, LossRecord, Result
from fastnst.transfer.tensor_file import pieces_of

Callback = Callable[[Iterate], bool | None]

# A first loss beyond this leaves too little of float32's range for the squares in the optimiser.
_SUSPICIOUS_LOSS = 1e15
# Steps over which the loss must fall by the tolerance: L-BFGS without a line search may rise for a few.
_TOLERANCE_STEPS = 10


@dataclass(frozen=True)
class Watch:
    """Who looks at a run: the callback, called at least every `callback_every` evaluations, and the checkpoint, written
    every `checkpoint_every` seconds and at the end of each scale."""

    callback: Callback | None = None
    callback_every: int | None = None
    checkpoint: Path | None = None
    checkpoint_every: float = 60.0


def make_watch(
    callback: Callback | None,
    callback_every: int | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: float,
) -> Watch:
    """A Watch of checked values. Raises OptionError, or CheckpointError where the checkpoint's folder will not do."""
    if callback is not None and not callable(callback):
        raise OptionError(f"callback {callback!r} cannot be called; give a function of one Iterate")
    if callback_every is not None and (not isinstance(callback_every, int) or callback_every < 1):
        raise OptionError(f"callback_every {callback_every!r} is not a whole number of 1 or more, nor None")
    if not isinstance(checkpoint_every, int | float) or not 0 <= checkpoint_every < math.inf:
        raise OptionError(f"checkpoint_every {checkpoint_every!r} is not a number of seconds, 0 or more")
    if checkpoint is None:
        return Watch(callback, callback_every)
    path = Path(checkpoint)
    check_checkpoint(path)
    return Watch(callback, callback_every, path, checkpoint_every)


@dataclass(frozen=True)
class Scale:
    """One of a run's scales: its place among them, its long edge, steps, objective, and the content there."""

    index: int
    edge: int
    iterations: int
    objective: Evaluation
    content: Picture


class Run:
    """The records and the state of a run, anew or from where `saved` left it.

    Of several processes the leader's clock, callback and tolerance decide for all, and it alone writes.

    `stopped` says why it ended before its time, or None.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        sources: Mapping[str, Any],
        watch: Watch,
        options: Options,
        iterations: Mapping[int, int],
        saved: SavedRun | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.stopped: str | None = None
        self.losses: list[LossRecord] = [] if saved is None else list(saved.losses)
        self._parameters = parameters
        self._sources = sources
        self._watch = watch
        self._options = options
        self._ranks = ranks
        self._edges = tuple(iterations)
        self._iterations = sum(iterations.values())
        self._saved_at = time.perf_counter()
        # The record of the image that a scale ended with.
        self._final: LossRecord | None = None
        self._began = self._saved_at - (0.0 if saved is None else saved.seconds)
        # The steps of the scales before the present one, and the index of its first record.
        self._steps, self._first = 0, 0
        if saved is not None:
            self._steps = saved.steps + (saved.done if saved.finished else 0)
            self._first = len(saved.losses) - saved.done - 1

    def optimise(self, descent: Descent, scale: Scale, saved: SavedRun | None = None) -> None:
        """The steps of one scale, each image evaluated, the last one too; with `saved`, those that follow it.

        In the end `descent.image` is the best image of the scale.
        """
        self._final = None
        if saved is None:
            self._first, done = len(self.losses), 0
            descent.begin()
        else:
            done = saved.done
            own = {name: x for name, x in saved.tensors.items() if not name.startswith(OPTIMIZER)}
            descent.restore(own, saved.loss_exponent)
        ranks = self._ranks
        unread, settled, late, last = saved is None, self._is_settled(), False, False
        deadline = self._deadline(scale)
        every = self._watch.callback_every if self._watch.callback is not None else None
        pace = Pace(descent.image.device, every, deadline, read=len(self.losses) - self._first)
        while True:
            (due,) = ranks.agree(unread and (last or pace.is_due(done)))
            if due:
                asked = done
                self._note(descent, pace, scale)
                done = len(self.losses) - self._first - 1
                # An overflow of float16 takes iterations back.
                ended = last and done == asked
                answer = self._is_stopped_by_callback(descent, scale)
                stopped, saving = ranks.agree(answer, ended or answer or self._is_checkpoint_due())
                if ended:
                    self._settle(descent)
                if saving:
                    self._save(descent, scale, done, finished=ended)
                if stopped:
                    self._settle(descent)
                    self.stopped = "callback"
                    return
                if ended:
                    self._steps += done
                    if late and scale.edge == self._edges[-1]:
                        self.stopped = "time"
                    return
                settled = self._is_settled()
            finished = done + 1 >= scale.iterations or settled
            finished, late = ranks.agree(finished, not finished and time.perf_counter() > deadline)
            last = finished or late
            if last:
                descent.end()
            else:
                descent.advance()
            done += 1
            unread = True

    def result(self, image: Tensor, content: Picture) -> Result:
        """The result of an image, (1, 3, H, W), made of `content` of the same size."""
        shown = self._shown(image, content)
        return Result(shown, content.alpha, tuple(self.losses), self._parameters_now(), self.stopped)

    def _shown(self, image: Tensor, content: Picture) -> Tensor:
        return finished(image.detach()[0].clamp(0, 1).float().cpu(), content, self._options.preserve_color)

    def _settle(self, descent: Descent) -> None:
        """Ends at the scale's best image: L-BFGS without a line search leaps now and then. A mean that was asked for
        stays."""
        records = self.losses[self._first :]
        self._final = records[-1] if self._options.average is not None else min(records, key=lambda one: one.total)
        if self._final is not records[-1]:
            descent.image.copy_(descent.best)

    def _note(self, descent: Descent, pace: Pace, scale: Scale) -> None:
        """Reads the losses back. Raises DivergedError with the best image of the scale if one is not finite."""
        rows = descent.read()
        for terms, moment in zip(rows, pace.moments(len(rows)), strict=True):
            iteration = self._steps + len(self.losses) - self._first
            record = LossRecord(iteration, scale.edge, *terms, moment - self._began)
            if not math.isfinite(record.total):
                cause = _divergence(record, scale.objective, self.losses)
                totals = [known.total for known in self.losses[self._first :]]
                del self.losses[self._first + (totals.index(min(totals)) + 1 if totals else 0) :]
                self.stopped = "diverged"
                raise DivergedError(cause, self.result(descent.best, scale.content))
            self.losses.append(record)

    def _deadline(self, scale: Scale) -> float:
        """When the scale must end: the last one with the run, others after half of the time that is left."""
        if self._options.seconds is None:
            return math.inf
        end = self._began + self._options.seconds
        now = time.perf_counter()
        return end if scale.edge == self._edges[-1] else now + max(0.0, end - now) / 2

    def _is_settled(self) -> bool:
        """Whether the present scale has lowered its loss too little of late."""
        tolerance = self._options.tolerance
        if tolerance is None or len(self.losses) - self._first <= _TOLERANCE_STEPS:
            return False
        totals = [record.total for record in self.losses[self._first :]]
        before, after = min(totals[:-_TOLERANCE_STEPS]), min(totals[-_TOLERANCE_STEPS:])
        # A loss of 0 has settled too.
        return before - after <= tolerance * abs(before)

    def _is_stopped_by_callback(self, descent: Descent, scale: Scale) -> bool:
        callback = self._watch.callback
        if callback is None or not self._ranks.leads:
            return False
        look = partial(self._shown, descent.image, scale.content)
        iterate = Iterate(
            self.losses[-1], look, scale.content.alpha, self._parameters_now(), self._iterations, self._edges
        )
        if not getattr(callback, "lazy", False):
            _ = iterate.image
        answer = callback(iterate)
        return answer is not None and not answer

    def _is_checkpoint_due(self) -> bool:
        return (
            self._watch.checkpoint is not None and time.perf_counter() - self._saved_at >= self._watch.checkpoint_every
        )

    def _save(self, descent: Descent, scale: Scale, done: int, *, finished: bool) -> None:
        """Writes the checkpoint, if there is to be one; a run does not end because a disk is full."""
        if self._watch.checkpoint is None or not self._ranks.leads:
            return
        state = descent.optimizer.live_state()
        tensors = {OPTIMIZER + name: value for name, value in state.items() if isinstance(value, Tensor)}
        pieces = {name: pieces_of(tensor) for name, tensor in {**descent.state(), **tensors}.items()}
        saved = SavedRun(
            parameters=self._parameters,
            sources=self._sources,
            scale=scale.index,
            done=done,
            finished=finished,
            steps=self._steps,
            seconds=time.perf_counter() - self._began,
            losses=tuple(self.losses),
            loss_exponent=descent.loss_exponent,
            optimizer={name: value for name, value in state.items() if not isinstance(value, Tensor)},
            tensors={},
        )
        try:
            save_run(self._watch.checkpoint, saved, pieces)
        except CheckpointError as error:
            warnings.warn(f"{error}; the run goes on", FastnstWarning, stacklevel=2)
        self._saved_at = time.perf_counter()

    def _parameters_now(self) -> dict[str, Any]:
        final = self._final or (self.losses[-1] if self.losses else None)
        return {**self._parameters, "stopped": self.stopped, "final": final and final.as_dict()}


def _divergence(record: LossRecord, objective: Evaluation, before: Sequence[LossRecord]) -> str:
    where = f"the loss became {record.total} at iteration {record.iteration} (scale {record.scale})"
    if objective.runtime.dtype == torch.float16:
        cause = "float16 overflowed; use --precision bf16 or fp32"
    elif not before or before[0].total > _SUSPICIOUS_LOSS:
        cause = "it is too large for float32; lower the weights of its terms and layers, or check the network's weights"
    else:
        cause = "the steps are too long; lower --learning-rate, or use --optimizer adam"
    return f"{where}: {cause}"
