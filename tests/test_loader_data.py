"""A DataLoader is data to train on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from secateur import LoaderData, Recipe, finetune, prune, recalibrate, train
from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate
from secateur.study.metrics import ACCURACY


def pairs(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )


def data() -> LoaderData:
    loader = DataLoader(pairs(1000, 0), 50, shuffle=True)
    return LoaderData(loader, validation=DataLoader(pairs(500, 1), 100))


def test_it_trains_prunes_and_finetunes() -> None:
    model, loss = network(), nn.functional.cross_entropy
    recipe = Recipe(epochs=5, rate=0.1, precision="fp32")
    train(model, data(), recipe, loss, seed=0)
    pruned, result = prune(model, 0.02, data=DataLoader(pairs(1000, 0), 50))

    def accuracy() -> float:
        return evaluate(pruned, data().evaluation("validation"), ACCURACY.function)

    before = accuracy()
    finetune(pruned, result.masks, data(), loss, recipe=recipe, seed=1)
    recalibrate(pruned, data().calibration(200, 50, torch.Generator()))
    assert accuracy() > before + 2
    assert int((pruned.get_parameter("3.weight") != 0).sum()) == result.masks.layers["3.weight"][0]


def test_training_is_reproducible_and_the_loaders_batches_are_used() -> None:
    states = []
    for _ in range(2):
        model = network()
        recipe = Recipe(epochs=1, batch_size=7, precision="fp32")
        train(model, data(), recipe, nn.functional.cross_entropy, seed=3)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())
    assert [len(x) for x, _ in data().epoch(7, torch.Generator())] == [50] * 20
    assert [len(x) for x in data().calibration(120, 7, torch.Generator())] == [50, 50, 20]


def test_a_result_in_place_of_its_masks_is_refused() -> None:
    pruned, result = prune(network(), 0.5)
    with pytest.raises(UsageError, match=r"masks is of type Result, but must be Masks, as result"):
        finetune(pruned, result, data(), nn.functional.cross_entropy, seed=0)  # type: ignore[arg-type]


def test_what_is_no_loader_is_refused() -> None:
    with pytest.raises(UsageError, match="read only once"):
        LoaderData(iter([(torch.zeros(1), torch.zeros(1))]))
    with pytest.raises(UsageError, match="hold no batch"):
        LoaderData([])
    with pytest.raises(UsageError, match="there are no test data"):
        data().evaluation("test")
    with pytest.raises(UsageError, match="batch 0 is of type Tensor"):
        list(LoaderData([torch.zeros(3)]).epoch(1, torch.Generator()))  # type: ignore[list-item]
