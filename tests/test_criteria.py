"""The contract of every criterion, and what each one gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur import Budget, Gates, prunable, select
from secateur.errors import UsageError
from secateur.nets import build
from secateur.pruning.criteria import CRITERIA, find
from secateur.pruning.parameters import DTYPES


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 2))
    Gates.attach(model, ["1.weight", "3.weight"])
    return model


def test_the_registry_names_every_criterion() -> None:
    assert {"gate", "magnitude", "random"} <= set(CRITERIA)
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert criterion is find(name)
        assert criterion.description.endswith(".")
        assert "\n" not in criterion.description
    with pytest.raises(UsageError, match="'magnitud'; choose one of gate, magnitude, random"):
        find("magnitud")


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_gives_scores_that_can_be_selected(name: str, model: nn.Module) -> None:
    names = prunable(model).names
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    scores = CRITERIA[name].function(model, names)
    assert torch.equal(torch.get_rng_state(), state)
    assert tuple(scores) == names
    for key, score in scores.items():
        assert score.shape == model.get_parameter(key).shape
        assert score.dtype in DTYPES
        assert not score.requires_grad
    again = CRITERIA[name].function(copy.deepcopy(model), names, seed=0)
    assert all(torch.equal(scores[key], again[key]) for key in names)
    assert select(scores, Budget(0.3)).kept == round(0.3 * (4 * 5 * 9 + 10))
    for score in scores.values():
        score.fill_(-1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    with pytest.raises(UsageError, match=r"no parameter 'missing\.weight'"):
        CRITERIA[name].function(model, ["1.weight", "missing.weight"])


@pytest.mark.parametrize("net", ["convnet-s", "mlp", "resnet20"])
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_every_kind_of_net(name: str, net: str) -> None:
    model = build(net)
    names = prunable(model).names
    Gates.attach(model, names)
    before = copy.deepcopy(model.state_dict())
    scores = CRITERIA[name].function(model, names)
    total = sum(model.get_parameter(key).numel() for key in names)
    assert sum(score.numel() for score in scores.values()) == total
    assert all(torch.isfinite(score).all() for score in scores.values())
    assert select(scores, Budget(0.1)).kept == round(0.1 * total)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_magnitude_is_the_absolute_value(model: nn.Module, dtype: torch.dtype) -> None:
    model.to(dtype)
    scores = CRITERIA["magnitude"].function(model, ["3.weight"])
    assert torch.equal(scores["3.weight"], model[3].weight.detach().abs())  # type: ignore[index]


def test_gate_reads_the_learned_gates(model: nn.Module) -> None:
    gates = Gates.attach(model, ["0.weight"])
    learned = torch.rand(4, 3, 3, 3) - 0.5
    gates.values()["0.weight"].copy_(learned)
    scores = CRITERIA["gate"].function(nn.DataParallel(model), ["0.weight"])
    assert torch.equal(scores["0.weight"], model.get_parameter("0.weight").detach().abs() + learned)
    assert torch.equal(scores["0.weight"], gates.scores()["0.weight"])


def test_gate_without_gates_says_what_to_do(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"1 of 2 .*'0\.weight'.*attach.*learn"):
        CRITERIA["gate"].function(model, ["0.weight", "1.weight"])


def test_random_depends_on_seed_name_and_shape_alone(model: nn.Module) -> None:
    draw = CRITERIA["random"].function
    names = ["0.weight", "1.weight"]
    first = draw(model, names, seed=1)
    torch.rand(7)
    reordered = draw(model, names[::-1], seed=1)
    alone = draw(model, names[:1], seed=1)
    assert all(torch.equal(first[name], reordered[name]) for name in names)
    assert torch.equal(first["0.weight"], alone["0.weight"])
    assert not torch.equal(first["0.weight"], draw(model, names, seed=2)["0.weight"])
    twins = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    scores = draw(twins, ["a.weight", "b.weight"])
    assert not torch.equal(scores["a.weight"], scores["b.weight"])
    assert (scores["a.weight"] >= 0).all()
    assert (scores["a.weight"] < 1).all()


def test_random_numbers_are_the_same_on_every_machine() -> None:
    scores = CRITERIA["random"].function(nn.Linear(2, 2, bias=False), ["weight"], seed=7)
    expected = torch.tensor([[0.6279415, 0.402097], [0.6964782, 0.2526941]])
    torch.testing.assert_close(scores["weight"], expected, rtol=0, atol=1e-7)
