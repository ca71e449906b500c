"""What `prune` solves for: goals of parameters, multiply-adds, bytes, a metric and latency."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Budget, Goal, prunable, prune
from secateur.compiler.pipeline import Compiled
from secateur.compiler.runtime import Engine
from secateur.errors import BudgetError, UsageError
from secateur.measure import latency
from secateur.measure.latency import layer_latencies
from secateur.measure.work import work
from test_prune import EXAMPLE, TOTAL, network


@pytest.fixture
def model() -> nn.Module:
    return network()


def test_counted_goals_are_met_to_one_weight(model: nn.Module) -> None:
    size = sum(p.numel() for p in model.parameters())
    with pytest.raises(BudgetError, match="no cut meets params"):
        prune(model, Budget(1.0, floor=0.1), goal=Goal(params=size - TOTAL + 20))
    _, result = prune(model, goal=Goal(params=size - 700))
    assert result.parameters.after == size - 700
    budget = Budget(0.9, scope="layer", floor=0.3)
    _, result = prune(model, budget, goal=Goal(params=size - 700))
    assert result.budget == replace(budget, keep=result.requested)
    assert size - 702 <= result.parameters.after <= size - 700
    dense = work(model, EXAMPLE).total
    _, result = prune(model, goal=Goal(macs=dense // 2), example=EXAMPLE)
    assert result.macs is not None
    assert dense // 2 - 64 <= result.macs.after <= dense // 2
    _, result = prune(model, goal=Goal(bytes=6000))
    assert 5900 < result.bytes.after <= 6000
    assert result.attempts
    assert re.search(
        r"requested: bytes=6000, met by \d+ at keep 0.\d+ in \d+ attempts", repr(result)
    )


def test_a_drop_is_measured_and_kept(model: nn.Module) -> None:
    def filled(candidate: nn.Module) -> float:
        assert not candidate.training
        assert candidate is not model
        return float((candidate.get_parameter("3.weight") != 0).float().mean() * 100)

    _, result = prune(model, goal=Goal(max_drop=30, evaluate=filled))
    assert result.layers[0].keep >= 0.7
    assert result.layers[0].keep < 0.73
    drops = {attempt.keep: attempt.value for attempt in result.attempts}
    assert drops[1.0] == 0
    loss = Goal(max_drop=30, evaluate=lambda m: -filled(m), higher_is_better=False)
    _, lower = prune(model, goal=loss)
    assert lower.requested == result.requested


def test_a_goal_of_latency_is_measured_through_the_compiler(model: nn.Module) -> None:
    pytest.importorskip("onnx")
    _, result = prune(model, goal=Goal(latency_ms=1e6), example=EXAMPLE)
    assert result.requested == 1.0
    with pytest.raises(BudgetError, match="no cut meets latency_ms=1e-09"):
        prune(model, goal=Goal(latency_ms=1e-9), example=EXAMPLE)


def test_a_goal_of_latency_may_be_in_int8(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    precisions = []
    engine = Compiled.engine

    def seen(self: Compiled, threads: int | None = None) -> Engine:
        precisions.append(self.integer)
        return engine(self, threads)

    monkeypatch.setattr(Compiled, "engine", seen)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, images: Tensor) -> Tensor:
            return self.layers(images)

    _, result = prune(Named(), goal=Goal(latency_ms=1e6, int8=True), example=EXAMPLE)
    assert result.requested == 1.0
    assert precisions[0] > 0
    with pytest.raises(UsageError, match="int8=True is for latency_ms, not for params"):
        Goal(params=10, int8=True)


def planes_and_vector() -> nn.Sequential:
    """A convolution at a thousand positions, and a linear layer at one, with weights alike."""
    torch.manual_seed(0)
    wide, alone = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.Linear(32, 288, bias=False)
    for layer in (wide, alone):
        nn.init.normal_(layer.weight, std=0.1)
    return nn.Sequential(wide, nn.AvgPool2d(32), nn.Flatten(), alone)


@pytest.mark.parametrize("int8", [False, True])
def test_each_layer_is_timed(int8: bool) -> None:
    pytest.importorskip("onnx")
    found = layer_latencies(planes_and_vector(), torch.randn(8, 32, 32, 32), int8=int8)
    assert set(found) == {"0", "3"}
    assert found["0"] > found["3"] > 0


class Called(nn.Module):
    """A layer that is called twice, one in a dict, and a recurrent one."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.heads = nn.Linear(8, 8), nn.ModuleDict({"a": nn.Linear(8, 8)})
        self.steps = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self.heads["a"](self.twice(torch.relu(self.twice(x)))))[0]


def test_what_a_module_takes_is_of_all_its_calls() -> None:
    pytest.importorskip("onnx")
    assert set(layer_latencies(Called(), torch.randn(1, 3, 8))) == {"twice", "heads.a", "steps"}


def test_a_bfloat16_network_is_timed() -> None:
    pytest.importorskip("onnx")
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(1, 4)
    _, result = prune(net.bfloat16(), goal=Goal(latency_ms=1e6), example=x.bfloat16())
    assert result.requested == 1.0


def test_weights_of_a_module_within_share_the_time_of_the_one_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.at = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.line(x)
            return self.at(x, x, x)[0]

    def milliseconds(module: nn.Module, example: Any, **_: Any) -> dict[str, float]:
        kept = {n: int(torch.count_nonzero(p)) for n, p in module.named_parameters()}
        at = kept["at.in_proj_weight"] + kept["at.out_proj.weight"]
        return {"line": 1.0 * kept["line.weight"], "at": 10.0 * at}

    def whole(module: nn.Module, example: Any, **_: Any) -> float:
        return sum(milliseconds(module, example).values())

    monkeypatch.setattr(latency, "layer_latencies", milliseconds)
    monkeypatch.setattr(latency, "compiled_latency", whole)
    net = Attending().eval()
    plan = prunable(net).including_first(net)
    goal = Goal(latency_ms=1000)
    _, result = prune(net, plan=plan, goal=goal, example=torch.randn(1, 3, 8))
    assert [n for n in result.notes if re.search(r"weight of at\.\S+ costs 10 times", n)]


def test_weights_that_all_cost_alike_are_ranked_by_the_criterion() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 2))
    _, result = prune(net, goal=Goal(macs=100), example=torch.randn(1, 8))
    assert result.macs is not None
    assert result.macs.after == 100
    assert result.notes == ()


def test_a_budget_that_no_ratio_meets_says_why() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 2))
    with pytest.raises(BudgetError, match="nowhere"):
        prune(net, Budget(1, overrides={"nowhere": 0.5}), goal=Goal(params=100))


def test_a_goal_of_latency_cuts_where_weights_take_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their magnitude alone both layers would be cut alike."""

    def milliseconds(
        module: nn.Module, example: Any, *, int8: bool, threads: int | None = None
    ) -> dict[str, float]:
        assert int8
        kept = {n: int(torch.count_nonzero(p)) for n, p in module.named_parameters()}
        return {"0": 100.0 * kept["0.weight"], "3": 1.0 * kept["3.weight"]}

    def whole(module: nn.Module, example: Any, *, int8: bool) -> float:
        return sum(milliseconds(module, example, int8=int8).values())

    monkeypatch.setattr(latency, "layer_latencies", milliseconds)
    monkeypatch.setattr(latency, "compiled_latency", whole)
    net = planes_and_vector()
    size = 32 * 32 * 9
    arguments: dict[str, Any] = {
        "plan": prunable(net, pattern="dot4").including_first(net),
        "pattern": "dot4",
        "example": torch.randn(1, 32, 32, 32),
    }
    goal = Goal(latency_ms=50.0 * size, int8=True)
    _, result = prune(net, goal=goal, **arguments)
    conv, linear = result.layers
    assert 0.45 < conv.keep < 0.5
    assert linear.keep > 0.95
    assert [note for note in result.notes if "0.weight costs 100 times as much" in note]
    for budget, by_cost in ((None, False), (Budget(1, scope="layer", pattern="dot4"), True)):
        _, result = prune(net, budget, goal=replace(goal, by_cost=by_cost), **arguments)
        assert result.layers[0].keep == pytest.approx(result.layers[1].keep, abs=0.05)
        assert result.notes == ()
    _, result = prune(net, goal=Goal(macs=32 * size + 288 * 32), **arguments)  # a row of 32 x 32
    assert result.layers[0].keep < 0.1
    assert result.layers[1].keep > 0.95
    easy = Goal(latency_ms=1e9, int8=True)
    _, result = prune(net, goal=easy, **arguments)
    assert result.requested == 1.0
    assert result.notes == ()
