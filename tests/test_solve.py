"""Bisection finds the goal's keep ratio, exactly, and says what it tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import BudgetError, UsageError
from secateur.onecall.solve import Goal


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_counted_goal_is_met_to_one_weight(total: int, limit: int) -> None:
    keep, attempts = Goal("params", limit).solve(lambda keep: max(1, round(keep * total)), total)
    assert max(1, round(keep * total)) == min(limit, total)
    assert all(attempt.fine == (attempt.value <= limit) for attempt in attempts)


@given(st.floats(0.03, 1), st.floats(0, 3))
def test_a_drop_is_kept_within_its_resolution(edge: float, allowed: float) -> None:
    def drop(keep: float) -> float:
        return 0.0 if keep >= edge else allowed + 1

    keep, _ = Goal("max_drop", allowed).solve(drop, 1000)
    assert drop(keep) <= allowed
    assert keep - edge <= 0.01


def test_cuts_that_floors_forbid_are_looked_past() -> None:
    def cost(keep: float) -> float:
        if keep < 0.3:
            raise BudgetError("the floors keep more")
        return 100 * keep

    keep, attempts = Goal("macs", 40).solve(cost, 10_000)
    assert keep == pytest.approx(0.4, abs=1e-3)
    assert min(attempt.keep for attempt in attempts) >= 0.3
    with pytest.raises(BudgetError, match=r"no cut meets macs=20: the least .* is 30"):
        Goal("macs", 20).solve(cost, 10_000)


@pytest.mark.parametrize(
    ("name", "limit", "error", "message"),
    [
        ("speed", 1, UsageError, "no goal 'speed'; give keep=, or one of max_drop, params"),
        ("params", 0, BudgetError, "params is 0, but must be positive"),
        ("max_drop", -1, BudgetError, "max_drop is -1, but must be zero or positive"),
        ("macs", "many", BudgetError, "macs is 'many'"),
    ],
)
def test_a_goal_that_cannot_be_meant(
    name: str, limit: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Goal(name, limit)
