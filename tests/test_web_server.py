"""The page's server over HTTP, without a browser."""

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from PIL import Image
from processes import PATIENCE

from fastnst.image.metadata import read_parameters
from tests.web_server import png, serving

pytest.importorskip("starlette", reason="the page's server is the extra web")
pytest.importorskip("uvicorn", reason="the page's server is the extra web")

FORM = {"size": "48", "iterations": "3", "scales": "none", "style_layers": "conv1_1", "content_layers": "conv2_1"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(size=96, upload_bytes=100_000, pixels=20_000) as address:
        yield address


def connected(address: str) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=PATIENCE)


def call(
    address: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Status, body (parsed where it is JSON) and headers of an answer."""
    connection, prefix = connected(address), urlsplit(address).path
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    connection.request(method, prefix + path, data, headers or {})
    answer = connection.getresponse()
    content, given = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return answer.status, json.loads(content) if "json" in given.get("content-type", "") else content, given


class Page:
    """A page's requests, in Python."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self.address, self.headers = address, headers or {}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call(self.address, method, "/api" + path, body, self.headers)[:2]

    def upload(self, data: bytes, name: str = "sea.png", role: str = "content") -> tuple[int, Any]:
        return self.ask("POST", f"/uploads?role={role}&name={name}", data)

    def started(self, **form: str) -> int:
        """The number of a run that begins."""
        status, answer = self.start(**form)
        assert status == 200
        return int(answer["run"])

    def start(self, **form: str) -> tuple[int, Any]:
        content, style = (self.upload(png(seed=seed), f"{name}.png")[1]["id"] for seed, name in enumerate(("a", "b")))
        return self.ask("POST", "/runs", {"content": content, "styles": [style], "form": {**FORM, **form}})

    def listen(self) -> "Events":
        return Events(self.address, self.headers)


class Events:
    """The session's events; open until it is closed. `results` are the newest history."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        self._connection = connected(address)
        self._connection.request("GET", f"{urlsplit(address).path}/api/events", headers=headers)
        self._answer = self._connection.getresponse()
        self.results: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self._answer.readline():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                self.results = event.get("results", self.results)
                yield event

    def until(self, state: str, number: int) -> dict[str, Any]:
        """The first event of the run of this number in this state."""
        runs = ((event, event["run"] or {}) for event in self)
        return next(event for event, run in runs if (run.get("state"), run.get("number")) == (state, number))

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def test_the_page_and_its_headers(address: str) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/page/icon.svg"):
        status, body, headers = call(address, "GET", path)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert not re.findall(rb"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9]+\.[a-z]", body)
    status, page, _ = call(address, "GET", "/api/page")
    assert status == 200
    assert (page["weights"], page["device"], page["limits"]["size"]) == ("random", "cpu", 96)
    assert {control["name"] for control in page["controls"]} >= {"size", "style_weight", "optimizer"}
    assert call(address, "GET", "/page/../app.py")[0] == 404
    assert call(address, "GET", "/page/%2e%2e/app.py")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 403),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "127.0.0.2"}, 200),
        ({"Host": "0.0.0.0"}, 403),
        ({"Host": "192.168.0.2"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({}, 200),
    ],
)
def test_calls_from_elsewhere_are_refused(address: str, headers: dict[str, str], status: int) -> None:
    assert call(address, "GET", "/api/page", headers=headers)[0] == status


def test_a_run_from_upload_to_file(address: str) -> None:
    page = Page(address)
    events = page.listen()
    number = page.started()
    done = events.until("done", number)
    assert done["run"]["done"] == 1
    assert done["session"] == call(address, "GET", "/api/page")[1]["session"]
    result = events.results[-1]
    assert result["id"] == str(number)
    assert result["form"] == FORM
    place = f"/results/{number}"
    status, body = page.ask("GET", f"{place}/file?format=png")
    assert status == 200
    parameters = read_parameters(io.BytesIO(body))
    assert parameters["content"]["name"] == "a.png"
    assert parameters["options"]["size"] == 48
    _, _, headers = call(address, "GET", f"/api{place}/file?format=jpeg")
    assert headers["content-disposition"] == f'attachment; filename="a-b-{number}.jpg"'
    assert headers["content-type"] == "image/jpeg"
    for path in (f"{place}/small", f"{place}/image", "/preview", f"/uploads/{result['content']['id']}"):
        status, picture = page.ask("GET", path)
        assert status == 200
        Image.open(io.BytesIO(picture)).verify()
    status, losses = page.ask("GET", f"{place}/losses")
    assert status == 200
    assert losses["terms"] == ["content", "style", "tv"]
    assert [row[:2] for row in losses["points"]] == [[0, 48], [1, 48], [2, 48], [3, 48]]
    assert page.ask("POST", f"{place}/continue", {"size": 96}) == (200, {"run": number + 1})
    assert events.until("done", number + 1)
    assert [(one["id"], one["size"], one["begins"]) for one in events.results[-2:]] == [
        (str(number), 48, "content"),
        (str(number + 1), 96, str(number)),
    ]
    events.close()
    assert page.ask("GET", "/results/999/file")[0] == 400


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_a_run_starts_within_a_second_of_one_that_could_not_be_kept(
    error: Exception, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(address)
    events = page.listen()
    with monkeypatch.context() as patch:
        patch.setattr("fastnst.app.web.studio.Kept", Mock(side_effect=error))
        patch.setattr(sys, "stderr", None)
        failed = events.until("failed", page.started())
        began = time.monotonic()
        number = page.started(iterations="1")
        assert time.monotonic() - began < 1
        assert failed["run"]["message"]
        events.until("failed", number)
    assert events.until("done", page.started())
    events.close()


@pytest.mark.parametrize(
    ("data", "role", "said"),
    [
        (b"no picture", "content", "is not an image of a known format"),
        (b"no picture", "style", "style image (sea.png) is not an image"),
        (b"x" * 100_001, "content", "sea.png is larger than 100 kB"),
        (png(200, 101), "content", "more than the limit of 20000 pixels"),
        (png(), "poster", "'poster' is not a role of a picture"),
    ],
)
def test_bad_pictures(address: str, data: bytes, role: str, said: str) -> None:
    status, answer = Page(address).upload(data, role=role)
    assert status == 400
    assert said in answer["error"]
    # A body without its length is counted.
    connection = connected(address)
    connection.request("POST", "/api/uploads?name=a.png", iter([b"x" * 60_000] * 2), encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 400
    assert "larger than 100 kB" in json.loads(answer.read())["error"]
    connection.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "this is not a form"),
        (b"[" * 50_000, "this is not a form"),
        (b" " * 200_000, "longer than a form can be"),
        ([], "this is not a form"),
        ({}, "give 1 to 4 style pictures"),
        ({"styles": ["x"] * 5}, "give 1 to 4 style pictures"),
        ({"styles": ["x"]}, "the form is missing"),
        ({"styles": ["x"], "form": {}}, "picture is not here any more"),
        ({"styles": ["x"], "form": {}, "begins": "/etc/passwd"}, "this result is not in the history"),
        ({"styles": ["x"], "form": {}, "begins": {}}, "this result is not in the history"),
    ],
)
def test_bad_runs(address: str, body: Any, said: str) -> None:
    status, answer = Page(address).ask("POST", "/runs", body)
    assert status == 400
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"weights": "/etc/passwd"}, "'weights' is not a control"),
        ({"size": "97"}, "size 97 is more than this page makes; give 96 or less"),
        ({"style_weight": "-1"}, "style weight -1.0 is too small"),
        ({"iterations": "2 3"}, "2 counts of iterations for 1 scale"),
    ],
)
def test_bad_options(address: str, form: dict[str, str], said: str) -> None:
    page = Page(address)
    status, answer = page.start(**form)
    assert status == 400
    assert said in answer["error"]
    for size in (96, True):
        assert page.ask("POST", "/results/999/continue", {"size": size})[0] == 400
    assert page.ask("DELETE", "/runs")[0] == 200


def test_tabs_share_the_session_and_its_run(address: str) -> None:
    first, second = Page(address), Page(address)
    number = first.started(iterations="100000")
    watching = second.listen()
    assert next(event for event in watching if (event["run"] or {}).get("iteration", 0) >= 1)
    status, answer = second.start()
    assert status == 400
    assert "a run is still in progress; stop it first" in answer["error"]
    assert second.ask("DELETE", "/runs")[0] == 200
    assert watching.until("done", number)
    assert (watching.results[-1]["id"], watching.results[-1]["stopped"]) == (str(number), "interrupted")
    watching.close()
    # A page that comes later finds the last image.
    late = first.listen()
    assert next(iter(late))["results"][-1]["id"] == str(number)
    late.close()


@pytest.mark.posix
def test_ctrl_c_ends_it_while_a_run_goes_on() -> None:
    command = [sys.executable, "-m", "fastnst", "web", "--port", "0", "--weights", "random"]
    # What would open other servers to the world must not open this one.
    environment = {**os.environ, "HOST": "0.0.0.0", "UVICORN_HOST": "0.0.0.0", "WEB_CONCURRENCY": "4"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.fullmatch(r"fastnst: the page is at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", said)
        assert found is not None
        page = Page(found[1])
        events = page.listen()
        events.until("running", page.started(iterations="100000"))
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
        assert server.stderr.read() == "fastnst: the page is closed\n"
        events.close()


def test_a_forecast_says_how_long_a_run_would_take(address: str) -> None:
    page = Page(address)
    content, style = (page.upload(png(seed=seed), f"{name}.png")[1]["id"] for seed, name in enumerate("ab"))
    wanted = {"content": content, "styles": [style], "form": FORM}
    status, answer = page.ask("POST", "/forecast", wanted)
    assert status == 200
    assert answer["seconds"] > 0
    assert page.ask("POST", "/forecast", {**wanted, "form": {**FORM, "seconds": "1e-9"}})[1]["seconds"] == 1e-9
    assert page.ask("POST", "/forecast", {**wanted, "styles": []})[0] == 400
    assert call(address, "GET", f"/api/uploads/{content}/large")[0] == 200


def test_a_texture_needs_no_content(address: str) -> None:
    page = Page(address)
    style = page.upload(png(seed=1), "b.png", "style")[1]["id"]
    wanted = {"content": None, "styles": [style], "form": {**FORM, "preset": "texture"}, "begins": "noise"}
    assert page.ask("POST", "/forecast", wanted)[1]["seconds"] > 0
    events = page.listen()
    status, answer = page.ask("POST", "/runs", wanted)
    assert status == 200
    events.until("done", answer["run"])
    result = events.results[-1]
    events.close()
    assert result["width"] == result["height"]
    assert result["content"]["name"] == "texture"
    assert page.ask("POST", "/runs", {**wanted, "form": FORM})[0] == 400


def test_a_first_picture_where_the_styles_are_the_network_s_own(address: str) -> None:
    page = Page(address)
    content, other = (page.upload(png(seed=seed), f"{name}.png")[1]["id"] for seed, name in enumerate("ab"))
    swirls, glass = (page.ask("POST", f"/examples/style_{name}")[1]["id"] for name in ("swirls", "glass"))

    def first(styles: list[str], **form: str) -> tuple[int, bytes]:
        wanted = {"content": content, "styles": styles, "form": {**FORM, **form}}
        status, body, _ = call(address, "POST", "/api/first", wanted)
        return status, body

    pictures = [first([swirls])[1], first([swirls, glass])[1], first([swirls, glass], style_weights="1,9")[1]]
    assert len(set(pictures)) == 3
    with Image.open(io.BytesIO(pictures[0])) as image:
        assert image.size == (640, 480)
    assert first([other])[0] == 204
    assert first([swirls, glass], style_weights="1")[0] == 204
    assert call(address, "GET", "/api/examples/style_swirls")[0] == 200
