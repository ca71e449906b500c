"""The page in a real browser: its controls, its themes, its fit on a phone."""

from __future__ import annotations

import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from secateur.study import report
from secateur.study.shipped import Shipped
from secateur.study.summary import Summary, summarise
from synthetic_study import (
    HASH,
    LEVELS,
    Record,
    make_shipped,
    make_spec,
    make_stages,
    make_trials,
)
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


def _write(
    folder: Path,
    spec: Record,
    trials: list[Record],
    stages: list[Record],
    shipped: Sequence[Shipped] = (),
) -> str:
    summary = summarise(spec, trials, shipped)
    made = report.write(folder, summary, spec, HASH, trials, stages, command="secateur study")
    return made.html.as_uri()


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


@pytest.mark.parametrize(
    ("criterion", "recovery"),
    [
        ("gate", "ladder"),
        ("magnitude", "ladder"),
        ("magnitude", "batchnorm"),
        ("random", "batchnorm"),
    ],
)
def test_slider_moves_the_figures_to_those_of_the_records(
    browser: Browser, address: str, summary: Summary, criterion: str, recovery: str
) -> None:
    _open(browser, address)
    _set(browser, "criterion", criterion)
    _set(browser, "recovery", recovery)
    rows = [r for r in summary.rows if (r.criterion, r.recovery) == (criterion, recovery)]
    assert len(rows) == (3 if criterion == "random" else 9)
    for row in rows:
        _set(browser, "keep", LEVELS.index(row.keep))
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
    _set(browser, "recovery", "batchnorm")
    browser.find_element("css selector", "#recoveries label:first-child").click()
    assert browser.execute_script("return document.getElementById('recovery').value") == "ladder"
    _set(browser, "recovery", "batchnorm")
    checked = "return document.querySelector('#recoveries input:checked').value"
    assert browser.execute_script(checked) == "batchnorm"


@pytest.mark.parametrize(("chart", "near"), [("curve", (-5, 1)), ("comparisons", (-5, 5))])
def test_charts_open_near_the_reference_and_can_show_everything(
    browser: Browser,
    address: str,
    summary: Summary,
    chart: str,
    near: tuple[float, float],
) -> None:
    _open(browser, address)
    state = (
        f"const l = document.getElementById('chart-{chart}').layout;"
        "return [l.yaxis.range, l.xaxis.ticktext.length]"
    )
    means = [r.reference.mean for r in summary.of("gate", "ladder") if r.reference]
    ends = (min(means), max(means)) if chart == "curve" else (0.0, 0.0)
    zoomed, ticks = browser.execute_script(state)
    assert zoomed == [pytest.approx(end + room) for end, room in zip(ends, near, strict=True)]
    browser.find_element("id", "everything").click()
    browser.find_element("id", "log").click()
    full, log_ticks = browser.execute_script(state)
    if chart == "curve":
        values = [r.test.mean for name in ("gate", "magnitude") for r in summary.of(name, "ladder")]
    else:
        values = [c.difference.mean for c in summary.comparisons]
    assert full[0] < min(values) <= max(values) < full[1]
    assert full[1] - full[0] > zoomed[1] - zoomed[0]
    assert (ticks, log_ticks) == (11, 4)
    _assert_silent(browser)


def test_what_is_off_the_scale_is_marked_and_named(browser: Browser, tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5, 0.2, 0.1, 0.05))
    trials = make_trials(spec)
    summary = summarise(spec, trials)
    _open(browser, _write(tmp_path, spec, trials, make_stages(spec)))
    _set(browser, "recovery", "batchnorm")
    arrows = (
        "return document.getElementById('chart-curve').data.filter("
        "(t) => Array.isArray(t.marker?.symbol)).map((t) => t.x.length)"
    )
    names = (
        "return document.getElementById('chart-curve').layout.annotations.map((a) => a.text)"
        ".filter((text) => text.includes('off the scale')).join()"
    )
    least = summary.of("start", "batchnorm")[0].test.mean - 5
    beyond = {
        criterion: [row.test.mean for row in summary.of(criterion, "batchnorm")]
        for criterion in ("magnitude", "random")
    }
    beyond = {name: [v for v in values if v < least] for name, values in beyond.items()}
    assert len(beyond["random"]) > 1
    assert browser.execute_script(arrows) == [len(v) for v in beyond.values() if v]
    random = beyond["random"]
    assert f"random ▾ {min(random):.1f}–{max(random):.1f}" in browser.execute_script(names)
    browser.find_element("id", "everything").click()
    assert browser.execute_script(arrows) == []
    assert browser.execute_script(names) == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_table_and_charts_are_handed_out_as_files(
    browser: Browser, tmp_path: Path, spec: Record, scheme: str
) -> None:
    address = _write(tmp_path, spec, make_trials(spec), make_stages(spec))
    _open(browser, address, scheme=scheme)
    there = tmp_path / "downloads"
    allowed = {"behavior": "allow", "downloadPath": str(there)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    charts = ("curve", "comparisons", "layers", "gates", "training")
    names = {f"{chart}-drawn.svg" for chart in charts} | {"results.csv"}
    for name in ("results", *charts):
        browser.find_element("id", f"save-{name}").click()
        last = time.monotonic() + 30
        wanted = there / ("results.csv" if name == "results" else f"{name}-drawn.svg")
        while not wanted.exists() and time.monotonic() < last:
            time.sleep(0.05)
    assert {path.name for path in there.iterdir()} == names
    assert (there / "results.csv").read_bytes() == (tmp_path / "results.csv").read_bytes()
    ground = browser.execute_script("return css('--card')")
    for chart in charts:
        root = ET.fromstring((there / f"{chart}-drawn.svg").read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root[0].get("fill") == ground
        assert len(list(root.iter())) > 20
    texts = (there / "curve-drawn.svg").read_text(encoding="utf-8")
    assert "off the scale" in texts
    _assert_silent(browser)


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_no_table_is_cut_off(browser: Browser, tmp_path: Path, width: int) -> None:
    spec = make_spec(unrepaired=True, reconstruct=64, levels=(0.5, 0.1))
    trials = make_trials(spec, layers={f"layer.{i}": 1_000_000 for i in range(25)})
    for layer in trials[-1]["weights"]["layers"].values():
        layer["kept"] = 0
    _open(browser, _write(tmp_path, spec, trials, make_stages(spec)), width=width)
    beyond = (
        "document.querySelectorAll('details').forEach((d) => (d.open = true));"
        "return [...document.querySelectorAll('.scroll:has(table)')]"
        ".map((box) => [...box.querySelectorAll('td, th')].filter((cell) => cell.offsetWidth &&"
        "cell.getBoundingClientRect().right > box.getBoundingClientRect().right + 1).length)"
    )
    assert browser.execute_script(beyond) == [0, 0, 0]


def test_phone_shows_rows_with_headings_and_no_empty_cell(browser: Browser, address: str) -> None:
    _open(browser, address, width=390)
    cells = (
        "return [...document.querySelectorAll('#table-results tr:nth-child(2) td')]"
        ".filter((cell) => cell.offsetHeight)"
        ".map((cell) => [cell.textContent, getComputedStyle(cell, '::before').content])"
    )
    shown = browser.execute_script(cells)
    assert ["uncut", '"criterion"'] in shown
    assert not [label for text, label in shown if not text.strip() or label in ("none", '""')]


@pytest.mark.parametrize("width", [390, 1280])
def test_numbers_of_the_layers_are_readable(browser: Browser, tmp_path: Path, width: int) -> None:
    """Whatever the number of levels, and however long the names."""
    levels = tuple(k / 100 for k in range(95, 0, -5))
    spec = make_spec(levels=levels, criteria=("gate",))
    layers = {f"model.blocks.{'deep.' * 8}{i}.weight": 1000 for i in range(4)}
    trials = make_trials(spec, layers=layers)
    _open(browser, _write(tmp_path, spec, trials, make_stages(spec, layers=layers)), width=width)
    boxes = (
        "return [...document.querySelectorAll('#chart-layers .textpoint text')].map((t) =>"
        "{ const b = t.getBoundingClientRect(), size = parseFloat(getComputedStyle(t).fontSize);"
        "  return [b.left, b.right, Math.round(b.top), size]; })"
    )
    found = sorted(browser.execute_script(boxes), key=lambda box: (box[2], box[0]))
    assert len(found) == len(levels) * len(layers)
    assert min(box[3] for box in found) >= 11
    for one, other in pairwise(found):
        assert one[2] != other[2] or one[1] <= other[0]
    assert _overflow(browser) <= 0


def test_a_turned_phone_draws_anew(browser: Browser, address: str) -> None:
    _open(browser, address, width=390)
    screen = {"width": 844, "height": 390, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    time.sleep(1)
    bars = "return document.querySelectorAll('#chart-layers .colorbar').length"
    assert browser.execute_script(bars) == 1
    plotted = "return document.getElementById('chart-curve').data.length"
    assert browser.execute_script(plotted) > 0
    _assert_silent(browser)


def test_measured_networks_are_drawn_with_their_sparsities(
    browser: Browser, tmp_path: Path, spec: Record
) -> None:
    address = _write(tmp_path, spec, make_trials(spec), make_stages(spec), make_shipped())
    for width in (1280, 390):
        _open(browser, address, width=width)
        for chart in ("latency", "footprint"):
            drawn = f"document.getElementById('chart-{chart}')"
            texts = browser.execute_script(f"return {drawn}.layout.annotations.map((a) => a.text)")
            assert {"50\u00a0%", "80\u00a0%"} <= set(texts)
            assert any("secateur ▾ 70.1" in text for text in texts)
        times = "return document.getElementById('chart-latency').data[0].x"
        assert max(browser.execute_script(times)) == pytest.approx(2.4)
        browser.execute_script(
            "const s = document.querySelector('[data-choose=batch]'); s.selectedIndex = 1;"
            "s.dispatchEvent(new Event('change'))"
        )
        assert max(browser.execute_script(times)) == pytest.approx(96)
        assert _overflow(browser) <= 0
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


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_a_chart_is_cut_off(browser: Browser, tmp_path: Path, width: int) -> None:
    """Neither the last line under a chart nor a name beside it, whatever is chosen."""
    spec = make_spec(unrepaired=True, reconstruct=64)
    address = _write(tmp_path, spec, make_trials(spec), make_stages(spec), make_shipped())
    _open(browser, address, width=width)
    beyond = (
        "return [...document.querySelectorAll('.drawn')].flatMap((box) => {"
        "  const b = box.getBoundingClientRect();"
        "  return [...box.querySelectorAll('text')].filter((t) => t.textContent.trim())"
        "    .filter((t) => { const r = t.getBoundingClientRect();"
        "      return r.width && (r.bottom > b.bottom + 1 || r.right > b.right + 1"
        "        || r.left < b.left - 1); }).map((t) => t.textContent); })"
    )
    for recovery in ("ladder", "batchnorm", "none"):
        _set(browser, "recovery", recovery)
        assert browser.execute_script(beyond) == []
    _assert_silent(browser)


@pytest.mark.parametrize("width", [1280, 390])
def test_odd_studies_have_a_working_page(browser: Browser, tmp_path: Path, width: int) -> None:
    loss = {"name": "loss", "unit": "", "higher_is_better": False}
    hostile = make_spec(name=HOSTILE, metric={**loss, "name": HOSTILE}, margin=0.02)
    layers = {HOSTILE: 1000, "a-very-long-layer-name." * 8: 500}
    one = make_spec(seeds=1, criteria=("magnitude",), levels=(0.5,))
    deep = make_spec(levels=(0.5, 0.1, 0.01), unrepaired=True)
    trunk = make_spec(levels=(0.5, 0.3, 0.1), gates="trunk")
    studies = {
        "trunk": (trunk, make_trials(trunk), make_stages(trunk)),
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
