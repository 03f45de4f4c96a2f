"""The documentation's picture of the page, `python -m bench.web_page`: the example pictures, in a real Chromium.

Needs `fastnst[web,browser]` and Chromium.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

WIDTH, HEIGHT = 1280, 800
_PATIENCE = 3_600_000  # ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs" / "web.jpg")
    given = parser.parse_args()

    command = [sys.executable, "-m", "fastnst", "web", "--port", "0", "--weights", "original"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        said = server.stderr.readline() if server.stderr else ""
        match = re.search(r"http://\S+", said)
        if match is None:
            raise SystemExit(said)
        try:
            photograph(match[0], given.size, given.iterations, given.output)
        finally:
            server.send_signal(signal.SIGINT)


def photograph(address: str, size: int, iterations: int, output: Path) -> None:
    """Makes two results on the page at `address` and writes what it looks like then."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(_PATIENCE)
        page.goto(address)
        page.click("#examples")
        page.wait_for_selector("#style .full img")
        for width in (size // 2, size):
            page.fill("#option-size", str(width))
            page.fill("#option-iterations", str(iterations))
            page.click("#start")
            page.wait_for_selector("#stop:visible")
            page.wait_for_selector("#start:visible")
        page.wait_for_selector('#view img[alt="Result 2"]')
        page.mouse.move(0, 0)
        page.screenshot(path=output, type="jpeg", quality=65)
        browser.close()


if __name__ == "__main__":
    main()
