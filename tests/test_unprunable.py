"""What cannot be cut exactly is refused before anything is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from secateur import prune
from secateur.errors import UsageError


def three() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))


def shared() -> nn.Module:
    model = three()
    model[2].weight = nn.Parameter(model[1].weight.data)
    return model


def overlapping() -> nn.Module:
    model, memory = three(), torch.randn(6, 4)
    model[1].weight, model[2].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])
    return model


def expanded() -> nn.Module:
    model = three()
    model[1].weight = nn.Parameter(torch.ones(1, 4).expand(4, 4))
    return model


def normed() -> nn.Module:
    model = three()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[1])
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shared, r"'1\.weight' and '2\.weight' .*memory"),
        (overlapping, r"'1\.weight' and '2\.weight' .*memory"),
        (expanded, r"'1\.weight' is expanded"),
        (normed, r"1 \(Linear\) .*torch\.nn\.utils\.weight_norm"),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_it_is_refused_by_name(make: Any, message: str, in_place: bool) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(UsageError, match=message):
        prune(model, 0.5, in_place=in_place)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_parts_of_one_memory_that_do_not_meet_are_no_problem() -> None:
    model, memory = three(), torch.randn(8, 4)
    model[1].weight, model[2].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    pruned, result = prune(model, 0.5, in_place=True)
    kept = sum(int(torch.count_nonzero(pruned.get_parameter(name))) for name in result.masks)
    assert kept == 16


class Counted(nn.Linear):
    """A layer with state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_state_that_is_no_tensor_does_not_hinder_a_cut() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Counted(4, 4))
    pruned, result = prune(model, 0.5)
    assert result.masks.kept == 8
    assert result.bytes.after > 0
    assert list(pruned.state_dict()) == list(copy.deepcopy(model).state_dict())
