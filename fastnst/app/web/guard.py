"""The headers of every answer, and the calls that are refused: those that another site's page makes a browser send."""

import ipaddress
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = (
    # Nothing from elsewhere, not even by mistake.
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_STORE = (b"cache-control", b"no-store")


class Guard:
    """An ASGI middleware. A call is refused (403) when it comes from another site's page, or under a name that is not
    this machine's own (as after DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = {name for name, _ in message["headers"]}
                extra = [*_HEADERS, *(() if b"cache-control" in sent else (_NO_STORE,))]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if _is_refused({name: value.decode("latin-1") for name, value in scope["headers"]}):
            refusal = PlainTextResponse("this page answers its own calls alone\n", 403)
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def _is_refused(headers: dict[bytes, str]) -> bool:
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return True
    if not is_local(name):
        return True
    if headers.get(b"sec-fetch-site") == "cross-site" and headers.get(b"sec-fetch-mode") != "navigate":
        return True
    return origin is not None and origin.partition("://")[2] != host


def is_local(host: str) -> bool:
    """True for a name or an address of this machine that no other one reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
