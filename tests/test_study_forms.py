"""Gates that are learned as one trunk or for frozen weights, and training of less than an epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from secateur.pruning.parameters import prunable
from secateur.study.part import Part
from secateur.study.results import Results
from secateur.study.study import Study
from secateur.study.task import Task
from study_runs import record

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.8, 0.3, 0.1), "criteria": ("gate", "magnitude", "random"), "seeds": 1, "epochs": 1,
    "gate_epochs": 1.5, "calibration": 256, "unrepaired": True, "device": "cpu",
}  # fmt: skip
BATCHES = 10  # of an epoch


def tensors(out: Path, stage: str) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"seed-0_{stage}.safetensors")


def ran(task: Task, out: Path, **changes: Any) -> tuple[Study, Results]:
    job = Study(task, out=out, **{**PLAN, **changes})
    return job, job.run(workers=1)


@pytest.mark.parametrize("gates", ["trunk", "frozen"])
def test_one_order_for_all_ratios(digits: Task, tmp_path: Path, gates: str) -> None:
    job, results = ran(digits, tmp_path, gates=gates)
    assert not results.summary.missing
    assert results.summary.primary == ("gate", "batchnorm")
    rows = {(row.criterion, row.recovery, row.keep): row for row in results.summary.lines}
    for criterion in PLAN["criteria"]:
        for recovery in ("none", "batchnorm"):
            for keep in PLAN["keep"]:
                # whichever is cut, it is compared with what was trained as long, repaired as it
                row = rows[criterion, recovery, keep]
                assert row.reference == rows["uncut", recovery, 1.0].test
    above: dict[str, Tensor] | None = None
    for keep in (1.0, 0.8, 0.5, 0.3, 0.2, 0.1, 0.04):
        model = job.network(keep)
        named = dict(model.named_parameters())
        kept = {name: named[name].detach() != 0 for name in prunable(model).names}
        total = sum(mask.numel() for mask in kept.values())
        assert sum(int(mask.sum()) for mask in kept.values()) == round(keep * total)
        assert above is None or all(not (kept[name] & ~above[name]).any() for name in kept)
        above = kept
    uncut = tensors(tmp_path, "uncut")
    assert not any("gate" in key for key in uncut)
    names = prunable(digits.model()).names
    assert all(int((uncut[name] == 0).sum()) == 0 for name in names)
    assert all(t.any() for key, t in tensors(tmp_path, "gate").items() if "gate" in key)
    log = {name: record(tmp_path, f"seed-0_{name}")["log"] for name in ("uncut", "gate")}
    assert len(log["uncut"]) == len(log["gate"]) == 2
    assert [e["rate"] for e in log["uncut"]] == [e["rate"] for e in log["gate"]]


def test_frozen_weights_stay_as_they_were_and_norms_move_in_both(
    digits: Task, tmp_path: Path
) -> None:
    job, _ = ran(digits, tmp_path, gates="frozen")
    start = tensors(tmp_path, "start")
    names = prunable(digits.model()).names
    for stage in ("uncut", "gate"):
        after = tensors(tmp_path, stage)
        assert all(torch.equal(after[name], start[name]) for name in names)
        assert torch.equal(after["linear.weight"], start["linear.weight"])
        assert not torch.equal(after["features.1.weight"], start["features.1.weight"])
    cut = dict(job.network(0.3).named_parameters())
    for name in names:
        kept = cut[name].detach() != 0
        assert torch.equal(cut[name].detach()[kept], start[name][kept])


def test_beside_learned_masks_stand_others_of_the_same_frozen_weights(
    digits: Task, tmp_path: Path
) -> None:
    """Magnitude and wanda keep them as they are; reconstruction alone solves them again."""
    changes = {"criteria": ("gate", "magnitude", "wanda"), "reconstruct": 128, "unrepaired": False}
    job, results = ran(digits, tmp_path, gates="frozen", **changes)
    assert results.summary.primary == ("gate", "batchnorm")
    rows = {(row.criterion, row.recovery, row.keep): row for row in results.summary.lines}
    reference = rows["uncut", "batchnorm", 1.0].test
    start, names = tensors(tmp_path, "start"), prunable(digits.model()).names
    kept: dict[str, dict[str, Tensor]] = {}
    for criterion in changes["criteria"]:
        for recovery in ("batchnorm", "reconstruct"):
            assert rows[criterion, recovery, 0.3].reference == reference
            model = job.network(0.3, criterion=criterion, recovery=recovery)
            cut = {n: w.detach() for n, w in model.named_parameters() if n in names}
            mask = {name: weight != 0 for name, weight in cut.items()}
            same = all(torch.equal(cut[n][mask[n]], start[n][mask[n]]) for n in names)
            assert same == (recovery == "batchnorm")
            kept.setdefault(criterion, mask)
            assert all(torch.equal(mask[n], kept[criterion][n]) for n in names)
    masks = list(kept.values())
    assert not any(
        all(torch.equal(a[n], b[n]) for n in names)
        for at, a in enumerate(masks)
        for b in masks[:at]
    )
    others = {(c.other, c.other_recovery) for c in results.summary.comparisons}
    assert {("magnitude", "batchnorm"), ("wanda", "batchnorm"), ("wanda", "reconstruct")} <= others


def test_a_whole_ladder_may_take_less_than_an_epoch(digits: Task, tmp_path: Path) -> None:
    drawn = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(data, name)

        def epoch(self, *arguments: Any) -> Any:
            for batch in data.epoch(*arguments):
                drawn.append(1)
                yield batch

    data = digits.data(torch.device("cpu"))
    assert data.batches_per_epoch(128) == BATCHES
    task = replace(digits, data=lambda device: Counted())
    counts: dict[str, int] = {}

    def observe(event: Any) -> None:
        if event.kind in ("begin", "done"):
            counts[event.item.id] = len(drawn) - counts.get(event.item.id, 0)

    plan = {**PLAN, "keep": (0.5, 0.25), "criteria": ("gate", "magnitude"), "unrepaired": False}
    Study(task, out=tmp_path, **{**plan, "gate_epochs": 0.8}).run(observe)
    assert counts["seed-0_start"] == BATCHES
    for arm in ("uncut", "gate", "magnitude"):
        for rung, batches in ((0.5, 2), (0.25, 6)):
            assert counts[f"seed-0_{arm}_rung-{rung}"] == batches
            (epoch,) = record(tmp_path, f"seed-0_{arm}_rung-{rung}")["log"]
            assert 0 < epoch["loss"] < 10


class Numbers:
    """Data whose batches are their places in the pass."""

    def __init__(self, count: int) -> None:
        self.count = count

    def batches_per_epoch(self, batch_size: int) -> int:
        return self.count

    def epoch(self, batch_size: int, generator: torch.Generator) -> Any:
        order = torch.randperm(self.count, generator=generator).tolist()
        return iter([(place, None) for place in order])

    def calibration(self, *arguments: Any) -> Any:
        return ("calibration", arguments)

    def evaluation(self, *arguments: Any) -> Any:
        return ("evaluation", arguments)


@given(st.integers(1, 200), st.floats(0, 1, exclude_min=True), st.integers(0, 9))
def test_a_part_is_the_beginning_of_a_pass(count: int, fraction: float, seed: int) -> None:
    data = Numbers(count)
    part = Part(data, fraction)  # type: ignore[arg-type]
    whole = list(data.epoch(8, torch.Generator().manual_seed(seed)))
    found = list(part.epoch(8, torch.Generator().manual_seed(seed)))
    assert found == whole[: len(found)]
    assert len(found) == part.batches_per_epoch(8) == max(1, round(fraction * count))
    generator = torch.Generator()
    assert part.calibration(5, 2, generator) == ("calibration", (5, 2, generator))
    assert part.evaluation("test", 7) == ("evaluation", ("test", 7))
