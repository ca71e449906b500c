"""Down a ladder: exact, nested, one order for all rungs, and better than one cut at once."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur import (
    Budget,
    Calibration,
    GatePhase,
    Gates,
    Masks,
    Recipe,
    Rung,
    Task,
    descend,
    prunable,
    select,
)
from secateur.errors import BudgetError, UsageError
from secateur.measure.accuracy import evaluate
from secateur.nets.mlp import Mlp
from secateur.training import train

SHORT = Recipe(epochs=1, rate=0.02, precision="fp32")
RUNGS = (Rung(0.4, settle=SHORT), Rung(0.2, learn=SHORT, settle=SHORT), Rung(0.1, learn=SHORT))


@pytest.fixture(scope="module")
def dense(digits: Task) -> nn.Module:
    torch.manual_seed(0)
    model = Mlp((1, 8, 8), 10, hidden=(128, 64))
    train(model, digits.data(torch.device("cpu")), Recipe(epochs=3), digits.loss, seed=0)
    return model


def gated(dense: nn.Module) -> nn.Module:
    model = copy.deepcopy(dense)
    Gates.attach(model, prunable(model).names)
    return model


def descended(
    dense: nn.Module, digits: Task, phase: GatePhase, rungs: tuple[Rung, ...] = RUNGS
) -> tuple[nn.Module, list[tuple[Rung, Masks, nn.Module]]]:
    model, landed = gated(dense), []
    data = digits.data(torch.device("cpu"))
    for rung, masks in descend(model, rungs, data, digits.loss, phase=phase, seed=1):
        landed.append((rung, masks, copy.deepcopy(model)))
    return model, landed


def test_every_rung_is_exact_and_nested_and_one_order_gives_them_all(
    dense: nn.Module, digits: Task
) -> None:
    model, landed = descended(dense, digits, GatePhase(lowest_keep=0.05))
    order = Gates.of(model).scores()
    above = None
    for rung, masks, there in landed:
        assert masks.kept == round(rung.keep * masks.total)
        assert above is None or masks.nested_in(above)
        above = masks
        assert select(order, Budget(rung.keep)) == masks
        for name, mask in masks.items():
            assert not there.get_parameter(name)[~mask].any()
            assert there.get_parameter(name)[mask].any()


def test_what_was_cut_keeps_its_order(digits: Task) -> None:
    """Also at ratios between the rungs, whatever training does to what is left."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():  # far enough apart for any rounding
        order = torch.randperm(640, generator=torch.Generator().manual_seed(0)) + 1
        net[1].weight.copy_((order / 640 * (-1) ** order).reshape(10, 64))
    Gates.attach(net, ["1.weight"])
    scores = [Gates.of(net).scores()]
    rungs = (Rung(0.4, settle=SHORT), Rung(0.2, settle=SHORT))
    for _ in descend(net, rungs, digits.data(torch.device("cpu")), digits.loss, seed=0):
        scores.append(Gates.of(net).scores())
    before, between, after = scores
    for keep in (0.9, 0.7, 0.5):
        assert select(after, Budget(keep)) == select(between, Budget(keep))
        assert select(after, Budget(keep)) == select(before, Budget(keep))
    assert select(after, Budget(0.3)) == select(between, Budget(0.3))
    assert select(after, Budget(0.3)) != select(before, Budget(0.3))  # training was seen


def test_it_is_better_than_one_cut_trained_for_as_long(dense: nn.Module, digits: Task) -> None:
    data = digits.data(torch.device("cpu"))
    _, landed = descended(dense, digits, GatePhase(lowest_keep=0.05))

    def accuracy(model: nn.Module) -> float:
        return evaluate(model, data.evaluation("validation"), digits.metric.function)

    untrained = gated(dense)
    select(Gates.of(untrained).scores(), Budget(0.1)).apply(untrained)
    assert accuracy(landed[-1][2]) > accuracy(untrained) + 5


def test_a_rung_that_reconstructs_needs_no_labels_and_is_exact_and_nested_too(
    dense: nn.Module, digits: Task
) -> None:
    data = digits.data(torch.device("cpu"))
    seen = Calibration(tuple(data.calibration(512, 256, torch.Generator().manual_seed(0))))

    def landed(reconstruct: bool) -> tuple[nn.Module, list[tuple[Masks, float]]]:
        model, found = gated(dense), []
        rungs = [Rung(keep, settle=None, reconstruct=reconstruct) for keep in (0.3, 0.05)]
        unread: Any = None  # neither labels nor a loss are asked for
        for _, masks in descend(model, rungs, unread, unread, calibration=seen, seed=0):
            for name, mask in masks.items():
                assert not model.get_parameter(name)[~mask].any()
                assert model.get_parameter(name)[mask].all()  # none of those cut on the way
            accuracy = evaluate(model, data.evaluation("validation"), digits.metric.function)
            found.append((masks, accuracy))
        return model, found

    model, found = landed(True)
    order = Gates.of(model).scores()
    for (masks, _), keep in zip(found, (0.3, 0.05), strict=True):
        assert masks.kept == round(keep * masks.total)
        assert select(order, Budget(keep)) == masks
    assert found[1][0].nested_in(found[0][0])
    plain = landed(False)[1]
    assert found[1][1] > plain[1][1] + 5


def test_rungs_may_settle_reconstruct_and_learn_in_turn(dense: nn.Module, digits: Task) -> None:
    data = digits.data(torch.device("cpu"))
    seen = Calibration(tuple(data.calibration(256, 256, torch.Generator().manual_seed(0))))
    rungs = (
        Rung(1.0, settle=None, reconstruct=True),  # nothing to cut, nothing to solve
        Rung(0.4, settle=SHORT, reconstruct=True),
        Rung(0.2, settle=SHORT, reconstruct=True),
        Rung(0.1, learn=SHORT, settle=None, share=1.0),
    )
    model = gated(dense)
    walk = descend(model, rungs, data, digits.loss, calibration=seen, seed=0)
    found = [masks for _, masks in walk]
    order = Gates.of(model).scores()
    for rung, masks in zip(rungs, found, strict=True):
        assert masks.kept == round(rung.keep * masks.total)
        assert select(order, Budget(rung.keep)) == masks


def test_the_same_seed_gives_the_same_weights(dense: nn.Module, digits: Task) -> None:
    one, other = (descended(dense, digits, GatePhase())[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_frozen_weights_stay_and_only_gates_and_norms_move(digits: Task) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
    )
    names = prunable(model, include_first=True).names
    Gates.attach(model, names)
    before = copy.deepcopy(model)
    rungs = (Rung(0.5, learn=SHORT, settle=None), Rung(0.2, learn=SHORT, settle=None, share=1.0))
    data = digits.data(torch.device("cpu"))
    found = [
        masks
        for _, masks in descend(
            model, rungs, data, digits.loss, phase=GatePhase(weights="frozen"), seed=0
        )
    ]
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)) == (not name.startswith("2."))
    assert found[1].nested_in(found[0])
    order = Gates.of(model).scores()
    assert [select(order, Budget(rung.keep)) for rung in rungs] == found


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=40), st.data())
def test_demoting_keeps_the_order_and_gives_nested_masks_again(
    values: list[int], drawn: st.DataObject
) -> None:
    model = nn.Linear(len(values), 1, bias=False)
    gates = Gates.attach(model, ["weight"])
    gates.become({"weight": torch.tensor([values]) / 4})
    total = len(values)
    counts = sorted(drawn.draw(st.sets(st.integers(1, total), min_size=1, max_size=4)))[::-1]
    wanted, alive = [], torch.ones(1, total, dtype=torch.bool)
    for count in counts:
        # what a rung's training may do: the scores of what is left change
        change = drawn.draw(st.lists(st.integers(-2, 2), min_size=total, max_size=total))
        gates.values()["weight"][alive] += torch.tensor([change])[alive] / 4
        order = torch.where(alive, gates.scores()["weight"], -1e6)
        alive = select({"weight": order}, Budget(count / total, floor=0))["weight"]
        wanted.append(alive)
        for mask in wanted:
            gates.demote(Masks({"weight": mask}))
    for count, mask in zip(counts, wanted, strict=True):
        assert torch.equal(select(gates.scores(), Budget(count / total, floor=0))["weight"], mask)


def test_demoting_keeps_apart_what_differs_by_a_rounding() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    gates = Gates.attach(model, ["weight"])
    next_to_half = torch.tensor(0.5).nextafter(torch.tensor(1.0)).item()
    gates.become({"weight": torch.tensor([[0.5, next_to_half, 1000, 1001]])})
    three = select(gates.scores(), Budget(0.75, floor=0))
    one = select(gates.scores(), Budget(0.25, floor=0))
    gates.values()["weight"][0, 3] = 1  # as training may leave it
    gates.demote(three)
    gates.demote(one)
    assert select(gates.scores(), Budget(0.75, floor=0)) == three
    assert select(gates.scores(), Budget(0.25, floor=0)) == one


def test_bad_ladders_are_refused_before_anything_changes(dense: nn.Module, digits: Task) -> None:
    data, model = digits.data(torch.device("cpu")), gated(dense)
    before = copy.deepcopy(model.state_dict())

    def refused(*rungs: Rung, phase: GatePhase | None = None) -> pytest.RaisesExc[Exception]:
        return descend(model, rungs, data, digits.loss, phase=phase, seed=0)

    with pytest.raises(UsageError, match=r"must fall from rung to rung, but 0.5 follows 0.2"):
        refused(Rung(0.2), Rung(0.5))
    with pytest.raises(BudgetError, match="keep at least"):
        refused(Rung(0.5), Rung(0.01), phase=GatePhase(floor=0.1))
    with pytest.raises(UsageError, match="order that is fixed"):
        refused(Rung(0.5, learn=SHORT), phase=GatePhase(order="fixed"))
    with pytest.raises(UsageError, match="frozen cannot settle"):
        refused(Rung(0.5), phase=GatePhase(weights="frozen"))
    with pytest.raises(UsageError, match="calibration is missing; give descend"):
        refused(Rung(0.5, reconstruct=True))
    wrong: Any = [torch.randn(64, 3)]
    with pytest.raises(UsageError, match="calibration is of type list; give descend"):
        descend(model, [Rung(0.5, reconstruct=True)], data, digits.loss, calibration=wrong, seed=0)
    with pytest.raises(UsageError, match="reconstruct is 1, but must be"):
        replace(Rung(0.5), reconstruct=1)
    still = GatePhase(weights="frozen")
    with pytest.raises(UsageError, match="frozen cannot be reconstructed"):
        refused(Rung(0.5, settle=None, reconstruct=True), phase=still)
    with pytest.raises(UsageError, match="the model does not take"):
        descend(
            model,
            [Rung(0.5, reconstruct=True)],
            data,
            digits.loss,
            calibration=Calibration((torch.randn(64, 3),)),
            seed=0,
        )
    with pytest.raises(UsageError, match="nothing to reconstruct"):
        Rung(0.5, learn=SHORT, reconstruct=True)
    with pytest.raises(UsageError, match="no gates"):
        descend(copy.deepcopy(dense), RUNGS, data, digits.loss, seed=0)
    with pytest.raises(UsageError, match="no rungs to descend"):
        refused()
    with pytest.raises(UsageError, match="share is 0"):
        Rung(0.5, share=0)
    with pytest.raises(BudgetError, match="keep is 2"):
        replace(Rung(0.5), keep=2)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
