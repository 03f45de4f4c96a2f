"""The server of the page: its address on this machine, and its end at Ctrl-C."""

import asyncio
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fastnst.app.web.app import App
from fastnst.app.web.results import Limits
from fastnst.errors import OptionError

HOST = "127.0.0.1"
"""The page has no password, so that no other machine may reach it."""

_CLOSING_SECONDS = 3
# A browser says at once what it wants.
_SILENT_SECONDS = 10.0
_MOST_SILENT = 100
_MOST_CONNECTIONS = 400
# Beside the connections, of those that a process may have open.
_OTHER_FILES = 200


def serve(port: int, options: Mapping[str, Any], limits: Limits) -> None:
    """Serves the page on this machine until Ctrl-C (or SIGTERM); a port of 0 is any free one, options go for all runs.

    Prints its address on stderr. Raises FastnstError where the port or the options will not do.
    """
    with bound(port) as listening:
        app = App(options, limits)
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"fastnst: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        try:
            Server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            app.close()
    print("fastnst: the page is closed", file=sys.stderr)


def bound(port: int) -> socket.socket:
    """A socket that listens there. Raises OptionError where it cannot."""
    if not 0 <= port < 65_536:
        raise OptionError(f"port {port} is out of range; give 1 to 65535, or 0 for any free one")
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        raise OptionError(
            f"port {port} cannot be used ({error.strerror}); give another one with --port, or 0 for any free one"
        ) from None


class Protocol(H11Protocol):
    """A connection that is closed unless the head of a call comes within seconds; of those that are silent few stay."""

    _silent: ClassVar[dict["Protocol", asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self._silent) > _MOST_SILENT or len(self.connections) > _MOST_CONNECTIONS:
            next(iter(self._silent)).transport.abort()

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


def allow_files() -> None:
    """Lets this process have as many files open as there may be connections, where the system lets it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_CONNECTIONS + _OTHER_FILES
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


class Server(uvicorn.Server):
    """Ends the pages' streams before it waits for the pages to go."""

    def __init__(self, app: App) -> None:
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
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        allow_files()
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close_streams()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
