from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur import Budget, Gates
from secateur.errors import UsageError


class Mixed(nn.Module):
    """One of each kind of weight: linear, convolutions of three dimensions, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv3d(4, 4, 3, padding=1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x).unsqueeze(-1)
        y = self.conv2(y).unsqueeze(-1)
        y = self.conv3(y).flatten(2).transpose(1, 2)
        return self.linear(self.attention(y, y, y, need_weights=False)[0])


NAMES = (
    "conv1.weight",
    "conv2.weight",
    "conv3.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "linear.weight",
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(1))


def test_importance_starts_at_the_magnitude_of_any_parameter(model: nn.Module) -> None:
    gates = Gates.attach(model, NAMES)
    assert gates.names == NAMES
    for name, score in gates.scores().items():
        assert torch.equal(score, model.get_parameter(name).detach().abs())
        assert (gates.values()[name] == 0).all()


def test_the_models_own_parameters_and_outputs_do_not_change(
    model: nn.Module, inputs: torch.Tensor
) -> None:
    keys, parameters, before = set(model.state_dict()), list(model.parameters()), model(inputs)
    gates = Gates.attach(model, NAMES)
    assert keys < set(model.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert torch.equal(model(inputs), before)
    gates.remove()
    assert set(model.state_dict()) == keys
    assert torch.equal(model(inputs), before)
    with pytest.raises(UsageError, match="no gates"):
        Gates.of(model)


def test_gates_survive_deepcopy_and_state_dict(model: nn.Module) -> None:
    gates = Gates.attach(model, NAMES)
    gates.values()["linear.weight"].add_(1)
    copied = Gates.of(copy.deepcopy(model))
    assert copied.names == NAMES
    fresh = Mixed()
    loaded = Gates.attach(fresh, NAMES)
    fresh.load_state_dict(model.state_dict())
    for name, gate in gates.values().items():
        assert torch.equal(copied.values()[name], gate)
        assert torch.equal(loaded.values()[name], gate)
    gates.values()["linear.weight"].zero_()
    assert (copied.values()["linear.weight"] > 0).all()


def test_inside_the_cut_exactly_k_weights_are_left(model: nn.Module) -> None:
    gates = Gates.attach(model, NAMES)
    total = sum(gate.numel() for gate in gates.values().values())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with gates.cut(Budget(0.3, floor=0)) as masks:
        left = sum(int((model.get_parameter(name) != 0).sum()) for name in NAMES)
        assert left == masks.kept == round(0.3 * total)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_gradients_match_autograd_through_an_explicit_product(
    model: nn.Module, inputs: torch.Tensor
) -> None:
    """Reference: v = w * (m + g - g.detach()) has ∂L/∂g = ∂L/∂v * w and ∂L/∂w = ∂L/∂v * m."""
    gates = Gates.attach(model, NAMES)
    with gates.cut(Budget(0.4)) as masks:
        model(inputs).square().sum().backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    learned = {n: g.clone().requires_grad_() for n, g in gates.values().items()}
    values = {
        n: w * (masks[n] + learned[n] - learned[n].detach()) if n in learned else w
        for n, w in weights.items()
    }
    torch.func.functional_call(model, values, (inputs,)).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad)
    for name, gate in gates.values().items():
        torch.testing.assert_close(gate.grad, learned[name].grad)
    assert (gates.values()["linear.weight"].grad[~masks["linear.weight"]] != 0).any()


def test_gradients_of_several_cuts_add_up(model: nn.Module, inputs: torch.Tensor) -> None:
    gates = Gates.attach(model, NAMES)

    def step(keep: float) -> dict[str, torch.Tensor]:
        with gates.cut(Budget(keep)):
            model(inputs).square().sum().backward()
        return {
            **{n: p.grad.clone() for n, p in model.named_parameters()},
            **{n + "_gate": g.grad.clone() for n, g in gates.values().items()},
        }

    def clear() -> None:
        for tensor in (*model.parameters(), *gates.values().values()):
            tensor.grad = None

    one = step(0.5)
    clear()
    two = step(0.2)
    clear()
    step(0.5)
    both = step(0.2)
    for name in one:
        torch.testing.assert_close(both[name], one[name] + two[name])


def test_a_failing_step_leaves_the_weights_whole(model: nn.Module, inputs: torch.Tensor) -> None:
    gates = Gates.attach(model, NAMES)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="on purpose"), gates.cut(Budget(0.1)):
        raise RuntimeError("on purpose")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_a_cut_weight_that_lowers_the_loss_comes_back() -> None:
    """One weight starts below the others but is the only one that fits the target."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        linear.weight.fill_(0.5)
        linear.weight[0, 3] = 0.4
    gates = Gates.attach(linear, ["weight"])
    optimizer = torch.optim.SGD(gates.values().values(), 0.5)
    x = torch.randn(256, 8)
    for _ in range(20):
        with gates.cut(Budget(1 / 8)):
            (linear(x)[:, 0] - x[:, 3]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gates.scores()["weight"].argmax() == 3


def test_tied_weights_have_one_gate() -> None:
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    gates = Gates.attach(tied, ["a.weight"])
    with gates.cut(Budget(1 / 3, floor=0)):
        assert int((tied["b"].weight != 0).sum()) == 3


def test_bad_names_are_refused(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="no parameter 'missing'"):
        Gates.attach(model, ["conv1.weight", "missing"])
    Gates.attach(model, ["conv1.weight"])
    with pytest.raises(UsageError, match="has a gate already"):
        Gates.attach(model, ["conv1.weight"])


def test_another_order_cuts_and_teaches_no_gate(model: nn.Module, inputs: torch.Tensor) -> None:
    gates = Gates.attach(model, NAMES)
    order = {n: torch.rand(model.get_parameter(n).shape) for n in NAMES}
    with gates.cut(Budget(0.3, floor=0), order=order) as masks:
        model(inputs).square().sum().backward()
    kept = torch.cat([order[n][masks[n]] for n in NAMES])
    cut = torch.cat([order[n][~masks[n]] for n in NAMES])
    assert kept.min() >= cut.max()
    assert all(gate.grad is None for gate in gates.values().values())
    assert (model.get_parameter("linear.weight").grad != 0).any()


def test_frozen_weights_get_no_gradient_but_their_gates_do(
    model: nn.Module, inputs: torch.Tensor
) -> None:
    gates = Gates.attach(model, NAMES)
    with gates.cut(Budget(0.5)):
        model(inputs).square().sum().backward()
    joint = {name: gate.grad for name, gate in gates.values().items()}
    for tensor in (*model.parameters(), *gates.values().values()):
        tensor.grad = None
    with gates.cut(Budget(0.5), frozen=True):
        model(inputs).square().sum().backward()
    for name, gate in gates.values().items():
        assert model.get_parameter(name).grad is None
        assert torch.equal(gate.grad, joint[name])
    assert model.get_parameter("linear.bias").grad is not None


def test_gates_can_take_any_order(model: nn.Module) -> None:
    gates = Gates.attach(model, NAMES)
    wanted = {n: torch.rand(model.get_parameter(n).shape) for n in NAMES}
    gates.become(wanted)
    for name, score in gates.scores().items():
        torch.testing.assert_close(score, wanted[name])


def test_only_the_network_that_ran_decays(model: nn.Module, inputs: torch.Tensor) -> None:
    decay, rate = 0.1, 0.5
    gates = Gates.attach(model, NAMES)
    optimizer = torch.optim.SGD(model.parameters(), rate, weight_decay=decay)
    before = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    with gates.cut(Budget(0.4), spare=decay) as masks:
        model(inputs).square().sum().backward()
    gradients = {name: model.get_parameter(name).grad.clone() for name in NAMES}
    optimizer.step()
    for name in NAMES:
        kept, weight = masks[name], model.get_parameter(name).detach()
        torch.testing.assert_close(weight[~kept], before[name][~kept])
        decayed = before[name] - rate * (gradients[name] + decay * before[name])
        torch.testing.assert_close(weight[kept], decayed[kept])
    assert any((~masks[name]).any() for name in NAMES)
