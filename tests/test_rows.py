"""Scope "row": every output keeps as many of its weights, as wanda was published."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur import Budget, select
from secateur.errors import BudgetError, ScoreError
from secateur.pruning.selecting.streaming import select_streaming

KINDS = {  # shape, dimension of the inputs, outputs first
    "linear": ((7, 9), 1, lambda t: t.reshape(7, -1)),
    "conv": ((6, 3, 2, 2), 1, lambda t: t.reshape(6, -1)),
    "Conv1D": ((9, 7), 0, lambda t: t.T.reshape(7, -1)),
    "transposed conv": ((4, 5, 3), 0, lambda t: t.transpose(0, 1).reshape(5, -1)),
    "experts": ((3, 4, 5), -1, lambda t: t.reshape(12, -1)),
    "experts, inputs first": ((3, 4, 5), -2, lambda t: t.transpose(1, 2).reshape(15, -1)),
    "unknown": ((4, 5), None, lambda t: t.reshape(1, -1)),
}


@given(
    kind=st.sampled_from(sorted(KINDS)),
    keep=st.floats(0.02, 1),
    values=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_every_output_keeps_its_highest(kind: str, keep: float, values: int, seed: int) -> None:
    shape, axis, rows = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(values, shape, generator=generator).float()  # with ties
    axes = {"w": axis}
    masks = select({"w": scores}, Budget(keep, "row"), axes=axes, chunk=11)
    mask = rows(masks["w"])
    assert masks.kept == Budget(keep).count(scores.numel())
    counts = mask.sum(1)
    assert counts.max() - counts.min() <= 1
    assert (counts[:-1] >= counts[1:]).all()
    for own, kept in zip(rows(scores), mask, strict=True):
        order = own.argsort(descending=True, stable=True)
        assert kept[order[: kept.sum()]].all()
    more = select({"w": scores}, Budget(min(1, keep * 1.3), "row"), axes=axes)
    assert masks.nested_in(more)
    streamed = select_streaming(
        {"w": scores}, lambda names: {"w": scores}, Budget(keep, "row"), axes=axes
    )
    assert streamed == masks


def test_tensors_keep_their_shares_and_overrides_hold() -> None:
    scores = {name: torch.rand(8, 10) for name in ("a", "b", "c")} | {"d": torch.rand(4, 3)}
    masks = select(scores, Budget(0.5, "row", overrides={"c": 1.0}))
    assert masks.kept == round(0.5 * 252)
    assert masks["c"].all()
    assert abs(masks.layers["a"][0] - masks.layers["b"][0]) <= 1


def test_what_is_impossible_is_one_error() -> None:
    for pattern in ("dot4", "4x1", "channel"):
        with pytest.raises(BudgetError, match=r"scope is 'row'.*give scope='layer'"):
            Budget(0.5, "row", pattern=pattern)
    with pytest.raises(ScoreError, match=r"1 of the 4 scores of 'w' are NaN"):
        select({"w": torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])}, Budget(0.5, "row"))


def test_wanda_is_cut_as_it_was_published() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )
    x = torch.randn(64, 8)
    _, result = secateur.prune(model, 0.5, criterion="wanda", data=x)
    assert result.budget.scope == "row"

    def published(weight: Tensor, inputs: Tensor) -> Tensor:
        metric = weight.abs() * inputs.norm(dim=0)
        cut = metric.sort(dim=1, stable=True)[1][:, : weight.shape[1] // 2]
        return torch.ones_like(weight, dtype=torch.bool).scatter(1, cut, False)

    with torch.no_grad():
        for at in (2, 4):
            expected = published(model[at].weight, model[:at](x))
            assert torch.equal(result.masks[f"{at}.weight"], expected)
    for pattern, scope in (("dot4", "layer"), ("2:4", "row"), ("4x1", "layer")):
        keep = None if pattern == "2:4" else 0.5
        found = secateur.prune(model, keep, criterion="wanda", data=x, pattern=pattern)[1]
        assert found.budget.scope == scope
    asked = secateur.prune(model, Budget(0.5), criterion="wanda", data=x)[1]
    assert asked.budget.scope == "global"
