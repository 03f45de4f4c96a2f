"""The server of the page: its address on this machine, and its end at Ctrl-C."""

import asyncio
import errno
import socket
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn

from fastnst.app.cli.run import on_stop_signal
from fastnst.app.web.app import App
from fastnst.app.web.guard import LOCAL, Guard
from fastnst.app.web.results import Limits
from fastnst.errors import OptionError

_CLOSING_SECONDS = 3


def serve(port: int, options: Mapping[str, Any], limits: Limits, guard: Guard) -> None:
    """Serves the page on the guard's host until Ctrl-C (or SIGTERM); a port of 0 is any free one, options go for all
    runs.

    Prints its address on stderr. Raises FastnstError where the port or the options will not do.
    """
    with bound(port, guard.host) as listening, on_stop_signal(_end):
        app = App(options, limits, guard)
        name = f"[{guard.host}]" if ":" in guard.host else guard.host
        if guard.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        address = f"http://{name}:{listening.getsockname()[1]}{guard.root_path}"
        if guard.token is not None:
            address += f"/?token={guard.token}"
        print(f"fastnst: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        try:
            Server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            app.close()
    print("fastnst: the page is closed", file=sys.stderr)


def _end(number: int, frame: object) -> None:
    """Ends the page as Ctrl-C does, also where uvicorn raises a signal anew that it has heard."""
    raise KeyboardInterrupt


def bound(port: int, host: str = LOCAL) -> socket.socket:
    """A socket that listens there. Raises OptionError where it cannot."""
    if not 0 <= port < 65_536:
        raise OptionError(f"port {port} is out of range; give 1 to 65535, or 0 for any free one")
    try:
        socket.getaddrinfo(host, port)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
            raise OptionError(
                f"port {port} cannot be used ({error.strerror}); give another one with --port, or 0 for any free one"
            ) from None
    raise OptionError(f"host {host!r} is not an address of this machine; give 127.0.0.1, or 0.0.0.0 for all it has")


class Server(uvicorn.Server):
    """Ends the pages' streams before it waits for the pages to go."""

    def __init__(self, app: App) -> None:
        # All that uvicorn would read from the environment is said here.
        config = uvicorn.Config(
            app.asgi,
            # A warning for each call that is no HTTP would fill the terminal.
            log_level="error",
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
