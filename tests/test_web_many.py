"""Many calls of the page at once: what they take together is bounded, and the page still answers."""

import re
import socket
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


def test_the_page_works_below_a_prefix() -> None:
    """Its addresses are relative, and those of its scripts relative to the page's."""
    folder = Path(app_module.__file__).parent / "page"
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert [text for text in texts if re.search(r"""(?:src|href)="/|[`"'(]/api""", text)] == []
