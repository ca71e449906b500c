"""Phase 2 on real digits: what moves, what stays, and what the order is worth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import Budget, Gates, Recipe, Task, prunable, select
from secateur.distillation import SoftTargets, distilled
from secateur.errors import BudgetError, UsageError
from secateur.measure.accuracy import evaluate
from secateur.pruning.gates.learning import learn_gates
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.self_pruning import SelfPruning
from secateur.pruning.parameters import NORMS
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.training import train

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, rate=0.05, precision="fp32")


@pytest.fixture(scope="module")
def dense(digits: Task) -> nn.Module:
    torch.manual_seed(0)
    model = digits.model()
    train(model, digits.data(CPU), Recipe(epochs=4, precision="fp32"), digits.loss, seed=0)
    return model


def learned(task: Task, dense: nn.Module, phase: GatePhase, recipe: Recipe = RECIPE) -> nn.Module:
    model = copy.deepcopy(dense)
    names = prunable(model).names
    learn_gates(model, names, task.data(CPU), recipe, task.loss, phase=phase, seed=1)
    return model


def cut_accuracy(task: Task, model: nn.Module, scores: dict[str, Tensor], keep: float) -> float:
    model = copy.deepcopy(model)
    if any(name.endswith("_gate") for name, _ in model.named_buffers()):
        Gates.of(model).remove()
    select(scores, Budget(keep)).apply(model)
    generator = torch.Generator().manual_seed(0)
    recalibrate(model, task.data(CPU).calibration(512, 128, generator))
    return evaluate(model, task.data(CPU).evaluation("validation"), task.metric.function)


def magnitude(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().abs() for name in prunable(model).names}


def test_frozen_moves_gates_and_norms_only_and_finds_a_better_mask(
    digits: Task, dense: nn.Module
) -> None:
    model = learned(digits, dense, GatePhase(weights="frozen", gate_rate=3))
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    scales = {id(p) for norm in norms for p in norm.parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, dense.get_parameter(name)) == (id(parameter) not in scales)
    gate = cut_accuracy(digits, model, Gates.of(model).scores(), 0.05)
    assert gate > cut_accuracy(digits, model, magnitude(model), 0.05) + 2


def test_a_fixed_order_stays_that_of_the_start_while_weights_move(
    digits: Task, dense: nn.Module
) -> None:
    model = learned(digits, dense, GatePhase(order="fixed"))
    names = prunable(dense).names
    assert any(not torch.equal(model.get_parameter(n), dense.get_parameter(n)) for n in names)
    for name, score in Gates.of(model).scores().items():
        torch.testing.assert_close(score, dense.get_parameter(name).detach().abs())


def test_training_through_the_cut_holds_accuracy_that_the_cut_alone_loses(
    digits: Task, dense: nn.Module
) -> None:
    model = learned(digits, dense, GatePhase())
    through = cut_accuracy(digits, model, Gates.of(model).scores(), 0.05)
    assert through > cut_accuracy(digits, dense, magnitude(dense), 0.05) + 5


def test_the_same_seed_learns_the_same_gates(digits: Task, dense: nn.Module) -> None:
    short = Recipe(epochs=1, rate=0.05)
    one, two = (learned(digits, dense, GatePhase(), short) for _ in range(2))
    for name, gate in Gates.of(one).values().items():
        assert torch.equal(gate, Gates.of(two).values()[name])


def test_the_gates_rate_is_a_multiple_of_the_recipes(digits: Task, dense: nn.Module) -> None:
    recipe = Recipe(epochs=1, rate=0.01)
    slow, fast = (
        learned(digits, dense, GatePhase(weights="frozen", gate_rate=rate), recipe)
        for rate in (1.0, 10.0)
    )
    moved = [sum(g.abs().sum() for g in Gates.of(m).values().values()) for m in (slow, fast)]
    assert moved[1] > 5 * moved[0]


def test_what_a_step_cuts_does_not_decay_in_it(digits: Task, dense: nn.Module) -> None:
    """At a rate that hardly trains and a decay that is all, cut weights keep their size."""
    names, sizes = prunable(dense).names, {}
    for decay in ("kept", "all"):
        phase = GatePhase(lowest_keep=0.05, order="fixed", decay=decay)
        recipe = Recipe(epochs=1, rate=1e-3, weight_decay=20.0, precision="fp32")
        model = learned(digits, dense, phase, recipe)
        lowest = {n: dense.get_parameter(n).abs().flatten().argsort()[:20] for n in names}
        sizes[decay] = sum(
            (
                model.get_parameter(n).flatten()[lowest[n]]
                / dense.get_parameter(n).flatten()[lowest[n]]
            )
            .abs()
            .median()
            .item()
            for n in names
        ) / len(names)
    assert sizes["kept"] > sizes["all"] + 0.1


def test_keep_ratios_are_log_uniform_and_hold_the_dense_end() -> None:
    phase = GatePhase(lowest_keep=0.01, dense_steps=0.2)
    keeps = torch.tensor([phase.draw(step) for step in range(1000)])
    assert keeps.min() >= 0.01
    assert keeps.max() == 1
    assert (keeps == 1).float().mean().item() == pytest.approx(0.2, abs=0.005)
    cut = keeps[keeps < 1]
    assert (cut < 0.1).float().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lowest_keep": 0}, r"lowest_keep is 0, but must be in \(0, 1\]"),
        ({"dense_steps": 1}, r"dense_steps is 1, but must be in \[0, 1\)"),
        ({"gate_rate": -1}, "gate_rate is -1, but must be positive"),
        ({"weights": "loose"}, "weights is 'loose', but must be joint or frozen"),
        ({"decay": "none"}, "decay is 'none', but must be kept or all"),
        ({"order": "random"}, "order is 'random', but must be learned or fixed"),
    ],
)
def test_bad_fields_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GatePhase(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="floor is 2"):
        GatePhase(floor=2)


def test_distillation_is_the_divergence_of_softened_probabilities() -> None:
    outputs, wanted = torch.randn(6, 4), torch.randn(6, 4)
    p, q = (wanted / 3).softmax(1), (outputs / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(SoftTargets(3)(outputs, wanted), expected)
    assert SoftTargets()(wanted, wanted).abs() < 1e-6
    with pytest.raises(UsageError, match="temperature is 0, but must be positive"):
        SoftTargets(0)


def test_a_student_that_sees_only_its_teacher_learns_from_it(
    digits: Task, dense: nn.Module
) -> None:
    def refused(outputs: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("the labels were asked for")

    before = copy.deepcopy(dense.state_dict())
    data, loss = distilled(digits.data(CPU), refused, dense, SoftTargets(), 1.0, autocast=False)
    torch.manual_seed(5)
    student = digits.model()
    train(student, data, RECIPE, loss, seed=2)
    assert evaluate(student, data.evaluation("test"), digits.metric.function) > 80
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    same = distilled(digits.data(CPU), digits.loss, dense, SoftTargets(), 0.0, autocast=False)
    assert same[1] is digits.loss
    with pytest.raises(UsageError, match=r"weight is 2, but must be in \[0, 1\]"):
        distilled(digits.data(CPU), digits.loss, dense, SoftTargets(), 2, autocast=False)


def test_self_pruning_gradients_match_autograd() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(5, 3), torch.randn(7, 5)
    control = SelfPruning(linear, ["weight"], start=0.5, penalty=0.01)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1, weight_decay=1.0)
    with control.step(optimizer):
        linear(x).square().sum().backward()
    w = linear.weight.detach().clone().requires_grad_()
    s = torch.full_like(w, 0.5).requires_grad_()
    y = torch.nn.functional.linear(x, w * s.sigmoid(), linear.bias)
    (y.square().sum() + 0.01 * s.sigmoid().sum()).backward()
    torch.testing.assert_close(linear.weight.grad, w.grad)
    torch.testing.assert_close(control.gates["weight"].grad, s.grad)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    assert optimizer.param_groups[1]["params"] == [control.gates["weight"]]
    product = control.scores()["product"]["weight"]
    control.fold()
    torch.testing.assert_close(linear.weight.detach().abs(), product)
