"""The server of the page: its address on this machine, and its end at Ctrl-C."""

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fastnst.app.cli import say
from fastnst.app.cli.run import on_stop_signal
from fastnst.app.web.app import App
from fastnst.app.web.guard import LOCAL, Guard
from fastnst.app.web.results import Limits
from fastnst.errors import OptionError

_CLOSING_SECONDS = 3
# A browser says at once what it wants.
_SILENT_SECONDS = 10.0
_MOST_CONNECTIONS = 400
# Beside the connections, of those that a process may have open.
_OTHER_FILES, _SPARE_FILES = 200, 32
# A quarter of the connections may be accepted at once, before the first of them can be closed; these wait for it.
_WAITING = 1024


def serve(port: int, options: Mapping[str, Any], limits: Limits, guard: Guard) -> None:
    """Serves the page on the guard's host until Ctrl-C (or SIGTERM); a port of 0 is any free one, options go for all
    runs.

    Prints its address on stderr. Raises FastnstError where the port or the options will not do.
    """
    # Uvicorn raises a signal anew that it has heard.
    with bound(port, guard.host) as listening, on_stop_signal():
        app = App(options, limits, guard)
        name = f"[{guard.host}]" if ":" in guard.host else guard.host
        if guard.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        address = f"http://{name}:{listening.getsockname()[1]}{guard.root_path}"
        if guard.token is not None:
            address += f"/?token={guard.token}"
        say(f"the page is at {address} (Ctrl-C ends it)")
        with closing(app), suppress(KeyboardInterrupt):
            Server(app).run(sockets=[listening])
    say("the page is closed")


def bound(port: int, host: str = LOCAL) -> socket.socket:
    """A socket that listens there. Raises OptionError where it cannot."""
    if not 0 <= port < 65_536:
        raise OptionError(f"port {port} is out of range; give 1 to 65535, or 0 for any free one")
    try:
        socket.getaddrinfo(host, port)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_WAITING)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
            raise OptionError(
                f"port {port} cannot be used ({error.strerror}); give another one with --port, or 0 for any free one"
            ) from None
    raise OptionError(
        f"host {host!r} is not an address of this machine; give 127.0.0.1, or 0.0.0.0 for all of its addresses"
    )


class Protocol(H11Protocol):
    """A connection that is closed unless the head of a call comes within seconds; of those that are silent few stay."""

    most: ClassVar[int] = _MOST_CONNECTIONS
    _silent: ClassVar[dict["Protocol", asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self._silent) > self.most // 4 or len(self.connections) > self.most:
            oldest = next(iter(self._silent))
            oldest._wait_no_more()  # it is lost after others that come now
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()
        elif self not in self._silent:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._silent[self] = self.loop.call_later(_SILENT_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if (timer := self._silent.pop(self, None)) is not None:
            timer.cancel()


def most_connections() -> int:
    """How many connections there may be, once the system lets this process have as many files open as it will."""
    soft, wanted = _MOST_CONNECTIONS + _OTHER_FILES, _MOST_CONNECTIONS + _OTHER_FILES
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < wanted:
            soft = wanted if hard < 0 else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < 0:
        return _MOST_CONNECTIONS
    with open(os.devnull) as lowest:  # noqa: PTH123
        left = soft - lowest.fileno() - _SPARE_FILES
    return max(8, min(_MOST_CONNECTIONS, left * 4 // 5))


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Prints what went wrong in the loop, but for a lack of files, which ends by itself and would fill the terminal."""
    if getattr(context.get("exception"), "errno", None) not in (errno.EMFILE, errno.ENFILE):
        loop.default_exception_handler(context)


class Server(uvicorn.Server):
    """Ends the pages' streams before it waits for the pages to go."""

    def __init__(self, app: App) -> None:
        Protocol.most = most_connections()
        # All that uvicorn would read from the environment is said here.
        config = uvicorn.Config(
            app.asgi,
            http=Protocol,
            # A warning for each call that is no HTTP would fill the terminal.
            log_level="error",
            access_log=False,
            workers=1,
            proxy_headers=False,
            server_header=False,
            ws="none",
            backlog=Protocol.most // 4,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_tell)
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_WAITING)  # asyncio has let as few wait as it accepts at once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close_streams()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
