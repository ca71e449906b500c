"""What gates and masks in a loop of one's own refuse, and that nothing has changed then."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from own_loop import assert_equal, network, run, sgd
from secateur.errors import BudgetError, UsageError
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.selecting.budget import Budget


def test_a_state_of_another_model_or_phase_is_refused_and_changes_nothing() -> None:
    model = network()
    optimizer = sgd(model)
    gating = GateTraining(model, optimizer)
    run(gating, model, optimizer, range(2))
    before = copy.deepcopy(gating.state_dict())
    wide = nn.Sequential(nn.Linear(6, 16), nn.Identity(), nn.Identity(), nn.Linear(16, 17))
    other = GateTraining(wide, sgd(wide)).state_dict()
    fixed = network()
    with pytest.raises(UsageError, match=r"gates of '3\.weight' do not fit"):
        gating.load_state_dict(other)
    with pytest.raises(UsageError, match=r"order of '3\.weight' do not fit"):
        gating.load_state_dict(
            GateTraining(fixed, sgd(fixed), phase=GatePhase(order="fixed")).state_dict()
        )
    after = gating.state_dict()
    assert_equal(before["gates"], after["gates"])
    assert_equal(before["momentum"], after["momentum"])


def of_deepspeed(module: str, name: str) -> Any:
    """Return an optimizer as DeepSpeed and Accelerate wrap them: it holds one of torch."""

    def made(model: nn.Module) -> Any:
        kind = type(name, (), {"__module__": module, "__doc__": "Steps its part."})
        found = kind()
        found.optimizer = sgd(model)
        outer = types.SimpleNamespace(optimizer=found)
        return outer if module.endswith("stage3") else found

    return made


class Lion(torch.optim.Optimizer):
    """An optimizer that nobody knows."""

    def __init__(self, parameters: Any, decay: float) -> None:
        super().__init__(parameters, {"lr": 0.1, "weight_decay": decay})


@pytest.mark.parametrize(
    ("optimizer_of", "message"),
    [
        (lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "maximises"),
        (lambda m: torch.optim.SGD(m[0].parameters(), 0.1), r"does not hold '3\.weight'"),
        (lambda m: Lion(m.parameters(), 0.1), "Lion decays weights in a way"),
        (lambda m: "sgd", "the optimizer is of type str"),
        (
            of_deepspeed("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer"),
            "DeepSpeed's DeepSpeedZeroOptimizer, which splits .* gathered model afterwards",
        ),
        (
            of_deepspeed("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3"),
            "DeepSpeed's DeepSpeedZeroOptimizer_Stage3",
        ),
    ],
)
def test_optimizers_beside_which_gates_cannot_learn_are_refused(
    optimizer_of: Callable[[nn.Module], Any], message: str
) -> None:
    model = network()
    with pytest.raises(UsageError, match=message):
        GateTraining(model, optimizer_of(model))
    assert not [name for name, _ in model.named_buffers() if "gate" in name]
    GateTraining(model, Lion(model.parameters(), 0.0)).remove()
    GateTraining(model, Lion(model.parameters(), 0.1), phase=GatePhase(decay="all")).remove()


def test_bad_use_is_one_clear_error() -> None:
    model = network()
    optimizer = sgd(model)
    gating = GateTraining(model, optimizer)
    with pytest.raises(UsageError, match="has a gate already"):
        GateTraining(model, optimizer)
    with gating.step(), pytest.raises(UsageError, match="cut already"):
        gating.enter()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BudgetError, match="floor"):
        gating.finish(Budget(0.01, floor=0.5))
    assert_equal(model.state_dict(), before)
    assert gating.finish(Budget(0.5)).kept == 152
    with pytest.raises(UsageError, match="belong to another model"):
        MaskHold(
            model,
            optimizer,
            GateTraining(
                other := nn.Sequential(
                    nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 9)
                ),
                sgd(other),
            ).finish(Budget(0.5)),
        )


def test_a_backward_outside_of_the_block_is_refused_at_the_optimizers_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gating = GateTraining(model, optimizer)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with gating.step():
        loss = model(torch.randn(3, 4)).sum()
    loss.backward()
    with pytest.raises(UsageError, match="backward ran outside"):
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    optimizer.zero_grad()
    with gating.step():
        model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert gating.number == 1
    gating.finish(Budget(0.5))
    with pytest.raises(UsageError, match="are gone"):
        gating.finish(Budget(0.5))
    with pytest.raises(UsageError, match="are gone"), gating.step():
        pass
