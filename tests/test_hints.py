"""What an error tells to give is an argument of the function that was called."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import Budget, Goal
from secateur.export import to_onnx
from secateur.measure.work import work
from secateur.onecall.goal import LIMITS
from secateur.pruning.calibration import Calibration
from secateur.pruning.channels import channel_groups, select_channels
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.parameters import prunable
from secateur.pruning.recovery.reconstruct import reconstruct

X, Y = torch.randn(40, 6), torch.arange(40) % 3


class Raw(nn.Module):
    """A weight of its own, and one that is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.unused = nn.Linear(8, 8)
        self.raw = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.b(self.a(x)) @ self.raw)
        return y


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


def frozen() -> nn.Module:
    model = plain()
    model[3].requires_grad_(False)
    model[2].requires_grad_(False)
    return model


def locked() -> nn.Module:
    model = plain()
    model[0].handle = (i for i in range(3))
    return model


loss = nn.functional.cross_entropy
MODELS: list[tuple[Callable[[], nn.Module], dict[str, Any]]] = [
    (frozen, {}),
    (lambda: nn.Linear(3, 2), {}),
    (plain, {"criterion": "wanda"}),
    (plain, {"criterion": "taylor"}),
    (plain, {"criterion": "taylor", "data": X}),
    (plain, {"criterion": "obs", "data": [(X, Y)]}),
    (plain, {"criterion": "obs", "data": [(X, Y)], "loss": lambda y, t: y}),
    (plain, {"criterion": "obs", "data": [(X, Y)], "loss": lambda y, t: y.wrong}),
    (plain, {"criterion": "gate"}),
    (plain, {"criterion": "wanda", "data": [X.numpy()]}),
    (plain, {"criterion": "wanda", "data": (X, Y)}),
    (plain, {"recover": "reconstruct"}),
    (plain, {"recover": "batchnorm"}),
    (plain, {"recover": "x"}),
    (plain, {"keep": Budget(0.5, overrides={"nothing": 0.5})}),
    (plain, {"keep": Budget(0.5, overrides={"*": 0.1})}),
    (plain, {"keep": Budget(0.5, scope=("nothing",))}),
    (plain, {"keep": Budget(0.5, floor=0.9)}),
    (plain, {"keep": Budget(0.5), "pattern": "4x1"}),
    (plain, {"keep": 2}),
    (plain, {"keep": None}),
    (plain, {"goal": 3}),
    (plain, {"goal": Goal(params=3)}),
    (plain, {"keep": None, "goal": Goal(params=3)}),
    (plain, {"keep": None, "goal": Goal(params=3), "pattern": "2:4"}),
    (plain, {"keep": None, "goal": Goal(macs=3)}),
    (plain, {"keep": None, "goal": Goal(latency_ms=3)}),
    (plain, {"keep": None, "goal": Goal(max_drop=3, evaluate=lambda model: "x")}),
    (plain, {"plan": 3}),
    (plain, {"plan": prunable(nn.Bilinear(3, 3, 3), include_first=True)}),
    (plain, {"multiple": 4}),
    (plain, {"pattern": "x"}),
    (plain, {"pattern": "channel"}),
    (plain, {"pattern": "channel", "example": X, "recover": "reconstruct", "data": X}),
    (plain, {"pattern": "channel", "example": X, "in_place": True}),
    (plain, {"pattern": "channel", "example": X, "keep": 1e-6}),
    (plain, {"pattern": "channel", "example": X, "minimum": 0}),
    (plain, {"pattern": "channel", "example": X[:, :2]}),
    (locked, {}),
    (locked, {"pattern": "channel", "example": X}),
    (plain, {"example": "x"}),
    (plain, {"sparsity": 0.5}),
]


def told(message: str) -> list[str]:
    """Return the arguments that a message tells to give."""
    return re.findall(r"\b([a-z_]+)=", message)


def functions(message: str) -> list[str]:
    """Return what a message calls, or tells the arguments of."""
    return re.findall(r"\b([A-Za-z_.]+)\([a-z]", message)


def assert_known(message: str, known: set[str]) -> None:
    """Assert that a message says whose an argument is that is not known."""
    others = set(told(message)) - known
    assert all(re.search(rf"{n}=(\S*|\[.*\]) of (secateur\.)?prun", message) for n in others), (
        message
    )


@pytest.mark.parametrize(("make", "arguments"), MODELS)
def test_of_prune(make: Callable[[], nn.Module], arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    given = {"keep": 0.5, **arguments}
    with pytest.raises(secateur.SecateurError) as refused:
        secateur.prune(make(), **given)
    known = {*signature(secateur.prune).parameters, *LIMITS}
    assert_known(str(refused.value), known)
    # nor are steps named that prune takes by itself
    inner = {"prunable", "Calibration", "Budget", "select", "channel_groups", "reconstruct"}
    assert inner.isdisjoint(functions(str(refused.value)))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (prunable, {"model": nn.Linear(3, 2)}),
        (prunable, {"model": plain(), "exclude": "x"}),
        (prunable, {"model": plain(), "exclude": ["x"]}),
        (prunable, {"model": plain(), "exclude": ["*"]}),
        (Budget, {"keep": 0.5, "overrides": {"x": 3}}),
        (Budget, {"keep": 0.5, "scope": 3}),
        (Budget, {"keep": 0.5, "floor": 3}),
        (Goal, {"max_drop": 3}),
        (Goal, {"evaluate": len}),
        (Calibration.of, {"data": X, "samples": 0}),
        (Calibration.of, {"data": [(X, Y, Y)]}),
        (channel_groups, {"model": plain(), "example": "x"}),
        (channel_groups, {"model": plain(), "example": X, "exclude": ["x"]}),
        (Calibration, {"inputs": ()}),
        (Calibration, {"inputs": (X,), "targets": (Y[:3],)}),
        (work, {"model": plain(), "example": X[:, :2]}),
        (to_onnx, {"module": plain(), "example": {}}),
        (
            reconstruct,
            {
                "model": plain(),
                "dense": plain(),
                "masks": secateur.Masks({"2.weight": torch.ones(8, 8, dtype=torch.bool)}),
                "calibration": Calibration((X,)),
                "damping": 0,
            },
        ),
        (
            select_channels,
            {
                "scores": {},
                "groups": channel_groups(plain(), X),
                "budget": secateur.Budget(0.5),
            },
        ),
        (
            CRITERIA["wanda"].scores,
            {"model": Raw(), "names": ["unused.weight"], "calibration": Calibration((X,))},
        ),
    ],
)
def test_of_the_steps(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(secateur.SecateurError) as refused:
        function(**arguments)
    assert_known(str(refused.value), set(signature(function).parameters) | {"first_layer"})
