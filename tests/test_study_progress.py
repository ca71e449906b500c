"""What the command line says of a study: before it runs, while it runs, and of its table."""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any

import pytest
import torch
from rich.console import Console

from secateur.study import pace
from secateur.study.plan import START, Event, Stage, Trial, epochs, items
from secateur.study.study import Study
from secateur.study.subject import Subject
from secateur.study.task import Task
from secateur.terminal.progress import StudyProgress
from test_cli import run

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.8, 0.5, 0.1),
    "criteria": ("gate", "magnitude"),
    "seeds": 1,
    "epochs": 2,
    "gate_epochs": 1,
    "smaller": 0,
    "calibration": 128,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def ran(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that was run."""
    study = Study(digits, out=tmp_path_factory.mktemp("study"), **PLAN)
    study.run()
    return study


def told(study: Study, *, terminal: bool, monkeypatch: Patch, workers: int = 1) -> list[str]:
    """Return the lines that a study's progress prints, each item of it a minute after the last."""
    stream, clock = io.StringIO(), iter(range(0, 10**9, 60))
    monkeypatch.setattr("secateur.terminal.progress.time.perf_counter", lambda: next(clock))
    console = Console(file=stream, width=100, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(console, "get_time", lambda: 0.0)
    with StudyProgress(study.spec, console, workers=workers) as progress:
        for item in items(study.spec.options, study.spec.seeds):
            progress(Event("begin", item))
            figures = {"seconds": 60.0, "metrics": {"test": 90.0}}
            progress(Event("done", item, figures))
    return stream.getvalue().replace("\u00a0", " ").splitlines()


def test_a_pipe_gets_counts_and_the_time_left(ran: Study, monkeypatch: Patch) -> None:
    lines = told(ran, terminal=False, monkeypatch=monkeypatch)
    count = len(list(items(ran.spec.options, ran.spec.seeds)))
    assert all("\x1b" not in line for line in lines)
    assert re.fullmatch(rf"1 of {count} items done, .*, .* left", lines[1])
    assert lines[-1].startswith(f"{count} of {count} items done, ")
    assert "left" not in lines[-1]
    assert not any("start" in line for line in lines)  # those are for a terminal


def test_a_terminal_gets_the_figures_too(ran: Study, monkeypatch: Patch) -> None:
    text = "\n".join(told(ran, terminal=True, monkeypatch=monkeypatch))
    assert "seed 0: the start, trained with all weights, batchnorm: 90.00 %" in text
    assert "seed 0: gate to 50 % sparsity, ladder: 90.00 %" in text
    assert "seed 0: uncut, trained as long as to 90 % sparsity, ladder: 90.00 %" in text


def test_the_time_left_is_shared_among_workers(ran: Study, monkeypatch: Patch) -> None:
    spec, first = ran.spec, Stage(0, START)
    for workers in (1, 2):
        progress = StudyProgress(spec, Console(file=io.StringIO()), workers=workers)
        assert progress._seconds_left() is None
        progress(Event("done", first, {"seconds": 20.0}))  # 2 epochs, so 10 s each
        left = progress._seconds_left()
        trials = sum(isinstance(item, Trial) for item in items(spec.options, spec.seeds))
        # one epoch of each of the three arms, and trials at a guess
        assert left == pytest.approx((30 + 1.5 * trials) / workers)


def test_the_time_left_is_of_what_is_left(ran: Study) -> None:
    """Each kind of training has a pace of its own, and the last of them count."""
    spec = ran.spec
    stages = [item for item in items(spec.options, spec.seeds) if isinstance(item, Stage)]
    trials = sum(isinstance(item, Trial) for item in items(spec.options, spec.seeds))
    progress = StudyProgress(spec, Console(file=io.StringIO()))
    last = next(item for item in reversed(stages) if item.name == "gate")
    for stage in stages:
        slow = 100.0 if stage.name == START else 10.0
        if stage != last:
            progress(Event("done", stage, {"seconds": slow * epochs(spec.options, stage)}))
    others = [*[10.0] * (len(stages) - 2), 100.0]
    wanted = 10 * epochs(spec.options, last) + 0.15 * trials * sum(others) / len(others)
    assert progress._seconds_left() == pytest.approx(wanted)


def test_the_time_left_is_known_after_one_pass(ran: Study, monkeypatch: Patch) -> None:
    clock = iter(range(0, 10**9, 7))
    monkeypatch.setattr("secateur.terminal.progress.time.perf_counter", lambda: next(clock))
    progress, first = StudyProgress(ran.spec, Console(file=io.StringIO())), Stage(0, START)
    progress(Event("begin", first))
    assert progress._seconds_left() is None
    progress(Event("epoch", first, epoch=1))
    trials = sum(isinstance(item, Trial) for item in items(ran.spec.options, ran.spec.seeds))
    # 7 seconds for one of five epochs, and trials at a guess
    assert progress._seconds_left() == pytest.approx(7 * (4 + 0.15 * trials))


def test_what_was_done_before_is_counted_once(ran: Study) -> None:
    stream = io.StringIO()
    progress = StudyProgress(ran.spec, Console(file=stream, width=100))
    found, *_, last = items(ran.spec.options, ran.spec.seeds)
    progress(Event("found", found))
    progress(Event("begin", last))
    progress(Event("begin", last))
    assert stream.getvalue().count("resuming: 1 items were done before") == 1


def test_the_announcement_says_what_is_to_be_done_and_about_how_long(ran: Study) -> None:
    first, second, third = ran.announcement(1)
    assert ran.spec.hash[:12] in first
    assert str(ran.directory) in first
    # the start, and the ladder's epoch for each of gate, magnitude and uncut
    planned = list(items(ran.spec.options, ran.spec.seeds))
    trials = sum(isinstance(item, Trial) for item in planned)
    assert second.startswith(f"5 epochs of training and {trials} measurements, in 1 process: about")
    assert second.endswith(" if all is still to be done")
    assert "certif" in third
    assert "2 processes" in ran.announcement(2)[1]
    measured = ran.announcement(2, measured=True)[1]
    assert "in 2 processes, then compiling and timing: about" in measured


def test_the_estimate_counts_what_is_measured_and_the_network_that_is_as_fast(ran: Study) -> None:
    def seconds(**given: Any) -> float:
        study = Study(ran.task, **{**PLAN, "smaller": 0.1})
        subject = Subject(study.task, study.spec, torch.device("cpu"))
        return pace.expected(subject, 1, **given)

    # three levels and the uncut network, the peers, and the search for a width
    least = 4 * pace.NETWORK + pace.PEERS + pace.MATCHING
    assert least < seconds(measured=True) < least + 60
    assert seconds() < pace.PEERS


def test_the_estimate_grows_with_the_epochs_and_is_of_the_right_size(
    ran: Study, monkeypatch: Patch
) -> None:
    def seconds(**changes: Any) -> float:
        study = Study(ran.task, **{**PLAN, **changes})
        subject = Subject(study.task, study.spec, torch.device("cpu"))
        return min(pace.expected(subject, 1) for _ in range(3))

    short = seconds()
    records = [json.loads(p.read_text()) for p in (ran.directory / "records").glob("*.json")]
    taken = sum(record["seconds"] for record in records)
    assert taken / 30 < short < 30 * taken
    monkeypatch.setattr(pace, "_cost", lambda *_: pace.Cost(1.0, 0.3))  # the same on any machine
    short, long = seconds(), seconds(epochs=200, gate_epochs=100)
    assert math.isfinite(long)
    assert 20 < long / short < 300  # epochs alone: 100 times as many


def test_the_whole_table_and_one_object_come_when_they_are_asked_for(
    ran: Study, monkeypatch: Patch, capsys: Capture
) -> None:
    code, out, _ = run(["report", str(ran.directory)], monkeypatch, capsys)
    assert code == 0
    assert "batchnorm" not in out
    code, out, _ = run(["report", str(ran.directory), "--all"], monkeypatch, capsys)
    assert code == 0
    assert out.count("batchnorm") >= len(PLAN["keep"])
    code, out, err = run(["report", str(ran.directory), "--all", "--json"], monkeypatch, capsys)
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    assert {row["recovery"] for row in json.loads(line)["rows"]} == {"ladder", "batchnorm"}
