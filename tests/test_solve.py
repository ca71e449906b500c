"""Bisection finds the goal's keep ratio, exactly, and says what it tried."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur import Goal
from secateur.errors import BudgetError, UsageError
from secateur.onecall.solving import search


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_counted_goal_is_met_to_one_weight(total: int, limit: int) -> None:
    goal = Goal(params=limit)
    keep, attempts = search(goal, lambda keep: max(1, round(keep * total)), total)
    assert max(1, round(keep * total)) == min(limit, total)
    assert all(attempt.fine == (attempt.value <= limit) for attempt in attempts)


@given(st.floats(0.03, 1), st.floats(0, 3))
def test_a_drop_is_kept_within_its_resolution(edge: float, allowed: float) -> None:
    def drop(keep: float) -> float:
        return 0.0 if keep >= edge else allowed + 1

    keep, _ = search(Goal(max_drop=allowed, evaluate=lambda model: 0.0), drop, 1000)
    assert drop(keep) <= allowed
    assert keep - edge <= 0.01


def test_cuts_that_floors_forbid_are_looked_past() -> None:
    def cost(keep: float) -> float:
        if keep < 0.3:
            raise BudgetError("the floors keep more")
        return 100 * keep

    keep, attempts = search(Goal(macs=40), cost, 10_000)
    assert keep == pytest.approx(0.4, abs=1e-3)
    assert min(attempt.keep for attempt in attempts) >= 0.3
    with pytest.raises(BudgetError, match=r"no cut meets macs=20: the least .* is 30"):
        search(Goal(macs=20), cost, 10_000)


def test_a_goal_has_one_limit() -> None:
    goal = Goal(max_drop=0, evaluate=lambda model: 0.0)
    assert (goal.name, goal.limit) == ("max_drop", 0)
    assert (Goal(latency_ms=5).name, Goal(latency_ms=5).limit) == ("latency_ms", 5)
    assert Goal(params=5) == Goal(params=5) != Goal(macs=5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, UsageError, "max_drop, params, macs, bytes, latency_ms"),
        ({"speed": 1}, UsageError, "'speed'.*max_drop, params"),
        ({"params": 1, "macs": 2}, UsageError, "params and macs"),
        ({"params": 0}, BudgetError, "params is 0"),
        ({"params": "5000"}, BudgetError, "params is '5000'"),
        ({"bytes": float("nan")}, BudgetError, "bytes is nan"),
        ({"macs": "many"}, BudgetError, "macs is 'many'"),
        ({"max_drop": -1, "evaluate": len}, BudgetError, "max_drop is -1"),
        ({"max_drop": 1}, UsageError, "evaluate="),
        ({"evaluate": len}, UsageError, "max_drop="),
        ({"params": 5, "evaluate": len}, UsageError, "max_drop="),
    ],
)
def test_a_wrong_goal_is_refused(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Goal(**given)
