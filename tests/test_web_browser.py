"""The page in a real Chromium: what a visitor does and sees, and that nothing is asked of anyone else."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from fastnst.app import cli
from fastnst.image.metadata import read_parameters
from fastnst.video.clip import open_clip
from fastnst.video.options import Part
from tests import moving
from tests.web_server import png, serving

pytest.importorskip("starlette", reason="the page's server is the extra web")
pytest.importorskip("uvicorn", reason="the page's server is the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is the extra browser")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")]
SECONDS = 180_000  # in milliseconds, for what takes a fraction of one on a quiet machine
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture
def address() -> Iterator[str]:
    with serving(size=192, upload_bytes=200_000, pixels=50_000) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Whatever the page or the browser itself would ask for elsewhere does not resolve.
    alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    playwright.expect.set_options(timeout=SECONDS)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", alone])
        yield browser
        browser.close()


class Tab:
    """A page in a tab. `problems` are errors of its scripts, and calls that went elsewhere."""

    def __init__(self, browser: Any, address: str, size: str = "desktop", *, dark: bool = False) -> None:
        width, height = SIZES[size]
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.problems: list[str] = []
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._said)
        self.page.goto(address)
        self.page.wait_for_selector("#begins")

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url.removeprefix("blob:")).hostname != "127.0.0.1":
            self.problems.append(f"asked for {request.url}")

    def _said(self, message: Any) -> None:
        # The browser says of every refusal that there was one.
        if message.type in ("error", "warning") and "status of 400" not in message.text:
            self.problems.append(message.text)

    def give(self, content: Path, style: Path) -> None:
        self.page.set_input_files("#content input", content)
        self.page.set_input_files("#style input", style)
        for slot in ("content", "style"):
            self.page.wait_for_selector(f"#{slot} .full img")

    def set(self, **values: str) -> None:
        for name, value in values.items():
            field = f"#option-{name}"
            if not self.page.is_visible(field):
                self.page.click("#more summary")
            if self.page.evaluate("(id) => document.querySelector(id).tagName", field) == "SELECT":
                self.page.select_option(field, value)
            else:
                self.page.fill(field, value)

    def start(self) -> None:
        before = self.page.locator("#results button").count()
        self.page.click("#start")
        # A short run may be over before the page has heard of it.
        begun = self.page.locator("#stop:visible").or_(self.page.locator(f"#results li:nth-child({before + 1})"))
        begun.first.wait_for()

    def until_over(self) -> None:
        self.page.wait_for_selector("#start:visible")

    def until_moving(self) -> None:
        """Waits for the first image of a run and its curve."""
        self.page.wait_for_selector("[data-result=live] img")
        self.page.wait_for_selector("#chart path.total[d*=L]", state="attached")

    def download(self) -> tuple[str, Path]:
        with self.page.expect_download() as waited:
            self.page.click("#download")
        return waited.value.suggested_filename, Path(waited.value.path())

    def results(self) -> list[str]:
        return list(self.page.locator("#results button span").all_inner_texts())


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    tab = Tab(browser, address)
    yield tab
    tab.context.close()
    assert tab.problems == []


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    sea, oil = tmp_path / "sea.png", tmp_path / "oil.png"
    sea.write_bytes(png(96, 72, seed=0))
    oil.write_bytes(png(96, 72, seed=1))
    return sea, oil


def test_from_two_pictures_to_a_larger_result(tab: Tab, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    page = tab.page
    tab.give(*pictures)
    tab.set(size="64", iterations="12", scales="none", style_weight="30", seed="3")
    tab.start()
    tab.until_moving()
    tab.until_over()
    assert tab.results() == ["1 · 64 px"]
    said = page.inner_text("#said")
    assert "Result 1 · 64 × 48 px" in said
    assert "12 iterations" in said
    assert "style weight 30" in said
    assert page.locator("#chart path").count() == 4

    name, file = tab.download()
    assert name == "sea-oil-1.png"
    options = read_parameters(file)["options"]
    assert (options["size"], options["style_weight"], options["seed"]) == (64, 30, 3)
    shutil.copy(file, tmp_path / "made.png")
    assert cli.main(["rerun", str(tmp_path / "made.png"), "-o", str(tmp_path / "again.png"), "--quiet"]) == 0
    page.select_option("#format", "tiff")
    name, file = tab.download()
    assert name == "sea-oil-1.tif"
    assert read_parameters(file)["options"] == options

    assert page.inner_text("#continue") == "Continue at 128 px"
    page.click("#continue")
    page.wait_for_selector('[data-result="2"]')
    tab.until_over()
    assert tab.results() == ["2 · 128 px", "1 · 64 px"]
    page.select_option("#format", "png")
    name, file = tab.download()
    record = read_parameters(file)
    assert record["init"]["name"] == "sea-oil-1.png"
    assert record["options"]["size"] == 128
    with Image.open(file) as image:
        assert image.size == (128, 96)


def test_a_clip_is_shown_as_it_is_made_and_downloaded(tab: Tab, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    clip, page = tmp_path / "waves.gif", tab.page
    frames = [Image.fromarray(frame) for frame in moving.pan(3)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=100)
    tab.give(clip, pictures[1])
    tab.set(size="64", iterations="3", scales="none")
    tab.start()
    tab.until_over()
    assert "3 frames" in page.inner_text("#said")
    assert page.is_disabled("#continue")
    assert page.locator("#format option").all_inner_texts() == ["MP4", "PNG", "JPEG", "WEBP", "TIFF"]
    name, file = tab.download()
    assert name == "waves-oil-1.mp4"
    shutil.copy(file, tmp_path / "made.mp4")
    assert len(open_clip(tmp_path / "made.mp4", Part())) == 3
    # A picture after it has no clip to offer.
    tab.give(*pictures)
    tab.start()
    page.wait_for_selector('[data-result="2"]')
    tab.until_over()
    assert page.locator("#format option").all_inner_texts() == ["PNG", "JPEG", "WEBP", "TIFF"]
    assert not page.is_disabled("#continue")


def test_history_puts_pictures_and_controls_back(tab: Tab, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    tab.give(*pictures)
    tab.set(size="48", iterations="2", scales="none", preserve_color="luminance", pooling="max")
    tab.start()
    tab.until_over()
    tab.give(pictures[1], pictures[0])
    page.click("#reset")
    tab.set(size="50", iterations="2", scales="none")
    page.select_option("#begins", "1")
    tab.start()
    tab.until_over()
    assert tab.results() == ["2 · 50 px", "1 · 48 px"]
    assert page.input_value("#begins") == "1"
    playwright.expect(page.locator("#chart")).to_contain_text("50 px")
    page.click('[data-result="1"]')
    playwright.expect(page.locator("#chart")).to_contain_text("48 px")
    assert page.input_value("#option-size") == "48"
    assert page.input_value("#option-preserve_color") == "luminance"
    assert page.input_value("#option-pooling") == "max"
    assert page.input_value("#begins") == "content"
    assert page.get_attribute("#content img", "alt") == "sea.png"
    assert "Result 1 · 48 × 36 px" in page.inner_text("#said")
    # Loading the page again loses none of it.
    page.reload()
    page.wait_for_selector('[data-result="2"]')
    assert tab.results() == ["2 · 50 px", "1 · 48 px"]
    assert page.input_value("#option-size") == "48"
    assert page.get_attribute("#content img", "alt") == "sea.png"


def test_bad_and_too_large_files_are_told(tab: Tab, tmp_path: Path, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    Image.new("RGB", (400, 300)).save(tmp_path / "wide.png")
    for name, said in [
        ("bad.png", "Content image (bad.png) is not an image of a known format"),
        ("wide.png", "400×300 = 120000 pixels, more than the limit of 50000 pixels"),
    ]:
        page.set_input_files("#content input", tmp_path / name)
        page.wait_for_selector("#alert:visible")
        playwright.expect(page.locator("#alert p")).to_contain_text(said)
        assert page.locator("#content .bad").count() == 1
        page.click("#alert button")
        assert not page.is_visible("#alert")
    page.click("#start")
    playwright.expect(page.locator("#alert p")).to_contain_text("Give a content picture and a style picture first")
    tab.give(*pictures)
    assert not page.is_visible("#alert")
    for size, count in (("50%", 0), ("640x480", 0), ("content", 0), ("large", 1), ("500", 1)):
        tab.set(size=size)
        assert page.locator("#option-size[aria-invalid=true]").count() == count
    assert page.inner_text("#option-size-wrong") == "Give 192 or less"
    page.click("#start")
    playwright.expect(page.locator("#alert p")).to_contain_text(
        "Size 500 is more than this page makes; give 192 or less"
    )


def test_pictures_can_be_dropped(tab: Tab, pictures: tuple[Path, Path]) -> None:
    for slot, paths in (("content", pictures[:1]), ("style", pictures)):
        files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
        tab.page.evaluate(
            """([slot, files]) => {
                const dataTransfer = new DataTransfer();
                for (const [name, text] of files)
                    dataTransfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
                const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
                document.querySelector(`#${slot} .drop`).dispatchEvent(drop);
            }""",
            [slot, files],
        )
        tab.page.wait_for_selector(f"#{slot} .full img")
    assert tab.page.locator("#style img").count() == 2
    assert "2 pictures" in tab.page.inner_text("#style .caption")


def test_two_tabs_show_the_same_run(browser: Any, address: str, pictures: tuple[Path, Path]) -> None:
    first, second = Tab(browser, address), Tab(browser, address)
    first.give(*pictures)
    first.set(size="48", iterations="5000", scales="none")
    first.start()
    second.page.wait_for_selector("#stop:visible")
    first.context.close()
    second.until_moving()
    playwright.expect(second.page.locator("#said")).to_contain_text("left")
    second.page.click("#stop")
    second.until_over()
    assert "stopped" in second.page.inner_text("#said")
    record = read_parameters(second.download()[1])
    assert record["stopped"] == "interrupted"
    assert record["final"]["iteration"] < 5000
    second.context.close()
    assert first.problems + second.problems == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overflows_or_jumps(browser: Any, address: str, size: str, dark: bool) -> None:
    tab = Tab(browser, address, size, dark=dark)
    page = tab.page
    width, height = SIZES[size]

    def places() -> dict[str, Any]:
        names = ("#view", "#bar", "#chart", "#start:visible, #stop:visible", "#option-size")
        return {name: page.locator(name).first.bounding_box() for name in names}

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if size == "desktop":
        assert page.evaluate("document.documentElement.scrollHeight") <= height
    if size == "desktop" and not dark:
        before = places()
        page.click("#examples")
        page.wait_for_selector("#style .full img")
        tab.set(size="48", iterations="2", scales="none")
        tab.start()
        tab.until_over()
        assert tab.results() == ["1 · 48 px"]
        page.wait_for_selector("#view img")
        page.evaluate("document.querySelector('#controls').scrollTo(0, 0)")
        assert places() == before
    page.click("#more summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = Image.open(io.BytesIO(page.screenshot()))
    assert (np.asarray(shown.convert("L")).mean() < 100) == dark
    tab.context.close()
    assert tab.problems == []


def test_before_and_after_and_one_to_one(tab: Tab, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    tab.give(*pictures)
    tab.set(size="64", iterations="2", scales="none")
    page.wait_for_selector("#start:has-text('about')")
    tab.start()
    tab.until_over()
    page.wait_for_selector(".pair img")
    compare, full = page.locator("#compare"), page.locator("#full")
    compare.click()
    page.wait_for_selector(".pair .before")
    picture, cut = page.locator(".pair .before").bounding_box(), page.locator(".cut").bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(4 / 3, rel=0.01)
    # The middle of its knob goes from side to side.
    assert (cut["x"] + 14, cut["width"] - 28) == pytest.approx((picture["x"], picture["width"]), abs=1)
    page.keyboard.press("ArrowRight")
    assert "49%" in page.evaluate("document.querySelector('.before').style.clipPath")
    page.locator(".cut").fill("20")
    assert "80%" in page.evaluate("document.querySelector('.before').style.clipPath")
    full.click()
    assert page.locator(".pair").bounding_box()["width"] == pytest.approx(64, abs=1)
    compare.click()
    assert page.locator(".before").count() == 0


def test_a_painted_mask_says_where_the_style_goes(tab: Tab, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    tab.give(*pictures)
    tab.set(size="64", iterations="2", scales="none")
    page.wait_for_selector(".pair img")
    page.click("#mask")
    box = page.locator(".mask").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    tab.start()
    tab.until_over()
    record = read_parameters(tab.download()[1])
    assert 0 < record["masks"][0]["content"]["covers"] < 0.5
    assert page.is_visible(".mask")
    page.click("#mask")
    assert not page.is_visible(".mask")
    page.click("#clear")
    assert page.locator(".mask").count() == 0
    # A result brings its mask back, and the next run has it again.
    page.click("#results button")
    page.wait_for_selector("#clear")
    assert not page.is_visible(".mask")
    tab.start()
    tab.until_over()
    assert tab.results() == ["2 · 64 px", "1 · 64 px"]
    again = read_parameters(tab.download()[1])
    assert again["masks"][0]["content"]["covers"] == pytest.approx(record["masks"][0]["content"]["covers"], abs=0.02)


def test_an_answer_to_values_of_before_is_dropped(tab: Tab, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    tab.give(*pictures)
    tab.set(size="64")
    page.wait_for_selector("#start:has-text('about')")
    tab.set(iterations="abc")
    assert page.inner_text("#start") == "Start"
    playwright.expect(page.locator("#option-iterations-wrong")).to_have_text(re.compile("'abc'"))
    held: list[Any] = []
    page.route("**/api/runs", lambda route: held.append(route))
    page.click("#start")
    while not held:
        page.wait_for_timeout(10)
    tab.set(iterations="16")
    assert page.inner_text("#option-iterations-wrong") == ""
    with page.expect_response("**/api/runs"):
        held[0].continue_()
    page.wait_for_selector("#start:has-text('about')")
    assert not page.is_visible("#alert")


@pytest.mark.filterwarnings("always::fastnst.errors.FastnstWarning")
def test_a_box_that_is_not_filled_is_told(tab: Tab, pictures: tuple[Path, Path]) -> None:
    tab.give(*pictures)
    tab.set(size="100x50", iterations="2", scales="none")
    tab.start()
    tab.page.wait_for_selector("#alert:visible")
    assert "so the result is 67×50 within 100×50" in tab.page.inner_text("#alert p")
    tab.until_over()


def test_styles_that_ship_are_shown_at_once_and_blended(tab: Tab, pictures: tuple[Path, Path]) -> None:
    page = tab.page
    page.set_input_files("#content input", pictures[0])
    page.wait_for_selector("#content .full img")
    tab.set(size="64", iterations="2", scales="none")
    page.click("#palette [title=swirls]")
    page.get_by_text("A first picture").wait_for()
    page.wait_for_selector(".pair img[alt='A first picture']")
    assert page.input_value("#begins") == "network"
    name, file = tab.download()
    assert name == "sea-first.jpg"
    with Image.open(file) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
    before = page.get_attribute(".pair img", "src")
    page.select_option("#palette select", "style_glass")
    playwright.expect(page.locator("#palette h2 span")).to_have_text("swirls and glass")
    slider = page.locator("#palette .blend input")
    slider.wait_for()
    playwright.expect(page.locator(".pair img")).not_to_have_attribute("src", str(before))
    # While it moves, one picture is asked for at a time, and the last one is shown.
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)
        if len(held) > 1:
            route.continue_()

    page.route("**/api/first", hold)
    for share in ("30", "60", "80"):
        slider.fill(share)
        page.wait_for_timeout(100)
    while not held:
        page.wait_for_timeout(10)
    page.wait_for_timeout(200)
    assert len(held) == 1
    before = page.get_attribute(".pair img", "src")
    with page.expect_response(lambda answer: "20,80" in (answer.request.post_data or "")):
        held[0].continue_()
    playwright.expect(page.locator(".pair img")).not_to_have_attribute("src", str(before))
    tab.start()
    tab.until_over()
    record = read_parameters(tab.download()[1])
    assert record["options"]["init"] == "network"
    assert [round(style["weight"], 3) for style in record["styles"]] == [0.2, 0.8]
    # A style of one's own has no first picture, and a run starts as usual.
    page.set_input_files("#style input", pictures[1])
    playwright.expect(page.locator("#begins")).to_have_value("content")
    playwright.expect(page.locator("#option-style_weights")).to_have_value("")
    # A result brings its blend back.
    page.click('[data-result="1"]')
    playwright.expect(slider).to_have_value("80")
    assert page.input_value("#option-style_weights") == "20,80"
