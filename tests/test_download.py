"""The download against a real HTTP server on this machine that breaks in every way that one can."""

import errno
import hashlib
import http.server
import io
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastnst.errors import WeightsError
from fastnst.network import download
from fastnst.network.download import claimed, fetch, sha256_of, unreachable_reason

BODY = bytes(itertools.islice(itertools.cycle(range(251)), 300_000))
PREFIX = hashlib.sha256(BODY).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at any path. `ranges` lists the Range header of each GET; the other fields say how to misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.ranges: list[str | None] = []
        self.honours_range = True
        self.cuts: list[int] = []  # for each of the first GETs, the bytes after which the connection breaks
        self.statuses: list[int] = []  # for each of the first GETs, an error to answer with
        self.content_type = "application/octet-stream"
        self.silent = threading.Event()
        self.wake = threading.Event()
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        if self.server.silent.is_set():
            self.server.wake.wait(30)
            return
        self.send_response(405)
        self.end_headers()

    def do_GET(self) -> None:
        server = self.server
        if server.silent.is_set():
            server.wake.wait(30)
            return
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.honours_range else 0
        if start and start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        time.sleep(server.delay_s)
        self.wfile.write(rest[: server.cuts.pop(0)] if server.cuts else rest)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.wake.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.pth.part"


def fetch_soon(server: Server, part: Path, **options: Any) -> None:
    fetch(server.url, part, **{"sha256_prefix": PREFIX, "wait_s": 0.01, "timeout_s": 5.0, **options})


def test_whole_file(server: Server, part: Path) -> None:
    fetch_soon(server, part)
    assert part.read_bytes() == BODY
    assert server.ranges == [None]


def test_resumes_what_an_earlier_run_left(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:120_000])
    fetch_soon(server, part)
    assert part.read_bytes() == BODY
    assert server.ranges == ["bytes=120000-"]


def test_resumes_where_the_connection_broke(server: Server, part: Path) -> None:
    server.cuts = [100_000, 50_000]
    fetch_soon(server, part)
    assert part.read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize(
    "left", [b"", BODY[:1000], BODY + b"more", b"other" * 100_000], ids=["none", "some", "longer", "other"]
)
def test_server_without_range(server: Server, part: Path, left: bytes) -> None:
    server.honours_range = False
    server.cuts = [70_000]
    part.write_bytes(left)
    fetch_soon(server, part)
    assert part.read_bytes() == BODY


def test_complete_part_needs_no_server(part: Path) -> None:
    part.write_bytes(BODY)
    fetch("http://127.0.0.1:9/file.pth", part, sha256_prefix=PREFIX)
    assert part.read_bytes() == BODY


@pytest.mark.parametrize("left", [BODY + b"more", b"x" * len(BODY), b"x" * 100], ids=["longer", "other", "other start"])
def test_wrong_part_is_fetched_from_the_start(server: Server, part: Path, left: bytes) -> None:
    part.write_bytes(left)
    fetch_soon(server, part)
    assert part.read_bytes() == BODY
    assert server.ranges[-1] is None


def test_wrong_hash(server: Server, part: Path) -> None:
    server.body = b"not it"
    with pytest.raises(WeightsError, match=rf"its 6 bytes have the SHA-256 .*, not {PREFIX}"):
        fetch_soon(server, part)
    assert part.stat().st_size == 0
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [404, 403, 410])
def test_refusal_is_not_repeated(server: Server, part: Path, status: int) -> None:
    server.statuses = [status] * 9
    with pytest.raises(WeightsError, match=rf"{server.url}: the server answered {status}"):
        fetch_soon(server, part)
    assert len(server.ranges) == 1


def test_busy_server_is_asked_again(server: Server, part: Path) -> None:
    server.statuses = [503, 500, 429]
    fetch_soon(server, part)
    assert part.read_bytes() == BODY


def test_gives_up_and_keeps_the_part(server: Server, part: Path) -> None:
    server.cuts = [1000] * 9
    with pytest.raises(WeightsError, match=r"closed after 4000 of 300000 bytes; 0\.0 MB came and are kept"):
        fetch_soon(server, part)
    assert part.read_bytes() == BODY[:4000]


def test_hanging_server(server: Server, part: Path) -> None:
    server.silent.set()
    part.write_bytes(BODY[:10])
    with pytest.raises(WeightsError, match="the server is silent"):
        fetch_soon(server, part, timeout_s=0.1, attempts=2)
    assert part.read_bytes() == BODY[:10]


def test_refused_connection(part: Path) -> None:
    with pytest.raises(WeightsError, match="Connection refused"):
        fetch(f"http://127.0.0.1:{_closed_port()}/file.pth", part, sha256_prefix=PREFIX, attempts=2, wait_s=0.01)


def test_login_page_does_not_spoil_the_part(server: Server, part: Path) -> None:
    server.honours_range = False
    server.content_type = "text/html; charset=utf-8"
    part.write_bytes(BODY[:1000])
    with pytest.raises(WeightsError, match="a web page instead of the file"):
        fetch_soon(server, part)
    assert part.read_bytes() == BODY[:1000]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "nonsense"])
def test_other_schemes_are_refused(part: Path, url: str) -> None:
    with pytest.raises(WeightsError, match="must start with http"):
        fetch(url, part, sha256_prefix=PREFIX)


def test_full_disk(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: io.FileIO, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class FullFile(io.FileIO):
        write = full  # type: ignore[assignment]

    monkeypatch.setattr(Path, "open", lambda path, mode, **_: FullFile(path, mode))
    with pytest.raises(WeightsError, match=r"cannot write .*part \(No space left on device\); free some space"):
        fetch_soon(server, part)
    assert len(server.ranges) == 1


def test_progress_bar(server: Server, part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_soon(server, part, progress=True)
    captured = capsys.readouterr()
    assert "file.pth" in captured.err
    assert "300k/300k" in captured.err
    assert captured.out == ""


def test_claim_ends_well(part: Path) -> None:
    with claimed(part) as path:
        assert path == part
        path.write_bytes(b"x")
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x"])
def test_claim_ends_badly(part: Path, content: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_claim(part, content)
    assert [entry.read_bytes() for entry in part.parent.iterdir()] == ([content] if content else [])


def interrupted_claim(part: Path, content: bytes) -> None:
    with claimed(part) as path:
        path.write_bytes(content)
        raise KeyboardInterrupt


def test_claim_of_a_stalled_part(part: Path) -> None:
    with claimed(part):
        with claimed(part, patience_s=0.2) as own:
            assert own != part
            assert own.parent == part.parent
        assert list(part.parent.iterdir()) == [part]


def test_claim_without_locks(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_lock", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        interrupted_claim(part, b"x")
    assert list(part.parent.iterdir()) == []


def test_claim_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="set FASTNST_CACHE"), claimed(tmp_path / "missing" / "part"):
        pass


def test_concurrent_downloads_fetch_once(server: Server, part: Path) -> None:
    server.delay_s = 0.2
    finished = part.with_name("finished")

    def work(_: int) -> bytes:
        with claimed(part) as path:
            if not finished.exists():
                fetch_soon(server, path)
                path.replace(finished)
        return finished.read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(work, range(6))) == {BODY}
    assert server.ranges == [None]
    assert list(part.parent.iterdir()) == [finished]


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_lock_is_free_after_the_process_was_killed(part: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from fastnst.network.download import claimed\n"
        "with claimed(Path(sys.argv[1])) as path:\n"
        "    path.write_bytes(b'half'); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(part)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with claimed(part, patience_s=0.2) as own:
            assert own != part
        child.kill()
    with claimed(part, patience_s=0.2) as path:
        assert path == part
        assert path.read_bytes() == b"half"


def test_reachable_whatever_the_status(server: Server) -> None:
    assert unreachable_reason(server.url) is None


def test_unreachable_port() -> None:
    assert unreachable_reason(f"http://127.0.0.1:{_closed_port()}/") == "Connection refused"


def test_unreachable_when_silent(server: Server) -> None:
    server.silent.set()
    assert unreachable_reason(server.url, timeout_s=0.2) in ("no answer within 0.2 s", "the server is silent")


def test_slow_name_lookup_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = threading.Event()

    def lookup(*_: object, **__: object) -> Any:
        wake.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert unreachable_reason("http://weights.example/", timeout_s=0.2) == "no answer within 0.2 s"
    wake.set()
    assert unreachable_reason("http://weights.example/", timeout_s=60) == "Temporary failure in name resolution"


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[::1"])
def test_malformed_address_is_unreachable(url: str) -> None:
    assert unreachable_reason(url)


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf")


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
