"""Where the page's runs are made: one network, loaded once, and a ticket's run from its pictures to its result."""

import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from fastnst.app.cli.plan import plans_of
from fastnst.app.web.results import Kept, Limits, Request, Upload, clip_file, thumbnail
from fastnst.app.web.session import Ticket
from fastnst.errors import FastnstError, Interrupted, OptionError
from fastnst.feedforward.first import first_picture, network_shares
from fastnst.image.colour import finished
from fastnst.image.picture import Picture, opaque
from fastnst.image.read import load_image
from fastnst.image.resize import fitted_size, resize, resize_picture
from fastnst.loss.networks import Networks, weights_of
from fastnst.loss.targets import style_shares
from fastnst.network.runtime import is_out_of_memory, resolve_runtime
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options
from fastnst.plan.speed import measure_speed
from fastnst.transfer.inputs import Canvas, sized
from fastnst.transfer.result import DivergedError, Iterate, LossRecord, Result
from fastnst.transfer.stylizer import Stylizer
from fastnst.video.flow import Frame, as_planes
from fastnst.video.run import FrameDone, Production

_PREVIEW_EDGE = 1024  # px
_FIRST_EDGE = 640  # px
_PREVIEW_SECONDS = 0.3
# Showing the image may take one part in so many of the time.
_PREVIEW_SHARE = 20
_UNKNOWN = "an unexpected error occurred; look for it in the terminal where you started the page"


class Studio:
    """Runs tickets with the options of the host, which go for all of them; one at a time.

    `kept` is called with each result, also that of a run that was stopped or failed on its way.
    Raises FastnstError where the host's options will not do: the network is loaded here.
    """

    def __init__(self, host: Mapping[str, Any], limits: Limits, kept: Callable[[Kept], None]) -> None:
        self.limits = limits
        self._kept = kept
        self._networks = Networks()
        options = resolve_options(**host)
        runtime = resolve_runtime(options.device, options.precision, options.backend)
        weights = weights_of(options, progress=sys.stderr.isatty())
        self.device = str(runtime.device)
        # The weights of now go for all runs: none of them asks a server.
        self.host = {**host, "weights": weights.source}
        self._networks.get(resolve_options(**self.host), runtime, lambda: weights)

    def options(self, request: Request) -> Options:
        content, *styles = ((upload.width, upload.height) for upload in (request.content, *request.styles))
        values = sized({**request.options, **self.host}, Canvas(content[1], content[0]))
        # The page's limit is below the engine's, so it is the one to be named.
        self.limits.check_size(values.get("size", Options.size), values.get("edge", Options.edge), content)
        options = resolve_options(**values)
        self.limits.check_options(options, content, styles)
        return options

    def forecast(self, request: Request) -> float:
        """The seconds that a run would take."""
        options = self.options(request)
        runtime = resolve_runtime(options.device, options.precision, options.backend)
        speed, picture = measure_speed(runtime), Canvas(request.content.height, request.content.width).picture
        seconds = sum(plan.seconds(speed) * count for plan, count in plans_of(picture, options, runtime))
        return seconds if options.seconds is None else min(seconds, options.seconds)

    def first_picture(self, request: Request) -> bytes | None:
        """The content as the network that ships makes it at once, as a browser shows it; None where a style is not one
        of its own, or the content is a clip or a texture."""
        if request.content.frames or not request.content.data:
            return None
        options = self.options(request)
        try:
            shares = style_shares(options.style_weights, len(request.styles))
            blend = network_shares([(style.sha256, share) for style, share in zip(request.styles, shares, strict=True)])
        except OptionError:
            return None
        content = _reduced(request.content)
        size = fitted_size(content.height, content.width, _FIRST_EDGE)
        edge = _FIRST_EDGE * options.style_scale
        image = first_picture(lambda size: resize(opaque(content).rgb, size), size, edge, blend)
        image = finished(resize(image, size), resize_picture(content, size), options.preserve_color)
        return thumbnail(image, None if content.alpha is None else resize(content.alpha, size), _PREVIEW_EDGE)

    def run(self, ticket: Ticket) -> None:
        """Makes the ticket's image. Whatever happens ends in the ticket, also a warning, and the last image is kept."""
        shown, warnings.showwarning = warnings.showwarning, lambda message, *_, **__: ticket.note(_spoken(str(message)))
        try:
            kept, message = self._made(ticket)
            ticket.finish(kept, message and _spoken(message), failed=message is not None)
        except Exception as error:  # noqa: BLE001 - a ticket that is never over would keep all others waiting
            message = _UNKNOWN
            with suppress(Exception):  # memory that ran out may be out still
                message = _spoken(_in_words(error))
            ticket.finish(None, message, failed=True)
        finally:
            warnings.showwarning = shown

    def _made(self, ticket: Ticket) -> tuple[Kept | None, str | None]:
        """The result of the run, or of a part of it, and the reason where it failed."""
        result: Result | None
        message: str | None = None
        film: bytes | None = None
        try:
            if ticket.request.content.frames:
                result, film = self._stylize_clip(ticket)
            else:
                result = self._stylize(ticket)
        except DivergedError as error:
            # Without a loss that could be told, it is the image that the run began with.
            result, message = error.result if error.result.losses else None, str(error)
        except Exception as error:  # noqa: BLE001 - the page goes on for the others
            last, message, result = ticket.last, _in_words(error), None
            if last is not None:
                result = Result(last.image, last.alpha, (), last.parameters, last.parameters["stopped"])
        if result is None:
            return None, message
        if ticket.stopping:
            result = result.interrupted
        kept = Kept(result, ticket.request, ticket.losses(), film)
        self._kept(kept)
        return kept, message

    def _stylize(self, ticket: Ticket) -> Result:
        request = ticket.request
        start = request.begins if request.start is None else request.start.opened()
        styles = [style.opened() for style in request.styles]
        options: dict[str, Any] = {**request.options, **self.host, "init": start}
        if request.mask is not None:
            options["masks"] = [{"content": request.mask.opened()}]
        stylizer = Stylizer(styles, networks=self._networks, **options)
        content: Picture | Canvas = Canvas(request.content.height, request.content.width)
        if request.content.data:
            content = load_image(request.content.opened(), role="content")
        return stylizer(content, callback=_Preview(ticket, self.limits.seconds), callback_every=None)

    def _stylize_clip(self, ticket: Ticket) -> tuple[Result, bytes | None]:
        """The first frame, and the clip, unless the run was stopped before all of its frames were made."""
        request, began = ticket.request, time.perf_counter()
        if request.start is not None:
            raise OptionError("a clip cannot start from a result; choose another start")
        if request.mask is not None:
            raise OptionError("a clip cannot have a painted mask here; clear it")
        first: list[Frame] = []

        def look(done: FrameDone) -> None:
            first.append(done.frame) if not first else None
            small = thumbnail(as_planes(done.frame)[0], None, _PREVIEW_EDGE)
            ticket.show_frame(done, time.perf_counter() - began, small)
            if time.perf_counter() - began > self.limits.seconds:
                ticket.stop()
            if ticket.stopping:
                raise Interrupted

        options: dict[str, Any] = {**request.options, **self.host, "init": request.begins}
        film = None
        with clip_file(request.content.name, request.content.data) as path:
            output = path.with_name("out.mp4")
            styles = [load_image(style.opened(), role="style") for style in request.styles]
            with suppress(Interrupted):
                made = Production(path, styles, output, max_frames=self.limits.frames, **options)
                made.run(look)
                film = output.read_bytes()
        values = ticket.options
        record = LossRecord(made.count, values.size, 0.0, 0.0, 0.0, 0.0, time.perf_counter() - began)
        final = {**record.as_dict(), "frames": made.count}
        facts = {"options": values.as_dict(), "stopped": None, "final": final}
        return Result(as_planes(first[0])[0], None, (), facts), film


# Of the newest alone: what is kept here is beyond the session's limits.
@lru_cache(maxsize=1)
def _reduced(upload: Upload) -> Picture:
    """The picture of an upload, as large as a first picture needs it; kept while a slider is moved."""
    picture = load_image(upload.opened(), role="content")
    long_edge = max(picture.height, picture.width)
    return picture if long_edge <= _PREVIEW_EDGE else resize_picture(picture, _PREVIEW_EDGE)


class _Preview:
    """The callback: shows the ticket each iterate, its image as often as costs little, and stops when asked to, or
    after the most seconds that a run may take."""

    def __init__(self, ticket: Ticket, seconds: float) -> None:
        self._ticket, self._seconds = ticket, seconds
        self._next = 0.0

    def __call__(self, iterate: Iterate) -> bool:
        began, preview = time.perf_counter(), None
        if began >= self._next:
            preview = thumbnail(iterate.image, iterate.alpha, _PREVIEW_EDGE)
            now = time.perf_counter()
            self._next = now + max(_PREVIEW_SECONDS, _PREVIEW_SHARE * (now - began))
        self._ticket.show(iterate, preview)
        if iterate.record.seconds > self._seconds:
            self._ticket.stop()
        return not self._ticket.stopping


def _in_words(error: Exception) -> str:
    """The error as the page says it; one that nobody expected is for the terminal too."""
    if isinstance(error, FastnstError):
        return str(error)
    if is_out_of_memory(error):
        return "the run is out of memory; lower the size, the style scale or the scales"
    with suppress(Exception):  # the terminal may be gone
        traceback.print_exception(error)
    return _UNKNOWN


def _spoken(message: str) -> str:
    """The command's words in the page's: --style-scale is the control style scale."""
    return re.sub(r"--([a-z][a-z-]*)", lambda match: match[1].replace("-", " "), message)
