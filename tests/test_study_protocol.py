"""What makes a comparison fair: arms that differ by the cut alone, and cuts that are nested.

One study of the digits down a ladder, watched: every batch, every output of the teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from secateur.distillation import Remembered
from secateur.measure.accuracy import evaluate
from secateur.pruning.parameters import prunable
from secateur.study import second
from secateur.study.checkpoints import read
from secateur.study.plan import Event
from secateur.study.results import Results
from secateur.study.study import Study
from secateur.study.task import Task
from study_runs import numbers, record

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.9, 0.7, 0.5, 0.2, 0.05), "criteria": ("gate", "magnitude", "wanda"), "seeds": 1,
    "first_seed": 3, "epochs": 2, "gate_epochs": 1.5, "batch_size": 64, "calibration": 256,
    "criterion_images": 64, "smaller": 0.2, "device": "cpu",
}  # fmt: skip
RUNGS, BETWEEN = (0.5, 0.2, 0.05), (0.95, 0.8, 0.6, 0.35, 0.1, 0.03)
ARMS = ("uncut", "gate", "magnitude", "wanda")
PER_EPOCH = 20  # batches


class Watched:
    """The digits, and what was drawn of them."""

    def __init__(self, data: Any, drawn: list[tuple[float, float]]) -> None:
        self._data, self._drawn = data, drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Any]:
        for inputs, targets in self._data.epoch(batch_size, generator):
            place = torch.arange(len(targets), dtype=torch.float64)
            self._drawn.append((float(inputs.double().sum()), float((place * targets).sum())))
            yield inputs, targets


@dataclass
class Seen:
    """A study that ran, and by item what it saw."""

    job: Study
    results: Results
    batches: dict[str, list[tuple[float, float]]]
    taught: dict[str, list[float]]
    epochs: dict[str, int]


def watched(digits: Task, out: Path, **changes: Any) -> Seen:
    drawn: list[tuple[float, float]] = []
    wanted: list[float] = []
    batches: dict[str, list[tuple[float, float]]] = {}
    taught: dict[str, list[float]] = {}
    epochs: dict[str, int] = defaultdict(int)

    def imitation(outputs: Tensor, teacher: Tensor) -> Tensor:
        wanted.append(float(teacher.double().square().sum()))
        assert digits.imitation is not None
        return digits.imitation(outputs, teacher)

    def observe(event: Event) -> None:
        if event.kind == "begin":
            drawn.clear()
            wanted.clear()
        elif event.kind == "epoch":
            epochs[event.item.id] += 1
        elif event.kind == "done":
            batches[event.item.id], taught[event.item.id] = drawn.copy(), wanted.copy()

    task = replace(
        digits, data=lambda device: Watched(digits.data(device), drawn), imitation=imitation
    )
    job = Study(task, out=out, **{**PLAN, **changes})
    return Seen(job, job.run(observe), batches, taught, dict(epochs))


@pytest.fixture(scope="module")
def seen(undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return watched(digits, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def weights(seen: Seen) -> Any:
    """(criterion, keep ratio) → name → what is not zero of each prunable tensor."""

    @cache
    def of(criterion: str, keep: float) -> dict[str, Tensor]:
        model = seen.job.network(keep, criterion=criterion)
        named = dict(model.named_parameters())
        return {name: named[name].detach() != 0 for name in prunable(model).names}

    return of


def of_rung(seen: dict[str, Any], arm: str, rung: float) -> Any:
    return seen[f"seed-3_{arm}_rung-{rung}"]


@pytest.mark.parametrize("rung", RUNGS)
def test_all_arms_of_a_rung_have_the_same_batches_and_teacher(seen: Seen, rung: float) -> None:
    uncut = of_rung(seen.batches, "uncut", rung)
    taught = of_rung(seen.taught, "uncut", rung)
    assert len(uncut) == len(taught) > 0
    assert len(set(uncut)) == len(uncut)
    for arm in ARMS[1:]:
        # wanda first looks at some examples of its own
        assert of_rung(seen.batches, arm, rung)[-len(uncut) :] == uncut
        assert of_rung(seen.taught, arm, rung) == taught
    for name in ARMS:
        assert seen.epochs[f"seed-3_{name}_rung-{rung}"] == -(-len(uncut) // PER_EPOCH)


def test_every_rung_has_batches_of_its_own(seen: Seen) -> None:
    drawn = [each for rung in RUNGS for each in of_rung(seen.batches, "uncut", rung)]
    assert len(set(drawn)) == len(drawn)
    # all rungs together are as long as was asked for, to within a batch for each pass
    assert len(drawn) == pytest.approx(1.5 * PER_EPOCH, abs=len(RUNGS))
    start = seen.batches["seed-3_start"]
    assert len(start) == 2 * PER_EPOCH
    assert not seen.taught["seed-3_start"]


def test_the_smaller_network_is_trained_as_the_start_and_then_as_the_rungs(seen: Seen) -> None:
    drawn = seen.batches["seed-3_smaller_rung-0.2"]
    start = seen.batches["seed-3_start"]
    assert drawn[: len(start)] == start
    rungs = sum(len(of_rung(seen.batches, "uncut", rung)) for rung in (0.5, 0.2))
    assert len(drawn) - len(start) == pytest.approx(rungs, abs=2)
    assert len(seen.taught["seed-3_smaller_rung-0.2"]) == len(drawn) - len(start)


@pytest.mark.parametrize("arm", ARMS[1:])
def test_cuts_are_nested_and_exact(seen: Seen, weights: Any, arm: str) -> None:
    """Over all levels; and a ratio between two of them lies within the level above it."""
    whole = weights(arm, 1.0)
    total = sum(mask.numel() for mask in whole.values())
    above = whole
    for keep in PLAN["keep"]:
        kept = weights(arm, keep)
        assert sum(int(mask.sum()) for mask in kept.values()) == round(keep * total)
        assert all(not (kept[name] & ~above[name]).any() for name in kept)
        assert record(seen.job.directory, f"seed-3_{arm}_keep-{keep}_ladder")["weights"][
            "layers"
        ] == {n: {"kept": int(m.sum()), "total": m.numel()} for n, m in kept.items()}
        above = kept
    for keep in BETWEEN:
        kept = weights(arm, keep)
        assert sum(int(mask.sum()) for mask in kept.values()) == round(keep * total)
        upper = weights(arm, min((k for k in PLAN["keep"] if k > keep), default=1.0))
        assert all(not (kept[name] & ~upper[name]).any() for name in kept)
        if keep > RUNGS[0]:  # there the first rung says what is kept first
            first = weights(arm, RUNGS[0])
            assert all(not (first[name] & ~kept[name]).any() for name in kept)


def test_uncut_networks_are_never_cut(seen: Seen) -> None:
    for name in ("start", *(f"uncut_rung-{rung}" for rung in RUNGS)):
        saved = load_file(seen.job.directory / "checkpoints" / f"seed-3_{name}.safetensors")
        assert not any(".mask." in key or "gate" in key for key in saved)
        assert all(int((t == 0).sum()) == 0 for k, t in saved.items() if k.endswith("weight"))
    for name in ("start_keep-1_batchnorm", *(f"uncut_keep-{rung}_ladder" for rung in RUNGS)):
        found = record(seen.job.directory, f"seed-3_{name}")["weights"]
        assert found["kept"] == found["prunable"]


def test_the_smaller_network_has_no_more_weights_than_are_kept(seen: Seen) -> None:
    small = record(seen.job.directory, "seed-3_smaller_keep-0.2_ladder")["weights"]
    cut = record(seen.job.directory, "seed-3_gate_keep-0.2_ladder")["weights"]
    left = cut["parameters"] - cut["prunable"] + cut["kept"]
    assert 0.9 * left < small["parameters"] <= left
    assert 0 < record(seen.job.directory, "seed-3_smaller_rung-0.2")["width"] < 1


def test_gates_learn_and_weights_outside_of_masks_are_zero(seen: Seen) -> None:
    folder = seen.job.directory / "checkpoints"
    before: dict[str, Tensor] = {}
    for rung in RUNGS:
        found = read(folder / f"seed-3_gate_rung-{rung}.safetensors")
        saved, masks = found.network, found.masks
        assert masks
        for name, mask in masks.items():
            assert not saved[name][~mask].any()
            assert saved[name][mask].all()
            assert not saved[f"{name}_gate"][~mask].any()  # they decide nothing any more
        gates = {key: tensor for key, tensor in saved.items() if "gate" in key}
        assert len(gates) == len(masks)
        assert all(tensor.any() for tensor in gates.values())
        assert all(not torch.equal(gates[key], before[key]) for key in before)
        before = gates
        histograms = record(seen.job.directory, f"seed-3_gate_rung-{rung}")["gates"]
        assert all(sum(each["counts"]) for each in histograms.values())
    order = {rung: record(seen.job.directory, f"seed-3_gate_keep-{rung}_ladder")["masks"]
             for rung in RUNGS}  # fmt: skip
    plain = {rung: record(seen.job.directory, f"seed-3_magnitude_keep-{rung}_ladder")["masks"]
             for rung in RUNGS}  # fmt: skip
    assert all(order[rung] != plain[rung] for rung in RUNGS)


def test_the_network_of_a_level_is_the_one_that_was_measured(seen: Seen) -> None:
    data = seen.job.task.data(torch.device("cpu"))
    for arm, recovery in (("gate", "ladder"), ("magnitude", "ladder"), ("magnitude", "batchnorm")):
        for keep in (0.9, 0.5, 0.05):
            model = seen.job.network(keep, criterion=arm, recovery=recovery)
            found = evaluate(
                model,
                data.evaluation("test"),
                seen.job.task.metric.function,
                autocast=record(seen.job.directory, "seed-3_start")["precision"] != "fp32",
            )
            measured = record(seen.job.directory, f"seed-3_{arm}_keep-{keep}_{recovery}")
            assert found == measured["metrics"]["test"]


def test_a_cut_that_is_not_trained_is_one_of_the_start(seen: Seen) -> None:
    start = load_file(seen.job.directory / "checkpoints" / "seed-3_start.safetensors")
    cut = seen.job.network(0.5, criterion="magnitude", recovery="batchnorm")
    for name, weight in cut.named_parameters():
        kept = weight.detach() != 0
        assert torch.equal(weight.detach()[kept], start[name][kept])


def test_every_level_is_compared_with_the_uncut_network_of_its_rung(seen: Seen) -> None:
    rows = {(r.criterion, r.recovery, r.keep): r for r in seen.results.summary.lines}
    for arm in ARMS[1:]:
        for keep in PLAN["keep"]:
            row = rows[arm, "ladder", keep]
            of = ("uncut", "ladder", keep) if keep in RUNGS else ("start", "batchnorm", 1.0)
            assert row.reference == rows[of].test
            assert row.role == ("primary" if arm == "gate" else "exploratory")
    assert rows["smaller", "ladder", 0.2].reference == rows["uncut", "ladder", 0.2].test


def test_outputs_of_the_teacher_that_are_remembered_are_those_it_gives(
    seen: Seen, digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second, "Remembered", lambda: Remembered(0))
    again = watched(digits, tmp_path)
    assert again.taught == seen.taught
    assert numbers(tmp_path) == numbers(seen.job.directory)
