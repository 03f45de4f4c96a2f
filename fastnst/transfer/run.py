"""One run from its first evaluation to its result: records, callbacks, stop rules and checkpoints."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from fastnst.errors import OptionError, warn
from fastnst.image.colour import finished
from fastnst.image.picture import Picture
from fastnst.optim import Optimizer
from fastnst.options.options import Options
from fastnst.plan.processes import ALONE, Ranks
from fastnst.transfer.checkpoint import CheckpointError, SavedRun, check_checkpoint, save_run
from fastnst.transfer.descent import CAPACITY, Descent
from fastnst.transfer.inputs import Scale
from fastnst.transfer.result import Callback, DivergedError, Iterate, LossRecord, Result

READ_SECONDS = 0.25
"""How long a GPU is left alone at most, so that a run can be watched and stopped."""
# A first loss beyond this leaves too little of float32's range for the squares in the optimiser.
_SUSPICIOUS_LOSS = 1e15
# Steps over which the loss must fall by the tolerance: L-BFGS without a line search may rise for a few.
_TOLERANCE_STEPS = 10
# A run whose best loss is within this part of its first has not moved, to the eye.
_STILL = 1e-4
# Its steps were too long where its last loss is above its first by so much.
_RISE = 0.01


class ResumeValues(TypedDict, total=False):
    """The fields of `Watch` but the checkpoint, as keyword arguments."""

    callback: Callback | None
    callback_every: int | None
    checkpoint_every: float


class WatchValues(ResumeValues, total=False):
    """The fields of `Watch` as keyword arguments."""

    checkpoint: str | os.PathLike[str] | None


@dataclass(frozen=True)
class Watch:
    """The callback and the checkpoint of a run.

    Attributes:
        callback: called with an `Iterate` when losses have been read back; if it returns False, or
            another false value but None, the run stops.
        callback_every: read losses back at least after so many evaluations. On a CPU this happens after each one
            anyway. On a GPU 1 makes the run wait at every iteration, and None means about four times a second.
        checkpoint: a file from which `fastnst.resume` can continue. It is written, whole or not at all, every
            `checkpoint_every` seconds, at the end of each scale, and when the callback stops the run.

    Raises OptionError for other values, and CheckpointError if the checkpoint cannot be written to its folder.
    """

    callback: Callback | None = None
    callback_every: int | None = 1
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: float = 60.0

    def __post_init__(self) -> None:
        callback, every, seconds = self.callback, self.callback_every, self.checkpoint_every
        if callback is not None and not callable(callback):
            raise OptionError(f"callback {callback!r} cannot be called; give a function of one Iterate")
        if every is not None and (not isinstance(every, int) or every < 1):
            raise OptionError(f"callback_every is {every!r}; give a whole number of 1 or more, or None")
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise OptionError(f"checkpoint_every {seconds!r} is out of range; give a number of seconds, 0 or more")
        if self.checkpoint is not None:
            check_checkpoint(Path(self.checkpoint))


def watch_and_options(values: Mapping[str, Any]) -> tuple[Watch, dict[str, Any]]:
    """The watch that keyword arguments ask for, and those that are options. Raises as `Watch` does."""
    watching = {name: values[name] for name in Watch.__dataclass_fields__ if name in values}
    return Watch(**watching), {name: value for name, value in values.items() if name not in watching}


def interruptible(watch: Watch, run: Callable[[Watch], Result]) -> Result:
    """The result of a `run`, which the first Ctrl-C ends after the present iteration, and the second one at once.

    Where another handler of Ctrl-C is set, or in another thread than the main one, it changes nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return run(watch)
    look = _Interrupt(watch.callback)
    every = watch.callback_every if watch.callback is not None else None
    signal.signal(signal.SIGINT, look.press)
    try:
        result = run(replace(watch, callback=look, callback_every=every))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return result.interrupted if look.pressed else result


class _Interrupt:
    """A callback around another that stops the run once Ctrl-C was pressed."""

    def __init__(self, callback: Callback | None) -> None:
        self._callback = callback
        self.lazy = callback is None or bool(getattr(callback, "lazy", False))
        self.pressed, self._begun = False, False

    def __call__(self, iterate: Iterate) -> bool:
        self._begun = True
        answer = None if self._callback is None else self._callback(iterate)
        return (answer is None or bool(answer)) and not self.pressed

    def press(self, number: int, frame: object) -> None:
        if self.pressed or not self._begun:
            raise KeyboardInterrupt
        self.pressed = True


class Run:
    """The records and the state of a run, anew or from where `saved` left it.

    Of several processes the leader's clock, callback and tolerance decide for all, and it alone writes. `image`, (1, 3,
    H, W), and `content` are those of the scale that it is at, `optimizer` is the one that moved the image last,
    `source` is the image whose features the present level of a transfer moves, `losses` has a record for each
    evaluation, and `stopped` is why the run ended before its time, or None.
    """

    image: Tensor
    content: Picture
    source: Tensor | None = None

    def __init__(
        self,
        parameters: Mapping[str, Any],
        sources: Mapping[str, Any],
        watch: Watch,
        *,
        options: Options,
        scales: Sequence[Scale],
        saved: SavedRun | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.optimizer: Optimizer | None = None
        self.stopped: str | None = None
        self.losses: list[LossRecord] = [] if saved is None else list(saved.losses)
        self._parameters, self._sources, self._watch, self._options = parameters, sources, watch, options
        self._scales, self._ranks = scales, ranks
        self._is_unsaved = saved is None
        self._saved_at = time.perf_counter()
        self._began = self._saved_at - (0.0 if saved is None else saved.seconds)
        # The record of the image that a scale ended with.
        self._final: LossRecord | None = None
        # The index of the present scale's first record, its steps so far, and those of the scales before it.
        self._first, self._done, self._steps = 0, 0, 0
        # The next evaluation whose losses are read back, and whether time was up at the last: the leader says so.
        self._due, self._late = 0, False
        # The saved state inside of a scale.
        self._inside = None if saved is None or saved.finished else saved

    def continues(self, scale: Scale) -> bool:
        """True where the run was saved inside of this scale, and has not gone on from there yet."""
        return self._inside is not None and self._inside.scale == scale.index

    def optimise(self, descent: Descent, scale: Scale, content: Picture) -> None:
        """The steps of one scale, each image evaluated, the last one too; of a saved scale, those that follow.

        In the end `image` is the best image of the scale. Raises DivergedError.
        """
        self.image, self.content, self._final = descent.image, content, None
        saved, self._inside = self._inside, None
        if saved is None:
            self._first, self._done = len(self.losses), 0
            descent.begin()
        else:
            self._first, self._done = len(self.losses) - saved.done - 1, saved.done
            descent.restore(saved.tensors, saved.loss_exponent)
        # Each scale before has a record for its first image and for each step.
        self._steps = self._first - scale.index
        deadline = self._deadline(scale)
        every = self._watch.callback_every if self._watch.callback is not None else None
        pace = Pace(self.image.device, every, deadline, read=len(self.losses) - self._first)
        self._due, self._late = self._done + 1, False
        ended = saved is None and self._read(descent, pace, scale, ending=False, late=False)
        while not ended:
            is_last = self._done + 1 >= scale.iterations or self._is_settled()
            # Alone a clock is looked at before each step, together when losses are read: a step needs no word.
            late = (self._late if self._ranks.size > 1 else pace.is_late()) and not is_last
            ending = is_last or late
            if ending:
                descent.end()
            else:
                descent.advance()
            self._done += 1
            if ending or self._done >= self._due:
                ended = self._read(descent, pace, scale, ending=ending, late=late)
        self.optimizer = descent.optimizer

    def warn_if_still(self) -> None:
        """Says with a FastnstWarning that no step of a run, which its caller did not end, has lowered its loss."""
        by_scale: dict[int, list[float]] = {}
        for record in self.losses:
            by_scale.setdefault(record.scale, []).append(record.total)
        steps = [totals for totals in by_scale.values() if len(totals) > 1]
        if self.stopped == "callback" or any(min(totals) < (1 - _STILL) * totals[0] for totals in steps):
            return
        if not steps or not any(totals[0] for totals in steps):
            return
        first, last = steps[-1][0], steps[-1][-1]
        length, change = ("long", "lower") if last > (1 + _RISE) * first else ("short", "raise")
        rate = self._options.learning_rate
        advice = (
            "give more iterations" if rate is None else f"{change} --learning-rate {rate:g}, or leave that option out"
        )
        warn(
            f"no step lowered the loss ({first:.4g} at first, {last:.4g} at last), so you get the image that the run "
            f"began with: the steps are too {length}; {advice}",
        )

    def result(self) -> Result:
        image = self._finished(self.image, self.content)
        return Result(image, self.content.alpha, tuple(self.losses), self._parameters_now(), self.stopped)

    def _read(self, descent: Descent, pace: "Pace", scale: Scale, *, ending: bool, late: bool) -> bool:
        """Reads the losses back, calls back and saves; returns True where no step follows."""
        made = self._done
        self._note(descent, pace, scale)
        # An overflow of float16 takes steps back: then the scale goes on.
        ended = ending and self._done == made
        is_last = scale == self._scales[-1]
        is_refused, is_late, self._due = self._ranks.agree(
            self._is_refused(), pace.is_late(), pace.next_due(self._done)
        )
        self._late = bool(is_late)
        reason = "callback" if is_refused else "time" if ended and late and is_last else None
        if ended:
            self._settle(descent)
        is_due = time.perf_counter() - self._saved_at >= self._watch.checkpoint_every
        if ended or reason is not None or is_due:
            self._save(descent, scale, finished=ended)
        if reason is not None and not ended:
            self._settle(descent)
        self.stopped = reason
        return ended or reason is not None

    def _is_refused(self) -> bool:
        """True where the callback, called with the present image, stops the run."""
        callback = self._watch.callback
        if callback is None or not self._ranks.leads:
            return False
        iterate = Iterate(
            record=self.losses[-1],
            look=partial(self._finished, self.image, self.content),
            alpha=self.content.alpha,
            parameters=self._parameters_now(),
            iterations=sum(scale.iterations for scale in self._scales),
            scales=tuple(scale.edge for scale in self._scales),
            share=self._share(),
        )
        if not getattr(callback, "lazy", False):
            _ = iterate.image
        answer = callback(iterate)
        return answer is not None and not answer

    def _share(self) -> float:
        """The part of all steps, each counted by its pixels, that is done."""
        done, left, total = 0, self._steps + self._done, 0
        for scale in self._scales:
            pixels, steps = math.prod(scale.size), min(left, scale.iterations)
            done, left, total = done + steps * pixels, left - steps, total + scale.iterations * pixels
        return done / total if total else 1.0

    def _settle(self, descent: Descent) -> None:
        """Ends at the scale's best image, for L-BFGS leaps now and then; a mean that was asked for stays."""
        records = self.losses[self._first :]
        self._final = records[-1]
        if self._options.average is None:
            self._final = min(records, key=lambda record: record.total)
        if self._final is not records[-1]:
            descent.image.copy_(descent.best)

    def _note(self, descent: Descent, pace: "Pace", scale: Scale) -> None:
        """Reads the losses back. Raises DivergedError with the best image of the scale if one is not finite."""
        rows = descent.read()
        for terms, moment in zip(rows, pace.moments(len(rows)), strict=True):
            iteration = self._steps + len(self.losses) - self._first
            record = LossRecord(iteration, scale.edge, *terms, seconds=moment - self._began)
            if not math.isfinite(record.total):
                cause = _divergence(record, self.losses, is_half=self._parameters["precision"] == "fp16")
                totals = [known.total for known in self.losses[self._first :]]
                del self.losses[self._first + (totals.index(min(totals)) + 1 if totals else 0) :]
                self.image, self.stopped = descent.best, "diverged"
                raise DivergedError(cause, self.result())
            self.losses.append(record)
        self._done = len(self.losses) - self._first - 1

    def _deadline(self, scale: Scale) -> float:
        """When the scale must end: the last one with the run, others after half of the time that is left."""
        if self._options.seconds is None:
            return math.inf
        end, now = self._began + self._options.seconds, time.perf_counter()
        return end if scale == self._scales[-1] else now + max(0.0, end - now) / 2

    def _is_settled(self) -> bool:
        """True where the present scale has lowered its loss too little of late."""
        tolerance = self._options.tolerance
        if tolerance is None or len(self.losses) - self._first <= _TOLERANCE_STEPS:
            return False
        totals = [record.total for record in self.losses[self._first :]]
        before, after = min(totals[:-_TOLERANCE_STEPS]), min(totals[-_TOLERANCE_STEPS:])
        # A loss of 0 has settled too.
        return before - after <= tolerance * abs(before)

    def _save(self, descent: Descent, scale: Scale, *, finished: bool) -> None:
        """Writes the checkpoint, if there is to be one; a run does not end because a disk is full."""
        if self._watch.checkpoint is None or not self._ranks.leads:
            return
        saved = SavedRun(
            parameters=self._parameters,
            sources=self._sources,
            scale=scale.index,
            done=self._done,
            finished=finished,
            steps=self._steps,
            seconds=time.perf_counter() - self._began,
            losses=tuple(self.losses),
            loss_exponent=descent.loss_exponent,
            tensors=descent.state() | ({} if self.source is None else {"source": self.source}),
            optimizer=descent.optimizer.live_state(),
        )
        try:
            save_run(Path(self._watch.checkpoint), saved, first=self._is_unsaved)
            self._is_unsaved = False
        except CheckpointError as error:
            warn(f"{error}; the run continues")
        self._saved_at = time.perf_counter()

    def _finished(self, image: Tensor, content: Picture) -> Tensor:
        return finished(image.detach()[0].clamp(0, 1).float().cpu(), content, self._options.preserve_color)

    def _parameters_now(self) -> dict[str, Any]:
        final = self._final or (self.losses[-1] if self.losses else None)
        return {**self._parameters, "stopped": self.stopped, "final": final and final.as_dict()}


def _divergence(record: LossRecord, before: Sequence[LossRecord], *, is_half: bool) -> str:
    where = f"the loss became {record.total} at iteration {record.iteration} (scale {record.scale})"
    if is_half:
        cause = "float16 overflowed; use --precision bf16 or fp32"
    elif not before or before[0].total > _SUSPICIOUS_LOSS:
        cause = "it is too large for float32; lower the weights of its terms and layers, or check the network's weights"
    else:
        cause = "the steps are too long; lower --learning-rate, or use --optimizer adam"
    return f"{where}: {cause}"


class Pace:
    """When the losses are read back: after each evaluation on a CPU, where nobody waits for it; on a GPU in batches of
    about `READ_SECONDS`, but at least every `every` evaluations, and no longer than until `deadline`. `read` says how
    many have been read back before."""

    def __init__(self, device: torch.device, every: int | None, deadline: float, *, read: int = 0) -> None:
        self._every = every if device.type != "cpu" else 1
        self._deadline = deadline
        self._read_at = time.perf_counter()
        self._next = self._count = read

    def is_late(self) -> bool:
        return time.perf_counter() > self._deadline

    def next_due(self, evaluation: int) -> int:
        """The first evaluation after this one, counted from 0 in the scale, whose losses are to be read back."""
        due = max(self._next, evaluation + 1)
        return due if self._every is None else min(due, (evaluation // self._every + 1) * self._every)

    def moments(self, count: int) -> list[float]:
        """When the `count` evaluations just read back ended, on `time.perf_counter`: evenly since the last reading."""
        before, now = self._read_at, time.perf_counter()
        seconds = (now - before) / max(count, 1)
        batch = min(READ_SECONDS, max(self._deadline - now, 0)) / max(seconds, 1e-9)
        self._count += count
        self._next = self._count - 1 + max(1, min(int(batch), CAPACITY))
        self._read_at = now
        return [before + seconds * (index + 1) for index in range(count)]
