"""The arguments that `prune` had in 0.1.0 do what they did, and say what is written now."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Budget, Calibration, Goal, Result, prunable, prune
from secateur.errors import BudgetError, UsageError
from secateur.onecall.renamed import GROUPS

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
EXAMPLE = X[:1]
WANDA: dict[str, Any] = {"keep": 0.5, "criterion": "wanda"}
CHANNEL: dict[str, Any] = {"keep": 0.5, "pattern": "channel", "example": EXAMPLE}


class Net(nn.Module):
    """Layers, a raw weight that is cut, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.weight = nn.Parameter(torch.randn(16, 16))
        self.codes = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.a(x))))
        out: Tensor = self.c(y @ self.weight @ self.codes)
        return out


def filled(model: nn.Module) -> float:
    return float((model.get_parameter("b.weight") != 0).float().mean())


def emptied(model: nn.Module) -> float:
    return -filled(model)


New = Callable[[nn.Module], dict[str, Any]]
CASES: dict[str, tuple[dict[str, Any], New]] = {
    "scope": (
        {"keep": 0.3, "scope": "layer"},
        lambda model: {"keep": Budget(0.3, scope="layer")},
    ),
    "scope of channels": (
        {**CHANNEL, "scope": "global"},
        lambda model: {**CHANNEL, "keep": Budget(0.5, scope="global", pattern="channel")},
    ),
    "floor": ({"keep": 0.1, "floor": 0.08}, lambda model: {"keep": Budget(0.1, floor=0.08)}),
    "floor of channels": (
        {**CHANNEL, "floor": 0.4},
        lambda model: {**CHANNEL, "keep": Budget(0.5, "layer", 0.4, "channel")},
    ),
    "overrides": (
        {"keep": 0.3, "overrides": {"c.*": 1.0}},
        lambda model: {"keep": Budget(0.3, overrides={"c.*": 1.0})},
    ),
    "overrides of n:m": (
        {"pattern": "2:4", "overrides": {"c.*": 1.0}},
        lambda model: {"keep": Budget(pattern="2:4", overrides={"c.*": 1.0})},
    ),
    "exclude": (
        {"keep": 0.3, "exclude": ["c.*"]},
        lambda model: {"keep": 0.3, "plan": prunable(model, exclude=["c.*"])},
    ),
    "exclude of channels": (
        {**CHANNEL, "exclude": ["b.*"]},
        lambda model: {**CHANNEL, "plan": prunable(model, exclude=["b.*"])},
    ),
    "exclude of n:m": (
        {"pattern": "2:4", "exclude": ["c.*"], "example": EXAMPLE},
        lambda model: {
            "pattern": "2:4",
            "plan": prunable(model, exclude=["c.*"], pattern="2:4", example=EXAMPLE),
        },
    ),
    "exclude of n:m with data": (
        {"pattern": "2:4", "exclude": ["c.*"], "data": X},
        lambda model: {
            "pattern": "2:4",
            "plan": prunable(model, exclude=["c.*"], pattern="2:4", example=EXAMPLE),
        },
    ),
    "include": (
        {"keep": 0.3, "include": ["codes"]},
        lambda model: {"keep": 0.3, "plan": prunable(model, include=["codes"])},
    ),
    "include_first": (
        {"keep": 0.3, "include_first": True},
        lambda model: {"keep": 0.3, "plan": prunable(model, include_first=True)},
    ),
    "samples": (
        {**WANDA, "data": X, "samples": 40, "exclude": ["weight"]},
        lambda model: {
            **WANDA,
            "data": Calibration.of(X, samples=40),
            "plan": prunable(model, exclude=["weight"]),
        },
    ),
    "autocast": (
        {**WANDA, "data": X, "autocast": True, "exclude": ["weight"]},
        lambda model: {
            **WANDA,
            "data": Calibration.of(X, autocast=True),
            "plan": prunable(model, exclude=["weight"]),
        },
    ),
    "max_drop and evaluate": (
        {"max_drop": 0.3, "evaluate": filled},
        lambda model: {"goal": Goal(max_drop=0.3, evaluate=filled)},
    ),
    "higher_is_better": (
        {"max_drop": 0.3, "evaluate": emptied, "higher_is_better": False},
        lambda model: {"goal": Goal(max_drop=0.3, evaluate=emptied, higher_is_better=False)},
    ),
    "params": ({"params": 700}, lambda model: {"goal": Goal(params=700)}),
    "params of layers": (
        {"params": 700, "scope": "layer"},
        lambda model: {"keep": Budget(1.0, scope="layer"), "goal": Goal(params=700)},
    ),
    "macs": (
        {"macs": 600, "example": EXAMPLE},
        lambda model: {"goal": Goal(macs=600), "example": EXAMPLE},
    ),
    "bytes": ({"bytes": 4000}, lambda model: {"goal": Goal(bytes=4000)}),
    "latency_ms": (
        {"latency_ms": 1e6, "example": EXAMPLE},
        lambda model: {"goal": Goal(latency_ms=1e6), "example": EXAMPLE},
    ),
}


def pruned(**arguments: Any) -> Result:
    return prune(Net(), **arguments)[1]


@pytest.mark.parametrize("name", CASES)
def test_the_old_form_warns_and_gives_the_same(name: str) -> None:
    old, new = CASES[name]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = pruned(**old)
    given = [argument for _, names in GROUPS.values() for argument in names if argument in old]
    assert given
    text = "\n".join(str(warning.message) for warning in said)
    assert all(f"{argument}=" in text for argument in given)
    assert {warning.category for warning in said} == {DeprecationWarning}
    assert {warning.filename for warning in said} == {__file__}
    model = Net()
    _, wanted = prune(model, **new(model))
    assert found.masks == wanted.masks
    assert found.budget == wanted.budget
    assert found.excluded == wanted.excluded


def test_every_old_argument_is_tried() -> None:
    names = {argument for _, names in GROUPS.values() for argument in names}
    assert names == {argument for old, _ in CASES.values() for argument in old} & names


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ({"keep": 0.5, "floor": 0}, "keep=secateur.Budget(keep, floor=...)"),
        (
            {"keep": 0.5, "exclude": ["c.*"], "include_first": True},
            "plan=secateur.prunable(model, ",
        ),
        ({"keep": 0.5, "data": X, "samples": 40}, "data=secateur.Calibration.of(data, loss, "),
        ({"params": 700}, "goal=secateur.Goal(params=...)"),
    ],
)
def test_the_warning_says_what_is_written_now(arguments: dict[str, Any], form: str) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape(form)) as said:
        pruned(**arguments)
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.1, "params": 5}, "keep and params"),
        ({"keep": 0.1, "params": 5, "floor": 0.1}, "keep and params"),
        ({"params": 5, "macs": 5}, "params and macs"),
        ({"goal": Goal(params=700), "macs": 5}, "goal= and macs="),
        ({"keep": Budget(0.5), "floor": 0.1}, "keep= and floor="),
        ({"keep": 0.5, "plan": prunable(Net()), "exclude": ["c.*"]}, "plan= and exclude="),
        ({"keep": 0.5, "evaluate": len}, "evaluate="),
        ({"keep": 0.5, "floor": 3}, "floor is 3"),
        ({"keep": 0.5, "exclude": "x"}, "exclude is 'x'"),
        ({"keep": 0.5, "exclude": ["nothing.*"]}, "matches no parameter"),
        ({"keep": 0.5, "data": X, "samples": 2.5}, "samples is 2.5"),
        ({"keep": 0.5, "data": 3, "exclude": ["c.*"]}, "data is 3"),
        ({"data": 3, "pattern": "2:4", "exclude": ["c.*"]}, "data is 3"),
        ({"floor": 0.1}, "how much is to be kept"),
        ({"keep": 0.5, "floor": 0.1, "patern": "2:4"}, "'patern'; did you mean 'pattern'"),
    ],
)
def test_wrong_old_calls_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pruned(**arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_arguments_stand_beside_positional_ones() -> None:
    model = Net()
    assert prune(model, 0.3, floor=0)[1].budget == Budget(0.3, floor=0)
    with pytest.raises(BudgetError, match="keep is 7"):
        prune(model, 7, floor=0)
    with pytest.raises(UsageError, match="model"):
        prune(keep=0.5, floor=0)  # type: ignore[call-arg]
    # of a metric that no goal asks for nothing was ever made
    assert prune(model, 0.3, higher_is_better=False)[1].masks == prune(model, 0.3)[1].masks
