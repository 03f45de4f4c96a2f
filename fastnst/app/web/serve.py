"""The server of the page: its address on this machine, and its end at Ctrl-C."""

import asyncio
import socket
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn

from fastnst.app.web.app import App
from fastnst.app.web.results import Limits
from fastnst.errors import OptionError

HOST = "127.0.0.1"
"""The page has no password, so that no other machine may reach it."""

_CLOSING_SECONDS = 3


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
            f"port {port} is not to be had ({error.strerror}); give another one with --port, or 0 for any"
        ) from None


class Server(uvicorn.Server):
    """Ends the pages' streams before it waits for the pages to go."""

    def __init__(self, app: App) -> None:
        # All that uvicorn would read from the environment is said here.
        config = uvicorn.Config(
            app.asgi,
            log_level="warning",
            access_log=False,
            workers=1,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close_streams()
        await asyncio.sleep(0)
        await super().shutdown(sockets)
