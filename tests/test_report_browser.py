"""The page in a real browser: its controls, its themes, its fit on a phone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.study import report
from secateur.study.summary import Summary, summarise
from synthetic_study import HASH, Record, make_spec, make_stages, make_trials
from test_report import size_chart

pytestmark = pytest.mark.browser

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
HOSTILE = "</script><script>document.title='taken'</script><b onmouseover=alert(1)>"
Browser = Any


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def spec() -> Record:
    return make_spec()


@pytest.fixture(scope="module")
def summary(spec: Record) -> Summary:
    return summarise(spec, make_trials(spec))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, spec: Record) -> str:
    folder = tmp_path_factory.mktemp("report")
    return _write(folder, spec, make_trials(spec), make_stages(spec))


def _write(folder: Path, spec: Record, trials: list[Record], stages: list[Record]) -> str:
    return report.write(folder, spec, HASH, trials, stages, command="secateur study").html.as_uri()


def _open(browser: Browser, address: str, *, width: int = 1280, scheme: str = "light") -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")
    browser.get(address)
    last = time.monotonic() + 30  # the charts come after the page, late on a busy machine
    while not _drawn(browser, "curve") and time.monotonic() < last:
        time.sleep(0.05)


def _value(browser: Browser, name: str) -> Any:
    script = "return document.getElementById(arguments[0]).dataset.value ?? null"
    found = browser.execute_script(script, f"out-{name}")
    return float(found) if found is not None and name != "certified" else found


def _set(browser: Browser, name: str, value: object) -> None:
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind));",
        name,
        value,
    )


def _drawn(browser: Browser, chart: str) -> int:
    script = "return document.querySelectorAll(`#chart-${arguments[0]} svg`).length"
    return int(browser.execute_script(script, chart))


def _assert_silent(browser: Browser) -> None:
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def _overflow(browser: Browser) -> int:
    root = "document.documentElement"
    return int(browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))


def test_every_chart_is_drawn_without_a_word_in_the_console(browser: Browser, address: str) -> None:
    _open(browser, address)
    for chart in ("curve", "comparisons", "layers", "gates", "training"):
        assert _drawn(browser, chart) > 0, chart
    _assert_silent(browser)


def test_a_new_chart_needs_no_script_of_its_own(
    browser: Browser, tmp_path: Path, spec: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "CHARTS", report.CHARTS | {"size": size_chart})
    _open(browser, _write(tmp_path, spec, make_trials(spec), make_stages(spec)))
    assert _drawn(browser, "size") > 0
    names = "return document.getElementById('chart-size').data.map((t) => t.name)"
    assert browser.execute_script(names) == spec["criteria"]
    _assert_silent(browser)


@pytest.mark.parametrize("criterion", ["gate", "random"])
@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_slider_moves_the_figures_to_those_of_the_records(
    browser: Browser, address: str, summary: Summary, criterion: str, recovery: str
) -> None:
    _open(browser, address)
    _set(browser, "criterion", criterion)
    _set(browser, "recovery", recovery)
    rows = [r for r in summary.rows if (r.criterion, r.recovery) == (criterion, recovery)]
    assert len(rows) == 9
    for level, row in enumerate(rows):
        _set(browser, "keep", level)
        assert row.difference is not None
        assert _value(browser, "keep") == row.keep
        assert _value(browser, "metric") == row.test.mean
        assert _value(browser, "interval") == row.test.low
        assert _value(browser, "difference") == row.difference.mean
        assert _value(browser, "difference-interval") == row.difference.low
        assert _value(browser, "kept") == row.kept
        assert _value(browser, "prunable") == row.prunable
        assert _value(browser, "parameters") == row.parameters
        assert _value(browser, "bytes") == row.estimated_bytes
        tested = "not tested" if row.bound is None else "no"
        assert _value(browser, "certified") == ("yes" if row.certified else tested)
        shown = browser.find_element("id", "out-metric").text
        assert shown.replace("\u00a0", " ") == f"{row.test.mean:.2f} %"
    _assert_silent(browser)


def test_segments_and_select_choose_the_same_recovery(browser: Browser, address: str) -> None:
    _open(browser, address)
    browser.find_element("css selector", "#recoveries label:first-child").click()
    assert browser.execute_script("return document.getElementById('recovery').value") == "none"
    _set(browser, "recovery", "batchnorm")
    checked = "return document.querySelector('#recoveries input:checked').value"
    assert browser.execute_script(checked) == "batchnorm"


@pytest.mark.parametrize(
    ("chart", "margins", "whole"), [("curve", 12, 60), ("comparisons", 18, 40)]
)
def test_zoom_and_log_axis_change_both_charts(
    browser: Browser, address: str, chart: str, margins: int, whole: float
) -> None:
    _open(browser, address)
    ranges = (
        f"const l = document.getElementById('chart-{chart}').layout;"
        "return [l.yaxis.range, l.xaxis.ticktext.length]"
    )
    full, ticks = browser.execute_script(ranges)
    browser.find_element("id", "zoom").click()
    browser.find_element("id", "log").click()
    near, log_ticks = browser.execute_script(ranges)
    assert near[1] - near[0] == pytest.approx(margins * 0.5)
    assert full[1] - full[0] > whole
    assert (ticks, log_ticks) == (11, 4)
    _assert_silent(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_until_it_is_toggled(
    browser: Browser, address: str, scheme: str
) -> None:
    theme = "return document.documentElement.dataset.theme"
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.getElementById('chart-curve').layout.font.color"
    _open(browser, address, scheme=scheme)
    assert browser.execute_script(theme) == scheme
    before = browser.execute_script(ground), browser.execute_script(ink)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(theme) != scheme
    after = browser.execute_script(ground), browser.execute_script(ink)
    assert before[0] != after[0]
    assert before[1] != after[1]
    _assert_silent(browser)


def test_phone_never_scrolls_sideways(browser: Browser, address: str) -> None:
    _open(browser, address, width=390)
    assert _overflow(browser) <= 0
    for element in browser.find_elements("tag name", "details"):
        browser.execute_script("arguments[0].open = true", element)
    assert _overflow(browser) <= 0
    _assert_silent(browser)


@pytest.mark.parametrize("chart", ["curve", "comparisons"])
def test_no_line_leads_from_recalibrated_cuts_to_finetuned_ones(
    browser: Browser, tmp_path: Path, chart: str
) -> None:
    spec = make_spec(levels=(0.5, 0.3, 0.2, 0.1), recovery=("batchnorm", "finetune"))
    spec["options"]["finetune_from"] = 0.2
    _open(browser, _write(tmp_path, spec, make_trials(spec), make_stages(spec)))
    lines = (
        f"return document.getElementById('chart-{chart}').data"
        ".filter((t) => t.mode === 'lines+markers').map((t) => t.x)"
    )
    seen = {}
    for recovery in ("batchnorm", "finetune"):
        browser.find_element("css selector", f"label:has([value={recovery}])").click()
        seen[recovery] = browser.execute_script(lines)
    assert all(min(x) < 75 < max(x) for x in seen["batchnorm"])
    assert not any(min(x) < 75 < max(x) for x in seen["finetune"])
    assert len(seen["finetune"]) == 2 * len(seen["batchnorm"])


@pytest.mark.parametrize("width", [1280, 390])
def test_odd_studies_have_a_working_page(browser: Browser, tmp_path: Path, width: int) -> None:
    loss = {"name": "loss", "unit": "", "higher_is_better": False}
    hostile = make_spec(name=HOSTILE, criteria=("gate", HOSTILE), metric=loss, margin=0.02)
    layers = {HOSTILE: 1000, "a-very-long-layer-name." * 8: 500}
    one = make_spec(seeds=1, criteria=("magnitude",), levels=(0.5,))
    deep = make_spec(levels=(0.5, 0.1, 0.01), recovery=("none", "batchnorm", "finetune"))
    mixed = make_spec(levels=(0.5, 0.3, 0.1), recovery=("batchnorm", "finetune"))
    mixed["options"]["finetune_from"] = 0.1
    studies = {
        "mixed": (mixed, make_trials(mixed), make_stages(mixed)),
        "hostile": (
            hostile,
            make_trials(hostile, layers=layers),
            make_stages(hostile, layers=layers),
        ),
        "one": (one, make_trials(one), make_stages(one)[:1]),
        "partial": (deep, make_trials(deep)[10:-7], make_stages(deep)[:2]),
        "none": (one, [], []),
    }
    for name, records in studies.items():
        folder = tmp_path / name
        folder.mkdir()
        _open(browser, _write(folder, *records), width=width)
        assert _drawn(browser, "curve") > 0, name
        assert _overflow(browser) <= 0, name
        assert browser.title != "taken"
        _assert_silent(browser)
