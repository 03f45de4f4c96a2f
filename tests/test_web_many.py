"""Many calls of the page at once: what they take together is bounded, and the page still answers."""

import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_web_server import Page

from fastnst.app.web import app as app_module
from fastnst.app.web.results import read_upload
from tests.web_server import png, serving

pytest.importorskip("starlette", reason="the page's server is the extra web")
pytest.importorskip("uvicorn", reason="the page's server is the extra web")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(size=96, upload_bytes=100_000, pixels=20_000) as address:
        yield address


def raw(address: str, text: str, body: bytes = b"") -> socket.socket:
    """A connection that has sent this much."""
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(text.replace("\n", "\r\n").replace("HOST", parts.netloc).encode() + body)
    return connection


def test_pictures_are_decoded_one_by_one(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def read(*given: Any, **named: Any) -> Any:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        upload = read_upload(*given, **named)
        with lock:
            at_work -= 1
        return upload

    monkeypatch.setattr("fastnst.app.web.app.read_upload", read)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: Page(address).upload(png(seed=seed)), range(6)))
    assert [status for status, _ in answers] == [200] * 6
    assert most == 1


def test_what_arrives_at_once_is_bounded(address: str) -> None:
    asking = "POST /api/uploads?name=a.png HTTP/1.1\nHost: HOST\nContent-Length: 95000\n\n"
    held = [raw(address, asking, bytes(90_000)) for _ in range(4)]
    time.sleep(0.3)
    status, answer = Page(address).upload(bytes(95_000), "b.png")
    assert (status, answer["error"][:42]) == (400, "too many pictures arrive at once, so b.png")
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 20
    while Page(address).upload(png())[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def _many_files() -> None:
    """Lets this process, client and server in one, have as many files open as that takes; macOS allows 256 at first."""
    resource = pytest.importorskip("resource") if os.name == "posix" else None
    if resource is not None and 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.usefixtures("_many_files")
@pytest.mark.parametrize("silent", [1.0, pytest.param(None, marks=pytest.mark.slow)], ids=["soon", "as it is"])
@pytest.mark.parametrize("text", ["", "GET /api/page HTTP/1.1\nHost: HOST\n", "POST /api/runs HTTP/1.1\nHo"])
def test_connections_that_stay_half_open_are_closed(
    text: str, silent: float | None, address: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    if silent is not None:
        monkeypatch.setattr("fastnst.app.web.serve._SILENT_SECONDS", silent)
    held = []
    for _ in range(1000):
        held.append(raw(address, text))
        if len(held) % 250 == 0:
            began = time.monotonic()
            assert Page(address).ask("GET", "/page")[0] == 200
            assert time.monotonic() - began < 1
    closed, deadline = 0, time.monotonic() + 20
    for connection in held:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            closed += connection.recv(1) == b""
        except ConnectionError:
            closed += 1
        connection.close()
    assert closed == 1000
    assert capfd.readouterr().err == ""


@pytest.mark.posix
def test_the_page_answers_where_files_are_few() -> None:
    command = [sys.executable, "-m", "fastnst", "web", "--port", "0", "--weights", "random"]
    with subprocess.Popen(["sh", "-c", f"ulimit -n 80; exec {shlex.join(command)}"], stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline().decode())
        assert address is not None
        held = []
        for number in range(200):
            held.append(raw(address[0], "GET / HTTP/1.1\n"))
            if number % 40 == 0:
                began = time.monotonic()
                assert Page(address[0]).ask("GET", "/page")[0] == 200
                assert time.monotonic() - began < 1
        server.terminate()
        for connection in held:
            connection.close()
        assert server.wait(60) == 0
        assert server.stderr.read() == b"fastnst: the page is closed\n"


def test_the_page_works_below_a_prefix() -> None:
    """Its addresses are relative, and those of its scripts relative to the page's."""
    folder = Path(app_module.__file__).parent / "page"
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert [text for text in texts if re.search(r"""(?:src|href)="/|[`"'(]/api""", text)] == []
