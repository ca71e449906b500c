"""A teacher's outputs that are kept for trainings on the same batches."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.distillation import Remembered, SoftTargets, distilled
from secateur.study.task import Task


class Counting(torch.nn.Module):
    """A teacher that counts its runs; a copy counts with it."""

    def __init__(self, runs: list[int]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)
        self.runs = runs

    def __deepcopy__(self, memo: object) -> Counting:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def passes(
    task: Task, remembered: Remembered | None, seeds: tuple[int, ...]
) -> tuple[int, list[Tensor]]:
    """Return how often the teacher ran in passes with these seeds, and what it gave."""
    torch.manual_seed(0)
    runs: list[int] = []
    data, _ = distilled(
        task.data(torch.device("cpu")), task.loss, Counting(runs), SoftTargets(), 0.5,
        autocast=False, remembered=remembered,
    )  # fmt: skip
    given = [
        outputs
        for seed in seeds
        for _, (_, outputs) in data.epoch(128, torch.Generator().manual_seed(seed))
    ]
    return len(runs), given


def test_a_pass_that_comes_again_runs_no_teacher(digits: Task) -> None:
    once, first = passes(digits, Remembered(), (1, 2))
    again, found = passes(digits, Remembered(), (1, 2, 1, 2, 2))
    assert again == once == len(first)
    _, plain = passes(digits, None, (1, 2, 1, 2, 2))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_what_does_not_fit_is_computed_each_time(digits: Task) -> None:
    whole, _ = passes(digits, Remembered(), (1,))
    for most, kept in ((0, 0), (128 * 10 * 4 * 3, 3), (128 * 10 * 4 * 3 + 1, 3)):
        runs, _ = passes(digits, Remembered(most), (1, 1))
        assert runs == 2 * whole - kept


def test_a_batch_is_known_by_what_is_in_it() -> None:
    """Two batches under one key: data that are shuffled by a generator of their own."""
    remembered, one = Remembered(), torch.ones(4, 2)
    first = remembered.outputs(("key",), one, lambda: torch.zeros(4))
    other = remembered.outputs(("key",), one + 1, lambda: torch.full((4,), 5.0))
    again = remembered.outputs(("key",), one.clone(), lambda: torch.full((4,), 9.0))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert remembered.outputs(("b",), one, lambda: torch.full((4,), 9.0)).sum() == 36


def test_a_device_that_computes_by_itself_is_not_waited_for() -> None:
    remembered, given = Remembered(), torch.empty(4, 2, device="meta")  # whose sum nobody can read
    for wanted in (torch.zeros(4), torch.ones(4)):
        assert remembered.outputs(("key",), given, lambda found=wanted: found) is wanted
