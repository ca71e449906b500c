"""What a study's report claims: headline, verdict, roles, references and words."""

from __future__ import annotations

import csv
import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from secateur.study.report.document import document
from secateur.study.report.verdict import shipped, verdict
from secateur.study.rows import Row
from secateur.study.shipped import Shipped
from secateur.study.summary import Comparison, Summary, summarise
from synthetic_study import HASH, Record, make_shipped, make_spec, make_stages, make_trials
from test_report import _charts, _Page, _page

OUT = Path("out of the way")


def _study(
    differences: dict[float, float] | None = None, *, spread: float = 0.0, **options: Any
) -> tuple[Record, Summary]:
    """A study without scores, whose claim differs from its reference by so much at each level.

    Args:
        differences: keep ratio → mean difference, in points.
        spread: standard deviation over seeds.
        options: of `make_spec`.
    """
    found = differences or {0.5: -0.1, 0.2: -0.2, 0.1: -3.0}
    spec = make_spec(levels=tuple(found), criteria=("gate",), **options)
    trials = make_trials(spec, scores=False)
    for trial in trials:
        its, figures = trial["trial"], trial["metrics"]
        gate = its["criterion"] == "gate"
        off = (its["seed"] - (len(spec["seeds"]) - 1) / 2) * spread if gate else 0.0
        figures["test"] = 88.3 + (found[its["keep"]] + off if gate else 0.0)
        trial["classes"] = None
    return spec, summarise(spec, trials)


def _lines(spec: Record, summary: Summary) -> list[str]:
    return [line.replace("\u00a0", " ") for line in verdict(summary, spec, OUT)]


def test_verdict_says_how_much_at_what_cost_what_further_and_how_to_ship() -> None:
    lines = _lines(*_study(spread=0.02))
    assert lines == [
        "cifar10/convnet can lose 80 % of its prunable weights.",
        "Its accuracy, 88.10 %, is 0.20 points below that of an uncut network with as much "
        "training, and not worse by 0.5 points with 95 % confidence (new seeds, on these test "
        "examples; n = 3).",
        "Further it is not certified: at 90 % sparsity the difference is −3.00 points (worse), "
        "and it may be worse by up to 3.03 points.",
        f"Ship it: secateur compile {shlex.quote(str(OUT))} --keep 0.2",
    ]


def test_a_gain_and_no_difference_are_called_so() -> None:
    for gap, said in ((0.2, "0.20 points above that of"), (0.001, "no different from that of")):
        lines = _lines(*_study({0.5: gap}, spread=0.02))
        assert f"Its accuracy, {88.3 + gap:.2f} %, is {said} an uncut network" in lines[1]
        assert not any("Further" in line for line in lines)


def test_a_loss_says_above_where_lower_is_better() -> None:
    metric = {"name": "loss", "unit": "nats", "higher_is_better": False}
    spec, summary = _study({0.5: 0.2}, spread=0.02, metric=metric)
    assert "Its loss, 88.50 nats, is 0.20 nats above that of" in _lines(spec, summary)[1]


def test_a_verdict_has_at_most_five_lines() -> None:
    """With everything that it may say: further levels, shipped networks, the command."""
    spec, summary = _study(spread=0.02)
    with_shipped = replace(summary, shipped=tuple(make_shipped()))
    lines = _lines(spec, with_shipped)
    assert len(lines) == 5
    assert all(len(line) < 240 for line in lines)
    for seeds in (1, 2, 3):
        assert 0 < len(_lines(*_study({0.5: -9.0}, seeds=seeds))) <= 5


def test_a_true_loss_is_told_from_noise() -> None:
    loss = _lines(*_study({0.5: -2.0}, spread=0.02))
    assert loss[0] == "Nothing of cifar10/convnet is certified by gate, down the ladder."
    assert "At 50 % sparsity it is worse by 2.00 points than an uncut network" in loss[1]
    assert "it costs that much. Train longer on the ladder (--gate-epochs), or" in loss[1]
    noise = _lines(*_study({0.5: -0.1}, spread=0.5))
    assert "the mean difference is inside the margin, but 3 seeds of 2,000 test" in noise[1]
    (needed,) = re.findall(r"Run it with --seeds (\d+)\.", noise[1])
    assert int(needed) > 3
    hopeless = _lines(*_study({0.5: -0.1}, spread=9.0))
    assert "Run it with more --seeds, more test examples, or a wider --margin." in hopeless[1]
    for lines in (loss, noise, hopeless):
        assert len(lines) == 2
        assert "Ship it" not in lines[-1]


def test_too_few_seeds_are_neither() -> None:
    for seeds in (1, 2):
        lines = _lines(*_study({0.5: -0.1}, seeds=seeds))
        assert lines[0].startswith("Nothing of cifar10/convnet is certified")
        assert "3 are needed" in lines[1]
        assert "more --seeds" in lines[1]
        assert "worse" not in lines[1]


def test_an_unfinished_study_says_so_instead_of_a_verdict() -> None:
    spec = make_spec(levels=(0.5,))
    lines = _lines(spec, summarise(spec, []))
    assert lines[0] == "Nothing of cifar10/convnet has been cut so far."
    assert "finish the study" in lines[1]


def test_compiled_networks_are_told_with_ratios_to_the_fastest_of_each_kind() -> None:
    _, summary = _study(spread=0.02)
    peers = {
        "onnxruntime": (2.0, "fp32"),
        "openvino": (1.0, "bf16"),
        "openvino-int8": (0.4, "int8"),
    }
    mine = make_shipped(criterion="gate", keep=0.2, latency_ms={1: 0.5, 64: 9.0}, bytes=200_000)[0]
    found = [mine] + [
        replace(
            mine, engine=engine, criterion="uncut", keep=1.0, precision=precision,
            latency_ms={1: time}, bytes=800_000 if time >= 1 else 100_000,
        )
        for engine, (time, precision) in peers.items()
    ]  # fmt: skip

    def said(*each: Shipped) -> list[str]:
        lines = shipped(replace(summary, shipped=each), 0.2)
        return [line.replace("\u00a0", " ") for line in lines]

    assert said(*found) == [
        "Compiled here: 0.5 ms at batch 1 (speed 2 × openvino, 0.8 × openvino-int8), 9 ms at "
        "batch 64, 200 kB on disk (25 % of openvino, 200 % of openvino-int8)."
    ]
    alone = "Compiled here: 0.5 ms at batch 1, 9 ms at batch 64, 200 kB on disk"
    assert said(mine) == [f"{alone}; no other engine was measured."]
    assert said(*found[1:]) == []
    assert said(replace(mine, criterion="magnitude")) == []
    batched = replace(found[1], latency_ms={64: 4.5})
    assert "9 ms at batch 64 (speed 0.5 × onnxruntime)" in said(mine, batched)[0]


def test_the_command_that_ships_can_be_pasted(tmp_path: Path) -> None:
    spec, summary = _study(spread=0.02)
    there = tmp_path / "a b; rm"
    words = shlex.split(verdict(summary, spec, there)[-1].removeprefix("Ship it: "))
    assert words == ["secateur", "compile", str(there), "--keep", "0.2"]


def test_a_task_of_ones_own_is_given_to_the_command_that_ships() -> None:
    own = {"data": None, "net": None, "source": "my task.py:task"}
    line = _lines(*_study(spread=0.02, name="mine", task=own))[-1]
    assert shlex.split(line)[-4:] == ["--keep", "0.2", "--task", "my task.py:task"]
    made_here = {"data": None, "net": None}
    line = _lines(*_study(spread=0.02, name="mine", task=made_here))[-1]
    assert line == "Ship it: secateur.compile(study.onnx(0.2), out='net.so')  # task: mine"


DOCUMENT = {
    "study", "verdict", "certified", "complete", "rows", "comparisons", "regions", "shipped",
    "shipping", "mixed", "matched", "grown",
}  # fmt: skip


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_document_has_what_is_documented_and_is_json() -> None:
    spec = make_spec(levels=(0.5, 0.1), unrepaired=True)
    summary = summarise(spec, make_trials(spec), make_shipped())
    made = document(summary, spec, HASH, OUT)
    assert json.loads(json.dumps(made, allow_nan=False)).keys() == DOCUMENT
    for name in DOCUMENT:
        assert f"`{name}`" in (document.__doc__ or "")
    assert made["study"] == {"hash": HASH, "directory": str(OUT), "spec": spec}
    assert made["verdict"] == verdict(summary, spec, OUT)
    assert made["certified"] == {"keep": 0.5, "sparsity": 0.5}
    assert made["complete"] is True
    for key, kind in (("rows", Row), ("comparisons", Comparison), ("shipped", Shipped)):
        assert {name for each in made[key] for name in each} - {"verdict"} == _names(kind)
    assert len(made["rows"]) == len(summary.lines)
    assert [each for each in made["regions"] if each["primary"]] == [
        {"criterion": "gate", "recovery": "ladder", "primary": True, "certified": [0.5]}
    ]


def test_document_of_an_unfinished_study_is_json_too() -> None:
    spec = make_spec(levels=(0.5, 0.1), seeds=1)
    for trials in ([], make_trials(spec)[:-1]):
        made = document(summarise(spec, trials), spec, HASH, OUT)
        json.dumps(made, allow_nan=False)
        assert (made["certified"], made["complete"]) == (None, False)


@pytest.fixture(scope="module")
def spec() -> Record:
    return make_spec()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claim")


@pytest.fixture(scope="module")
def page(folder: Path, spec: Record) -> _Page:
    return _page(folder, spec, make_trials(spec), make_stages(spec))


def test_curve_has_the_reference_of_each_level(page: _Page, spec: Record) -> None:
    """Each at the keep ratio of the levels it is of: down the ladder another one at every rung."""
    summary = summarise(spec, make_trials(spec))
    found = {
        line["when"]["recovery"]: line
        for line in _charts(page)["curve"]["series"]
        if line["name"] == "uncut, trained as long"
    }
    assert found.keys() == {"ladder", "batchnorm"}
    for recovery, line in found.items():
        rows = [r for r in summary.of("magnitude", recovery) if r.reference]
        assert line["x"] == [row.keep for row in rows]
        assert [y["mean"] for y in line["y"]] == [r.reference.mean for r in rows if r.reference]
    uncut = {row.keep: row.test.mean for row in summary.of("uncut", "ladder")}
    ladder = dict(zip(found["ladder"]["x"], found["ladder"]["y"], strict=True))
    assert {keep: ladder[keep]["mean"] for keep in uncut} == uncut
    bands = [b for b in _charts(page)["curve"]["bands"] if b["axis"] == "y"]
    assert [abs(b["start"] - b["end"]) for b in bands] == pytest.approx([0.5, 0.5])


def test_rows_say_whether_they_are_of_the_claim(page: _Page, folder: Path) -> None:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert lines == sorted(lines, key=lambda line: line["role"] != "")  # uncut ones come first
    for line in lines:
        claim = (line["criterion"], line["recovery"]) == ("gate", "ladder")
        cut = line["criterion"] not in ("start", "uncut", "smaller")
        assert line["role"] == ("primary" if claim else "exploratory" if cut else "")
    roles = [line["role"] for line in lines]
    shown = [a for tag, a in page.elements if a.get("class") == "chip role"]
    assert len(shown) == len(roles) - roles.count("")
    for role in ("primary", "exploratory"):
        assert page.words.count(role) == roles.count(role)


def test_uncut_networks_are_told_apart(page: _Page) -> None:
    names = [f"down the ladder, to {s}\u00a0%" for s in (40, 50, 60, 70, 80, 90)]
    assert [word for word in page.words if word in names] == [*names, names[4]]  # and smaller


def test_certificates_of_other_curves_are_exploratory(tmp_path: Path) -> None:
    """They stand in table and chart, but the headline is that of the claim."""
    spec = make_spec(levels=(0.5,))
    trials = make_trials(spec)
    for trial in trials:  # too uneven to be certified
        if (trial["trial"]["criterion"], trial["trial"]["recovery"]) == ("gate", "ladder"):
            trial["metrics"]["test"] += 4 * trial["trial"]["seed"]
            del trial["scores"]
    page = _page(tmp_path, spec, trials, [])
    assert "Nothing of cifar10/convnet is certified by gate, down the ladder." in page.text
    found = {(r["criterion"], r["recovery"]): (r["verdict"], r["role"]) for r in page.data["rows"]}
    assert found["gate", "ladder"] == ("no", "primary")
    assert found["magnitude", "ladder"] == ("yes", "exploratory")
    regions = [band["when"] for band in _charts(page)["curve"]["bands"] if band["axis"] == "x"]
    assert {"criterion": "magnitude", "recovery": "ladder"} in regions


@pytest.mark.parametrize("gates", ["ladder", "trunk", "frozen"])
def test_no_network_is_called_dense_but_smaller_ones(tmp_path: Path, gates: str) -> None:
    """Beside a network that was cut stands an uncut one; the word says which kind of smaller."""
    spec = make_spec(gates=gates, unrepaired=True, reconstruct=64, levels=(0.5, 0.2))
    trials, stages, found = make_trials(spec), make_stages(spec), make_shipped()
    page, summary = _page(tmp_path, spec, trials, stages, found), summarise(spec, trials, found)
    data = json.dumps({key: part for key, part in page.data.items() if key != "table"})
    files = [(tmp_path / name).read_text("utf-8") for name in ("results.csv", "table.tex")]
    lines = "\n".join(verdict(summary, spec, tmp_path))
    for words in (page.text, data, lines, *files, *_attributes(page)):
        for wrong in (r"(?<!smaller )\bdense\b", r"\bphase [12]\b", r"\bcontrol\b"):
            assert not re.search(wrong, words, re.IGNORECASE), wrong


def _attributes(page: _Page) -> list[str]:
    """What is read out or shown beside what stands in a page."""
    names = ("aria-label", "title", "data-label")
    return [a[name] or "" for _, a in page.elements for name in names if name in a]
