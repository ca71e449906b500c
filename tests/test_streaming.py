"""A stream of scores gives the masks that all scores together give."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget, select
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.selecting.streaming import select_streaming, streams


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.floats(0.05, 1),
    st.sampled_from([0.0, 0.002, 0.04]),
    st.integers(1, 60),
    st.sampled_from(["weight", "2:4", "1:3"]),
)
def test_it_selects_what_all_scores_would(
    sizes: list[int], keep: float, floor: float, together: int, pattern: str
) -> None:
    torch.manual_seed(0)
    scores = {f"w{at}": torch.randint(5, (2, size)).float() for at, size in enumerate(sizes)}
    asked: list[Sequence[str]] = []

    def rule(names: Sequence[str]) -> dict[str, Tensor]:
        asked.append(names)
        return {name: scores[name] for name in names}

    budget = Budget(None if ":" in pattern else keep, "layer", floor, pattern)
    try:
        wanted = select(scores, budget)
    except BudgetError:
        with pytest.raises(BudgetError):
            select_streaming(scores, rule, budget, together=together)
        return
    assert select_streaming(scores, rule, budget, together=together) == wanted
    assert [name for group in asked for name in group] == sorted(scores)
    for group in asked:
        assert len(group) == 1 or sum(scores[name].numel() for name in group) <= together


def test_overrides_hold_and_bad_input_is_refused() -> None:
    scores = {"a": torch.rand(6, 10), "b": torch.rand(5, 7)}
    budget = Budget(0.5, "layer", overrides={"b": 0.9})
    assert select_streaming(scores, lambda names: scores, budget) == select(scores, budget)
    assert not streams(Budget(0.5))
    assert not streams(Budget(0.5, "layer", pattern="channel"))
    assert not streams(Budget(0.5, pattern="dot4"))
    axes = {"a": 0, "b": 1}
    for pattern in ("1x4", "3x2", "dot4"):
        blocks = Budget(0.5, "layer", pattern=pattern, overrides={"b": 0.9})
        assert streams(blocks)
        found = select_streaming(scores, lambda names: scores, blocks, axes=axes, together=1)
        assert found == select(scores, blocks, axes=axes)
    with pytest.raises(UsageError, match="scope 'global'"):
        select_streaming(scores, lambda names: scores, Budget(0.5))
    with pytest.raises(ScoreError, match=r"'a'.*NaN"):
        select_streaming(scores, lambda n: {k: s * torch.nan for k, s in scores.items()}, budget)
