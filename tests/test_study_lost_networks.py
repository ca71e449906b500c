"""Networks of stages that failed or were lost: one error, and nothing is done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from failing_study import PLAN, Faulty, done, failed, faulty, raising, run
from secateur.errors import StudyError, UsageError
from secateur.study.plan import Event
from secateur.study.study import Study
from secateur.study.task import Task

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_network_of_a_stage_that_failed_is_refused_at_once(
    digits: Task, tmp_path: Path
) -> None:
    task = faulty(digits, 0, "gate_rung-0.5", raising(ValueError("my fault")))
    with pytest.raises(StudyError):
        run(task, tmp_path)
    job = Study(digits, out=tmp_path, **PLAN)
    for give in (job.network, job.onnx):
        with pytest.raises(
            StudyError, match=r"seed-0_gate_rung-0\.5 failed .* ValueError: my fault"
        ):
            give(0.5)
    assert job.network(0.5, criterion="magnitude") is not None
    assert job.network(0.5, seed=1) is not None
    assert set(failed(tmp_path)) == {"seed-0_gate_rung-0.5"}


def test_a_rung_that_failed_is_refused_for_all_below_it(digits: Task, tmp_path: Path) -> None:
    """Nothing is trained for them, neither by the study nor for a network of theirs."""
    plan = {**PLAN, "keep": (0.8, 0.5, 0.2, 0.1), "seeds": 1}
    task = replace(digits, data=lambda device: Faulty(digits, {4}, raising(ValueError("mine"))))
    events: list[Event] = []
    with pytest.raises(StudyError, match=r"\n- seed-0_gate_rung-0\.5: ValueError: mine"):
        Study(task, out=tmp_path, **plan).run(events.append)
    left = {e.item.id for e in events if e.kind == "omitted"}
    assert left == {
        *(f"seed-0_gate_rung-{keep}" for keep in (0.2, 0.1)),
        *(f"seed-0_gate_keep-{keep}_ladder" for keep in (0.8, 0.5, 0.2, 0.1)),
    }
    job = Study(digits, out=tmp_path, **plan)
    for keep in (0.9, 0.8, 0.5, 0.2, 0.15, 0.1, 0.05):
        with pytest.raises(StudyError, match=r"gate_rung-0\.5 failed .* so seed-0_gate_keep"):
            job.network(keep)
    assert not any("gate_rung" in name for name in done(tmp_path))


def test_an_exception_while_a_network_is_made_is_one_error(digits: Task, tmp_path: Path) -> None:
    run(digits, tmp_path)
    other = replace(digits, model=lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.Linear(9, 9), torch.nn.Linear(9, 10)
    ))  # fmt: skip
    with pytest.raises(StudyError, match=r"network of seed-0_gate_keep-0\.5_ladder cannot be made"):
        Study(other, out=tmp_path, **PLAN).network(0.5)
    broken = replace(digits, data=raising(OSError("unplugged")))
    with pytest.raises(UsageError, match=r"data of task .* OSError: unplugged"):
        Study(broken, out=tmp_path, **PLAN).network(0.5)


def test_a_lost_network_that_cannot_be_made_again_is_tried_once(
    digits: Task, tmp_path: Path
) -> None:
    run(digits, tmp_path, seeds=1, unrepaired=True)
    (tmp_path / "checkpoints" / "seed-0_start.safetensors").unlink()
    for path in (tmp_path / "records").glob("*start_keep*"):
        path.unlink()
    calls = []

    def train(*arguments: Any, seed: int, **hooks: Any) -> None:
        calls.append(seed)
        raise ValueError("it broke since")

    task = replace(digits, train=train)
    with (
        pytest.warns(UserWarning, match="is gone"),
        pytest.raises(StudyError) as caught,
    ):
        run(task, tmp_path, seeds=1, unrepaired=True)
    assert len(calls) == 1
    lines = str(caught.value).split("\n")[1:]
    assert [line.split(":")[0] for line in lines] == [
        "- seed-0_start_keep-1_none",
        "- seed-0_start_keep-1_batchnorm",
    ]
    assert all("it broke since" in line for line in lines)
