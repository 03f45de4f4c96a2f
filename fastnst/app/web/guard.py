"""The guard of the page: its own scripts alone may call it, under names that are allowed, or with its token."""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request as Call
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from fastnst.errors import OptionError

LOCAL = "127.0.0.1"
_COOKIE = "fastnst-token"
_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    # For nginx, which holds a stream back until it has some thousand bytes.
    "x-accel-buffering": "no",
}


class Guard:
    """Answers or refuses each call, by the origins of the pages that a proxy serves, as https://example.org, the path
    below which it serves this one, and the address that it listens on: one that others reach wants a token.

    Raises OptionError for what is no origin or no path.
    """

    def __init__(self, *, origins: Sequence[str] = (), root_path: str = "", host: str = LOCAL) -> None:
        self.origins, self.root_path, self.host = tuple(map(_origin, origins)), _path(root_path), host
        self.token = None if _is_local(host) else secrets.token_urlsafe(24)

    async def __call__(self, call: Call, answer: RequestResponseEndpoint) -> Response:
        """The answer, 403 in place of it for a call that is refused, with headers that keep others' pages away."""
        refusal = self.refusal(call)
        if refusal is not None:
            response: Response = PlainTextResponse(f"{refusal}\n", 403)
        else:
            response = self._redirect(call) or await answer(call)
        ancestors = " ".join(self.origins) or "'none'"
        # Nothing from elsewhere, not even by mistake.
        response.headers["content-security-policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            f"form-action 'none'; frame-ancestors {ancestors}; base-uri 'none'"
        )
        response.headers.update(_HEADERS)
        return response

    def refusal(self, call: Call) -> str | None:
        """The reason why a call is refused: another site's page makes it, or it comes under a name that is not this
        machine's own (DNS rebinding), or without the token; None for one that is not."""
        if self._is_foreign(call.headers):
            return "this page answers only its own calls; if a proxy serves it, start it with --allow-origin"
        if self.token is None:
            return None
        given = (call.cookies.get(_COOKIE, ""), call.query_params.get("token", ""))
        if any(secrets.compare_digest(word.encode(), self.token.encode()) for word in given):
            return None
        return "this page needs its token; open it at the address that fastnst web printed"

    def _is_foreign(self, headers: Headers) -> bool:
        origin, host = headers.get("origin"), headers.get("host", "")
        is_allowed = origin is not None and origin.lower() in self.origins
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return not is_allowed
        allowed = [urlsplit(each) for each in self.origins]
        # A page of another name has no cookie of this one, so that a token is as good as a name.
        if not (self.token is not None or _is_local(_split(host).hostname or "") or _is_of(host, allowed)):
            return True
        return not (origin is None or is_allowed or _is_of(host, [_split(origin, "")]))

    def _redirect(self, call: Call) -> Response | None:
        """Strips the path of the proxy, where it has not done that itself. A token of the address becomes a cookie."""
        path = call.scope["path"]
        if self.root_path and path == self.root_path:
            return RedirectResponse(f"{self.root_path}/", 307)
        if self.root_path and path.startswith(f"{self.root_path}/"):
            path = call.scope["path"] = path.removeprefix(self.root_path)
        if self.token is None or path != "/" or "token" not in call.query_params:
            return None
        response = RedirectResponse("./", 303)
        response.set_cookie(_COOKIE, self.token, httponly=True, samesite="lax", path=f"{self.root_path}/")
        return response


def _origin(text: str) -> str:
    parts = _split(text.strip().lower(), "")
    name = parts.hostname or ""
    rest = parts.path.strip("/") + parts.query + parts.fragment
    if parts.scheme not in _PORTS or not re.fullmatch(r"[a-z0-9.:_-]+", name) or rest or "@" in parts.netloc:
        raise OptionError(
            f"allow origin {text!r} is not the origin of a page; write it like https://example.org, without a path"
        )
    name = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}" + (f":{parts.port}" if parts.port not in (None, _PORTS[parts.scheme]) else "")


def _path(text: str) -> str:
    path = text.strip().rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~@:+=%-]+)+", path):
        raise OptionError(f"root path {text!r} is not a path; write the path that the proxy uses, such as /name")
    return path


def _split(text: str, before: str = "//") -> SplitResult:
    """The parts of an address; nothing for what is none."""
    try:
        parts = urlsplit(before + text)
        return parts if parts.port is None or parts.port > 0 else urlsplit("")
    except ValueError:  # of a port that is no number, too
        return urlsplit("")


def _is_local(name: str) -> bool:
    """True for a name or an address under which this machine alone reaches itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_of(host: str, origins: Sequence[SplitResult]) -> bool:
    """True where a call's `host` is that of one of the origins; proxies leave out a usual port, or write it."""
    parts = _split(host)
    if parts.hostname is None:
        return False
    for origin in origins:
        usual = _PORTS.get(origin.scheme)
        if origin.hostname == parts.hostname and (parts.port or usual) == (origin.port or usual):
            return True
    return False
