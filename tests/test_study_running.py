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
from secateur.study.plan import groups
from secateur.study.store import Store
from secateur.study.study import Study
from secateur.study.subject import Subject
from secateur.study.task import Task
from secateur.terminal import running

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
