"""Gates learn the shape of a pattern through the cut: in one phase, down a ladder, in a study."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import (
    Budget,
    Calibration,
    GatePhase,
    Gates,
    Masks,
    Recipe,
    Rung,
    Study,
    Task,
    descend,
    learn_gates,
    prunable,
    prune,
    select,
    train,
)
from secateur.errors import BudgetError, UsageError
from secateur.pruning.parameters import axes_of
from secateur.pruning.selecting.patterns import parse
from secateur.pruning.selecting.ranking import tensor_of

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
PATTERNS = ["dot4", "1x4", "3x2", "2:4"]


@pytest.fixture(scope="module")
def dense(digits: Task) -> nn.Module:
    torch.manual_seed(0)
    model = digits.model()
    train(model, digits.data(CPU), Recipe(epochs=3, batch_size=64), digits.loss, seed=0)
    return model


def whole_units(masks: Masks, model: nn.Module, pattern: str) -> tuple[int, int]:
    """Return how many units are kept and how many there are; every one is kept whole or not."""
    axes, kind, kept, total = axes_of(model, tuple(masks)), parse(pattern), 0, 0
    for name, mask in masks.items():
        axis = axes[name] or 0
        means = tensor_of(kind.scores(mask.float(), axis, 1024))
        assert set(means.unique().tolist()) <= {0.0, 1.0}
        kept, total = kept + int(means.sum()), total + means.numel()
    return kept, total


def accuracy(task: Task, model: nn.Module) -> float:
    right = count = 0
    with torch.no_grad():
        for inputs, targets in task.data(CPU).evaluation("validation"):
            right += int((model.eval()(inputs).argmax(1) == targets).sum())
            count += len(targets)
    return 100 * right / count


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_learned_in_a_shape_beats_what_is_cut_in_it(
    digits: Task, dense: nn.Module, pattern: str
) -> None:
    ratio = parse(pattern).ratio
    phase, names = GatePhase(lowest_keep=0.05, pattern=pattern), prunable(dense).names
    learned = copy.deepcopy(dense)
    recipe = Recipe(epochs=4, batch_size=64, rate=0.05)
    learn_gates(learned, names, digits.data(CPU), recipe, digits.loss, phase=phase, seed=1)
    keep = None if ratio else 0.1
    with_gates, found = prune(learned, keep, pattern=pattern)
    assert found.criterion == "gate"
    if ratio is None:
        kept, total = whole_units(found.masks, learned, pattern)
        assert kept == Budget(0.1).count(total)
    else:
        assert found.masks.keep == ratio
    by_size, _ = prune(dense, keep, pattern=pattern)
    assert accuracy(digits, with_gates) >= accuracy(digits, by_size)


def test_a_ladder_is_nested_in_the_shape(digits: Task, dense: nn.Module) -> None:
    model, names = copy.deepcopy(dense), prunable(dense).names
    Gates.attach(model, names)
    short = Recipe(epochs=1, batch_size=64, rate=0.02)
    rungs = [Rung(keep, learn=short, settle=short) for keep in (0.5, 0.2, 0.07)]
    phase = GatePhase(lowest_keep=0.05, pattern="dot4")
    data, above = digits.data(CPU), None
    found = []
    for rung, masks in descend(model, rungs, data, digits.loss, phase=phase, seed=2):
        kept, total = whole_units(masks, model, "dot4")
        assert kept == phase.budget(rung.keep).count(total)
        assert above is None or masks.nested_in(above)
        zeros = sum(int((model.get_parameter(name) != 0).sum()) for name in names)
        assert zeros <= masks.kept
        above = masks
        found.append(masks)
    order, axes = Gates.of(model).scores(), axes_of(model, names)
    assert [select(order, phase.budget(rung.keep), axes=axes) for rung in rungs] == found


def test_a_rung_cannot_ask_n_of_m_for_another_ratio(digits: Task, dense: nn.Module) -> None:
    model, phase = copy.deepcopy(dense), GatePhase(pattern="2:4")
    Gates.attach(model, prunable(dense).names)
    with pytest.raises(BudgetError, match=r"0\.3.*'2:4'"):
        descend(model, [Rung(0.3)], digits.data(CPU), digits.loss, phase=phase, seed=0)
    ((_, masks),) = descend(
        model, [Rung(0.5, settle=None)], digits.data(CPU), digits.loss, phase=phase, seed=0
    )
    assert masks.keep == 0.5


def test_a_rung_of_n_of_m_can_be_reconstructed(digits: Task, dense: nn.Module) -> None:
    model, data = copy.deepcopy(dense), digits.data(CPU)
    Gates.attach(model, prunable(dense).names)
    seen = Calibration(tuple(data.calibration(256, 128, torch.Generator().manual_seed(0))))
    rungs = [Rung(0.5, reconstruct=True, settle=None)]
    phase = GatePhase(pattern="2:4")
    ((_, masks),) = descend(model, rungs, data, digits.loss, phase=phase, calibration=seen, seed=0)
    assert masks.keep == 0.5
    assert accuracy(digits, model) > 50


def test_every_step_of_n_of_m_keeps_its_ratio() -> None:
    phase = GatePhase(dense_steps=0.25, pattern="2:4")
    keeps = [phase.drawn(step).keep for step in range(200)]
    assert set(keeps) == {0.5, 1.0}
    assert keeps.count(1.0) == 50
    assert phase.lowest.keep == 0.5


def test_channels_and_what_is_none_cannot_be_learned() -> None:
    with pytest.raises(BudgetError, match="channels span several layers"):
        GatePhase(pattern="channel")
    with pytest.raises(BudgetError, match="'5:4'"):
        GatePhase(pattern="5:4")


PLAN: dict[str, Any] = {
    "seeds": 1, "epochs": 1, "gate_epochs": 1, "calibration": 128, "device": "cpu",
    "criteria": ("gate", "magnitude"), "smaller": 0, "unrepaired": True,
}  # fmt: skip


def test_a_study_cuts_every_network_in_its_pattern(digits: Task, tmp_path: Path) -> None:
    study = Study(digits, out=tmp_path, keep=(0.5, 0.2), pattern="dot4", **PLAN)
    study.run()
    names = prunable(digits.model()).names
    pairs = (("gate", "ladder"), ("magnitude", "ladder"), ("magnitude", "batchnorm"))
    for criterion, recovery in pairs:
        model = study.network(0.2, criterion=criterion, recovery=recovery)
        masks = Masks({name: model.get_parameter(name) != 0 for name in names})
        kept, total = whole_units(masks, model, "dot4")
        assert kept == Budget(0.2).count(total)


def test_a_study_of_n_of_m_has_its_ratio_and_the_uncut_network(
    digits: Task, tmp_path: Path
) -> None:
    study = Study(digits, out=tmp_path, keep=(1.0, 0.5), pattern="2:4", **PLAN)
    rows = study.run().summary.rows
    assert {row.keep for row in rows} == {1.0, 0.5}
    name = prunable(digits.model()).names[0]
    for criterion, recovery in (("gate", "ladder"), ("magnitude", "none")):
        model = study.network(0.5, criterion=criterion, recovery=recovery)
        weight = model.get_parameter(name)
        assert ((weight.reshape(len(weight), -1, 4) != 0).sum(2) == 2).all()
    with pytest.raises(UsageError, match=r"keep has 0\.3.*--keep 1,0\.5"):
        Study(digits, out=tmp_path / "other", keep=(0.3,), pattern="2:4", **PLAN)
    assert not (tmp_path / "other").exists()
