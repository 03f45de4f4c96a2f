"""The server of the page: its address, its warning, its end at Ctrl-C."""

import asyncio
import socket
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import uvicorn

from fastnst.app.web.app import App
from fastnst.app.web.guard import is_local
from fastnst.app.web.limits import Limits
from fastnst.errors import FastnstWarning, OptionError

_CLOSING_SECONDS = 3


def serve(host: str, port: int, options: Mapping[str, Any], limits: Limits) -> None:
    """Serves the page until Ctrl-C (or SIGTERM); a port of 0 is any free one.

    Prints its address on stderr. Raises OptionError where there is no such address or the port is taken, and
    FastnstError where `options`, which go for all runs, will not do.
    """
    local = is_local(host)
    with bound(host, port) as listening:
        port = listening.getsockname()[1]
        app = App(options, limits, local=local)
        if not local:
            warnings.warn(
                f"{host} can be reached from other machines, and there is no password: who reaches the page can use "
                "this one's memory and processor; without --host it answers this machine alone",
                FastnstWarning,
                stacklevel=2,
            )
        shown = f"[{host}]" if ":" in host else host
        print(f"fastnst: the page is at http://{shown}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        server = Server(app)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            app.close()
    print("fastnst: the page is closed", file=sys.stderr)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OptionError where it cannot."""
    if not 0 <= port < 65_536:
        raise OptionError(f"port {port} is out of range; give 1 to 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"host {host!r} is no address of this machine ({error}); give --host 127.0.0.1") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise OptionError(
            f"{host} port {port} is not to be had ({error.strerror}); give another one with --port, or 0 for any"
        ) from None
    return listening


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
