"""The page's addresses: what it asks of the server, and the server of the studio, the desk and the visits."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fastnst import __version__
from fastnst.app.web.controls import beginnings, make_controls, read_form
from fastnst.app.web.desk import Desk
from fastnst.app.web.guard import Guard
from fastnst.app.web.limits import Limits
from fastnst.app.web.results import MEDIA, SUFFIXES, Kept, Request
from fastnst.app.web.studio import Studio
from fastnst.app.web.ticket import Ticket
from fastnst.app.web.uploads import Upload, read_upload
from fastnst.app.web.visits import Visit, Visits, continued
from fastnst.errors import FastnstError, OptionError
from fastnst.examples import NAMES, example
from fastnst.options.options import START_WORDS

_PAGE = Path(__file__).parent / "page"
_LOOK_SECONDS = 0.2
_SWEEP_SECONDS = 1.0
# A proxy or a browser gives up a stream in which nothing comes.
_SIGN_OF_LIFE_SECONDS = 10.0
_MOST_JSON_BYTES = 100_000

Answer = Callable[[Call, Visit], Awaitable[Response]]


class App:
    """The page, for a server to serve as `asgi`; `close` ends its streams and its run.

    host: the options that go for all runs. Raises FastnstError where they will not do.
    local: whether only this machine can reach it, under one of its own names.
    """

    def __init__(self, host: Mapping[str, Any], limits: Limits, *, local: bool = True) -> None:
        self._limits = limits
        self._studio = Studio(host, limits, self._kept)
        self._desk = Desk(self._studio.run)
        self._visits = Visits(limits, self._desk.leave)
        self._closing = False
        in_visit = "/api/visits/{visit}"
        self.asgi = Starlette(
            routes=[
                Route("/", self._index),
                Route("/api/page", self._page),
                Route("/api/visits", self._open, methods=["POST"]),
                Route(in_visit, self._of(self._look)),
                Route(f"{in_visit}/events", self._of(self._events)),
                Route(f"{in_visit}/uploads", self._of(self._upload), methods=["POST"]),
                Route(f"{in_visit}/examples/{{name}}", self._of(self._example), methods=["POST"]),
                Route(f"{in_visit}/uploads/{{name}}", self._of(self._uploaded)),
                Route(f"{in_visit}/runs", self._of(self._start), methods=["POST"]),
                Route(f"{in_visit}/runs", self._of(self._stop), methods=["DELETE"]),
                Route(f"{in_visit}/preview", self._of(self._preview)),
                Route(f"{in_visit}/results/{{name}}/small", self._of(self._small)),
                Route(f"{in_visit}/results/{{name}}/image", self._of(self._image)),
                Route(f"{in_visit}/results/{{name}}/file", self._of(self._file)),
                Route(f"{in_visit}/results/{{name}}/losses", self._of(self._losses)),
                Route(f"{in_visit}/results/{{name}}/continue", self._of(self._continue), methods=["POST"]),
                Mount("/page", StaticFiles(directory=_PAGE)),
            ],
            middleware=[Middleware(Guard, local=local)],
            lifespan=self._lifespan,
        )

    def close_streams(self) -> None:
        """Ends what pages listen to, so that the server can close."""
        self._closing = True

    def close(self) -> None:
        """Ends the run and the queue."""
        self._desk.close()

    def _kept(self, ticket: Ticket, kept: Kept) -> None:
        self._visits.keep(ticket, kept)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self._sweep())
        yield
        sweeping.cancel()

    async def _sweep(self) -> None:
        while True:
            self._visits.sweep()
            await asyncio.sleep(_SWEEP_SECONDS)

    def _of(self, answer: Answer) -> Callable[[Call], Awaitable[Response]]:
        """The answer to a call of a visit; what the visitor can mend is told in one line."""

        async def answered(call: Call) -> Response:
            visit = self._visits.find(call.path_params["visit"])
            if visit is None:
                return _problem("this page was away for too long and its pictures are forgotten; load it again", 410)
            try:
                return await answer(call, visit)
            except FastnstError as error:
                return _problem(str(error), 400)
            except ClientDisconnect:
                return Response(status_code=499)

        return answered

    async def _index(self, call: Call) -> Response:
        return Response((_PAGE / "index.html").read_bytes(), media_type="text/html")

    async def _page(self, call: Call) -> Response:
        """What the page is built from."""
        return JSONResponse(
            {
                "version": __version__,
                "device": self._studio.device,
                "weights": Path(self._studio.host["weights"]).name,
                "controls": [asdict(control) for control in make_controls(self._limits)],
                "begins": beginnings(),
                "starts": list(START_WORDS),
                "limits": asdict(self._limits),
                "examples": [name for name in NAMES if name != "content"],
                "formats": list(SUFFIXES),
            }
        )

    async def _open(self, call: Call) -> Response:
        try:
            return JSONResponse({"visit": self._visits.open().id})
        except OptionError as error:
            return _problem(str(error), 503)

    async def _look(self, call: Call, visit: Visit) -> Response:
        return JSONResponse({"visit": visit.id})

    async def _events(self, call: Call, visit: Visit) -> Response:
        return StreamingResponse(
            self._stream(visit), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def _stream(self, visit: Visit) -> AsyncIterator[str]:
        """What changes in the visit, as server-sent events of JSON: the run, with new losses alone, and the history."""
        shown: tuple[Any, ...] = ()
        ticket, sent, history, silent = None, 0, -1, 0.0
        visit.page_opened()
        try:
            while not self._closing:
                if visit.ticket is not ticket:
                    ticket, sent = visit.ticket, 0
                ahead = 0 if ticket is None else self._desk.ahead(ticket)
                now = (ticket, ticket and ticket.version, ahead, visit.version)
                if now == shown:
                    silent += _LOOK_SECONDS
                    if silent >= _SIGN_OF_LIFE_SECONDS:
                        silent = 0.0
                        yield ": still here\n\n"
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
                shown, silent = now, 0.0
                event: dict[str, Any] = {"run": None if ticket is None else ticket.view(ahead, sent)}
                if event["run"] is not None:
                    sent += len(event["run"]["points"])
                if visit.version != history:
                    history = visit.version
                    event["results"] = [_described(kept, visit) for kept in visit.results]
                yield f"data: {json.dumps(event)}\n\n"
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            visit.page_closed()

    async def _upload(self, call: Call, visit: Visit) -> Response:
        name, role = call.query_params.get("name", "picture"), call.query_params.get("role", "content")
        if role not in ("content", "style"):
            raise OptionError(f"{role[:20]!r} is no role of a picture; choose content or style")
        data = await _body(call, lambda count: self._limits.check_bytes(count, name))
        upload = await run_in_threadpool(read_upload, name, data, self._limits, role=role)
        return JSONResponse(_shown(upload, visit.add_upload(upload)))

    async def _example(self, call: Call, visit: Visit) -> Response:
        path = example(call.path_params["name"])
        # The page's own pictures are no visitor's: their limits are the usual ones.
        upload = await run_in_threadpool(read_upload, path.name, path.read_bytes(), Limits())
        return JSONResponse(_shown(upload, visit.add_upload(upload)))

    async def _uploaded(self, call: Call, visit: Visit) -> Response:
        return _picture(visit.upload(call.path_params["name"]).thumbnail)

    async def _start(self, call: Call, visit: Visit) -> Response:
        asked = await _json(call)
        styles = asked.get("styles")
        if not isinstance(styles, list) or not 1 <= len(styles) <= self._limits.styles:
            raise OptionError(f"give 1 to {self._limits.styles} style pictures")
        form = asked.get("form")
        if not isinstance(form, dict):
            raise OptionError("the form is missing; load the page again")
        begins = asked.get("begins", "content")
        start = None if begins in START_WORDS else visit.result(begins)
        request = Request(
            number=visit.next_number,
            content=visit.upload(asked.get("content")),
            styles=tuple(visit.upload(style) for style in styles),
            options=read_form(form),
            form=form,
            begins=begins,
            start=start,
        )
        return self._join(visit, request)

    async def _continue(self, call: Call, visit: Visit) -> Response:
        size = (await _json(call)).get("size")
        if not isinstance(size, int) or isinstance(size, bool):
            raise OptionError("the size to continue at is no whole number of pixels")
        return self._join(visit, continued(visit.result(call.path_params["name"]), visit.next_number, size))

    def _join(self, visit: Visit, request: Request) -> Response:
        ticket = Ticket(request, self._studio.options(request))
        visit.take(ticket)
        self._desk.join(ticket)
        return JSONResponse({"run": request.number})

    async def _stop(self, call: Call, visit: Visit) -> Response:
        if visit.ticket is not None:
            self._desk.leave(visit.ticket)
        return JSONResponse({})

    async def _preview(self, call: Call, visit: Visit) -> Response:
        preview = None if visit.ticket is None else visit.ticket.preview
        return Response(status_code=404) if preview is None else _picture(preview)

    async def _small(self, call: Call, visit: Visit) -> Response:
        return _picture(visit.result(call.path_params["name"]).thumbnail)

    async def _image(self, call: Call, visit: Visit) -> Response:
        return Response(visit.result(call.path_params["name"]).png, media_type=MEDIA["png"])

    async def _losses(self, call: Call, visit: Visit) -> Response:
        return JSONResponse(visit.result(call.path_params["name"]).losses)

    async def _file(self, call: Call, visit: Visit) -> Response:
        kept = visit.result(call.path_params["name"])
        format = call.query_params.get("format", "png")
        data = await run_in_threadpool(kept.file, format)
        name = kept.request.name + SUFFIXES[format]
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=MEDIA[format], headers=disposition)


def _described(kept: Kept, visit: Visit) -> dict[str, Any]:
    """A result as the page shows it."""
    request, final = kept.request, kept.parameters["final"]
    pictures = [(upload, visit.upload_name(upload)) for upload in (request.content, *request.styles)]
    shown = [_shown(upload, name) for upload, name in pictures if name is not None]
    return {
        "id": kept.id,
        "name": request.name,
        "width": kept.width,
        "height": kept.height,
        "size": _measured(kept),
        "form": dict(request.form),
        "begins": request.begins,
        "iterations": final["iteration"],
        "total": final["total"],
        "seconds": final["seconds"],
        "stopped": kept.parameters["stopped"],
        "content": shown[0],
        "styles": shown[1:],
    }


def _measured(kept: Kept) -> int:
    """The edge of the image that its options measure."""
    measure = min if kept.parameters["options"]["edge"] == "short" else max
    return measure(kept.width, kept.height)


def _shown(upload: Upload, name: str | None) -> dict[str, Any]:
    return {"id": name, "name": upload.name, "width": upload.width, "height": upload.height}


def _picture(data: bytes) -> Response:
    return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")


def _problem(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)


async def _body(call: Call, check: Callable[[int], None]) -> bytes:
    """The call's body; `check` is told how long it says it is, and how long it is so far."""
    said = call.headers.get("content-length", "")
    check(int(said) if said.isdecimal() else 0)
    data = bytearray()
    async for part in call.stream():
        data += part
        check(len(data))
    return bytes(data)


async def _json(call: Call) -> dict[str, Any]:
    def check(count: int) -> None:
        if count > _MOST_JSON_BYTES:
            raise OptionError("this is more than a form holds; load the page again")

    try:
        found = json.loads(await _body(call, check))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FastnstError):
            raise
        raise OptionError("this is no form; load the page again") from None
    if not isinstance(found, dict):
        raise OptionError("this is no form; load the page again")
    return found
