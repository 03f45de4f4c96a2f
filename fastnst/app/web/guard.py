"""The headers of every answer, and the calls that are refused: those that another site's page makes a browser send."""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

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

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
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
            body = b"this page answers its own calls alone\n"
            start = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            await with_headers(start)
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, with_headers)


def _is_refused(headers: dict[bytes, str]) -> bool:
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if not is_local(_name_of(f"//{host}")):
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


def _name_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
