"""The page in a real browser: its charts, its controls, its themes."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from report_browser import (
    Browser,
    assert_silent,
    choose,
    drawings,
    open_page,
    overflow,
    write_page,
)
from secateur.study import report
from secateur.study.summary import Summary, summarise
from synthetic_study import (
    LEVELS,
    Record,
    make_shipped,
    make_spec,
    make_stages,
    make_trials,
)
from test_report import size_chart

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def spec() -> Record:
    return make_spec()


@pytest.fixture(scope="module")
def summary(spec: Record) -> Summary:
    return summarise(spec, make_trials(spec))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, spec: Record) -> str:
    folder = tmp_path_factory.mktemp("report")
    return write_page(folder, spec, make_trials(spec), make_stages(spec))


def _value(browser: Browser, name: str) -> Any:
    script = "return document.getElementById(arguments[0]).dataset.value ?? null"
    found = browser.execute_script(script, f"out-{name}")
    return float(found) if found is not None and name != "certified" else found


def test_every_chart_is_drawn_without_a_word_in_the_console(browser: Browser, address: str) -> None:
    open_page(browser, address)
    for chart in ("curve", "comparisons", "layers", "gates", "training"):
        assert drawings(browser, chart) > 0, chart
    assert_silent(browser)


def test_a_new_chart_needs_no_script_of_its_own(
    browser: Browser, tmp_path: Path, spec: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "CHARTS", report.CHARTS | {"size": size_chart})
    open_page(browser, write_page(tmp_path, spec, make_trials(spec), make_stages(spec)))
    assert drawings(browser, "size") > 0
    names = "return document.getElementById('chart-size').data.map((t) => t.name)"
    assert browser.execute_script(names) == spec["criteria"]
    assert_silent(browser)


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
    open_page(browser, address)
    choose(browser, "criterion", criterion)
    choose(browser, "recovery", recovery)
    rows = [r for r in summary.rows if (r.criterion, r.recovery) == (criterion, recovery)]
    assert len(rows) == (3 if criterion == "random" else 9)
    for row in rows:
        choose(browser, "keep", LEVELS.index(row.keep))
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
        command = browser.find_element("id", "out-command").text
        chosen = "" if criterion == "gate" else f" --criterion {criterion}"
        chosen += "" if recovery == "ladder" else f" --recovery {recovery}"
        assert command == f"secateur compile STUDY --keep {row.keep}{chosen}"
    assert_silent(browser)


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (
            {"source": "my task.py:task"},
            "secateur compile STUDY --keep 0.5 --task 'my task.py:task'",
        ),
        ({}, 'secateur.compile(study.onnx(0.5), out="net.so")'),
    ],
)
def test_a_task_of_ones_own_is_in_the_command_that_ships(
    browser: Browser, tmp_path: Path, given: Record, command: str
) -> None:
    spec = make_spec(levels=(0.5,), name="mine", task={"data": None, "net": None, **given})
    open_page(browser, write_page(tmp_path, spec, make_trials(spec), make_stages(spec)))
    assert browser.find_element("id", "out-command").text == command
    assert_silent(browser)


def test_segments_and_select_choose_the_same_recovery(browser: Browser, address: str) -> None:
    open_page(browser, address)
    choose(browser, "recovery", "batchnorm")
    browser.find_element("css selector", "#recoveries label:first-child").click()
    assert browser.execute_script("return document.getElementById('recovery').value") == "ladder"
    choose(browser, "recovery", "batchnorm")
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
    open_page(browser, address)
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
    assert_silent(browser)


def test_what_is_off_the_scale_is_marked_and_named(browser: Browser, tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5, 0.2, 0.1, 0.05))
    trials = make_trials(spec)
    summary = summarise(spec, trials)
    open_page(browser, write_page(tmp_path, spec, trials, make_stages(spec)))
    choose(browser, "recovery", "batchnorm")
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
    address = write_page(tmp_path, spec, make_trials(spec), make_stages(spec))
    open_page(browser, address, scheme=scheme)
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
    assert_silent(browser)


def test_measured_networks_are_drawn_with_their_sparsities(
    browser: Browser, tmp_path: Path, spec: Record
) -> None:
    address = write_page(tmp_path, spec, make_trials(spec), make_stages(spec), make_shipped())
    for width in (1280, 390):
        open_page(browser, address, width=width)
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
        assert overflow(browser) <= 0
        assert_silent(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_until_it_is_toggled(
    browser: Browser, address: str, scheme: str
) -> None:
    theme = "return document.documentElement.dataset.theme"
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.getElementById('chart-curve').layout.font.color"
    open_page(browser, address, scheme=scheme)
    assert browser.execute_script(theme) == scheme
    before = browser.execute_script(ground), browser.execute_script(ink)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(theme) != scheme
    after = browser.execute_script(ground), browser.execute_script(ink)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert_silent(browser)
