"""Budgets are frozen values, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from secateur import Budget
from secateur.errors import BudgetError


def test_budgets_are_values() -> None:
    by_dict = Budget(0.5, overrides={"b.*": 1, "a": Fraction(1, 4)})
    assert by_dict.overrides == (("b.*", 1.0), ("a", 0.25))
    assert by_dict == Budget(0.5, overrides=[("b.*", 1.0), ("a", 0.25)])
    assert hash(by_dict) == hash(replace(by_dict, keep=0.5))
    assert by_dict.override("b.c") == 1
    assert by_dict.override("a") == 0.25
    assert by_dict.override("c") is None
    assert Budget(0.5, ["a", "b"]) == Budget(0.5, ("a", "b"))  # type: ignore[arg-type]
    assert {Budget(0.5, "layer", 0.1): 1}[Budget(keep=0.5, scope="layer", floor=0.1)] == 1
    assert type(Budget(1).keep) is float
    assert Budget(Fraction(1, 3), pattern="1:3").keep == 1 / 3
    assert "overrides" in repr(by_dict)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "keep is None"),
        ({"pattern": "1x4"}, "keep is None"),
        ({"keep": 0.3, "pattern": "2:4"}, r"'2:4' keeps 0\.5 of the weights; leave keep out"),
        ({"keep": "half", "pattern": "2:4"}, "leave keep out"),
        ({"pattern": "2:4", "overrides": {"a": 0.5}}, "override of 'a' keeps 0.5.*give 1.0"),
        ({"keep": 0.5, "scope": ()}, r"scope is \(\)"),
        ({"keep": 0.5, "scope": ("a", 3)}, "scope is"),
        ({"keep": 0.5, "scope": None}, "scope is None"),
        ({"keep": 0.5, "overrides": {"a": 0}}, r"\('a', 0\)"),
        ({"keep": 0.5, "overrides": {"a": 1.5}}, "overrides has"),
        ({"keep": 0.5, "overrides": {3: 0.5}}, "overrides has"),
        ({"keep": 0.5, "overrides": [("a", True)]}, "overrides has"),
        ({"keep": 0.5, "overrides": ["ab"]}, "overrides has 'ab'"),
        ({"keep": 0.5, "overrides": "ab"}, "overrides has 'ab'"),
        ({"keep": 0.5, "overrides": 0.5}, r"overrides has 0\.5"),
        ({"keep": 0.5, "overrides": ("a", 0.5)}, "overrides has 'a'"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**fields)
