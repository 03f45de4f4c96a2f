"""The decisions of the page of `fastnst web`, without a browser or a web library."""

import io
import os
import sys
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from fastnst.app import cli
from fastnst.app.cli.arguments import HOST_OPTIONS
from fastnst.app.web import studio as studio_module
from fastnst.app.web.controls import MAIN, make_controls, read_form
from fastnst.app.web.results import Kept, Limits, Request, Upload, oldest_first, plain_name, read_upload
from fastnst.app.web.session import DONE, FAILED, Session, Ticket, continued
from fastnst.app.web.studio import Studio, _Preview
from fastnst.errors import ImageError, OptionError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.options.options import Options
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import resolve_options
from fastnst.transfer.result import Iterate, LossRecord, Result
from tests.web_server import HOST, png

FAST = {"size": "48", "iterations": "3", "scales": "none", "style_layers": "conv1_1", "content_layers": "conv2_1"}


def request(number: int = 1, form: dict[str, str] | None = None, **given: Any) -> Request:
    form = FAST if form is None else form
    content, style = (read_upload(f"{name}.png", png(seed=seed), Limits()) for seed, name in enumerate(("sea", "oil")))
    whole: dict[str, Any] = {"number": number, "content": content, "styles": (style,), "options": read_form(form)}
    return Request(**{**whole, "form": form, **given})


def ticket(**given: Any) -> Ticket:
    asked = request(**given)
    return Ticket(asked, resolve_options(**asked.options))


def kept(number: int = 1, size: int = 8, **given: Any) -> Kept:
    asked = request(number, **given)
    options = resolve_options(**asked.options)
    parameters = {"options": {name.name: getattr(options, name.name) for name in fields(options)}, "stopped": None}
    return Kept(Result(torch.rand(3, size, size), None, (), parameters), asked, {})


def test_every_offered_option_has_one_control() -> None:
    controls = make_controls(Limits(size=300))
    names = [control["name"] for control in controls]
    assert names[: len(MAIN)] == list(MAIN)
    assert len(set(names)) == len(names)
    assert {control["kind"] for control in controls} <= {"choice", "number", "size", "text"}
    assert all(control["meaning"] and control["label"] for control in controls)
    known = {option.name for option in fields(Options)}
    assert set(names) <= known - set(HOST_OPTIONS) - {"init"}
    assert {"preset", "size", "style_weight", "content_layers", "optimizer", "seed"} <= set(names)
    size = controls[names.index("size")]
    assert (size["maximum"], size["slider"][:2]) == (300, (128, 300))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_control_as_it_is_shown_is_the_preset(preset: str) -> None:
    form = {control["name"]: control["defaults"][preset] for control in make_controls(Limits())}
    read, meant = resolve_options(**read_form(form)), resolve_options(preset=preset)
    for name in form:
        value, other = getattr(read, name), getattr(meant, name)
        if name.endswith("_layers"):
            value, other = dict(value), dict(other)
        assert value == (pytest.approx(other, rel=1e-5) if isinstance(other, float | dict) else other)


def test_a_form_is_parsed_as_the_command_parses() -> None:
    form = {"size": " 300 ", "scales": "75, 150,300", "iterations": "20 30 40", "tolerance": "", "tile": "none"}
    form |= {"style_layers": "conv1_1=2,conv2_1", "style_weights": "1 3"}
    options = resolve_options(**read_form(form))
    assert (options.size, options.scales, options.iterations) == (300, (75, 150, 300), (20, 30, 40))
    assert (options.style_weights, options.tile, options.tolerance) == ((1, 3), "none", None)
    assert [layer for layer, _ in options.style_layers] == ["conv1_1", "conv2_1"]
    assert resolve_options(**read_form({"scales": "2"})).scales == 2


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"warp": "9"}, "'warp' is not a control"),
        ({"init": "/etc/passwd"}, "'init' is not a control of this page"),
        ({"size": "big"}, "size: 'big' is not a size"),
        ({"size": 5}, "size is not a text"),
        ({"content_layers": "conv1_1 " * 100}, "content layers is not a text of up to 500"),
    ],
)
def test_refused_forms(form: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read_form(form)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"size": 256}, ""),
        ({"size": 192, "edge": "short"}, ""),
        ({"size": 512}, "size 512 is more than this page makes; give 256 or less"),
        ({"size": 60000, "edge": "short"}, "size 60000 is more than this page makes; give 192 or less"),
        ({"size": 193, "edge": "short"}, "size 193 is more than this page makes; give 192 or less"),
        ({"size": 128, "style_scale": 4}, r"style scale 4 at size 128 .* give 2 or less"),
    ],
)
def test_limits_of_options(asked: dict[str, Any], said: str) -> None:
    wide, options = (400, 300), resolve_options(**asked)
    with pytest.raises(OptionError, match=said) if said else nullcontext():
        Limits(size=256).check_options(options, wide, [wide])


def test_uploads() -> None:
    upload = read_upload(r"C:\pictures\my sea.png", png(900, 700), Limits())
    assert (upload.name, upload.width, upload.height) == ("my sea.png", 900, 700)
    with Image.open(io.BytesIO(upload.thumbnail)) as small:
        assert (small.format, max(small.size)) == ("JPEG", 512)
    assert load_image(upload.opened()).name == "my sea.png"
    with Image.open(io.BytesIO(read_upload("a.png", png(mode="RGBA"), Limits()).thumbnail)) as small:
        assert small.mode == "RGBA"
    for limits, said in (
        (Limits(upload_bytes=1000), "bad.png is larger than 1 kB, the most that this page takes"),
        (Limits(pixels=1000), "64×48 = 3072 pixels, more than the limit of 1000 pixels"),
    ):
        with pytest.raises(ImageError, match=said):
            read_upload("bad.png", png(), limits)


def test_names_of_files_are_plain() -> None:
    assert plain_name("../../etc/passwd") == "passwd"
    assert plain_name("a\nb\x00.png") == "ab.png"
    assert plain_name("") == plain_name("folder/") == "picture"
    assert len(plain_name("x" * 500 + ".png")) == 100
    name = request(content=read_upload('a"; filename=b\r\nc ä.png', png(), Limits())).name
    assert name.isascii()
    assert not set(name) & set('";\r\n /')


def test_a_result_is_had_in_each_format_with_its_metadata() -> None:
    result = Kept(Result(torch.rand(3, 20, 30), None, (), {"options": {"size": 30}, "stopped": None}), request(), {})
    assert (result.width, result.height, result.request.name) == (30, 20, "sea-oil-1")
    for format in ("png", "jpeg", "webp", "tiff"):
        assert read_parameters(io.BytesIO(result.file(format)))["options"] == {"size": 30}
    with pytest.raises(OptionError, match="unknown format 'exe'"):
        result.file("exe")
    assert load_image(result.opened()).name == "sea-oil-1.png"


def test_the_oldest_results_go_first() -> None:
    results = [kept(number) for number in range(1, 6)]
    assert [one.id for one in oldest_first(results, 3, 10**9)] == ["3", "4", "5"]
    assert [one.id for one in oldest_first(results, 3, 1)] == ["5"]
    shared = results[0].request
    alike = [kept(number, content=shared.content, styles=shared.styles) for number in range(5)]
    size = max(one.size_bytes for one in alike)
    pictures = shared.content.size_bytes + shared.styles[0].size_bytes
    assert len(oldest_first(alike, 9, pictures + 5 * size)) == 5
    masks = [Upload("mask.png", bytes(10_000), 8, 8, b"") for _ in range(5)]
    painted = [kept(0, content=shared.content, styles=shared.styles, mask=mask) for mask in masks]
    assert len(oldest_first(painted, 9, pictures + 5 * size + 20_000)) < 5


def test_continuing_keeps_the_options() -> None:
    first = kept(form={**FAST, "iterations": "9 5", "scales": "24 48", "style_weight": "7"})
    second = continued(first, 2, 96)
    assert second.options == {**first.request.options, "size": 96, "scales": "none", "iterations": 5}
    assert resolve_options(**read_form(second.form)) == resolve_options(**second.options)
    assert (second.begins, second.number, second.start) == ("1", 2, first)
    # A result does not hold what it started from.
    assert Kept(Result(torch.rand(3, 8, 8), None, (), {}), second, {}).request.start is None
    third = continued(kept(form={"preset": "style-transfer-pytorch", "style_weight": "4 2"}), 2, 900)
    assert (third.options["iterations"], third.options["style_weight"]) == (500, 2)
    assert resolve_options(**third.options).scales is None


@pytest.mark.parametrize(
    ("given", "share", "iteration", "seconds", "done", "left"),
    [
        ({}, 0.0, 0, 0.1, 0, None),
        ({}, 0.1, 5, 1.0, 0.1, 9.0),
        ({}, 1.0, 10, 1.0, 1, 0.0),
        ({"seconds": 10}, 0.01, 10, 4.0, 0.4, 6.0),
        ({"seconds": 10}, 0.0, 0, 4.0, 0.4, 6.0),
    ],
)
def test_progress_goes_by_the_work_and_the_seconds(
    given: dict[str, Any], share: float, iteration: int, seconds: float, done: float, left: float | None
) -> None:
    ticket = Ticket(request(), resolve_options(size=64, **given))
    record = LossRecord(iteration, 64, 1.0, 1.0, 1.0, 0.0, seconds)
    ticket.show(Iterate(record, lambda: torch.zeros(3, 8, 8), None, {}, 10, (64,), share), None)
    view = ticket.view()
    assert view["done"] == pytest.approx(done)
    assert view["left"] == (left if left is None else pytest.approx(left))


def test_a_session_keeps_the_pictures_that_it_needs() -> None:
    session = Session(Limits(styles=1))
    one = kept()
    needed = session.add_upload(one.request.content)
    assert session.add_upload(replace(one.request.content)) == needed
    clip = replace(one.request.content, frames=3)
    assert session.upload(session.add_upload(clip)) is clip
    session.keep(one)
    names = [session.add_upload(Upload(f"{number}.png", b"", 1, 1, b"")) for number in range(9)]
    assert session.upload(needed) is one.request.content
    assert session.upload(names[-1]).name == "8.png"
    for gone in (names[0], "never", None):
        with pytest.raises(OptionError, match="not here any more"):
            session.upload(gone)
    assert session.result("1") is one
    with pytest.raises(OptionError, match="not in the history"):
        session.result("2")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(HOST, Limits(size=128), RESULTS.append)


RESULTS: list[Kept] = []


def run(studio: Studio, asked: Request) -> Ticket:
    one = Ticket(asked, studio.options(asked))
    studio.run(one)
    return one


@pytest.mark.parametrize(("size", "width"), [("content", 64), ("50%", 32), ("40x30", 40)])
def test_sizes_in_words(studio: Studio, size: str, width: int) -> None:
    made = run(studio, request(form={**FAST, "size": size, "iterations": "1", "content_layers": "conv1_1"}))
    assert (made.state, made.view()["width"], made.options.size) == (DONE, width, width)
    with pytest.raises(OptionError, match="size 320 is more than this page makes"):
        studio.options(request(form={**FAST, "size": "500%"}))
    # Beyond what the engine takes, the page's limit is still the one that is named.
    with pytest.raises(OptionError, match="size 99999 is more than this page makes; give 96 or less"):
        studio.options(request(form={**FAST, "size": "99999", "edge": "short"}))
    with pytest.raises(OptionError, match="'big' is not a size; write 512, 1920x1080"):
        read_form({"size": "big"})


def test_a_run_and_its_continuation_are_made_again_from_their_files(
    studio: Studio, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(studio, request())
    assert first.state == DONE
    view = first.view()
    assert [row[0] for row in view["points"]] == [0, 1, 2, 3]
    assert (view["width"], view["height"], view["done"]) == (48, 36, 1)
    assert view["terms"] == ["content", "style", "tv"]
    assert first.view(since=3)["points"] == view["points"][3:]
    assert first.preview is not None
    # The network is loaded once.
    with monkeypatch.context() as patch:
        patch.setattr("fastnst.loss.networks.load_weights", Mock(side_effect=RuntimeError("loaded again")))
        second = run(studio, continued(RESULTS[-1], 2, 72))
    assert second.state == DONE
    for result in RESULTS[-2:]:
        (tmp_path / result.opened().name).write_bytes(result.file("png"))
    (tmp_path / "sea.png").write_bytes(png(seed=0))
    (tmp_path / "oil.png").write_bytes(png(seed=1))
    for name in ("sea-oil-1.png", "sea-oil-2.png"):
        assert cli.main(["rerun", str(tmp_path / name), "-o", str(tmp_path / "remade.png"), "--quiet"]) == 0
        with Image.open(tmp_path / name) as old, Image.open(tmp_path / "remade.png") as new:
            steps = np.abs(np.asarray(old, np.int16) - np.asarray(new, np.int16))
        assert steps.max() <= 1
    assert cli.main(["info", str(tmp_path / "sea-oil-2.png")]) == 0
    assert "sea-oil-1.png" in capsys.readouterr().out


def test_a_run_ends_after_the_most_seconds_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Kept] = []
    limited = Studio(HOST, Limits(size=128, seconds=1), results.append)
    ended = run(limited, request(form={**FAST, "iterations": "1000000"}))
    assert ended.state == DONE
    assert results[0].parameters["stopped"] == "interrupted"


def test_a_run_whose_first_loss_is_too_large_has_no_result(studio: Studio) -> None:
    before = len(RESULTS)
    failed = run(studio, request(form={**FAST, "style_layers": "conv1_1=1e6", "style_weight": "1e38"}))
    assert failed.state == FAILED
    assert "the loss became inf at iteration 0" in failed.view()["message"]
    assert len(RESULTS) == before


def test_the_levels_of_a_transfer_are_of_its_scales(studio: Studio) -> None:
    form = {**FAST, "transfer": "wct", "style_layers": "conv1_1 conv2_1", "scales": "24 48", "iterations": "1"}
    assert run(studio, request(form=form)).view()["scales"] == [24, 48]


def test_the_curve_has_the_weights_of_its_scales(studio: Studio) -> None:
    form = {**FAST, "scales": "24 48", "style_weight": "8 2", "iterations": "1", "tv_weight": "0"}
    view = run(studio, request(form=form)).view()
    assert view["terms"] == ["content", "style"]
    for _, _, total, content, style in view["points"]:
        assert content + style == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError(), "an unexpected error occurred; look for it in the terminal"),
        (MemoryError(), "the run is out of memory; lower the size, the style scale or the scales"),
        (OptionError("lower --style-scale"), "lower style scale"),
    ],
)
def test_failures_end_in_the_ticket(
    error: Exception, said: str, studio: Studio, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("fastnst.app.web.studio.Stylizer", Mock(side_effect=error))
    failed = run(studio, request())
    assert failed.state == FAILED
    assert failed.view()["message"].startswith(said)
    assert ("ZeroDivisionError" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "No space left on device"), BrokenPipeError(), RuntimeError("x")]
)
@pytest.mark.parametrize("times", [1, 2])
def test_after_an_error_at_any_call_of_the_worker_the_next_run_starts(
    error: Exception, times: int, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard error is closed besides. The page's modules are made to fail at each of their calls, or at two."""
    image = torch.rand(1, 3, 36, 48)
    parameters = {"options": {"edge": "long"}, "stopped": None, "final": {}}

    def stylized(_: object, ticket: Ticket) -> Result:
        record = LossRecord(0, 48, 1.0, 1.0, 1.0, 0.0, 0.1)
        watch = _Preview(ticket, 9.0)
        watch(Iterate(record, lambda: image[0], None, parameters, 3, (48,)))
        return Result(image[0], None, (record,), parameters)

    monkeypatch.setattr(Studio, "_stylize", stylized)
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: PTH123, SIM115
    sys.stderr.close()
    asked, folder = request(), str(Path(studio_module.__file__).parent)

    class Fault:
        """A tracer that makes the `number`-th call of the page's modules fail, and as many after it as it shall."""

        def __init__(self, number: int) -> None:
            self.number, self.calls = number, 0

        def __call__(self, frame: FrameType, event: str, _: object) -> None:
            if frame.f_code.co_filename.startswith(folder) and frame.f_code is not Studio.run.__code__:
                self.calls += 1
                if 0 <= self.calls - self.number < times:
                    raise error

    number, fault, session = 0, Fault(0), Session(Limits())
    while fault.calls >= number:
        number += 1
        fault, tried = Fault(number), Ticket(asked, studio.options(asked))
        session.take(tried)  # raises where the last one keeps it waiting
        sys.settrace(fault)
        try:
            studio.run(tried)
        finally:
            sys.settrace(None)
        assert tried.over
    assert number > 10


def test_the_web_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cli.main(["web"]) == 1
    assert 'pip install "fastnst[web]"' in capsys.readouterr().err


def test_a_clip_is_made_frame_by_frame_and_can_be_had_as_one(tmp_path: Path) -> None:
    frames = [Image.open(io.BytesIO(png(seed=seed))) for seed in (0, 1, 2)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    clip = read_upload("waves.gif", file.getvalue(), Limits())
    assert (clip.frames, clip.width, clip.height) == (3, 64, 48)
    with pytest.raises(OptionError, match=r"clip 'waves\.gif' has 3 frames, more than the 2"):
        read_upload("waves.gif", file.getvalue(), Limits(frames=2))
    with pytest.raises(ImageError, match=r"clip 'waves\.gif' is 64×48 = 3072 pixels, more than the limit of 1000"):
        read_upload("waves.gif", file.getvalue(), Limits(pixels=1000))
    results: list[Kept] = []
    studio = Studio(HOST, Limits(), results.append)
    asked = request(content=clip)
    made = Ticket(asked, studio.options(asked))
    studio.run(made)
    view = made.view()
    assert (view["state"], view["frames"], view["iteration"], view["done"]) == (DONE, 3, 3, 1.0)
    assert made.preview is not None
    (result,) = results
    assert result.file("mp4")[4:8] == b"ftyp"
    assert Image.open(io.BytesIO(result.file("png"))).size == (48, 36)
    stopped, late = (Ticket(asked, studio.options(asked)) for _ in range(2))
    stopped.stop()
    studio.run(stopped)
    object.__setattr__(studio.limits, "seconds", 0)
    studio.run(late)
    for result in results[1:]:
        assert result.film is None
        assert result.parameters["stopped"] == "interrupted"
