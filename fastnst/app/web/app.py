"""The page's addresses: the calls of its scripts, answered from the session and the studio, and those refused."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fastnst import __version__
from fastnst.app.web.controls import make_controls, read_form
from fastnst.app.web.guard import Guard
from fastnst.app.web.results import SUFFIXES, Kept, Limits, Request, Upload, blank, large, read_upload, thumbnail
from fastnst.app.web.session import Session, Ticket, continued
from fastnst.app.web.studio import Studio
from fastnst.errors import FastnstError, ImageError, OptionError
from fastnst.examples import NAMES, example
from fastnst.image.read import load_image
from fastnst.options.options import START_WORDS
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options

T = TypeVar("T")

_PAGE = Path(__file__).parent / "page"
_LOOK_SECONDS = 0.2
_SWATCH = 96  # px
# A browser gives up a stream in which nothing comes.
_SIGN_OF_LIFE_SECONDS = 10.0
_MOST_JSON_BYTES = 100_000
_CLOSING_SECONDS = 10.0
_BODY_SECONDS = 120.0
# Of the longest file's length; what arrives at once is held in memory.
_MOST_ARRIVING = 4


class App:
    """The page, for a server to serve as `asgi`; `close` ends its streams and its run.

    host: the options that go for all runs. Raises FastnstError where they will not do.
    guard: who may call it.
    """

    def __init__(self, host: Mapping[str, Any], limits: Limits, guard: Guard | None = None) -> None:
        self._limits = limits
        self._session = Session(limits)
        self._studio = Studio(host, limits, self._session.keep)
        self._run = threading.Thread()
        self._closing = False
        self._arriving = 0
        self._decoding = asyncio.Lock()
        result = "/api/results/{name}"
        self.asgi = Starlette(
            routes=[
                Route("/", self._index),
                Route("/api/page", self._page),
                Route("/api/events", self._events),
                Route("/api/uploads", self._upload, methods=["POST"]),
                Route("/api/examples/{name}", self._example, methods=["POST"]),
                Route("/api/examples/{name}", self._example_small),
                Route("/api/uploads/{name}", self._uploaded),
                Route("/api/uploads/{name}/large", self._large),
                Route("/api/forecast", self._forecast, methods=["POST"]),
                Route("/api/first", self._first, methods=["POST"]),
                Route("/api/runs", self._start, methods=["POST"]),
                Route("/api/runs", self._stop, methods=["DELETE"]),
                Route("/api/preview", self._preview),
                Route(f"{result}/file", self._file),
                Route(f"{result}/continue", self._continue, methods=["POST"]),
                Route(f"{result}/{{part}}", self._part),
                Mount("/page", StaticFiles(directory=_PAGE)),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard or Guard())],
            exception_handlers={FastnstError: _refused, ClientDisconnect: _gone},
        )

    def close_streams(self) -> None:
        """Ends the streams of the page, so that the server can close."""
        self._closing = True

    def close(self) -> None:
        """Ends the run; one whose iteration takes longer ends with the process."""
        if self._session.ticket is not None:
            self._session.ticket.stop()
            self._run.join(_CLOSING_SECONDS)

    async def _decoded(self, work: Callable[..., T], *given: Any, **named: Any) -> T:
        """The result of `work` in a thread, one at a time: while it is read, a picture takes far more memory than its
        file."""
        async with self._decoding:
            return await run_in_threadpool(work, *given, **named)

    async def _index(self, call: Call) -> Response:
        return Response((_PAGE / "index.html").read_bytes(), media_type="text/html")

    async def _page(self, call: Call) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "session": self._session.id,
                "device": self._studio.device,
                "weights": Path(self._studio.host["weights"]).name,
                "controls": make_controls(self._limits),
                "begins": {name: str(resolve_options(preset=name).init) for name in PRESETS},
                "starts": list(START_WORDS),
                "limits": asdict(self._limits),
                "examples": [name for name in NAMES if name != "content"],
                "formats": list(SUFFIXES),
            }
        )

    async def _events(self, call: Call) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        """The changes of the session as server-sent events of JSON: the run, with new losses alone, and the history."""
        last: tuple[Any, ...] = ()
        session, ticket, sent, history, silent = self._session, None, 0, -1, 0.0
        while not self._closing:
            if session.ticket is not ticket:
                ticket, sent = session.ticket, 0
            now = (ticket, ticket and ticket.version, session.version)
            if now == last:
                silent += _LOOK_SECONDS
                if silent >= _SIGN_OF_LIFE_SECONDS:
                    silent = 0.0
                    yield ": still here\n\n"
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            last, silent = now, 0.0
            event: dict[str, Any] = {"session": session.id, "run": None if ticket is None else ticket.view(sent)}
            if event["run"] is not None:
                sent += len(event["run"]["points"])
            if session.version != history:
                history = session.version
                event["results"] = [_described(kept, session) for kept in session.results]
            yield f"data: {json.dumps(event)}\n\n"
            await asyncio.sleep(_LOOK_SECONDS)

    async def _upload(self, call: Call) -> Response:
        name, role = call.query_params.get("name", "picture"), call.query_params.get("role", "content")
        if role not in ("content", "style", "mask"):
            raise OptionError(f"{role[:20]!r} is not a role of a picture; choose content, style or mask")
        held = 0

        def check(count: int) -> None:
            nonlocal held
            self._limits.check_bytes(count, name)
            self._arriving, held = self._arriving + count - held, count
            if self._arriving > _MOST_ARRIVING * self._limits.upload_bytes:
                raise ImageError(f"too many pictures arrive at once, so {name} was not taken; drop it again soon")

        try:
            data = await _body(call, check)
            upload = await self._decoded(read_upload, name, data, self._limits, role=role)
        finally:
            self._arriving -= held
        return JSONResponse(_facts(upload, self._session.add_upload(upload)))

    async def _example(self, call: Call) -> Response:
        path = example(call.path_params["name"])
        # The page's own pictures have the usual limits, whatever those of others are.
        upload = await self._decoded(read_upload, path.name, path.read_bytes(), Limits())
        return JSONResponse(_facts(upload, self._session.add_upload(upload)))

    async def _example_small(self, call: Call) -> Response:
        path = example(call.path_params["name"])
        return _picture(await run_in_threadpool(lambda: thumbnail(load_image(path).rgb, None, _SWATCH)))

    async def _uploaded(self, call: Call) -> Response:
        return _picture(self._session.upload(call.path_params["name"]).thumbnail)

    async def _large(self, call: Call) -> Response:
        return _picture(await self._decoded(large, self._session.upload(call.path_params["name"]), self._limits))

    async def _forecast(self, call: Call) -> Response:
        """The seconds that a run would take; null for a clip, or while another run is going on."""
        request = await self._asked(call)
        is_known = not (request.content.frames or self._session.is_busy)
        return JSONResponse({"seconds": await self._decoded(self._studio.forecast, request) if is_known else None})

    async def _first(self, call: Call) -> Response:
        """A first picture at once; 204 where there is none, or a run is going on."""
        request = await self._asked(call)
        picture = None if self._session.is_busy else await self._decoded(self._studio.first_picture, request)
        return Response(status_code=204) if picture is None else _picture(picture)

    async def _start(self, call: Call) -> Response:
        return self._join(await self._asked(call))

    async def _asked(self, call: Call) -> Request:
        asked = await _json(call)
        styles = asked.get("styles")
        if not isinstance(styles, list) or not 1 <= len(styles) <= self._limits.styles:
            raise OptionError(f"give 1 to {self._limits.styles} style pictures")
        form = asked.get("form")
        if not isinstance(form, dict):
            raise OptionError("the form is missing; load the page again")
        content, begins = asked.get("content"), asked.get("begins", "content")
        if content is None and form.get("preset") == "texture":
            content = self._session.add_upload(blank(self._limits.size))
        start = None if begins in START_WORDS else self._session.result(begins)
        return Request(
            number=self._session.next_number,
            content=self._session.upload(content),
            styles=tuple(self._session.upload(style) for style in styles),
            options=read_form(form),
            form=form,
            begins=begins,
            start=start,
            mask=None if asked.get("mask") is None else self._session.upload(asked["mask"]),
        )

    async def _continue(self, call: Call) -> Response:
        size = (await _json(call)).get("size")
        if not isinstance(size, int) or isinstance(size, bool):
            raise OptionError("the size to continue at is not a whole number of pixels; load the page again")
        return self._join(continued(self._result(call), self._session.next_number, size))

    def _join(self, request: Request) -> Response:
        ticket = Ticket(request, self._studio.options(request))
        self._session.take(ticket)
        self._run = threading.Thread(target=self._studio.run, args=(ticket,), daemon=True)
        try:
            self._run.start()
        except RuntimeError:  # no thread is to be had
            ticket.finish(None, failed=True)
            raise OptionError("this machine cannot start another run now; try again in a while") from None
        return JSONResponse({"run": request.number})

    async def _stop(self, call: Call) -> Response:
        if self._session.ticket is not None:
            self._session.ticket.stop()
        return JSONResponse({})

    async def _preview(self, call: Call) -> Response:
        preview = None if self._session.ticket is None else self._session.ticket.preview
        return Response(status_code=404) if preview is None else _picture(preview)

    def _result(self, call: Call) -> Kept:
        return self._session.result(call.path_params["name"])

    async def _part(self, call: Call) -> Response:
        kept, part = self._result(call), call.path_params["part"]
        if part == "losses":
            return JSONResponse(kept.losses)
        return _picture(kept.thumbnail if part == "small" else kept.png)

    async def _file(self, call: Call) -> Response:
        kept, format = self._result(call), call.query_params.get("format", "png")
        data = await self._decoded(kept.file, format)
        name = kept.request.name + kept.suffixes[format]
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        kind = "video" if format == "mp4" else "image"
        return Response(data, media_type=f"{kind}/{format}", headers=disposition)


async def _refused(call: Call, error: Exception) -> Response:
    """A problem that the caller can mend, in one line."""
    return JSONResponse({"error": str(error)}, 400)


async def _gone(call: Call, error: Exception) -> Response:
    return Response(status_code=499)


def _described(kept: Kept, session: Session) -> dict[str, Any]:
    request, final = kept.request, kept.parameters["final"]
    measure = min if kept.parameters["options"]["edge"] == "short" else max
    # The session keeps the pictures of its results.
    content, *styles = (_facts(upload, session.upload_name(upload)) for upload in (request.content, *request.styles))
    return {
        "id": kept.id,
        "name": request.name,
        "width": kept.width,
        "height": kept.height,
        "size": measure(kept.width, kept.height),
        "form": dict(request.form),
        "begins": request.begins,
        "iterations": final["iteration"],
        "total": final["total"],
        "seconds": final["seconds"],
        "stopped": kept.parameters["stopped"],
        "formats": list(kept.suffixes),
        "frames": request.content.frames,
        "content": content,
        "styles": styles,
        "mask": request.mask and session.upload_name(request.mask),
    }


def _facts(upload: Upload, name: str | None) -> dict[str, Any]:
    return {"id": name, **{fact: getattr(upload, fact) for fact in ("name", "width", "height", "frames")}}


def _picture(data: bytes) -> Response:
    return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")


async def _body(call: Call, check: Callable[[int], None]) -> bytes:
    """The call's body; `check` gets the length that it promises, and its length so far. Raises OptionError where it
    takes too long."""
    promised = call.headers.get("content-length", "")
    check(int(promised) if promised.isdecimal() else 0)
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in call.stream():
                data += part
                check(len(data))
    except TimeoutError:
        raise OptionError(f"this took more than {_BODY_SECONDS:.0f} seconds to arrive; try again") from None
    return bytes(data)


async def _json(call: Call) -> dict[str, Any]:
    def check(count: int) -> None:
        if count > _MOST_JSON_BYTES:
            raise OptionError("this is longer than a form can be; load the page again")

    body = await _body(call, check)
    try:
        form = json.loads(body)
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, dict):
        raise OptionError("this is not a form; load the page again")
    return form
