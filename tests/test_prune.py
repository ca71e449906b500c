"""One call: any module, an exact budget or a goal, and an account of what it came to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import Budget, Calibration, Gates, Goal, Result, prunable, prune
from secateur.errors import BudgetError, UsageError
from secateur.measure.work import work

pytestmark = pytest.mark.usefixtures("as_shipped")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.fixture
def model() -> nn.Module:
    return network()


IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(10, (64,), generator=torch.Generator().manual_seed(2))
EXAMPLE = IMAGES[:1]
TOTAL = 16 * 8 * 9 + 160  # the first layer is left whole


def test_the_copy_is_cut_exactly_and_the_model_is_as_before(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    model.train()
    pruned, result = prune(model, keep=0.1, example=EXAMPLE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert pruned is not model
    assert pruned.training
    assert list(pruned.state_dict()) == list(before)
    assert result.masks.total == TOTAL
    assert result.masks.kept == round(0.1 * TOTAL) == result.weights.after
    nonzero = sum(int((pruned.get_parameter(n) != 0).sum()) for n in result.masks)
    assert nonzero == result.masks.kept
    assert result.requested == 0.1
    assert result.achieved == result.masks.kept / TOTAL
    assert result.criterion == "magnitude"
    assert result.recovery == ()
    assert result.excluded["0.weight"] == "first layer"


def test_the_account_is_true(model: nn.Module, tmp_path: Path) -> None:
    pruned, result = prune(model, keep=0.25, example=EXAMPLE)
    size = sum(p.numel() for p in model.parameters())
    assert result.parameters.before == size
    assert result.parameters.after == size - TOTAL + result.masks.kept
    dense = work(model, EXAMPLE)
    assert result.macs is not None
    assert result.macs.before == dense.total
    expected = sum(
        count * result.masks.layers.get(name, (1, 1))[0] // result.masks.layers.get(name, (1, 1))[1]
        for name, count in dense.parameters.items()
    )
    assert result.macs.after == expected
    assert result.bytes.before == secateur.packed_bytes(model)
    secateur.save(pruned, tmp_path / "m.safetensors", masks=result.masks, budget=result.budget)
    assert result.bytes.after == (tmp_path / "m.safetensors").stat().st_size
    kept = {layer.name: layer.kept for layer in result.layers}
    assert kept == {name: count for name, (count, _) in result.masks.layers.items()}


def test_in_place_returns_the_model_itself(model: nn.Module) -> None:
    pruned, result = prune(model, keep=0.5, in_place=True)
    assert pruned is model
    assert sum(int((model.get_parameter(n) != 0).sum()) for n in result.masks) == result.masks.kept


@pytest.mark.parametrize("criterion", sorted(secateur.pruning.criteria.CRITERIA))
def test_every_criterion_with_any_form_of_data(model: nn.Module, criterion: str) -> None:
    pairs = list(zip(IMAGES.split(16), LABELS.split(16), strict=True))
    if criterion == "gate":
        gates = Gates.attach(model, secateur.prunable(model).names)
        gates.values()["3.weight"].normal_(generator=torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy
    pruned, result = prune(model, keep=0.3, criterion=criterion, data=pairs, loss=loss)
    assert result.masks.kept == round(0.3 * TOTAL)
    assert result.recovery == ("batchnorm",)
    assert not any("gate" in key for key in pruned.state_dict())
    same, _ = prune(
        *(model, 0.3),
        criterion=criterion,
        data=Calibration(IMAGES.split(16), LABELS.split(16), loss),
    )
    assert all(torch.equal(pruned.state_dict()[k], v) for k, v in same.state_dict().items())


def test_gates_are_the_default_criterion_of_a_model_that_has_them(model: nn.Module) -> None:
    gates = Gates.attach(model, secateur.prunable(model).names)
    gates.values()["8.weight"].add_(10.0)
    _, result = prune(model, keep=160 / TOTAL)
    assert result.criterion == "gate"
    assert result.masks.layers["8.weight"][0] > 150


def test_recovery_brings_the_outputs_nearer(model: nn.Module) -> None:
    secateur.recalibrate(model, [IMAGES])
    wanted = model.eval()(IMAGES).detach()

    def error(**arguments: Any) -> float:
        pruned, _ = prune(model, keep=0.4, data=IMAGES, **arguments)
        return float((pruned(IMAGES).detach() - wanted).square().mean())

    assert error(recover="reconstruct") < error(recover="auto")
    assert prune(model, 0.4, data=IMAGES, recover="reconstruct")[1].recovery == (
        "reconstruct",
        "batchnorm",
    )


@pytest.mark.parametrize("pattern", ["2:4", "1x4", "4x1"])
def test_patterns(model: nn.Module, pattern: str) -> None:
    keep = None if ":" in pattern else 0.5
    pruned, result = prune(model, keep=keep, pattern=pattern)
    assert result.achieved == pytest.approx(0.5, abs=0.01)
    weight = pruned.get_parameter("3.weight")
    if pattern == "2:4":
        groups = (weight != 0).permute(0, 2, 3, 1).reshape(-1, 4).sum(1)
        assert (groups == 2).all()


def test_overrides_and_exclusions(model: nn.Module) -> None:
    _, result = prune(model, Budget(0.2, overrides={"8.*": 1.0}))
    assert result.masks.layers["8.weight"] == (160, 160)
    assert result.masks.kept == round(0.2 * TOTAL)
    plan = prunable(model, exclude=["8.*"], include_first=True)
    _, result = prune(model, keep=0.2, plan=plan)
    assert set(result.masks) == {"0.weight", "3.weight"}


def test_channels_make_a_smaller_model_with_the_same_outputs(model: nn.Module) -> None:
    pruned, result = prune(model, keep=0.5, pattern="channel", example=EXAMPLE)
    assert pruned.get_parameter("3.weight").shape == (8, 4, 3, 3)
    result.masks.hold(pruned)  # it keeps all that is left
    assert result.masks.kept == result.masks.total
    assert result.parameters.after == sum(p.numel() for p in pruned.parameters())
    assert result.macs is not None
    assert result.macs.after == work(pruned, EXAMPLE).total < result.macs.before
    assert result.budget.scope == "layer"
    assert any("12 of 24 channels" in note for note in result.notes)
    _, fitting = prune(model, goal=Goal(params=700), pattern="channel", example=EXAMPLE)
    assert 500 < fitting.parameters.after <= 700
    wide, _ = prune(model, keep=0.5, pattern="channel", minimum=6, example=EXAMPLE)
    assert wide.get_parameter("3.weight").shape[:2] == (6, 6)
    rounded, _ = prune(model, keep=0.4, pattern="channel", multiple=4, example=EXAMPLE)
    assert rounded.get_parameter("3.weight").shape[:2] == (8, 4)


def test_what_is_excluded_or_frozen_keeps_its_channels(model: nn.Module) -> None:
    plan = prunable(model, exclude=["8.*"])
    pruned, result = prune(model, 0.5, pattern="channel", example=EXAMPLE, plan=plan)
    assert pruned.get_parameter("8.weight").shape == (10, 16)
    assert pruned.get_parameter("3.weight").shape == (16, 4, 3, 3)
    assert result.excluded["8.weight"] == "excluded by '8.*'"
    model.get_parameter("0.weight").requires_grad_(False)
    pruned, _ = prune(model, 0.5, pattern="channel", example=EXAMPLE)
    assert pruned.get_parameter("0.weight").shape == (8, 3, 3, 3)
    assert pruned.get_parameter("3.weight").shape == (8, 8, 3, 3)


def test_channels_may_cut_the_first_layer_whatever_the_plan(model: nn.Module) -> None:
    wanted = prune(model, 0.5, pattern="channel", example=EXAMPLE)[1]
    assert wanted.layers[0].name == "0.weight"
    assert "0.weight" not in wanted.excluded
    for plan in (prunable(model), prunable(model, pattern="channel")):
        _, found = prune(model, 0.5, pattern="channel", example=EXAMPLE, plan=plan)
        assert found.layers == wanted.layers
        assert found.excluded == wanted.excluded
    with pytest.raises(UsageError, match="no parameter 'weight_ih_l0'"):
        prune(model, 0.5, pattern="channel", example=EXAMPLE, plan=prunable(nn.LSTM(4, 4)))
    model.get_parameter("0.weight").requires_grad_(False)
    plan = prunable(model)
    _, found = prune(model, 0.5, pattern="channel", example=EXAMPLE, plan=plan)
    assert found.excluded["0.weight"] == "frozen"


def test_a_budget_says_all_of_it(model: nn.Module) -> None:
    budget = Budget(0.5, scope="layer", floor=0.1, pattern="4x1", overrides={"8.*": 1.0})
    _, result = prune(model, budget)
    assert result.budget == budget
    assert result.layers[-1].keep == 1
    assert prune(model, budget, pattern="4x1")[1].masks == result.masks
    assert prune(model, Budget(pattern="2:4"))[1].masks == prune(model, pattern="2:4")[1].masks


def test_a_buffer_of_another_meaning_is_no_gate() -> None:
    model = network()
    model.register_buffer("noise_gate", torch.zeros(3))
    pruned, result = prune(model, 0.5, data=IMAGES)
    assert result.criterion == "magnitude"
    assert "noise_gate" in pruned.state_dict()


def test_a_few_inputs_are_enough_where_nothing_looks_at_them() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    for data in (torch.randn(3, 4), [torch.randn(3, 4)], [(torch.randn(3, 4), torch.zeros(3))]):
        _, result = prune(model, 0.5, data=data)
        assert result.macs is not None
        assert result.macs.before == 4 * 8 + 8 * 2
    _, result = prune(model, 0.5, data=torch.randn(40, 4), recover="batchnorm")
    assert result.recovery == ()  # there are no statistics
    with pytest.raises(UsageError, match="data is 3"):
        prune(model, 0.5, data=3)  # type: ignore[arg-type]
    once = iter([torch.randn(3, 4)])
    _, result = prune(model, 0.5, data=once)
    assert result.macs is None
    assert next(once) is not None


def test_layers_that_cannot_be_reconstructed_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    torch.manual_seed(0)
    _, result = prune(Net(), 0.5, data=torch.randn(64, 3, 4), recover="reconstruct")
    assert result.recovery == ()
    assert any("layer.weight_hh_l0 is not reconstructed" in note for note in result.notes)


def test_the_result_shows_itself(model: nn.Module) -> None:
    _, result = prune(model, keep=0.1, data=IMAGES)
    text, page = repr(result), result._repr_html_()
    for part in ("pruned by magnitude, then batchnorm", "requested: keep 0.1", "3.weight"):
        assert part in text
        assert part in page
    assert "left whole: first layer: 0.weight; bias or norm: 0.bias and 5 more" in text
    assert page.count("<tr>") == 3


def test_emptied_layers_are_noted(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("8.weight").mul_(1e-6)
    _, result = prune(model, Budget(0.1, floor=0.0))
    assert result.notes == ("8.weight keeps no weight: nothing gets through it",)


def test_wrapped_and_tied_models() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.a = nn.Linear(6, 6)
            self.b = nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.first(x)))

    pruned, result = prune(nn.DataParallel(Tied()), keep=0.5)
    assert isinstance(pruned, Tied)
    assert pruned.a.weight is pruned.b.weight
    assert result.masks.kept == 18
    with pytest.raises(BudgetError, match=r"a\.weight.*b\.weight|b\.weight.*a\.weight"):
        prune(Tied(), Budget(0.5, overrides={"a.weight": 0.5, "b.weight": 0.2}))


class Loader:
    """Batches of inputs and targets, as many as anyone takes."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.given += 1
            yield IMAGES[:16], LABELS[:16]


def test_no_more_data_is_taken_than_asked_for(model: nn.Module) -> None:
    loader = Loader()
    prune(model, keep=0.5, data=Calibration.of(loader, samples=40))
    assert loader.given <= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "how much is to be kept"),
        ({"keep": 0.1, "goal": Goal(params=5)}, "keep and params are given; give one of them"),
        ({"keep": Budget(0.1, pattern="1x4"), "pattern": "4x1"}, "pattern is '4x1'.*'1x4'"),
        ({"goal": 5}, "goal is 5"),
        ({"keep": 0.1, "plan": ["3.weight"]}, r"plan is \['3.weight'\]"),
        ({"keep": 0.1, "plan": prunable(nn.LSTM(4, 4))}, "no parameter 'weight_ih_l0'"),
        ({"keep": 0.1, "criterion": "best", "data": IMAGES}, "no criterion 'best'"),
        ({"velocity": 2}, "prune has no argument 'velocity'; the valid ones"),
        ({"patern": "2:4", "keep": 0.5}, "no argument 'patern'; did you mean 'pattern'"),
        ({"goal": Goal(max_drop=1, evaluate=lambda m: float("nan"))}, "evaluate gave nan"),
        ({"keep": 0.5, "multiple": 8}, "give them with pattern='channel'"),
        ({"keep": 0.5, "example": "x"}, "example is 'x'"),
        ({"keep": 0.5, "data": 3}, "data is 3"),
        (
            {"keep": 0.5, "data": (IMAGES, LABELS)},
            r"data is of type tuple.*\[\(inputs, targets\)\]",
        ),
        ({"keep": 0.001}, "keep at least"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"keep": 0.1, "criterion": "best"}, "no criterion 'best'"),
        ({"keep": 0.1, "criterion": "wanda"}, "looks at data.*data="),
        ({"keep": 0.1, "criterion": "gate"}, "no gate"),
        ({"keep": 0.1, "recover": "prayer"}, "recover is 'prayer'"),
        ({"keep": 0.1, "recover": "reconstruct"}, "give it data="),
        ({"keep": 0.1, "recover": "batchnorm"}, "give it data="),
        ({"keep": Budget(0.1, overrides={"nothing.*": 0.5})}, "nothing"),
        ({"goal": Goal(macs=5)}, "give it an example="),
        ({"goal": Goal(latency_ms=5)}, "give it an example="),
        ({"goal": Goal(params=3)}, "no cut meets params=3"),
        ({"pattern": "2:4", "goal": Goal(params=300)}, "leaves nothing to solve for"),
        ({"keep": Budget(pattern="2:4"), "goal": Goal(params=300)}, "leaves nothing to solve for"),
        ({"pattern": "2:4", "keep": 0.3}, "2:4"),
        ({"keep": 0.1, "pattern": "channel"}, "leave out in_place"),
        (
            {"keep": 0.1, "data": [{"x": IMAGES, "n": {}.keys()}]},
            r"a batch of the data is \(dict\)",
        ),
        ({"keep": 0.1, "data": [{"x": IMAGES}]}, r"does not take .* x: float32 \[N, "),
        ({"keep": 0.1, "data": IMAGES[:, :2]}, "does not take"),
        ({"keep": 0.1, "example": IMAGES[:, :2]}, "does not take the example"),
    ],
)
def test_bad_requests(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=message):
        prune(model, in_place=True, **arguments)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_budget_and_result_are_values(model: nn.Module) -> None:
    _, result = prune(model, keep=0.5)
    assert isinstance(result, Result)
    assert result.budget == Budget(0.5)
