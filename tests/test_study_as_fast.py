"""The dense network that is as fast as the compiled cut one: how wide it is, what it is for."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.bench import environments
from secateur.errors import StudyError
from secateur.study import artifacts, matched, matching, shipping
from secateur.study.executors import local
from secateur.study.loading import load_task
from secateur.study.matched import Matched, Tried
from secateur.study.matching import FINEST, NOISE, Timed, steady, widest
from secateur.study.options import Options
from secateur.study.plan import AS_FAST, LADDER, SMALLER, Stage, Trial, epochs, groups
from secateur.study.reading import CorruptFile, read_matched
from secateur.study.report.charts import latency
from secateur.study.results import Results, rebuild
from secateur.study.store import Store
from secateur.study.study import Study
from secateur.study.subject import Subject
from secateur.study.task import Task
from secateur.terminal.verification import verify
from study_options import options
from study_runs import copy_study, numbers, record

pytestmark = pytest.mark.usefixtures("undrawn")
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")

PLAN: dict[str, Any] = {
    "keep": (0.5, 0.1), "criteria": ("gate",), "seeds": 2, "epochs": 1, "gate_epochs": 1,
    "smaller": 0.1, "calibration": 128, "device": "cpu",
}  # fmt: skip
CUT = Trial(0, "gate", 0.1, LADDER)
ITEMS = ("seed-0_as-fast_rung-0.1", "seed-0_as-fast_keep-0.1_ladder")
SOURCE = """
from dataclasses import replace
from secateur import classification

base = classification("digits", "mlp", progress=False)
task = replace(base, name="mine", description={"version": 1})
"""


def found(width: float | None = 0.5, **changes: Any) -> Matched:
    tried = tuple(
        Tried(width=w, parameters=p, latency_ms=0.1 * r, ratio=r)
        for w, p, r in ((1.0, 5000, 3.0), (0.5, 1400, 1.01), (0.25, 400, 0.4))
    )
    given: dict[str, Any] = {
        "cut": CUT, "batch": 1, "threads": 2, "int8": False, "width": width, "tried": tried,
        "cut_ms": 0.1, "others": 0.3, "machine": {"cpu": "a Xeon"}, "date": "2026-11-28 15:00 UTC",
        **changes,
    }  # fmt: skip
    return Matched(**given)


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "match", lambda *_, **__: found())


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A task that other processes can make, too."""
    path = tmp_path_factory.mktemp("task") / "mine.py"
    path.write_text(SOURCE)
    return load_task(f"{path}:task")


@pytest.fixture(scope="module")
def plain(undrawn: None, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of which nothing was measured."""
    study = Study(task, out=tmp_path_factory.mktemp("study"), **PLAN)
    study.run(workers=1)
    return study


@pytest.fixture
def fresh(plain: Study, tmp_path: Path) -> Study:
    """A copy of it."""
    study = Study(plain.task, out=tmp_path / "copy", **PLAN)
    copy_study(plain.directory, study.directory)
    return study


@pytest.fixture(scope="module")
def done(plain: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Results]:
    """The study with the network that is as fast."""
    study = Study(plain.task, out=tmp_path_factory.mktemp("done"), **PLAN)
    copy_study(plain.directory, study.directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "match", lambda *_, **__: found())
        assert study.unmatched
        assert study.match() == found()
        assert not study.unmatched
        return study, study.run(workers=1)


@given(st.floats(0.2, 8.0), st.integers(1, 64), st.floats(0.0, 0.9))
def test_the_widest_network_that_is_no_slower_is_found(
    most: float, steps: int, least: float
) -> None:
    """Of times that grow with the width, in as many steps as there are different networks."""
    asked: list[int] = []

    def form(width: float) -> int:
        return max(1, round(width * steps))

    def timed(width: float) -> float:
        asked.append(form(width))
        return most * (least + (1 - least) * form(width) / steps)

    width, times = widest(timed, lambda time: time, form)
    assert len(set(asked)) == len(asked)  # no network is timed twice
    assert list(times) == sorted(times, reverse=True)
    fast = [n for n in range(1, steps + 1) if most * (least + (1 - least) * n / steps) <= 1 + NOISE]
    if width is None:
        narrowest = form(FINEST / 2)
        assert narrowest not in fast
    else:
        assert form(width) in fast
        assert width in times
        assert (
            width == 1
            or form(min(1.0, width + 2 * FINEST)) > max(fast)
            or (form(width) == max(fast))
        )
    assert (width == 1) == (steps in fast)


@given(options())
def test_its_groups_come_last_and_depend_on_the_start_alone(chosen: Options) -> None:
    seeds = tuple(range(chosen.first_seed, chosen.first_seed + chosen.seeds))
    without, planned = groups(chosen, seeds), groups(chosen, seeds, matched=True)
    assert planned[: len(without)] == without  # so that places in the plan stay
    more = planned[len(without) :]
    assert len(more) == (len(seeds) if chosen.smaller else 0)
    for seed, group in zip(seeds, more, strict=False):
        stage, trial = group.items
        assert stage == Stage(seed, AS_FAST, chosen.smaller or 0.0)
        assert trial == Trial(seed, AS_FAST, chosen.smaller or 0.0, LADDER)
        assert group.after == (Stage(seed, "start"),)
        small = Stage(seed, SMALLER[0], chosen.smaller or 0.0)
        assert epochs(chosen, stage) == epochs(chosen, small)


def test_a_study_without_a_measurement_says_what_is_missing(plain: Study) -> None:
    results = rebuild(plain.directory)
    assert not results.summary.missing
    assert plain.unmatched
    page = results.files.html.read_text()
    assert "were not measured. Its command with --measure does that" in page
    assert results.document()["matched"] is None
    assert not any(path.name.count(AS_FAST) for path in (plain.directory / "records").iterdir())


def test_it_is_trained_as_long_with_every_seed_and_compared(
    done: tuple[Study, Results],
) -> None:
    study, results = done
    small = {seed: record(study.directory, f"seed-{seed}_smaller_rung-0.1") for seed in (0, 1)}
    for seed in (0, 1):
        stage = record(study.directory, f"seed-{seed}_as-fast_rung-0.1")
        assert stage["width"] == 0.5
        assert matched.of_json(stage["matched"]) == found()
        assert [e["rate"] for e in stage["log"]] == [e["rate"] for e in small[seed]["log"]]
    (row,) = results.summary.of(AS_FAST, LADDER)
    (uncut,) = (r for r in results.summary.of("uncut", LADDER) if r.keep == 0.1)
    assert (row.whole, row.n, row.reference) == (True, 2, uncut.test)
    network = study.task.smaller
    assert network is not None
    assert row.parameters == sum(p.numel() for p in network(0.5).parameters())
    (gap,) = (c for c in results.summary.comparisons if c.other == AS_FAST)
    (cut,) = (r for r in results.summary.of("gate", LADDER) if r.keep == 0.1)
    assert gap.difference.mean == pytest.approx(cut.test.mean - row.test.mean)


def test_the_report_tells_of_it(done: tuple[Study, Results]) -> None:
    _, results = done
    page = results.files.html.read_text()
    assert "as-fast has channels times 0.5 (1,400 parameters)" in page
    assert "takes 1.01 times as long as gate, down the ladder, at 90\u00a0% sparsity" in page
    assert "batch 1, 2 threads, seed 0" in page
    assert "the uncut network takes 3.00 times as long" in page
    assert "no part of the study&#x27;s address" in page
    assert "Other processes took up to 30\u00a0% of the cores" in page
    assert "were not measured" not in page
    assert any(line.startswith(f"{AS_FAST},") for line in results.files.csv.read_text().split("\n"))
    document = json.loads(json.dumps(results.document(), allow_nan=False))
    assert matched.of_json(document["matched"]) == found()


def test_the_verdict_tells_it_where_it_is_certain(done: tuple[Study, Results]) -> None:
    _, results = done

    def said(low: float | None, mean: float, high: float | None) -> list[str]:
        gaps = [
            replace(c, difference=replace(c.difference, low=low, mean=mean, high=high))
            if c.other == AS_FAST
            else c
            for c in results.summary.comparisons
        ]
        summary = replace(results.summary, comparisons=tuple(gaps))
        return replace(results, summary=summary).verdict()

    better = "At 90\u00a0% sparsity gate is 1.20\u00a0points better than a smaller dense network"
    assert said(0.7, 1.2, 1.7)[-1] == f"{better} that is as fast (batch 1; [+0.70, +1.70])."
    assert "points worse than a smaller dense network" in said(-1.7, -1.2, -0.7)[-1]
    for unsure in (said(-0.1, 0.5, 1.1), said(None, 1.2, None)):
        assert not any("dense network" in line for line in unsure)
        assert len(unsure) <= 5


def test_a_study_that_goes_on_has_the_same_width_and_numbers(
    done: tuple[Study, Results], fresh: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other processes, killed in between, and on a machine that would measure another one."""
    fresh.match()
    monkeypatch.setattr(matching, "match", lambda *_, **__: found(0.25))
    assert fresh.match() == found()  # what is known stays
    fresh.run(workers=2)
    study, _ = done
    assert numbers(fresh.directory) == numbers(study.directory)
    for item in ITEMS:
        (fresh.directory / "records" / f"{item}.json").unlink()
    fresh.run(workers=1)
    assert numbers(fresh.directory) == numbers(study.directory)


def test_the_width_is_no_part_of_the_address(done: tuple[Study, Results], plain: Study) -> None:
    assert done[0].spec.hash == plain.spec.hash
    assert "width" not in plain.spec.canonical()


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_width_that_is_lost_is_taken_from_what_was_trained(
    done: tuple[Study, Results], tmp_path: Path, damage: str
) -> None:
    copy_study(done[0].directory, tmp_path)
    path = tmp_path / "matched.json"
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace('"width": 0.5', '"width": 0.6', 1))
    faults = {f.path: f.state for f in verify(tmp_path).findings if f.fault}
    assert faults == {"matched.json": "missing" if damage == "gone" else "damaged"}
    study = Study(done[0].task, out=tmp_path, **PLAN)
    if damage == "gone":
        study.run(workers=1)
    else:
        with pytest.warns(CorruptFile, match=r"matched\.json is left out"):
            study.run(workers=1)
    assert read_matched(tmp_path, study.spec.hash) == found()
    assert numbers(tmp_path) == numbers(done[0].directory)
    assert verify(tmp_path).whole


def test_without_width_and_stages_what_was_measured_stays_and_no_network_is_made(
    done: tuple[Study, Results], tmp_path: Path
) -> None:
    copy_study(done[0].directory, tmp_path)
    for path in [*tmp_path.glob("records/*as-fast_rung*"), tmp_path / "matched.json"]:
        path.unlink()
    study = Study(done[0].task, out=tmp_path, **PLAN)
    summary = study.run(workers=1).summary
    assert summary.of(AS_FAST, LADDER) == done[1].summary.of(AS_FAST, LADDER)
    assert not summary.missing
    subject = Subject(study.task, study.spec, study.device)
    with (
        Store(tmp_path, study.spec) as store,
        pytest.raises(
            StudyError, match=r"width of seed-0_as-fast_rung-0\.1 is not known.*--measure"
        ),
    ):
        local.network(subject, store, Trial(0, AS_FAST, 0.1, LADDER))


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (found(None, why="no C compiler is installed"), "There is none: no C compiler"),
        (found(None, why="x", others=None, cut_ms=None, tried=()), "There is none: x"),
    ],
)
def test_a_width_that_cannot_be_found_is_said_and_tried_again(
    fresh: Study, monkeypatch: pytest.MonkeyPatch, given_: Matched, said: str
) -> None:
    monkeypatch.setattr(matching, "match", lambda *_, **__: given_)
    assert fresh.match() == given_
    assert fresh.unmatched
    results = fresh.run(workers=1)
    assert said in results.files.html.read_text()
    assert "with --measure tries it again" in results.files.html.read_text()
    assert not results.summary.missing
    assert verify(fresh.directory).whole
    monkeypatch.setattr(matching, "match", lambda *_, **__: found())
    assert fresh.match() == found()


def test_a_study_that_compares_with_no_smaller_network_looks_for_none(
    digits: Task, tmp_path: Path
) -> None:
    study = Study(digits, out=tmp_path, **{**PLAN, "smaller": 0, "seeds": 1})
    results = study.run()
    assert not study.unmatched
    assert study.match() is None
    assert "dense network that is as fast" not in results.files.html.read_text()


def test_zeros_of_a_fresh_network_are_filled_and_nothing_else_is_changed() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Linear(3, 2, bias=True))
    with torch.no_grad():
        nn.init.dirac_(model[0].weight)
        model[2].weight.requires_grad_(requires_grad=False).zero_()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    after = matching._filled(model).state_dict()
    assert bool((after["0.weight"] != 0).all())
    same = before["0.weight"] != 0
    assert torch.equal(after["0.weight"][same], before["0.weight"][same])
    assert all(torch.equal(after[n], before[n]) for n in before if n != "0.weight")
    assert math.isclose(float(after["0.weight"][~same].std()), 36**-0.5, rel_tol=0.2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few and short rounds, and no more than two widths."""
    monkeypatch.undo()
    monkeypatch.setattr(matching, "ROUNDS", 2)
    monkeypatch.setattr(matching, "SECONDS", 0.005)
    monkeypatch.setattr(matching, "FINEST", 0.5)
    monkeypatch.setattr(artifacts, "CALIBRATION", 64)


@pytest.mark.parametrize(
    ("others", "ratio"), [((None,), 1.7), ((0.01,), 1.7), ((0.4, 0.3, 0.0), 1.1)]
)
def test_a_busy_machine_is_asked_three_times(
    others: tuple[float | None, ...], ratio: float
) -> None:
    races = iter([Timed(2.0, r, 1.0, o) for r, o in zip((1.7, 0.9, 1.1), others, strict=False)])
    assert steady(lambda: next(races)).ratio == ratio
    assert not list(races)


@needs_cc
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("int8", [None, 7])
def test_networks_are_compiled_and_timed_in_turn(digits: Task, int8: int | None) -> None:
    data, smaller = digits.data(torch.device("cpu")), digits.smaller
    assert smaller is not None
    said: list[str] = []
    given_ = matching.match(
        CUT, lambda: smaller(0.1).eval(), smaller, data, int8=int8, progress=said.append
    )
    widths = [each.width for each in given_.tried]
    assert widths in ([1.0], [1.0, 0.5])
    assert all(each.ratio > 0 and each.latency_ms > 0 for each in given_.tried)
    assert given_.int8 == (int8 is not None)
    assert given_.width in (None, 0.5)
    assert (given_.width is None) == bool(given_.why)
    assert (given_.cut_ms is None) == (given_.width is None)
    assert said[:2] == ["compiling the cut network", "timing a dense network of width 1"]
    assert matched.of_json(json.loads(json.dumps(matched.as_json(given_)))) == given_


@pytest.mark.usefixtures("quick")
def test_without_a_compiler_it_says_so(digits: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    data, smaller = digits.data(torch.device("cpu")), digits.smaller
    assert smaller is not None
    given_ = matching.match(CUT, lambda: smaller(0.1).eval(), smaller, data)
    assert (given_.width, given_.tried) == (None, ())
    assert "no-such-compiler" in given_.why


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({1.0: 0.9}, "the uncut network takes 0.90 times as long as the cut one here"),
        (
            {1.0: 4.0, 0.25: 2.0, 0.1: 1.3},
            "even at width 0.1 a smaller dense network takes 1.30 times",
        ),
    ],
)
def test_where_there_is_none_it_says_why(times: dict[float, float], said: str) -> None:
    timed = {width: matching.Timed(1.0, ratio, 1.0, None) for width, ratio in times.items()}
    assert said in matching._why(1.0 if len(times) == 1 else None, timed)


@needs_cc
@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_its_artifact_is_shown_with_those_of_the_levels(
    done: tuple[Study, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "ROUNDS", 2)
    monkeypatch.setattr(shipping, "SECONDS", 0.005)
    monkeypatch.setattr(environments, "here", lambda peer: False)
    copy_study(done[0].directory, tmp_path)
    results = Study(done[0].task, out=tmp_path, **PLAN).ship()
    ours = [(each.criterion, each.keep) for each in results.summary.shipped]
    assert ours == [("uncut", 1.0), ("gate", 0.5), ("gate", 0.1), (AS_FAST, 1.0)]
    *_, last = results.summary.shipped
    measured = record(tmp_path, ITEMS[1])["metrics"]["test"]
    assert last.accuracy == pytest.approx(measured, abs=1)
    assert not last.certified
    chart = latency.chart(results.summary, results.spec, ())
    assert chart is not None
    assert {series.name for series in chart.series} == {"secateur", f"secateur, {AS_FAST}"}


def test_its_artifact_is_measured_beside_the_others() -> None:
    def network() -> nn.Module:
        return nn.Identity()

    entrants = shipping._entrants({0.1: network, 1.0: network, 0.5: network}, network)
    assert list(entrants) == ["secateur", "secateur 0.5", "secateur 0.1", "secateur as-fast"]
    assert [each.served_in_int8 for each in entrants.values()] == [False, True, True, True]
