"""A study of which chosen parts fail: what the tests of failures share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.study.results import Results
from secateur.study.study import Study
from secateur.study.task import Task

PLAN: dict[str, Any] = {
    "keep": (0.5,), "seeds": 2, "epochs": 1, "gate_epochs": 1, "calibration": 128,
    "criteria": ("gate", "magnitude"), "device": "cpu",
}  # fmt: skip
# Training passes of a study with this plan: the check before it, the starts of all seeds, then of
# each seed these.
AFTER = ("uncut_rung-0.5", "gate_rung-0.5", "magnitude_rung-0.5")


class Faulty:
    """The digits, of which some training passes, counted from the check on, go wrong."""

    def __init__(self, task: Task, wrong: set[int], what: Callable[[Tensor], Tensor]) -> None:
        self._data = task.data(torch.device("cpu"))
        self._wrong, self._what, self._passes = wrong, what, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def epoch(self, *arguments: Any) -> Iterator[Any]:
        self._passes += 1
        bad = self._passes in self._wrong
        for inputs, targets in self._data.epoch(*arguments):
            yield self._what(inputs) if bad else inputs, targets


def faulty(task: Task, seed: int, stage: str, what: Callable[[Tensor], Tensor]) -> Task:
    """Return the task, of which one stage of one seed goes wrong."""
    return replace(task, data=lambda device: Faulty(task, {at(seed, stage)}, what))


def at(seed: int, stage: str) -> int:
    """Return which training pass is that of a stage."""
    if stage == "start":
        return 2 + seed
    return 2 + PLAN["seeds"] + len(AFTER) * seed + AFTER.index(stage)


def raising(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises this, whatever it is given."""

    def raise_it(*_: object, **__: object) -> Any:
        raise error

    return raise_it


def run(task: Task, out: Path, **options: Any) -> Results:
    """Run the study of a task."""
    return Study(task, out=out, **{**PLAN, **options}).run()


def done(out: Path) -> set[str]:
    """Return the items that have a record."""
    return {path.stem for path in (out / "records").glob("*.json")}


def failed(out: Path) -> dict[str, dict[str, Any]]:
    """Return the failures that were recorded, by item."""
    return {path.stem: json.loads(path.read_text()) for path in (out / "failures").iterdir()}
