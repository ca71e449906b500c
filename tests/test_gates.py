from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur import Budget, GatePhase, Gates, Recipe, Task, prunable, select
from secateur.errors import UsageError
from secateur.pruning.gates.learning import learn_gates, learning
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.gates.rule import GateRule
from secateur.pruning.parameters import axes_of


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


class Seen:
    """One optimizer step through a cut, with what was there when the optimizer took it."""

    def __init__(
        self,
        model: nn.Module,
        budget: Budget,
        inputs: torch.Tensor,
        *,
        phase: GatePhase | None = None,
        gates: Gates | None = None,
        rate: float = 0.0,
        decay: float = 0.0,
        passes: int = 1,
    ) -> None:
        self.gates = gates or Gates.attach(model, NAMES)
        optimizer = torch.optim.SGD(model.parameters(), rate, weight_decay=decay)
        axes = axes_of(model, NAMES)
        rule = GateRule(
            self.gates, optimizer, phase or GatePhase(), axes=axes, drawn=lambda _: budget
        )
        optimizer.register_step_pre_hook(lambda *_: self._look(model))
        for _ in range(passes):
            with rule.step() as self.masks:
                self.inside = {n: model.get_parameter(n).detach().clone() for n in NAMES}
                model(inputs).square().sum().backward()
        optimizer.step()
        rule.detach()

    def _look(self, model: nn.Module) -> None:
        self.weight = {n: None if p.grad is None else p.grad.clone() for n, p in named(model)}
        self.gate = {
            n: None if g.grad is None else g.grad.clone() for n, g in self.gates.values().items()
        }


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def test_inside_the_cut_exactly_k_weights_are_left(model: nn.Module, inputs: torch.Tensor) -> None:
    before = {name: p.detach().clone() for name, p in named(model)}
    seen = Seen(model, Budget(0.3, floor=0), inputs)
    total = sum(weight.numel() for weight in seen.inside.values())
    left = sum(int((weight != 0).sum()) for weight in seen.inside.values())
    assert left == seen.masks.kept == round(0.3 * total)
    for name, parameter in named(model):
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("pattern", ["weight", "2:4", "1x4", "dot4"])
def test_gradients_match_autograd_through_an_explicit_product(
    model: nn.Module, inputs: torch.Tensor, pattern: str
) -> None:
    """Reference: v = w * (m + g - g.detach()) has ∂L/∂g = ∂L/∂v * w and ∂L/∂w = ∂L/∂v * m."""
    seen = Seen(model, Budget(None if pattern == "2:4" else 0.4, pattern=pattern), inputs)
    weights = {n: p.detach().clone().requires_grad_() for n, p in named(model)}
    learned = {n: torch.zeros_like(weights[n]).requires_grad_() for n in NAMES}
    values = {
        n: w * (seen.masks[n] + learned[n] - learned[n].detach()) if n in learned else w
        for n, w in weights.items()
    }
    torch.func.functional_call(model, values, (inputs,)).square().sum().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(seen.weight[name], weight.grad)
    for name, gate in learned.items():
        torch.testing.assert_close(seen.gate[name], gate.grad)
        assert gate.grad is not None
    assert any((learned[n].grad[~seen.masks[n]] != 0).any() for n in NAMES)


def test_gradients_of_several_passes_add_up(model: nn.Module, inputs: torch.Tensor) -> None:
    one = Seen(model, Budget(0.5), inputs)
    for parameter in model.parameters():
        parameter.grad = None
    both = Seen(model, Budget(0.5), inputs, gates=one.gates, passes=2)
    for found, twice in ((one.weight, both.weight), (one.gate, both.gate)):
        for name, gradient in found.items():
            assert gradient is not None
            torch.testing.assert_close(twice[name], 2 * gradient)


def test_a_cut_weight_that_lowers_the_loss_comes_back() -> None:
    """One weight starts below the others but is the only one that fits the target."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        linear.weight.fill_(0.5)
        linear.weight[0, 3] = 0.4
    gates = Gates.attach(linear, ["weight"])
    optimizer = torch.optim.SGD(linear.parameters(), 0.1)
    x = torch.randn(256, 8)
    phase = GatePhase(weights="frozen", gate_rate=3)
    with learning(gates, phase, drawn=lambda _: Budget(1 / 8)) as pruning:
        for _ in range(20):
            with pruning(optimizer):
                (linear(x)[:, 0] - x[:, 3]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert gates.scores()["weight"].argmax() == 3


def test_tied_weights_have_one_gate() -> None:
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    gates = Gates.attach(tied, ["a.weight"])
    optimizer = torch.optim.SGD(tied.parameters(), 0.1)
    drawn = Budget(1 / 3, floor=0)
    with learning(gates, GatePhase(), drawn=lambda _: drawn) as pruning:
        with pruning(optimizer):
            assert int((tied["b"].weight != 0).sum()) == 3
            tied["b"](torch.ones(1, 3)).sum().backward()
        optimizer.step()


def test_gates_follow_a_new_optimizer_but_not_two(model: nn.Module, inputs: torch.Tensor) -> None:
    gates = Gates.attach(model, NAMES)
    with learning(gates, GatePhase()) as pruning:
        for _ in range(3):
            before = {name: gate.clone() for name, gate in gates.values().items()}
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            with pruning(optimizer):
                model(inputs).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert any((gate != before[name]).any() for name, gate in gates.values().items())
        with pytest.raises(UsageError, match=r"'conv1\.weight'.*one optimizer"):
            pruning(torch.optim.SGD(model.linear.parameters(), 0.1))


def test_gates_of_which_no_optimizer_steps_are_an_error(
    model: nn.Module, inputs: torch.Tensor
) -> None:
    optimizer, gates = torch.optim.SGD(model.parameters(), 0.1), Gates.attach(model, NAMES)
    with (
        pytest.raises(UsageError, match="no gate has learned"),
        learning(gates, GatePhase()) as pruning,
        pruning(optimizer),
    ):
        model(inputs).square().sum().backward()


def test_a_frozen_weight_cannot_learn_and_leaves_no_gates(digits: Task) -> None:
    model, data = digits.model(), digits.data(torch.device("cpu"))
    name = prunable(model).names[0]
    model.get_parameter(name).requires_grad_(False)
    with pytest.raises(UsageError, match=rf"'{name}' is frozen"):
        learn_gates(model, [name], data, Recipe(1), digits.loss, seed=0)
    with pytest.raises(UsageError, match="no gates"):
        Gates.of(model)


def test_held_masks_hold_beside_every_optimizer(model: nn.Module, inputs: torch.Tensor) -> None:
    masks = select({n: model.get_parameter(n).detach().abs() for n in NAMES}, Budget(0.3))
    with holding(model, masks) as pruning:
        for _ in range(200):  # a new one may get the address of one that is gone
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            with pruning(optimizer):
                model(inputs).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert not any(model.get_parameter(n)[~masks[n]].any() for n in NAMES)
    with (
        pytest.raises(UsageError, match=r"'conv1\.weight'"),
        holding(model, masks),
        torch.no_grad(),
    ):
        model.get_parameter("conv1.weight").add_(1)


def test_what_was_cut_before_stays_cut(model: nn.Module, inputs: torch.Tensor) -> None:
    gates = Gates.attach(model, NAMES)
    among = select({n: torch.rand(model.get_parameter(n).shape) for n in NAMES}, Budget(0.4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with learning(gates, GatePhase(), drawn=lambda _: Budget(0.3), among=among) as pruning:
        for _ in range(3):
            with pruning(optimizer) as masks:
                model(inputs).square().sum().backward()
            assert masks.nested_in(among)
            assert masks.kept == Budget(0.3).count(masks.total)
            optimizer.step()


def test_bad_names_are_refused(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="no parameter 'missing'"):
        Gates.attach(model, ["conv1.weight", "missing"])
    Gates.attach(model, ["conv1.weight"])
    with pytest.raises(UsageError, match="has a gate already"):
        Gates.attach(model, ["conv1.weight"])


def test_a_fixed_order_teaches_no_gate(model: nn.Module, inputs: torch.Tensor) -> None:
    order = {n: model.get_parameter(n).detach().abs().clone() for n in NAMES}
    seen = Seen(model, Budget(0.3, floor=0), inputs, phase=GatePhase(order="fixed"), rate=0.1)
    assert seen.masks == select(order, Budget(0.3, floor=0))
    assert all(gradient is None for gradient in seen.gate.values())
    for name, score in seen.gates.scores().items():  # the weights have moved, the order has not
        torch.testing.assert_close(score, order[name])


def test_frozen_weights_do_not_move_but_their_gates_do(
    model: nn.Module, inputs: torch.Tensor
) -> None:
    joint = Seen(model, Budget(0.5), inputs)
    for parameter in model.parameters():
        parameter.grad = None
    joint.gates.remove()
    before = {name: p.detach().clone() for name, p in named(model)}
    phase = GatePhase(weights="frozen")
    frozen = Seen(model, Budget(0.5), inputs, phase=phase, rate=0.5, decay=0.1)
    for name, gradient in frozen.gate.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, joint.gate[name])
        assert (frozen.gates.values()[name] != 0).any()
    for name, parameter in named(model):
        assert torch.equal(parameter, before[name])


def test_gates_can_take_any_order(model: nn.Module) -> None:
    gates = Gates.attach(model, NAMES)
    wanted = {n: torch.rand(model.get_parameter(n).shape) for n in NAMES}
    gates.become(wanted)
    for name, score in gates.scores().items():
        torch.testing.assert_close(score, wanted[name])


def test_only_the_network_that_ran_decays(model: nn.Module, inputs: torch.Tensor) -> None:
    decay, rate = 0.1, 0.5
    before = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    plain = Seen(model, Budget(0.4), inputs)
    for parameter in model.parameters():
        parameter.grad = None
    plain.gates.remove()
    seen = Seen(model, Budget(0.4), inputs, rate=rate, decay=decay)
    for name in NAMES:
        kept, weight = seen.masks[name], model.get_parameter(name).detach()
        gradient = plain.weight[name]
        assert gradient is not None
        torch.testing.assert_close(weight[~kept], before[name][~kept])
        decayed = before[name] - rate * (gradient + decay * before[name])
        torch.testing.assert_close(weight[kept], decayed[kept])
