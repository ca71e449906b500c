"""Data, losses and names that do not fit are told so, and the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import SecateurError, UsageError
from secateur.study.failure import told
from wrong_values import LOSS, X, loader, net, pruned

LABELS = torch.zeros(64, dtype=torch.long)


def normed() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model[1].running_mean.fill_(3.0)
    return model


@pytest.mark.parametrize(
    "batches",
    [[(X, LABELS)], [[X, LABELS]], [X, X[:, :3]], [X, X.long()], [3], [None], [{"y": X}], []],
)
def test_statistics_stay_where_inputs_do_not_fit(batches: list[Any]) -> None:
    model = normed()
    with pytest.raises(UsageError, match="inputs"):
        secateur.recalibrate(model, batches)
    assert (model[1].running_mean == 3).all()
    assert model[1].num_batches_tracked == 0
    assert model[1].momentum == 0.1
    assert secateur.recalibrate(model, [X]) == 1
    assert (model[1].running_mean != 3).all()


def test_pairs_are_told_how_to_give_their_inputs() -> None:
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), 32)
    with pytest.raises(UsageError, match=r"batch 0 of inputs.*x for x, _ in"):
        secateur.recalibrate(normed(), batches)


def test_a_loader_is_told_of_loader_data() -> None:
    given = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), 32)
    recipe, masks = secateur.Recipe(1), pruned()[1].masks
    for call in (
        lambda model: secateur.train(model, given, recipe, LOSS, seed=0),
        lambda model: secateur.finetune(model, masks, given, LOSS, seed=0),
        lambda model: secateur.learn_gates(model, ["2.weight"], given, recipe, LOSS, seed=0),
    ):
        model = net()
        with pytest.raises(UsageError, match=r"data is of type DataLoader.*secateur\.LoaderData"):
            call(model)
        assert list(model.state_dict()) == list(net().state_dict())
        assert torch.equal(model[2].weight, net()[2].weight)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (lambda outputs, targets: 0.5, r"gave 0\.5"),
        (lambda outputs, targets: None, "NoneType"),
        (lambda outputs, targets: LOSS(outputs, targets, reduction="none"), r"\[64\]"),
        (lambda outputs, targets: LOSS(outputs, targets).detach(), "without gradients"),
    ],
)
def test_a_loss_that_is_none_is_told_so(loss: Any, named: str) -> None:
    with pytest.raises(UsageError, match=f"loss.*{named}"):
        secateur.train(net(), loader(), secateur.Recipe(1), loss, seed=0)


def test_targets_of_a_calibration_are_tensors() -> None:
    for target in (5, None, "x", torch.tensor(3)):
        with pytest.raises(UsageError, match="batch 0 of targets"):
            secateur.Calibration((X,), (target,), LOSS)


def test_a_mask_that_is_not_there_is_an_error_of_both_kinds() -> None:
    masks = pruned()[1].masks
    for kind in (KeyError, SecateurError):
        with pytest.raises(kind, match=r"'nope'.*2\.weight"):
            masks["nope"]
    assert "nope" not in masks
    assert masks.get("nope") is None


def test_an_exception_whose_traceback_cannot_be_read_is_told() -> None:
    class OddError(Exception):
        @property
        def __traceback__(self) -> Any:
            raise RuntimeError

    assert told(OddError("x")) == "OddError: x"
