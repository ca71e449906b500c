"""What a report takes to a paper, and how near its charts open; measured networks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import UsageError
from secateur.study import plan
from secateur.study.report import latex
from secateur.study.report.charts import CHARTS, zoom
from secateur.study.report.charts import measured as of_measured
from secateur.study.report.charts.chart import short
from secateur.study.report.printed import printed
from secateur.study.shipped import Shipped
from secateur.study.spec import options_of
from secateur.study.statistics import Interval
from secateur.study.summary import summarise
from synthetic_study import (
    Record,
    make_shipped,
    make_spec,
    make_stages,
    make_trials,
)
from test_report import HOSTILE, _charts, _page, _write, size_chart

LOSS = {"name": "loss", "unit": "nats", "higher_is_better": False}
MACROS = re.compile(
    r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}"
    r"|\$(\\pm|-|\\times|\^2)\$|\\[{}$&#_%]"
)


def test_latex_table_has_the_levels_of_the_claim(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5, 0.1), primary="magnitude/ladder")
    text = _write(tmp_path, spec, make_trials(spec), []).tex.read_text(encoding="utf-8")
    summary = summarise(spec, make_trials(spec))
    body = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if "pm" in line]
    assert [cells[0] for cells in body] == [r"50~\%", r"90~\%"]
    half = summary.of("magnitude", "ladder")[0]
    assert half.difference is not None
    assert half.reference is not None
    assert half.test.high is not None
    assert half.reference.high is not None
    assert body[0][1] == rf"{half.test.mean:.2f} $\pm$ {half.test.high - half.test.mean:.2f}"
    uncut = half.reference.high - half.reference.mean
    assert body[0][2] == rf"{half.reference.mean:.2f} $\pm$ {uncut:.2f}"
    assert body[0][3].startswith(f"{half.difference.mean:+.2f}".replace("-", "$-$"))
    assert [cells[4] for cells in body] == ["certified", "not certified"]
    assert "magnitude, down the ladder, 95~\\% intervals, margin 0.5~points" in text
    assert "uncut, trained as long" in text
    assert r"\begin{tabular}{rrrrl}" in text
    assert text.endswith("\\end{tabular}\n")


def test_latex_gives_both_ends_of_an_uneven_interval() -> None:
    spec = make_spec(levels=(0.5,))
    summary = summarise(spec, make_trials(spec))
    (row,) = summary.of("gate", "ladder")
    uneven = replace(row, test=Interval(90.0, 0.1, 89.5, 90.2, 3, 0.95))
    single = replace(row, test=Interval(90.0, None, None, None, 1, 0.95))
    for each, text in ((uneven, "90.00 [89.50, 90.20]"), (single, "& 90.00 &")):
        assert text in latex.table(replace(summary, rows=(each,)), "gate", "ladder")


@given(st.text())
def test_text_is_no_command_in_latex(text: str) -> None:
    rest = MACROS.sub("", latex.escaped(text).replace("~", " "))
    assert not set(rest) & set("\\{}$&#_%^~<>|\n\r")


def test_hostile_names_stay_text_in_latex(tmp_path: Path) -> None:
    name = "\\input{/etc/passwd}% & \n\\end{tabular}" + HOSTILE
    metric = {"name": name, "unit": name, "higher_is_better": True}
    spec = make_spec(name=name, metric=metric, levels=(0.5,))
    made = _write(tmp_path, spec, make_trials(spec), []).tex.read_text(encoding="utf-8")
    summary = summarise(spec, make_trials(spec))
    rows = [replace(row, criterion=name) for row in summary.rows]
    other = latex.table(replace(summary, rows=tuple(rows)), name, "ladder")
    assert other.count(r"\end{tabular}") == made.count(r"\end{tabular}") == 1
    assert r"\input" not in other
    text = made
    assert text.count(r"\end{tabular}") == 1
    assert r"\input" not in text
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines[1:]} == {5}


@pytest.mark.parametrize(
    ("metric", "margin", "references", "shown"),
    [
        (None, 0.5, [90.0], (85, 91)),
        (None, 0.5, [90.0, 91.0], (85, 92)),
        (None, 4.0, [90.0], (82, 98)),
        (LOSS, 0.02, [0.5], (0.46, 0.7)),
        ({**LOSS, "higher_is_better": True}, 0.02, [0.5], (0.3, 0.54)),
    ],
)
def test_charts_open_around_the_reference(
    metric: Record | None, margin: float, references: list[float], shown: tuple[float, float]
) -> None:
    summary = summarise(make_spec(metric=metric, margin=margin), [])
    assert zoom.around(references, summary) == pytest.approx(shown)
    low, high = zoom.either_side(summary)
    assert low == -high


def test_ranges_are_written_with_the_figures_that_a_scale_needs() -> None:
    digits = zoom.decimals(83.3, 89.3)
    assert zoom.between([10.04, 35.26], digits) == "10.0–35.3"
    assert zoom.between([10.04], digits) == "10.0"
    assert zoom.between([-33.0, -5.6], digits) == "−33.0 to −5.6"


def test_a_figure_has_the_near_panel_only_where_there_is_a_reference() -> None:
    spec = make_spec()
    summary = summarise(spec, make_trials(spec))
    widths = [
        float(
            ET.fromstring(printed(chart, {"": {"recovery": "ladder"}})["svg"]).attrib["width"][:-2]
        )
        for chart in (CHARTS["curve"](summary, spec, []), size_chart(summary, spec, []))
        if chart
    ]
    assert widths[0] > widths[1]


def test_measured_networks_are_printed_in_a_panel_for_each_batch(tmp_path: Path) -> None:
    spec = make_spec()
    shipped = [*make_shipped(), replace(make_shipped()[0], engine=HOSTILE)]
    _write(tmp_path, spec, make_trials(spec), make_stages(spec), shipped)
    assert {path.suffix for path in tmp_path.glob("latency.*")} == {".svg", ".png", ".pdf"}
    text = (tmp_path / "latency.svg").read_text("utf-8")
    ET.fromstring(text)
    drawn = [each.replace("\u00a0", " ") for each in re.findall(r"<!-- (.*?) -->", text)]
    assert {f"latency of one batch (ms), batch size {n}" for n in (1, 64)} <= {*drawn}
    assert "50 %" in drawn
    assert "95 %" not in drawn  # it lies far below
    assert drawn.count("off the scale: secateur ▾ 70.1") == 2


@pytest.mark.parametrize("gates", ["ladder", "trunk"])
def test_validation_stands_beside_loss_at_the_end_of_each_rung(tmp_path: Path, gates: str) -> None:
    spec = make_spec(levels=(0.5, 0.2), gates=gates)
    trials, stages = make_trials(spec), make_stages(spec)
    training = _charts(_page(tmp_path, spec, trials, stages))["training"]
    assert training["y"] == ["training loss", "validation accuracy (%)"]
    shown = {line["name"]: line for line in training["series"] if line["panel"] == 1}
    summary, options = summarise(spec, trials), options_of(spec)
    (start,) = summary.of("start", "batchnorm")
    assert (shown["start"]["x"], shown["start"]["y"]) == ([10], [start.validation.mean])
    if gates == "trunk":
        assert shown["uncut"]["x"] == [13]
        return
    for name in ("gate", "uncut"):
        rows = summary.of(name, "ladder")
        assert shown[name]["y"] == [row.validation.mean for row in rows]
        ends = [10 + plan.down_to(options, keep) for keep in (0.5, 0.2)]
        assert shown[name]["x"] == pytest.approx(ends)
    losses = [line for line in training["series"] if line["panel"] == 0]
    logs = {(s["seed"], s["stage"], s["keep"]): [e["loss"] for e in s["log"]] for s in stages}
    assert losses[0]["y"] == logs[0, "start", 1.0]
    gate = next(line for line in losses if line["name"] == "gate")
    assert gate["y"] == logs[0, "gate", 0.5] + logs[0, "gate", 0.2]
    unmeasured = _charts(_page(tmp_path, spec, [], stages))["training"]
    assert unmeasured["y"] == ["training loss"]


@pytest.mark.parametrize(
    ("names", "shortened"),
    [
        (["net.a.weight", "net.b.weight"], ["a", "b"]),
        (["net.a.weight", "net.a.c.weight"], ["a", "a.c"]),
        (["a.weight", "a.bias"], ["weight", "bias"]),
        (["net.a.weight"], ["net.a"]),
        ([], []),
    ],
)
def test_names_of_layers_leave_out_what_all_have(names: list[str], shortened: list[str]) -> None:
    assert short(names) == shortened


def test_networks_that_were_measured_are_charts_and_a_table(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5, 0.2, 0.05))
    found = make_shipped()
    page = _page(tmp_path, spec, make_trials(spec), make_stages(spec), found)
    latency, footprint = _charts(page)["latency"], _charts(page)["footprint"]
    ours = next(line for line in latency["series"] if line["when"] == {"batch": 64})
    assert ours["name"] == "secateur"
    assert ours["x"] == [each.latency_ms[64] for each in found[:4]]
    assert ours["y"] == [each.accuracy for each in found[:4]]
    assert ours["hollow"] == [True, False, False, True]
    assert ours["text"] == ["0\u00a0%", "50\u00a0%", "80\u00a0%", "95\u00a0%"]
    names = [line["name"] for line in footprint["series"]]
    assert names == ["secateur", "onnxruntime", "openvino-int8"]
    assert footprint["series"][0]["x"] == [each.bytes / 1e6 for each in found[:4]]
    assert len({line["style"]["plotly"] for line in footprint["series"]}) == 3
    assert "ms, batch 64" in page.text
    assert "$ per million" not in page.text
    assert "How fast is it, and how good?" in page.text


def test_what_was_not_measured_is_no_chart(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5,))
    page = _page(tmp_path, spec, make_trials(spec), [])
    assert not {"latency", "footprint"} & _charts(page).keys()
    assert ("table", "table-shipped") not in {(tag, a.get("id")) for tag, a in page.elements}


def test_names_of_engines_stay_text(tmp_path: Path) -> None:
    found = make_shipped(engine=HOSTILE, precision=HOSTILE, cost_per_million=0.5, energy_j=0.01)
    spec = make_spec(levels=(0.5,))
    page = _page(tmp_path, spec, make_trials(spec), [], found)
    assert "img" not in {tag for tag, _ in page.elements}
    assert len(page.scripts) == 3
    assert "$ per million" in page.text
    assert "J each" in page.text


def test_an_engine_is_told_apart_by_precision_and_criterion() -> None:
    (one, *_) = make_shipped(criterion="gate", keep=0.5)
    found = [one, replace(one, precision="int8"), replace(one, criterion="lamp")]
    names = [of_measured.called(each, found) for each in found]
    assert names == ["secateur fp32, gate", "secateur int8, gate", "secateur fp32, lamp"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0.0}, {"keep": "half"}, {"latency_ms": {}}, {"latency_ms": {1: 0.0}},
        {"latency_ms": {0: 1.0}}, {"latency_ms": 3}, {"bytes": 0}, {"peak_memory": -1},
        {"accuracy": float("nan")}, {"cost_per_million": -1.0}, {"energy_j": float("inf")},
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_one_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        make_shipped(**wrong)


def test_the_uncut_network_needs_no_cost() -> None:
    network: Shipped = make_shipped()[0]
    assert (network.cost_per_million, network.energy_j) == (None, None)
