"""The report of a study: its files, from whole, partial and hostile records."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from secateur.errors import FileError, StudyError
from secateur.study import plan, report
from secateur.study.report import tables as page_tables
from secateur.study.report.charts.chart import Chart, Series
from secateur.study.report.columns import COLUMNS, Column
from secateur.study.report.palette import styles
from secateur.study.rows import csv_rows
from secateur.study.shipped import Shipped
from secateur.study.spec import options_of
from secateur.study.summary import Summary, summarise
from secateur.terminal import tables as terminal_tables
from synthetic_study import (
    HASH,
    LAYERS,
    Record,
    make_shipped,
    make_spec,
    make_stages,
    make_trials,
)

COMMAND = "secateur study --data cifar10 --net convnet"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>{{library}} & \" \u2028"
FETCHING = {"src", "href", "srcset", "data", "action", "formaction", "poster", "background"}


class _Page(HTMLParser):
    """Elements, the page's own text and what scripts of each type hold."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif self.cdata_elem != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(next(t for kind, t in self.scripts if kind == "application/json")))


def _write(
    folder: Path,
    spec: Record,
    trials: list[Record],
    stages: list[Record],
    shipped: Sequence[Shipped] = (),
    command: str = COMMAND,
) -> report.ReportFiles:
    summary = summarise(spec, trials, shipped)
    return report.write(folder, summary, spec, HASH, trials, stages, command=command)


def _page(
    folder: Path,
    spec: Record,
    trials: list[Record],
    stages: list[Record],
    shipped: Sequence[Shipped] = (),
) -> _Page:
    return _Page(_write(folder, spec, trials, stages, shipped).html.read_text(encoding="utf-8"))


def _charts(page: _Page) -> dict[str, Any]:
    return {chart["name"]: chart for chart in page.data["charts"]}


@pytest.fixture(scope="module")
def spec() -> Record:
    return make_spec()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: Record) -> report.ReportFiles:
    folder = tmp_path_factory.mktemp("whole")
    return _write(folder, spec, make_trials(spec), make_stages(spec))


@pytest.fixture(scope="module")
def page(whole: report.ReportFiles) -> _Page:
    return _Page(whole.html.read_text(encoding="utf-8"))


PARTS = {
    "html": "report.html", "svg": "curve.svg", "png": "curve.png", "pdf": "curve.pdf",
    "csv": "results.csv", "tex": "table.tex",
}  # fmt: skip


def test_writes_its_files_and_nothing_else(whole: report.ReportFiles) -> None:
    assert {part: getattr(whole, part).name for part in PARTS} == PARTS
    assert {path.name for path in whole.html.parent.iterdir()} == set(PARTS.values())
    assert whole.pdf.read_bytes().startswith(b"%PDF-")
    assert whole.png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.fromstring(whole.svg.read_text(encoding="utf-8")).tag.endswith("svg")


def test_table_reads_back_as_it_was_summarised(whole: report.ReportFiles, spec: Record) -> None:
    with whole.csv.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    summary = summarise(spec, make_trials(spec))
    assert [list(line.values()) for line in table] == csv_rows(summary.lines)[1:]
    assert [float(line["test_mean"]) for line in table] == [r.test.mean for r in summary.lines]


def test_same_records_in_any_order_give_the_same_bytes(
    whole: report.ReportFiles, spec: Record, tmp_path: Path
) -> None:
    again = _write(tmp_path, spec, make_trials(spec)[::-1], make_stages(spec)[::-1])
    for part in PARTS:
        assert getattr(again, part).read_bytes() == getattr(whole, part).read_bytes()


def test_page_fetches_nothing_and_may_not(page: _Page) -> None:
    fetched = [
        (tag, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in FETCHING and value not in (None, "data:,")
    ]
    assert fetched == []
    policy = next(
        a["content"] or ""
        for _, a in page.elements
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert "unsafe-eval" not in policy


def test_headline_says_how_far_and_how_sure(page: _Page) -> None:
    assert "cifar10/convnet can lose 70 % of its prunable weights. Its accuracy, " in page.text
    assert "not worse by 0.5 points with 95 % confidence (new seeds and new test ex" in page.text


def test_page_says_where_its_figures_come_from(page: _Page, spec: Record) -> None:
    counts = f"{len(make_trials(spec))} trials, {len(make_stages(spec))} stages"
    for text in (COMMAND, HASH, "torch 2.13.0", "AMD EPYC", "bf16 autocast", "2026-11-22", counts):
        assert text in page.text
    assert "Never cut: first.weight (first layer)." in page.text


def test_page_says_what_is_compared_with_what(page: _Page, tmp_path: Path) -> None:
    assert "A level is compared with the uncut network after its rung" in page.text
    assert "The claim is gate, down the ladder: one sequence, named in the spec." in page.text
    assert "the chance of certifying any inferior level stays below 5 % without" in page.text
    trunk = make_spec(gates="trunk", levels=(0.5,))
    text = _page(tmp_path, trunk, make_trials(trunk), []).text
    assert "compared with the uncut network that was trained on from the start for as" in text
    assert "The claim is gate, + batch-norm recalibration" in text


def test_script_is_given_the_summary(page: _Page, spec: Record) -> None:
    rows = summarise(spec, make_trials(spec)).lines
    given = page.data["rows"]
    assert [row["test"]["mean"] for row in given] == [row.test.mean for row in rows]
    assert [row["kept"] for row in given] == [row.kept for row in rows]
    assert [row["layers"].keys() for row in given] == [LAYERS.keys()] * len(rows)
    charts = _charts(page)
    assert list(charts) == ["curve", "comparisons", "layers", "gates", "training"]
    assert charts["layers"]["rows"] == list(LAYERS)
    seeds = [histogram["when"]["seed"] for histogram in charts["gates"]["histograms"]]
    assert seeds == [0] * 4 + [1] * 4 + [2] * 4
    losses = [line for line in charts["training"]["series"] if line["panel"] == 0]
    names = ["start", "uncut", "gate", "magnitude", "smaller"]
    assert [line["name"] for line in losses] == names * 3
    down = plan.down_to(options_of(spec), 0.2)
    assert [line["x"][-1] for line in losses] == pytest.approx([10, 13, 13, 13, 10 + down] * 3)
    for line in losses:
        assert line["x"] == sorted(line["x"])


def size_chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart:
    """A chart as somebody would add one: what it takes in bytes, over sparsity."""
    lines = [
        next(rows for recovery in spec["recovery"] if (rows := summary.of(criterion, recovery)))
        for criterion in spec["criteria"]
    ]
    return Chart(
        title="How small does it get?",
        about="Curve of bytes against sparsity",
        caption="Estimated bytes; test {{metric}} is above.",
        series=[
            Series(
                name=rows[0].criterion,
                style=styles(spec["criteria"])[rows[0].criterion],
                x=[row.keep for row in rows],
                y=[row.estimated_bytes for row in rows],
                hover=[f"{row.estimated_bytes} bytes" for row in rows],
                label=[rows[0].criterion],
            )
            for rows in lines
        ],
        x="sparsity (%)",
        y=["bytes"],
        levels=spec["levels"],
    )


def test_a_chart_is_one_function_and_its_name_in_a_list(
    tmp_path: Path, spec: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "CHARTS", report.CHARTS | {"size": size_chart})
    monkeypatch.setattr(report, "PRINTED", ("curve", "size"))
    page = _page(tmp_path, spec, make_trials(spec), make_stages(spec))
    series = _charts(page)["size"]["series"]
    of = {"gate": "ladder", "magnitude": "ladder", "random": "batchnorm"}
    rows = [row for row in page.data["rows"] if of.get(row["criterion"]) == row["recovery"]]
    assert [v for line in series for v in line["y"]] == [row["estimated_bytes"] for row in rows]
    assert ("div", "chart-size") in {(tag, a.get("id")) for tag, a in page.elements}
    assert "Estimated bytes; test accuracy is above." in page.text
    assert ET.fromstring((tmp_path / "size.svg").read_bytes()).tag.endswith("svg")
    assert (tmp_path / "size.png").exists()


def test_a_column_is_one_line_for_page_and_terminal(
    tmp_path: Path, spec: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = Column(lambda row: f"{row.parameters - row.kept} gone", page="cut", terminal="cut")
    for module in (page_tables, terminal_tables):
        monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, column))
    trials = make_trials(spec)
    text = _page(tmp_path, spec, trials, []).text
    shown = io.StringIO()
    Console(file=shown, width=200).print(terminal_tables.everything(summarise(spec, trials)))
    for row in summarise(spec, trials).lines:
        assert f"{row.parameters - row.kept} gone" in text
        assert f"{row.parameters - row.kept} gone" in shown.getvalue()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    spec = make_spec(
        name=HOSTILE,
        levels=(0.5,),
        metric={"name": HOSTILE, "unit": HOSTILE, "higher_is_better": True},
    )
    layers = {HOSTILE: 1000, "$\\frac{1}": 500}
    stages = make_stages(spec, layers=layers)
    for stage in stages:
        stage["hardware"] = {"cpu": HOSTILE}
        stage["excluded"] = {HOSTILE: HOSTILE}
    trials = make_trials(spec, layers=layers)
    trials[3]["weights"]["layers"][HOSTILE]["kept"] = 0
    made = _write(tmp_path, spec, trials, stages, make_shipped(), command=HOSTILE)
    page = _Page(made.html.read_text(encoding="utf-8"))
    assert len(page.scripts) == 3
    assert "img" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert _charts(page)["layers"]["rows"][0] == HOSTILE
    assert "<img src=x onerror='alert(2)'>{{library}}" in page.text
    ET.fromstring(made.svg.read_text(encoding="utf-8"))


def test_texts_of_records_stay_text_in_every_file(tmp_path: Path) -> None:
    name = "=1+1\x1b[2J\u4e2d $\\frac{1}"
    spec = make_spec(
        name=name, levels=(0.5,), seeds=2,
        metric={"name": name, "unit": name, "higher_is_better": True},
    )  # fmt: skip
    layers = {"-conv": 10, "\ud800": 10}
    trials = make_trials(spec, layers=layers)
    for trial in trials:
        for layer in trial["weights"]["layers"].values():
            layer["kept"] = 0
    stages = make_stages(spec, layers=layers)
    made = _write(tmp_path, spec, trials, stages, command=name)
    ET.fromstring(made.svg.read_bytes())
    rows = list(csv.DictReader(made.csv.read_text(encoding="utf-8").splitlines()))
    cells = [cell for row in rows for cell in (row["criterion"], row["collapsed_layers"]) if cell]
    (line,) = summarise(spec, trials).of("gate", "ladder")
    cells.append(csv_rows([replace(line, criterion=name)])[1][0])
    assert cells[-1].startswith(r"'=1+1\x1b[2J")
    assert any(cell.startswith("'-conv") for cell in cells)
    assert not any(cell.startswith(tuple("=+-@")) or not cell.isprintable() for cell in cells)
    assert "\\ud800" in made.html.read_text(encoding="utf-8")


def test_one_seed_is_refused_a_certificate(tmp_path: Path) -> None:
    spec = make_spec(seeds=1)
    page = _page(tmp_path, spec, make_trials(spec), make_stages(spec))
    assert "Nothing of cifar10/convnet is certified by gate, down the ladder." in page.text
    assert "Only 1 seed." in page.text
    uncut = {"start", "uncut", "smaller"}
    verdicts = {(row["criterion"] in uncut, row["verdict"]) for row in page.data["rows"]}
    assert verdicts == {(True, ""), (False, "not tested")}
    assert {row["test"]["low"] for row in page.data["rows"]} == {None}


def test_unfinished_study_names_what_is_missing(tmp_path: Path, spec: Record) -> None:
    page = _page(tmp_path, spec, make_trials(spec)[:-5], make_stages(spec)[:2])
    assert "Unfinished: 5 planned trials missing." in page.text
    assert "random" in page.text


def test_study_without_records_still_has_a_page(tmp_path: Path, spec: Record) -> None:
    page = _page(tmp_path, spec, [], [])
    assert "Nothing of cifar10/convnet has been cut so far." in page.text
    assert page.data["rows"] == []


def test_loss_in_another_unit_without_gates(tmp_path: Path) -> None:
    spec = make_spec(
        metric={"name": "cross entropy", "unit": "nats", "higher_is_better": False},
        criteria=("magnitude", "random"),
        margin=0.02,
    )
    page = _page(tmp_path, spec, make_trials(spec), [])
    assert "Its cross entropy, " in page.text
    assert "and not worse by 0.02 nats with" in page.text
    assert page.data["metric"]["digits"] == 3
    assert list(_charts(page)) == ["curve", "comparisons", "layers"]


def test_network_at_chance_is_a_warning(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5,))
    trials = make_trials(spec)
    for trial in trials:
        trial["metrics"] = {"validation": 10.0, "test": 10.0}
        del trial["scores"]
    page = _page(tmp_path, spec, trials, [])
    assert "The uncut network does no better than chance." in page.text


def test_collapsed_layers_are_named(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5, 0.02))
    trials = make_trials(spec)
    trials[-1]["weights"]["layers"]["body.2.conv"]["kept"] = 0
    page = _page(tmp_path, spec, trials, [])
    assert "random at 98 % sparsity: body.2.conv" in page.text


def test_wide_intervals_of_percentages_stay_in_the_figure(tmp_path: Path) -> None:
    spec = make_spec(levels=(0.5,), seeds=2)
    trials = make_trials(spec)
    trials[-1]["metrics"]["test"] = 5.0
    del trials[-1]["scores"]
    assert _write(tmp_path, spec, trials, []).svg.exists()


def test_criteria_without_a_style_are_told_apart() -> None:
    found = styles(["gate", "mine", "yours"])
    assert list(found) == ["gate", "mine", "yours"]
    assert len({style.light for style in found.values()}) == 3
    assert len({style.plotly for style in found.values()}) == 3


def test_folder_that_is_not_there_is_a_file_error(tmp_path: Path, spec: Record) -> None:
    with pytest.raises(FileError, match=r"results\.csv"):
        _write(tmp_path / "absent", spec, make_trials(spec), [])


def test_what_goes_wrong_leaves_an_old_report_alone(
    tmp_path: Path, spec: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = make_trials(spec)
    _write(tmp_path, spec, trials, [])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    broken = {key: value for key, value in trials[0].items() if key != "metrics"}
    with pytest.raises(StudyError, match="metrics"):
        _write(tmp_path, spec, [broken, *trials[1:]], [])
    monkeypatch.setattr(report.latex, "table", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _write(tmp_path, spec, trials[1:], [])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("pattern", "said"), [("dot4", True), ("weight", False)])
def test_a_pattern_is_said_where_it_is_not_single_weights(
    tmp_path: Path, pattern: str, said: bool
) -> None:
    spec = make_spec(levels=(0.5,), pattern=pattern)
    text = _page(tmp_path, spec, make_trials(spec), []).text
    assert (f"All cuts have the pattern {pattern}." in text) == said
