"""Schedules, and the callbacks that take them, refuse what makes no sense before any training."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import secateur
from secateur.errors import UsageError
from secateur.pruning.gates.stages import Schedule, StagedPruning
from wrong_values import net, sgd

TAKERS = ["schedule", "lightning", "transformers"]
RIGHT = {"keep": 0.5, "gate_start": 1, "prune_at": 2}
WRONG = {
    "keep": ["x", None, 0, True],
    "gate_start": ["a", None, -1, 3, [1], float("nan"), True],
    "prune_at": ["a", None, 1, float("nan"), float("inf")],
    "unit": ["days", 3, ["epochs"]],
    "phase": [5, "x", {}],
    "exclude": [5, "net.2*", [5], None],
    "include": [5, "net.2*", [5], None],
    "include_first": ["x", 1, None],
}


def taker(name: str) -> Callable[..., Any]:
    if name == "schedule":
        return Schedule
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name)
        return importlib.import_module(f"secateur.integrations.{name}").SecateurCallback


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("argument", WRONG)
def test_wrong_values_are_named(name: str, argument: str) -> None:
    make = taker(name)
    for value in WRONG[argument]:
        with pytest.raises(UsageError, match=argument) as refusal:
            make(**{**RIGHT, argument: value})
        shown = (repr(value), str(value), type(value).__name__)
        assert any(text in str(refusal.value) for text in shown), refusal.value


@pytest.mark.parametrize("name", TAKERS)
def test_arguments_that_are_none_or_missing(name: str) -> None:
    make = taker(name)
    with pytest.raises(UsageError, match=r"'sparsity'.*keep=0\.3$"):
        make(sparsity=0.7, gate_start=1, prune_at=2)
    with pytest.raises(UsageError, match="'start'"):
        make(**RIGHT, start=3)
    with pytest.raises(UsageError, match="'prune_at'"):
        make(0.5, gate_start=1)


def test_a_resumed_checkpoint_is_a_path() -> None:
    with pytest.raises(UsageError, match="resume_from is 5"):
        taker("transformers")(**RIGHT, resume_from=5)


@pytest.mark.parametrize("name", TAKERS)
def test_globs_may_be_read_once(name: str) -> None:
    made = taker(name)(**RIGHT, exclude=iter(["2.*"]), phase=None if name != "schedule" else PHASE)
    schedule = made if name == "schedule" else made._pruning.schedule
    assert schedule.exclude == ("2.*",)


PHASE = secateur.GatePhase()


@pytest.mark.parametrize(
    "change",
    [{"stage": "x"}, {"stage": 3}, {"gates": 5}, {"masks": 5}, {"masks": {"2.weight": 3}}, {}],
)
def test_states_that_are_none(change: dict[str, Any]) -> None:
    pruning = StagedPruning(Schedule(**RIGHT))
    state = {**pruning.state_dict(), **change} if change else {}
    with pytest.raises(UsageError, match="state is"):
        pruning.load_state_dict(state)
    assert pruning.stage == "plain"


def test_gates_of_a_state_are_looked_at_when_it_goes_on() -> None:
    model = net()
    pruning = StagedPruning(Schedule(0.5, 0, 2))
    pruning.start(model, sgd(model))
    pruning.reach(0)
    state = pruning.state_dict()
    assert state["stage"] == "gates"
    gates = {**state["gates"], "number": torch.tensor(3)}
    pruning.load_state_dict({**state, "gates": gates})
    pruning.start(model, sgd(model))
    assert pruning.state_dict()["gates"]["number"] == 3
    pruning.load_state_dict({**state, "gates": {"number": "x"}})
    with pytest.raises(UsageError, match="state is"):
        pruning.start(model, sgd(model))
