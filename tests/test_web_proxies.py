"""The page behind proxies: below a path, under other names, and for other machines with a token."""

import http.client
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from processes import PATIENCE

from fastnst.errors import OptionError
from tests.test_web_server import Page, call
from tests.web_server import png, serving

pytest.importorskip("starlette", reason="the page's server is the extra web")
pytest.importorskip("uvicorn", reason="the page's server is the extra web")

from fastnst.app.web.guard import Guard

PUBLIC = "https://hub.example.org"


def works(address: str, origin: str | None, host: str | None = None) -> None:
    """Does what a browser does at this address: the page, its files, an upload, a run, its stream, a result."""
    headers = {} if origin is None else {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    headers |= {} if host is None else {"Host": host}
    status, index, _ = call(address, "GET", "/", headers=headers)
    assert status == 200
    for place in re.findall(rb'(?:src|href)="([^"]+)"', index):
        file = urlsplit(urljoin(f"{address}/", place.decode()))
        assert file.path.startswith(urlsplit(address).path)
        assert call(f"{file.scheme}://{file.netloc}", "GET", file.path, headers=headers)[0] == 200
    page = Page(address, headers)
    assert page.ask("GET", "/page")[0] == 200
    events = page.listen()
    began = time.monotonic()
    assert next(iter(events))["session"]
    assert time.monotonic() - began < 5, "the stream is held back"
    number = page.started()
    assert events.until("done", number)["run"]["done"] == 1
    events.close()
    assert page.ask("GET", f"/results/{number}/file?format=png")[0] == 200
    # As a page of another site would.
    assert call(address, "POST", "/api/runs", {}, {**headers, "Origin": "https://attacker.example"})[0] == 403


class Proxy(BaseHTTPRequestHandler):
    """Does as jupyter-server-proxy and code-server: the browser's Host and Origin go on, the path may be stripped."""

    protocol_version = "HTTP/1.0"
    target, prefix, strips = "", "", True

    def _pass(self) -> None:
        path = self.path.removeprefix(self.prefix) if self.strips else self.path
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc, timeout=PATIENCE)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        connection.request(self.command, path or "/", body, dict(self.headers))
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        try:
            while data := answer.read1(65536):
                self.wfile.write(data)
        except OSError:  # the browser is gone
            pass
        connection.close()

    do_GET = do_POST = do_DELETE = _pass

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def proxied(target: str, prefix: str, *, strips: bool) -> Iterator[str]:
    handler = type("Handler", (Proxy,), {"target": target, "prefix": prefix, "strips": strips})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("strips", [True, False])
def test_a_proxy_that_passes_names_on(strips: bool) -> None:
    prefix = "/user/ana/proxy/8017"
    guard = Guard(origins=[f"{PUBLIC}/"], root_path=f"{prefix}/")
    with serving(guard, size=96) as target, proxied(target, prefix, strips=strips) as address:
        works(address, PUBLIC, "hub.example.org")
        works(address, PUBLIC, "hub.example.org:443")
        assert call(address, "GET", "/", headers={"Host": "other.example.org"})[0] == 403
        works(target, None)
        if not strips:
            _, _, headers = call(target + prefix, "GET", "")
            assert headers["location"] == f"{prefix}/"


NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fast;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /plain/ {{ proxy_pass {target}/; }}
    location /named/ {{ proxy_pass {target}/; proxy_set_header Host $host:$server_port; }}
    location /whole/ {{ proxy_pass {target}; proxy_http_version 1.1; proxy_set_header Host $http_host; }}
  }}
}}
"""


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None, reason="needs nginx")
def test_nginx(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    with serving(Guard(origins=[here, PUBLIC], root_path="/whole"), size=96) as target:
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, target=target))
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
        command = [
            str(program),
            "-p",
            str(tmp_path),
            "-c",
            str(tmp_path / "nginx.conf"),
            "-e",
            str(tmp_path / "errors"),
        ]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as nginx:
            try:
                for _ in range(100):
                    with socket.socket() as tried:
                        if tried.connect_ex(("127.0.0.1", port)) == 0:
                            break
                    time.sleep(0.05)
                for location in ("plain", "named", "whole"):
                    works(f"{here}/{location}", here)
                # As from behind another proxy, which speaks TLS.
                works(f"{here}/plain", PUBLIC, "hub.example.org")
                works(f"{here}/whole", PUBLIC, "hub.example.org")
            finally:
                nginx.terminate()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "hub.example.org", "Origin": PUBLIC}, 200),
        ({"Host": "HUB.example.org:443", "Origin": PUBLIC}, 200),
        ({"Host": "127.0.0.1:8017", "Origin": PUBLIC}, 200),
        ({"Host": "localhost", "Origin": PUBLIC}, 200),
        ({"Host": "hub.example.org"}, 200),
        ({"Host": "127.0.0.1:80", "Origin": "http://127.0.0.1"}, 200),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1:80"}, 200),
        ({"Host": "hub.example.org", "Origin": "https://other.example.org"}, 403),
        ({"Host": "hub.example.org", "Origin": "http://hub.example.org:8080"}, 403),
        ({"Host": "hub.example.org:8080", "Origin": PUBLIC}, 403),
        ({"Host": "other.example.org"}, 403),
        ({"Host": "hub.example.org.attacker.example"}, 403),
        ({"Host": "127.0.0.1:8017", "Origin": "http://127.0.0.1:8018"}, 403),
        ({"Host": "127.0.0.1:x"}, 403),
        ({"Host": "hub.example.org", "Origin": PUBLIC, "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Host": "hub.example.org", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_names_that_are_allowed(headers: dict[str, str], status: int, allowing: str) -> None:
    answer = call(allowing, "GET", "/api/page", headers=headers)
    assert answer[0] == status
    assert f"frame-ancestors {PUBLIC};" in answer[2]["content-security-policy"]
    if status == 403:
        assert b"--allow-origin" in answer[1]


@pytest.fixture(scope="module")
def allowing() -> Iterator[str]:
    with serving(Guard(origins=[PUBLIC]), size=96) as address:
        yield address


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://Example.org/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:8080", "http://example.org:8080"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_origins_as_people_write_them(given: str, origin: str) -> None:
    assert Guard(origins=[given]).origins == (origin,)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"origins": ["example.org"]},
            "allow origin 'example.org' is not the origin of a page; write it like https://example.org",
        ),
        ({"origins": ["https://example.org/page"]}, "without a path"),
        ({"origins": ["https://a@example.org"]}, "is not the origin"),
        ({"origins": ["https://example.org:x"]}, "is not the origin"),
        ({"origins": ["*"]}, "is not the origin"),
        ({"origins": ["https://a.example; script-src *"]}, "is not the origin"),
        ({"root_path": "name"}, "root path 'name' is not a path; write the path that the proxy uses"),
        ({"root_path": "//elsewhere.example"}, "is not a path"),
        ({"root_path": "/a b"}, "is not a path"),
    ],
)
def test_what_is_no_origin_or_path(values: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        Guard(**values)


def test_other_machines_need_the_token() -> None:
    guard = Guard(host="0.0.0.0", root_path="/nst")
    assert guard.token is not None
    assert Guard(host="::1").token is None
    with serving(guard, size=96) as address:
        host = {"Host": "studio.local:8017"}
        status, said, _ = call(address, "GET", "/", headers=host)
        assert status == 403
        assert b"needs its token" in said
        for wrong in ("x", guard.token[:-1]):
            assert call(address, "GET", f"/?token={wrong}", headers=host)[0] == 403
            assert call(address, "GET", "/api/page", headers={**host, "Cookie": f"fastnst-token={wrong}"})[0] == 403
        status, _, headers = call(address, "GET", f"/nst/?token={guard.token}", headers=host)
        assert (status, headers["location"]) == (303, "./")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/nst/" in cookie
        known = {**host, "Cookie": cookie.partition(";")[0]}
        assert call(address, "GET", "/", headers=known)[0] == 200
        assert call(address, "POST", "/api/uploads?name=a.png", png(), known)[0] == 200
        assert (
            call(address, "POST", "/api/uploads?name=a.png", png(), {**known, "Origin": "http://a.example"})[0] == 403
        )


def test_the_command_prints_the_address_with_all_of_it() -> None:
    command = [sys.executable, "-m", "fastnst", "web", "--port", "0", "--weights", "random", "--host", "0.0.0.0"]
    command += ["--root-path", "/nst", "--allow-origin", PUBLIC]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            parts = re.search(r"http://\S+:(\d+)(/nst/\?token=\S+) \(", server.stderr.readline())
            assert parts is not None
            assert call(f"http://127.0.0.1:{parts[1]}", "GET", parts[2])[0] == 303
        finally:
            server.terminate()


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "x" * 70])
def test_a_host_that_is_not_here(host: str) -> None:
    from fastnst.app.web.serve import bound

    with pytest.raises(OptionError, match=r"is not an address of this machine; give 127\.0\.0\.1"):
        bound(0, host)
