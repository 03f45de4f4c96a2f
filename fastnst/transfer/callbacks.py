"""Ready-made callbacks: a progress bar, a notebook's display, a preview, numbered frames, a movie, a plot,
TensorBoard, an early stop; and their chain.

A callback is any function of one `Iterate`; it stops the run by returning False, or another false value but
None. Those here are such functions, and context managers too, because some have to be closed:

    with fastnst.transfer.callbacks.chain(Preview("now.png"), Movie("run.gif", every=10)) as callback:
        result = fastnst.stylize(content, style, callback=callback)

What cannot be written is a FastnstWarning: a run does not end because a disk is full.
"""

import importlib
import importlib.util
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, Unpack

from PIL import Image
from tqdm.auto import tqdm

from fastnst.errors import FastnstError, ImageError, OptionError, warn
from fastnst.image.resize import fitted_size, resize
from fastnst.image.write import Form, check_output_path, to_pil
from fastnst.transfer.movie import check_movie, even, write_clip
from fastnst.transfer.plot import check_plot, draw_losses
from fastnst.transfer.result import Callback, Iterate, LossRecord

_HELD_SECONDS = 1.5  # for the last frame of a movie, before a loop begins anew


class Ready:
    """A callback that is also a context manager, which closes it at the end.

    `lazy` says that it reads the image only while it is called, or can use a later one, as those here do (see
    `Iterate`).
    """

    lazy = True

    def __call__(self, iterate: Iterate) -> bool | None:
        raise NotImplementedError

    def close(self) -> None:
        """Finishes the work that the run has left open. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Chain(Ready):
    """Joins several callbacks into one. It calls all of them, in order, and the run stops if one of them stops
    it."""

    def __init__(self, *callbacks: Callback) -> None:
        for callback in callbacks:
            if not callable(callback):
                raise OptionError(f"callback {callback!r} cannot be called; give functions of one Iterate")
        self.callbacks = callbacks
        self.lazy = all(getattr(callback, "lazy", False) for callback in callbacks)

    def __call__(self, iterate: Iterate) -> bool:
        answers = [callback(iterate) for callback in self.callbacks]
        return all(answer is None or bool(answer) for answer in answers)

    def close(self) -> None:
        """Closes the callbacks, last first, even if some fail; it then raises the last error."""
        with ExitStack() as stack:
            for callback in self.callbacks:
                if isinstance(callback, Ready):
                    stack.callback(callback.close)


chain = Chain
"""Several callbacks as one; see `Chain`."""


def _check_count(name: str, count: object, unit: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"{name} {count!r} is out of range; give a whole number of {unit}, 1 or more")


class _Every:
    """Every n-th iteration of a run, each once, though losses may be read back in batches."""

    def __init__(self, every: int) -> None:
        _check_count("every", every, "iterations")
        self.every = every
        self._last = 0

    def wants(self, iterate: Iterate) -> bool:
        before, self._last = self._last, iterate.record.iteration
        is_another_run = self._last < before
        return self._last // self.every > (0 if is_another_run else before // self.every)


@contextmanager
def _going_on() -> Iterator[None]:
    """Makes a warning of what cannot be written."""
    try:
        yield
    except FastnstError as error:
        warn(f"{error}; the run continues", level=4)


class Preview(Ready):
    """Keeps the newest image in one file, for a viewer that reloads it when it changes.

    `path` is written whole or not at all, at most once in so many `seconds`; `close` writes the last image. `form` is
    that of `Result.save`.
    """

    def __init__(self, path: str | os.PathLike[str], *, seconds: float = 1.0, **form: Unpack[Form]) -> None:
        check_output_path(path, **form)
        self._wait(seconds)
        self._path, self._form = path, form

    def _wait(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise OptionError(f"{seconds} seconds between previews are out of range; give 0 or more")
        self._seconds, self._written = seconds, -math.inf
        self._waiting: Iterate | None = None

    def __call__(self, iterate: Iterate) -> None:
        self._waiting = iterate
        if time.monotonic() - self._written >= self._seconds:
            self.close()

    def close(self) -> None:
        if self._waiting is not None:
            with _going_on():
                self._show(self._waiting)
            self._waiting, self._written = None, time.monotonic()

    def _show(self, iterate: Iterate) -> None:
        iterate.save(self._path, **self._form)


class Live(Preview):
    """Shows the newest image in a notebook, with a long edge of at most `edge` pixels, and the progress of the run.

    It has a bar if ipywidgets is installed, and otherwise a line of text. It updates at most once in so many `seconds`.
    """

    def __init__(self, *, seconds: float = 1.0, edge: int = 512) -> None:
        self._wait(seconds)
        _check_count("edge", edge, "pixels")
        if importlib.util.find_spec("IPython") is None:
            raise OptionError("a live view needs a notebook with IPython; use Preview, which writes a file")
        self._edge = edge
        self._view: Callable[[Image.Image, str, float], None] | None = None

    def _show(self, iterate: Iterate) -> None:
        record, image = iterate.record, to_pil(iterate.image, iterate.alpha)
        image.thumbnail((self._edge, self._edge))
        line = f"iteration {record.iteration} of {iterate.iterations}, {record.scale} px, loss {record.total:.4g}"
        self._view = self._view or _view()
        self._view(image, line, record.iteration / max(1, iterate.iterations))


def _view() -> Callable[[Image.Image, str, float], None]:
    """Opens a place in a notebook's output; shows there a picture, a line and the part of the run that is done."""
    display = importlib.import_module("IPython.display").display
    if importlib.util.find_spec("ipywidgets") is None:
        places = [display("", display_id=True) for _ in range(2)]

        def show(image: Image.Image, line: str, done: float) -> None:
            for place, shown in zip(places, (line, image), strict=True):
                place.update(shown)

        return show
    widgets = importlib.import_module("ipywidgets")
    bar, label, picture = widgets.FloatProgress(max=1.0), widgets.Label(), widgets.Image(format="png")
    display(widgets.VBox([widgets.HBox([bar, label]), picture]))

    def show_widgets(image: Image.Image, line: str, done: float) -> None:
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        bar.value, label.value, picture.value = done, line, encoded.getvalue()

    return show_widgets


class Frames(Ready):
    """Writes the image of every n-th iteration to its own file: out_00050.png beside out.png (see `numbered_path`)."""

    def __init__(self, path: str | os.PathLike[str], *, every: int, **form: Unpack[Form]) -> None:
        self._path, self._every, self._form = Path(path), _Every(every), form
        check_output_path(numbered_path(self._path, every), **form)

    def __call__(self, iterate: Iterate) -> None:
        if self._every.wants(iterate):
            with _going_on():
                iterate.save(numbered_path(self._path, iterate.record.iteration), **self._form)


def numbered_path(path: Path, iteration: int) -> Path:
    """The path for the image of `iteration`: out_00050.png beside out.png."""
    return path.with_name(f"{path.stem}_{iteration:05d}{path.suffix}")


class Movie(Ready):
    """Makes a movie of the run: the starting image, every n-th iteration, and the last image.

    The frames are of the run's last scale, with a long edge of `longest_side` pixels at most; those before it are
    enlarged. `path` ends in .mp4 (with PyAV, `fastnst[movie]`), .gif or .webp, and is written by `close`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: int = 1,
        frames_per_second: float = 12.0,
        longest_side: int = 1280,  # what screens and players take without effort
    ) -> None:
        self._path, self._every = Path(path), _Every(every)
        check_movie(self._path)
        if not 0.01 <= frames_per_second <= 100:
            raise OptionError(f"{frames_per_second} frames per second are out of range; give 0.01 to 100")
        if longest_side < 2:
            raise OptionError(f"longest side {longest_side} is too small; it must be 2 pixels or more")
        self._rate, self._longest_side = Fraction(frames_per_second).limit_denominator(1000), longest_side
        # Frames wait on the disk: the formats of pictures are written in one go.
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._frames: list[Path] = []
        self._waiting: Iterate | None = None

    def __call__(self, iterate: Iterate) -> None:
        if self._folder is None or self._every.wants(iterate):
            self._add(iterate)
        else:
            self._waiting = iterate

    def close(self) -> None:
        if self._waiting is not None:
            self._add(self._waiting)
        if self._folder is not None:
            with self._folder, _going_on():
                if self._frames:
                    write_clip(self._path, self._frames, self._rate, held=_HELD_SECONDS)
            self._folder, self._frames = None, []

    def _add(self, iterate: Iterate) -> None:
        self._waiting, last = None, iterate.parameters["sizes"][-1]
        size = last["height"], last["width"]
        size = even(self._path, size if max(size) <= self._longest_side else fitted_size(*size, self._longest_side))
        with _going_on():
            try:
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="fastnst-movie-")
                frame = Path(self._folder.name) / f"{len(self._frames):06d}.png"
                to_pil(resize(iterate.image, size)).save(frame, compress_level=1)
            except OSError as error:
                problem = f"a frame of {self._path} could not be kept ({error.strerror})"
                raise ImageError(f"{problem}; free some space") from error
            self._frames.append(frame)


def run_bar(**facts: Any) -> Any:
    """A progress bar of tqdm, in a notebook one of the notebook's, whose `show` takes an iterate.

    The time left is by the steps that are left and their pixels: the last scale takes most of it. `facts` are tqdm's.
    """

    class Bar(tqdm):  # type: ignore[type-arg]
        first: tuple[float, float] | None = None

        def show(self, iterate: Iterate) -> None:
            record, share, now = iterate.record, iterate.share, time.monotonic()
            if self.first is None or record.iteration < self.n:
                self.first = share, now
            done = share - self.first[0]
            left = f"{self.format_interval((now - self.first[1]) / done * (1 - share))} left, " if done > 0 else ""
            self.total = iterate.iterations
            self.set_description(f"scale {record.scale} px", refresh=False)
            self.set_postfix_str(f"{left}loss {record.total:.4g}", refresh=False)
            self.update(record.iteration - self.n)

    form = "{desc}{n_fmt}/{total_fmt} |{bar}| {elapsed}, {rate_fmt}{postfix}"
    return Bar(total=1, unit="it", bar_format=form, **facts)


class Progress(Ready):
    """Shows a progress bar in a terminal or a notebook, with the time that is left."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, iterate: Iterate) -> None:
        self._bar = self._bar or run_bar()
        self._bar.show(iterate)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LossPlot(Ready):
    """Draws the losses as a plot when the run is over; needs matplotlib (`fastnst[plot]`).

    The plot has the records that the callback was called with; with `callback_every=1` these are all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        check_plot(self._path)
        self._records: list[LossRecord] = []
        self._parameters: Mapping[str, Any] = {}

    def __call__(self, iterate: Iterate) -> None:
        self._records.append(iterate.record)
        self._parameters = iterate.parameters

    def close(self) -> None:
        if self._records:
            records, self._records = self._records, []
            with _going_on():
                draw_losses(records, self._path, self._parameters)


class EarlyStop(Ready):
    """Stops the run if its loss falls too slowly at one scale, or is low enough.

    Within `patience` evaluations the lowest loss of the present scale must have fallen by the fraction `tolerance`; at
    a total loss of `below` the run stops at once. The option `tolerance` ends only one scale, and the next one begins.
    """

    def __init__(self, *, patience: int = 20, tolerance: float = 1e-3, below: float | None = None) -> None:
        _check_count("patience", patience, "evaluations")
        if not 0 <= tolerance <= 1:
            raise OptionError(f"tolerance {tolerance} is out of range; give 0 to 1")
        self._patience, self._tolerance, self._below = patience, tolerance, below
        self._scale = -1
        self._best, self._waited = math.inf, 0

    def __call__(self, iterate: Iterate) -> bool:
        record = iterate.record
        if record.scale != self._scale or record.iteration == 0:
            self._scale, self._best, self._waited = record.scale, math.inf, 0
        if self._below is not None and record.total <= self._below:
            return False
        if record.total < self._best - self._tolerance * abs(self._best) or math.isinf(self._best):
            self._best, self._waited = record.total, 0
        else:
            self._waited += 1
        return self._waited < self._patience


class TensorBoard(Ready):
    """Writes the losses of each evaluation, and every n-th image, to TensorBoard's files; needs
    `fastnst[tensorboard]`."""

    def __init__(self, folder: str | os.PathLike[str], *, images_every: int = 25) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise OptionError('TensorBoard is not installed; install it with pip install "fastnst[tensorboard]"')
        self._every = _Every(images_every)
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(os.fspath(folder))

    def __call__(self, iterate: Iterate) -> None:
        record = iterate.record
        for term in ("total", "content", "style", "tv"):
            self._writer.add_scalar(f"loss/{term}", getattr(record, term), record.iteration)
        if self._every.wants(iterate):
            self._writer.add_image("image", iterate.image, record.iteration)

    def close(self) -> None:
        self._writer.close()
