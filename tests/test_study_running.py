"""In which order `secateur study` does its seeds, and looks for the dense network as fast."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from secateur.errors import StudyError
from secateur.study.executors import local
from secateur.study.executors.side import Side
from secateur.study.plan import Event, Item, groups, items
from secateur.study.store import Store
from secateur.study.study import Study
from secateur.study.subject import Subject
from secateur.study.task import Task
from secateur.terminal import progress, running

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.5,), "criteria": ("magnitude",), "seeds": 2, "epochs": 1, "gate_epochs": 1,
    "smaller": 0, "calibration": 128, "device": "cpu",
}  # fmt: skip


class Job:
    """A study that notes what it is asked to do."""

    def __init__(self, spec: Any, *, unmatched: bool = True, fails: bool = False) -> None:
        self.spec, self.unmatched, self.fails = spec, unmatched, fails
        self.asked: list[str] = []

    def run(self, observe: Callable[..., None], *, workers: int, executor: Any) -> str:
        first = "all" if executor is None else f"first {executor.keywords['seeds']}"
        self.asked.append(f"{first} of {len(self.spec.seeds)}, {workers} at once")
        if self.fails and executor is not None:
            raise StudyError("a stage failed")
        return f"results {len(self.asked)}"

    def match(self) -> bool:
        self.asked.append("match")
        self.unmatched = False
        return True


def asked(digits: Task, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[str]:
    """Return what `completed` asks of a study, in order."""
    seeds, workers, measures = (changes.pop(n) for n in ("seeds", "workers", "measures"))
    job = Job(Study(digits, **{**PLAN, "seeds": seeds}).spec, **changes)
    monkeypatch.setattr(running, "matched", lambda job, console: job.match())
    console = Console(file=io.StringIO())
    results = running.completed(
        job,  # type: ignore[arg-type]
        lambda event: None,
        shown=console,
        console=console,
        workers=workers,
        cluster=None,
        measures=measures,
    )
    assert results == f"results {len(job.asked)}"  # of the last run
    return job.asked


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"workers": 2}, ["first 2 of 3, 2 at once", "match", "all of 3, 2 at once"]),
        # a failure ends neither the search nor the study, which tells of it in the end
        (
            {"workers": 2, "fails": True},
            ["first 2 of 3, 2 at once", "all of 3, 2 at once", "match", "all of 3, 2 at once"],
        ),
        # nothing is won by an early search
        ({"workers": 3}, ["all of 3, 3 at once", "match", "all of 3, 3 at once"]),
        ({"workers": 1}, ["all of 3, 1 at once", "match", "all of 3, 1 at once"]),
        ({"workers": 2, "measures": False}, ["all of 3, 2 at once"]),
        ({"workers": 2, "unmatched": False}, ["all of 3, 2 at once"]),
    ],
    ids=["early", "failing", "as many", "one process", "not measured", "known"],
)
def test_the_width_is_looked_for_while_there_is_work_to_do_beside_it(
    digits: Task, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], wanted: list[str]
) -> None:
    assert asked(digits, monkeypatch, **{"seeds": 3, "measures": True, **changes}) == wanted


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("width", [True, False], ids=["found", "not found"])
def test_one_counter_goes_through_all_runs_of_a_study(
    digits: Task, monkeypatch: pytest.MonkeyPatch, workers: int, width: bool
) -> None:
    """Nothing is counted twice, and the network that is as fast is expected from the start."""
    plan = {**PLAN, "criteria": ("gate",), "seeds": 3, "smaller": 0.5}
    spec = Study(digits, **plan).spec
    monkeypatch.setattr(running, "matched", lambda job, console: width)
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.0)
    has: set[Item] = set()

    class Running:
        unmatched = True

        def __init__(self) -> None:
            self.spec, self.runs = spec, 0

        def run(self, observe: Callable[..., None], *, workers: int, executor: Any) -> None:
            self.runs += 1
            seeds = spec.seeds if executor is None else spec.seeds[: executor.keywords["seeds"]]
            for item in items(spec.options, seeds, matched=width and self.runs > 1):
                if item in has:
                    observe(Event("found", item))
                else:
                    observe(Event("begin", item))
                    observe(Event("done", item, {"seconds": 1.0, "metrics": {"test": 90.0}}))
                    has.add(item)

    stream = io.StringIO()
    running.completed(
        Running(),  # type: ignore[arg-type]
        lambda event: None,
        shown=Console(file=stream, width=100),
        console=Console(file=io.StringIO()),
        workers=workers,
        cluster=None,
        measures=True,
    )
    assert "resuming" not in stream.getvalue()
    told = [line.split(" items")[0] for line in stream.getvalue().splitlines() if line]
    every, whole = (
        len(list(items(spec.options, spec.seeds, matched=matched))) for matched in (width, True)
    )
    assert len(has) == every
    assert told[0] == f"0 of {whole}"
    assert told[-1] == f"{every} of {every}"
    counts = [int(line.split(" of ")[0]) for line in told]
    assert counts == sorted(counts)
    assert {line.split(" of ")[1] for line in told} == {f"{whole}", f"{every}"}
    assert width or every < whole


def test_the_first_seeds_are_done_alone_and_then_the_others(digits: Task, tmp_path: Path) -> None:
    study = Study(digits, out=tmp_path / "study", **PLAN)
    subject = Subject(study.task, study.spec, torch.device("cpu"))
    done: list[set[int]] = []
    with Store(study.directory, study.spec) as store:
        for seeds in (1, None):
            seen: set[int] = set()

            def see(event: Any, seen: set[int] = seen) -> None:
                if event.kind == "done":
                    seen.add(event.item.seed)

            assert local.execute(subject, store, see, seeds=seeds) == ()
            done.append(seen)
    assert done == [{0}, {1}]


def test_several_processes_leave_out_what_is_for_later(digits: Task, tmp_path: Path) -> None:
    study = Study(digits, out=tmp_path / "study", **PLAN)
    planned = groups(study.spec.options, study.spec.seeds)
    later = {at for at, group in enumerate(planned) if group.items[0].seed == 1}
    assert later
    with Store(study.directory, study.spec) as store:
        side = Side(study.spec, store, lambda event: None, planned)
        side.leave(later)
        side.look()
        while not side.over():
            at = side.ready()[0]
            assert at not in later
            side.begun.add(at)
            side.ended.add(at)
