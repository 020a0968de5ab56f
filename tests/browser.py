"""Debian's headless Chromium, driven by Playwright, without network access beyond this machine."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"  # uploaded by CI
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync", "--proxy-server=127.0.0.1:9",
]  # fmt: skip
LOCAL = re.compile(r"^(file:|data:|blob:|http://127\.0\.0\.1[:/])")


@contextmanager
def chromium() -> Iterator:
    """Start a browser, or skip the test if Chromium or Playwright is missing."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, url: str, *, dark: bool = False, width: int = 1280, height: int = 900):
    """Load a page; its errors are collected in `page.problems`, the URLs that it requests in `page.fetched`."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page.set_default_timeout(120_000)
    page.problems, page.fetched = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.fetched.append(request.url))
    page.goto(url, wait_until="load")
    return page


def screenshot(page, name: str, **options) -> Path:
    """Save a screenshot of the page in `build/screenshots/`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=file, **options)
    return file
