from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import Recipe, Task, train
from secateur.data.images import ImageData
from secateur.errors import TrainingError, UsageError
from secateur.measure.accuracy import evaluate
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learn_gates
from secateur.pruning.parameters import prunable
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.recovery.finetune import finetune
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.selection import select

CPU = torch.device("cpu")


def trained(task: Task, seed: int = 0, **recipe: object) -> nn.Module:
    torch.manual_seed(seed)
    model = task.model()
    train(model, task.data(CPU), Recipe(**{"epochs": 2, **recipe}), task.loss, seed=seed)  # type: ignore[arg-type]
    return model


def accuracy(task: Task, model: nn.Module) -> float:
    return evaluate(model, task.data(CPU).evaluation("test"), task.metric.function)


def test_it_learns_real_digits(digits: Task) -> None:
    assert accuracy(digits, trained(digits, epochs=8)) > 90


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits: Task) -> None:
    one, same, other = (trained(digits, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("schedule", ["triangular", "cosine"])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(schedule: str) -> None:
    recipe = Recipe(epochs=1, rate=0.4, warmup=0.25, schedule=schedule)  # type: ignore[arg-type]
    rates = [recipe.rate_at(step / 1000) for step in range(1000)]
    assert rates[0] == 0
    assert max(rates) == rates[250] == pytest.approx(0.4)
    assert rates[:251] == sorted(rates[:251])
    assert rates[250:] == sorted(rates[250:], reverse=True)
    assert rates[-1] < 0.002


def test_the_log_has_every_epoch(digits: Task) -> None:
    seen: list[int] = []
    torch.manual_seed(0)
    log = train(
        digits.model(),
        digits.data(CPU),
        Recipe(epochs=3),
        digits.loss,
        seed=0,
        watch=lambda epoch: seen.append(epoch.epoch),
    )
    assert seen == [epoch.epoch for epoch in log] == [1, 2, 3]
    assert log[2].loss < log[0].loss


def test_a_gradient_of_nan_stops_training_and_names_the_step(digits: Task) -> None:
    count = 0

    def poisoned(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return digits.loss(outputs, targets) * (float("nan") if count == 6 else 1)

    torch.manual_seed(0)
    with pytest.raises(TrainingError, match=r"step 5 is not finite.*learning rate"):
        train(digits.model(), digits.data(CPU), Recipe(epochs=2), poisoned, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule", "steps"),
        ("warmup", 1.0),
        ("precision", "int8"),
        ("optimizer", "adam"),
    ],
)
def test_bad_recipes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{field} is .* but must be"):
        Recipe(**{"epochs": 1, field: value})  # type: ignore[arg-type]


def test_adamw_is_torchs_own_at_the_rates_of_the_schedule(digits: Task) -> None:
    recipe = Recipe.adamw(epochs=2, rate=0.004, batch_size=64, precision="fp32")
    assert (recipe.optimizer, recipe.weight_decay) == ("adamw", 0.01)
    torch.manual_seed(0)
    mine, wanted = digits.model(), digits.model()
    wanted.load_state_dict(mine.state_dict())
    data = digits.data(CPU)
    train(mine, data, recipe, digits.loss, seed=5)

    optimizer = torch.optim.AdamW(wanted.parameters(), weight_decay=0.01)
    steps, done = 2 * data.batches_per_epoch(64), 0
    wanted.train()
    for epoch in range(2):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + epoch)
        for inputs, targets in data.epoch(64, generator):
            optimizer.zero_grad()
            digits.loss(wanted(inputs), targets).backward()
            optimizer.param_groups[0]["lr"] = recipe.rate_at(done / steps)
            optimizer.step()
            done += 1
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=0, atol=0)


def test_adamw_has_rates_of_its_own() -> None:
    assert (Recipe.adamw(3).rate, Recipe.adamw(3).epochs) == (0.001, 3)
    assert Recipe.adamw(1, weight_decay=0.0, warmup=0.1).warmup == 0.1
    with pytest.raises(UsageError, match=r"rate is 0\.1, but AdamW .* or take Recipe\.adamw\(1\)"):
        Recipe(1, optimizer="adamw")


def test_gates_learn_and_masks_are_held_beside_adamw(digits: Task) -> None:
    data, loss = digits.data(CPU), digits.loss
    model = trained(digits, epochs=6, optimizer="adamw", rate=0.003)
    names, recipe = prunable(model).names, Recipe.adamw(4, rate=0.002)
    learned = copy.deepcopy(model)
    learn_gates(learned, names, data, recipe, loss, seed=1)
    by_gate = select(Gates.of(learned).scores(), Budget(0.05))
    by_size = select(CRITERIA["magnitude"].scores(learned, names), Budget(0.05))
    Gates.of(learned).remove()
    other = copy.deepcopy(learned)
    for cut, masks in ((learned, by_gate), (other, by_size)):
        masks.apply(cut)
    assert accuracy(digits, learned) > accuracy(digits, other)
    before = accuracy(digits, learned)
    finetune(learned, by_gate, data, loss, recipe=recipe, seed=2)
    assert accuracy(digits, learned) > before
    for name, mask in by_gate.items():
        assert torch.equal(learned.get_parameter(name) != 0, mask)


def pruned(task: Task, model: nn.Module, keep: float):
    names = prunable(model).names
    masks = select(CRITERIA["magnitude"].scores(model, names), Budget(keep))
    masks.apply(model)
    return masks


def test_finetuning_holds_the_masks_exactly_and_recovers_accuracy(digits: Task) -> None:
    model = trained(digits, epochs=6)
    masks = pruned(digits, model, 0.05)
    before = accuracy(digits, model)
    finetune(model, masks, digits.data(CPU), digits.loss, recipe=Recipe(epochs=3), seed=0)
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert accuracy(digits, model) > before + 5
    (epoch,) = finetune(model, masks, digits.data(CPU), digits.loss, seed=1)
    assert epoch.rate < 0.01
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)


def test_recalibration_is_the_cumulative_average_of_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    batches = [torch.randn(8, 3, 5, 5) for _ in range(4)]
    model[1].running_mean.fill_(9)
    model.train()
    assert recalibrate(model, batches) == 1
    outputs = [model[0](batch) for batch in batches]
    means = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variances = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


def test_recalibration_without_inputs_is_an_error_and_without_layers_a_no_op() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match="no inputs"):
        recalibrate(model, [])
    assert model[1].momentum == 0.1
    assert recalibrate(nn.Linear(3, 3), []) == 0


def test_evaluation_is_the_mean_over_all_examples(digits: Task) -> None:
    model = trained(digits)
    data = digits.data(CPU)
    assert isinstance(data, ImageData)
    inputs, targets = map(torch.cat, zip(*data.evaluation("test"), strict=True))
    expected = (model.eval()(inputs).argmax(1) == targets).double().mean() * 100
    model.train()
    assert accuracy(digits, model) == pytest.approx(expected.item())
    assert model.training
    with pytest.raises(UsageError, match="no data"):
        evaluate(model, [], digits.metric.function)
