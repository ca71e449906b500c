"""Several processes do a study: the same numbers, and what becomes of them when one ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import forked
from secateur.errors import StudyError
from secateur.study.executors import processes
from secateur.study.executors.messages import event_of, line, of_event, packed, unpacked
from secateur.study.executors.turn import reproducible
from secateur.study.loading import load_task
from secateur.study.plan import Event, Stage, Trial, items, seed_for
from secateur.study.reading import CorruptFile
from secateur.study.study import Study
from secateur.study.task import Task, classification
from secateur.training import Epoch
from study_runs import copy_study, numbers, record

pytestmark = pytest.mark.usefixtures("undrawn", "_not_imported")

PLAN: dict[str, Any] = {
    "keep": (0.8, 0.5, 0.1), "criteria": ("gate", "magnitude", "random"), "seeds": 3, "epochs": 1,
    "gate_epochs": 1.0, "calibration": 128, "device": "cpu",
}  # fmt: skip
DOOMED = {
    "waits": seed_for(Stage(1, "start"), "train"),
    "killed": seed_for(Stage(1, "start"), "train"),
    "exits": seed_for(Stage(2, "start"), "train"),
}
"""What becomes of the process that trains with this seed, where a file of that name is there."""
SOURCE = f"""
import dataclasses, os, signal, sys, time
from pathlib import Path
import torch
from secateur import classification

here = Path(__file__).parent
(here / "pids").mkdir(exist_ok=True)
(here / "pids" / str(os.getpid())).touch()
print("the task says something")
os.write(1, b'{{"event": "done"}}\\n')
base = classification("digits", "mlp", progress=False)

def loss(outputs, targets):
    for name, seed in {DOOMED}.items():
        if torch.initial_seed() == seed and (here / name).exists():
            (here / "reached").touch()
            while name == "waits" and (here / name).exists():
                time.sleep(0.01)
            if name == "waits":
                continue
            os.kill(os.getpid(), signal.SIGKILL) if name == "killed" else os._exit(7)
    sys.stdout.write("a step\\n")
    return base.loss(outputs, targets)

task = dataclasses.replace(base, name="mine", loss=loss, description={{"version": 1}})
"""
ARGUMENTS = ["--keep", "0.8,0.5,0.1", "--seeds", "3", "--epochs", "1", "--gate-epochs", "1"]
ARGUMENTS += ["--calibration", "128", "--device", "cpu", "--margin", "0.5", "--smaller", "0.0"]


@pytest.fixture
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("secateur_task_mine", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the task's file is."""
    found = tmp_path_factory.mktemp("task")
    (found / "mine.py").write_text(SOURCE)
    return found


@pytest.fixture(scope="module")
def finished(undrawn: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, done in this process alone."""
    out = tmp_path_factory.mktemp("study")
    Study(load_task(f"{folder}/mine.py:task"), out=out, **PLAN).run(workers=1)
    return out


@pytest.fixture
def study(folder: Path, finished: Path, tmp_path: Path) -> Iterator[Study]:
    for path in (folder / "pids").iterdir():
        path.unlink()
    yield Study(load_task(f"{folder}/mine.py:task"), out=tmp_path / "study", **PLAN)
    for name in ("killed", "exits", "waits", "reached"):
        (folder / name).unlink(missing_ok=True)


def others(folder: Path) -> list[int]:
    """The processes that have imported the task, but for this one."""
    found = [int(path.name) for path in (folder / "pids").iterdir()]
    return [pid for pid in found if pid != os.getpid()]


def wait_until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    # a zombie has ended, and is left to whoever has adopted it
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_two_processes_give_the_numbers_of_one(
    study: Study, finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, checkpoints and masks included, whatever is printed beside."""
    (tmp_path / "sitecustomize.py").write_text("print('before it all')\n")
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    events: list[Event] = []
    results = study.run(events.append, workers=2)
    assert not results.summary.missing
    assert numbers(study.directory) == numbers(finished)
    assert results.files.csv.read_bytes() == (finished / "results.csv").read_bytes()
    assert len(others(folder)) == 2
    wanted = list(items(study.spec.options, study.spec.seeds))
    for kind in ("begin", "done"):
        told = [event.item for event in events if event.kind == kind]
        assert len(told) == len(set(told)) == len(wanted)
        assert set(told) == set(wanted)
    for event in events:
        if event.kind == "done":
            assert event.record is not None
            kept = record(study.directory, event.item.id)
            assert event.record == {key: kept[key] for key in event.record}
    stages = {e.item for e in events if e.kind == "epoch" and e.epoch is not None}
    assert stages == {item for item in wanted if isinstance(item, Stage)}


def test_a_process_that_dies_is_one_failure_and_the_others_go_on(
    study: Study, finished: Path, folder: Path
) -> None:
    (folder / "killed").touch()
    (folder / "exits").touch()
    events: list[Event] = []
    with pytest.raises(StudyError) as caught:
        study.run(events.append, workers=2)
    lines = sorted(str(caught.value).split("\n")[1:])
    assert len(lines) == 2
    for text, seed, said in zip(lines, (1, 2), ("signal 9", "exit status 7"), strict=True):
        assert text.startswith(f"- seed-{seed}_start: the process that did it died ({said})")
        assert "run the study again, with fewer --workers" in text
    whole = numbers(finished)
    assert numbers(study.directory) == {k: v for k, v in whole.items() if k.startswith("seed-0")}
    failed = {path.stem for path in (study.directory / "failures").iterdir()}
    assert failed == {"seed-1_start", "seed-2_start"}
    assert (study.directory / "report.html").exists()
    last = {event.item.id: event.kind for event in events}
    assert {item for item, kind in last.items() if kind == "failed"} == failed
    assert {k for item, k in last.items() if item[:6] != "seed-0"} == {"failed", "omitted"}
    assert set(last) == set(whole)
    (folder / "killed").unlink()
    (folder / "exits").unlink()
    again: list[Event] = []
    assert not study.run(again.append, workers=1).summary.missing
    assert {e.item.seed for e in again if e.kind == "begin"} == {1, 2}
    assert numbers(study.directory) == whole
    assert not list((study.directory / "failures").iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_it_works_for(
    study: Study, finished: Path, folder: Path, number: int
) -> None:
    (folder / "waits").touch()
    words = ["study", "mine.py:task", *ARGUMENTS, "--out", str(study.directory)]
    program = forked.Program("-m", "secateur", *words, "--workers", "2", folder=folder)

    def workers() -> list[int]:
        return [pid for pid in others(folder) if pid != program.pid]

    try:
        wait_until(lambda: (folder / "reached").exists() and len(workers()) == 2, "both work")
        assert not any(map(ended, workers()))
    finally:
        program.send(number)
        program.wait()
    wait_until(lambda: all(map(ended, workers())), "they end")
    if number == signal.SIGINT:
        assert program.status == 1
        assert "To go on where it stopped" in program.err
    else:
        assert program.status == -number
    assert not list((study.directory / "failures").iterdir())
    (folder / "waits").unlink()
    study.run(workers=1)
    assert numbers(study.directory) == numbers(finished)


def test_a_study_that_is_done_starts_no_process(
    study: Study, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_study(finished, study.directory)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr(processes.subprocess, "Popen", refuse)
    events: list[Event] = []
    assert not study.run(events.append, workers=2).summary.missing
    assert {event.kind for event in events} == {"found"}
    assert {event.item.id for event in events} == set(numbers(finished))


def test_what_is_lost_is_made_again_in_a_process_and_said(study: Study, finished: Path) -> None:
    copy_study(finished, study.directory)
    (study.directory / "checkpoints" / "seed-0_gate_rung-0.5.safetensors").write_bytes(b"damaged")
    (study.directory / "records" / "seed-0_gate_rung-0.1.json").unlink()
    with pytest.warns(CorruptFile, match=r"seed-0_gate_rung-0\.5\.safetensors is corrupt"):
        study.run(workers=2)
    assert numbers(study.directory) == numbers(finished)


def test_an_observers_exception_ends_all_processes(folder: Path, tmp_path: Path) -> None:
    def observe(event: Event) -> None:
        if event.kind == "epoch":
            raise BrokenPipeError("nobody listens")

    job = Study(load_task(f"{folder}/mine.py:task"), out=tmp_path, **{**PLAN, "seeds": 1})
    with pytest.raises(BrokenPipeError, match="nobody listens"):
        job.run(observe, workers=2)
    wait_until(lambda: all(map(ended, others(folder))), "they end")
    assert not list((tmp_path / "failures").iterdir())


def test_a_task_that_is_another_one_elsewhere_is_said(folder: Path, tmp_path: Path) -> None:
    task = load_task(f"{folder}/mine.py:task")
    object.__setattr__(task, "description", {**task.description, "version": os.getpid()})
    job = Study(task, out=tmp_path / "study", **{**PLAN, "seeds": 1})
    with pytest.raises(StudyError, match=r"'mine' is another one .* run .* with --workers 1"):
        job.run(workers=2)


def test_how_many_processes_there_are(folder: Path, digits: Task) -> None:
    def given(task: Task, asked: int | None, **changes: Any) -> tuple[int, str]:
        job = Study(task, out=folder / "none", **{**PLAN, **changes})
        return job.workers(asked)

    mine = replace(digits, loss=torch.nn.functional.cross_entropy)
    assert mine.reference is None
    for asked in (None, 2, 5):
        number, why = given(mine, asked)
        assert number == 1
        assert "'digits/mlp' was made in this process" in why
        assert "FILE.py:NAME" in why
    assert given(mine, 1) == (1, "")
    built_in = classification("digits", "mlp", progress=False)
    for task in (built_in, load_task(f"{folder}/mine.py:task")):
        assert given(task, 2) == (2, "")
        assert given(task, 1) == (1, "")
        assert given(task, None)[0] >= 1
    assert given(built_in, 50, seeds=1, criteria=("random",))[0] == 1


def test_a_task_of_this_process_is_done_in_it(digits: Task, tmp_path: Path) -> None:
    seen: list[int] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(os.getpid())
        return torch.nn.functional.cross_entropy(outputs, targets)

    plan = {**PLAN, "seeds": 1, "keep": (0.5,), "criteria": ("magnitude",)}
    job = Study(replace(digits, loss=loss), out=tmp_path, **plan)
    assert not job.run(workers=4).summary.missing
    assert set(seen) == {os.getpid()}


def test_seeds_do_not_depend_on_each_other(folder: Path, finished: Path, tmp_path: Path) -> None:
    alone = {**PLAN, "seeds": 1, "first_seed": 1}
    Study(load_task(f"{folder}/mine.py:task"), out=tmp_path, **alone).run(workers=1)
    both, one = numbers(finished), numbers(tmp_path)
    assert all(name.startswith("seed-1") for name in one)
    for name, found in one.items():
        assert {**found, "spec": None} == {**both[name], "spec": None}


def test_the_messages_of_processes_bear_any_item() -> None:
    for item in (Stage(3, "gate", 1 / 3), Trial(0, "magnitude", 0.1, "ladder")):
        assert unpacked(packed(item)) == item
        event = Event("epoch", item, {"a": 1}, Epoch(1, 0.5, 0.1, 2.0))
        assert event_of(json.loads(line(of_event(event)))) == event
    nan = of_event(Event("epoch", Stage(0, "start"), epoch=Epoch(1, float("nan"), 0.1, 2.0)))
    assert event_of(json.loads(line(nan))) == Event("epoch", Stage(0, "start"))


@pytest.mark.parametrize("own", [None, ":16:8"])
def test_sums_on_a_gpu_are_asked_to_be_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", own or "")
    if own is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with reproducible(torch.device("cuda")):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (own or ":4096:8")
        assert torch.get_deterministic_debug_mode() == 1  # warn
    assert torch.get_deterministic_debug_mode() == 0
