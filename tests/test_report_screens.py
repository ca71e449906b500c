"""The page on screens of any width, in a real browser: nothing is cut off, and all is readable."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from report_browser import Browser, assert_silent, choose, drawings, open_page, overflow, write_page
from synthetic_study import make_shipped, make_spec, make_stages, make_trials

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='taken'</script><b onmouseover=alert(1)>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    spec = make_spec()
    folder = tmp_path_factory.mktemp("report")
    return write_page(folder, spec, make_trials(spec), make_stages(spec))


def test_no_table_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    spec = make_spec(unrepaired=True, reconstruct=64, levels=(0.5, 0.1))
    trials = make_trials(spec, layers={f"layer.{i}": 1_000_000 for i in range(25)})
    for layer in trials[-1]["weights"]["layers"].values():
        layer["kept"] = 0
    address = write_page(tmp_path, spec, trials, make_stages(spec))
    beyond = (
        "document.querySelectorAll('details').forEach((d) => (d.open = true));"
        "return [...document.querySelectorAll('.scroll:has(table)')]"
        ".map((box) => [...box.querySelectorAll('td, th')].filter((cell) => cell.offsetWidth &&"
        "cell.getBoundingClientRect().right > box.getBoundingClientRect().right + 1).length)"
    )
    for width in (768, 1024, 1280):
        open_page(browser, address, width=width)
        assert browser.execute_script(beyond) == [0, 0, 0], width


def test_phone_shows_rows_with_headings_and_no_empty_cell(browser: Browser, address: str) -> None:
    open_page(browser, address, width=390)
    cells = (
        "return [...document.querySelectorAll('#table-results tr:nth-child(2) td')]"
        ".filter((cell) => cell.offsetHeight)"
        ".map((cell) => [cell.textContent, getComputedStyle(cell, '::before').content])"
    )
    shown = browser.execute_script(cells)
    assert ["uncut", '"criterion"'] in shown
    assert not [label for text, label in shown if not text.strip() or label in ("none", '""')]


def test_numbers_of_the_layers_are_readable(browser: Browser, tmp_path: Path) -> None:
    """Whatever the number of levels, and however long the names."""
    levels = tuple(k / 100 for k in range(95, 0, -5))
    spec = make_spec(levels=levels, criteria=("gate",))
    layers = {f"model.blocks.{'deep.' * 8}{i}.weight": 1000 for i in range(4)}
    trials = make_trials(spec, layers=layers)
    address = write_page(tmp_path, spec, trials, make_stages(spec, layers=layers))
    boxes = (
        "return [...document.querySelectorAll('#chart-layers .textpoint text')].map((t) =>"
        "{ const b = t.getBoundingClientRect(), size = parseFloat(getComputedStyle(t).fontSize);"
        "  return [b.left, b.right, Math.round(b.top), size]; })"
    )
    for width in (390, 1280):
        open_page(browser, address, width=width)
        found = sorted(browser.execute_script(boxes), key=lambda box: (box[2], box[0]))
        assert len(found) == len(levels) * len(layers)
        assert min(box[3] for box in found) >= 11
        for one, other in pairwise(found):
            assert one[2] != other[2] or one[1] <= other[0]
        assert overflow(browser) <= 0


def test_a_turned_phone_draws_anew(browser: Browser, address: str) -> None:
    open_page(browser, address, width=390)
    screen = {"width": 844, "height": 390, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    time.sleep(1)
    bars = "return document.querySelectorAll('#chart-layers .colorbar').length"
    assert browser.execute_script(bars) == 1
    plotted = "return document.getElementById('chart-curve').data.length"
    assert browser.execute_script(plotted) > 0
    assert_silent(browser)


def test_phone_never_scrolls_sideways(browser: Browser, address: str) -> None:
    open_page(browser, address, width=390)
    assert overflow(browser) <= 0
    for element in browser.find_elements("tag name", "details"):
        browser.execute_script("arguments[0].open = true", element)
    assert overflow(browser) <= 0
    assert_silent(browser)


def test_nothing_of_a_chart_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    """Neither the last line under a chart nor a name beside it, whatever is chosen."""
    spec = make_spec(unrepaired=True, reconstruct=64)
    address = write_page(tmp_path, spec, make_trials(spec), make_stages(spec), make_shipped())
    beyond = (
        "return [...document.querySelectorAll('.drawn')].flatMap((box) => {"
        "  const b = box.getBoundingClientRect();"
        "  return [...box.querySelectorAll('text')].filter((t) => t.textContent.trim())"
        "    .filter((t) => { const r = t.getBoundingClientRect();"
        "      return r.width && (r.bottom > b.bottom + 1 || r.right > b.right + 1"
        "        || r.left < b.left - 1); }).map((t) => t.textContent); })"
    )
    for width in (1280, 390):
        open_page(browser, address, width=width)
        for recovery in ("ladder", "batchnorm", "none"):
            choose(browser, "recovery", recovery)
            assert browser.execute_script(beyond) == [], width
        assert_silent(browser)


def test_odd_studies_have_a_working_page(browser: Browser, tmp_path: Path) -> None:
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
        address = write_page(folder, *records)
        for width in (1280, 390):
            open_page(browser, address, width=width)
            assert drawings(browser, "curve") > 0, name
            assert overflow(browser) <= 0, name
            assert browser.title != "taken"
            assert_silent(browser)
