"""A report's page in a real browser: what its tests share; `browser` itself is in conftest.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from secateur.study import report
from secateur.study.shipped import Shipped
from secateur.study.summary import summarise
from synthetic_study import HASH, Record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Browser = Any


def start(profile: Path) -> Browser:
    """Start Chromium with a profile of its own, or skip the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def write_page(
    folder: Path,
    spec: Record,
    trials: list[Record],
    stages: list[Record],
    shipped: Sequence[Shipped] = (),
) -> str:
    """Write the report of these records, and return the address of its page."""
    summary = summarise(spec, trials, shipped)
    made = report.write(folder, summary, spec, HASH, trials, stages, command="secateur study")
    return made.html.as_uri()


def open_page(browser: Browser, address: str, *, width: int = 1280, scheme: str = "light") -> None:
    """Open a page on a screen so wide, and wait until its charts are drawn."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")
    browser.get(address)
    last = time.monotonic() + 30  # the charts come after the page, late on a busy machine
    while not drawings(browser, "curve") and time.monotonic() < last:
        time.sleep(0.05)


def choose(browser: Browser, name: str, value: object) -> None:
    """Set a control of the page, as a user does."""
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind));",
        name,
        value,
    )


def drawings(browser: Browser, chart: str) -> int:
    """Return how many drawings a chart has: none before it is drawn."""
    script = "return document.querySelectorAll(`#chart-${arguments[0]} svg`).length"
    return int(browser.execute_script(script, chart))


def assert_silent(browser: Browser) -> None:
    """The page has said nothing in the console since it was opened."""
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert not messages, messages


def overflow(browser: Browser) -> int:
    """Return by how many pixels the page is wider than its screen."""
    root = "document.documentElement"
    return int(browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))
