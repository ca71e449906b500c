"""Scopes and overrides: exact, nested, and as plain Python would do them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget, select
from secateur.errors import BudgetError
from secateur.pruning.selecting.division import shares
from selection_reference import (
    FLOORS,
    KEEPS,
    OVERRIDES,
    SCOPES,
    WAYS,
    expected,
    globs_match,
    scores_of,
    shared_out,
)


@settings(max_examples=200)
@given(scores_of(), KEEPS, SCOPES, FLOORS, OVERRIDES)
def test_scopes_and_overrides_give_the_masks_of_the_definition(
    scores: dict[str, Tensor], keep: float, scope: Any, floor: float, overrides: Any
) -> None:
    globs = [glob for glob, _ in overrides] + (list(scope) if isinstance(scope, tuple) else [])
    budget = Budget(keep, scope, floor, overrides=overrides)
    if not globs_match(scores, *globs):
        with pytest.raises(BudgetError, match="|".join(re.escape(repr(glob)) for glob in globs)):
            select(scores, budget)
        return
    want = expected({name: s.double().flatten().tolist() for name, s in scores.items()}, budget)
    for way in WAYS:
        if want is None:
            with pytest.raises(BudgetError, match=r"keep at least|a keep ratio can be"):
                select(scores, budget, **way)
        else:
            masks = select(scores, budget, **way)
            assert {name: mask.flatten().tolist() for name, mask in masks.items()} == want
            assert all(mask.stride() == scores[name].stride() for name, mask in masks.items())


@settings(max_examples=150)
@given(scores_of(), st.lists(KEEPS, min_size=2, max_size=6), SCOPES, FLOORS, OVERRIDES, st.data())
def test_masks_are_nested_in_every_scope_and_with_overrides(
    scores: dict[str, Tensor],
    keeps: list[float],
    scope: Any,
    floor: float,
    overrides: Any,
    data: st.DataObject,
) -> None:
    globs = [glob for glob, _ in overrides] + (list(scope) if isinstance(scope, tuple) else [])
    assume(globs_match(scores, *globs))
    pattern = data.draw(st.sampled_from(["weight", "2x1", "1x4"]))
    cuts = []
    for keep in sorted(keeps):
        try:
            cuts.append(select(scores, Budget(keep, scope, floor, pattern, overrides)))
        except BudgetError:
            continue
    for fewer, more in itertools.pairwise(cuts):
        assert fewer.nested_in(more)


def test_a_group_keeps_its_share_and_ranks_within() -> None:
    scores = {
        "body.0": torch.rand(40, 10) + 5,
        "body.1": torch.rand(10, 10),
        "head.0": torch.rand(30, 10) / 100,
        "other": torch.rand(20, 10) / 1000,
    }
    masks = select(scores, Budget(0.1, ("head.*", "body.*"), floor=0))
    assert {name: kept for name, (kept, _) in masks.layers.items()} == {
        "body.0": 50,
        "body.1": 0,
        "head.0": 30,
        "other": 20,
    }
    everything = select(scores, Budget(0.1, ("*",), floor=0))
    assert everything == select(scores, Budget(0.1, floor=0))
    single = select(scores, Budget(0.1, ("body.0", "body.1", "head.0"), floor=0))
    assert single == select(scores, Budget(0.1, "layer", floor=0))


def test_overrides_are_exact_and_the_rest_makes_up_for_them() -> None:
    scores = {name: torch.rand(10, 10) for name in ("first", "last", "middle.0", "middle.1")}
    overrides = {"first": 1, "last": 0.005, "*st": 0.3}
    for scope in ("global", "layer", ("middle.0", "middle.1")):
        masks = select(scores, Budget(0.5, scope, overrides=overrides))  # type: ignore[arg-type]
        assert masks.kept == 200
        assert masks.layers["first"] == (100, 100)
        assert masks.layers["last"] == (1, 100)
        if scope != "global":
            assert {masks.layers[name][0] for name in ("middle.0", "middle.1")} == {49, 50}
    # an override takes no notice of the floor
    assert select(scores, Budget(0.5, floor=0.2, overrides={"last": 0.01})).layers["last"][0] == 1


def test_overrides_that_no_mask_can_meet_say_what_can() -> None:
    scores = {"a": torch.rand(100, 10), "b": torch.rand(37, 1), "c": torch.rand(3, 1)}

    def refused(budget: Budget) -> tuple[float, float]:
        with pytest.raises(BudgetError) as caught:
            select(scores, budget)
        words = str(caught.value).split("can be ")[1].removeprefix("only ").replace("from ", "")
        low, _, high = words.partition(" to ")
        for ratio in (low, high or low):
            select(scores, replace(budget, keep=float(ratio)))
        return float(low), float(high or low)

    low, high = refused(Budget(0.1, overrides={"a": 0.5}))
    assert round(low * 1040) == 502  # the floors keep one of b and one of c
    assert round(high * 1040) == 540
    assert refused(Budget(0.9, overrides={"a": 0.5})) == (low, high)
    assert round(refused(Budget(0.4, floor=0, overrides={"a": 0.5}))[0] * 1040) == 500
    assert refused(Budget(0.5, overrides={"*": 1.0})) == (1, 1)
    only = refused(Budget(0.5, overrides={"a": 0.123, "*": 0.1}))
    assert round(only[0] * 1040) == 123 + 4 + 1
    with pytest.raises(BudgetError, match=r"overrides take 500\b.* 40\b"):
        select(scores, Budget(0.9, overrides={"a": 0.5}))
    with pytest.raises(BudgetError, match=r"overrides take 500\b.* 0\.002 .* 2\b"):
        select(scores, Budget(0.482, overrides={"a": 0.5}))


def test_globs_that_match_nothing_list_the_names() -> None:
    scores = {"a": torch.rand(2, 2), "b": torch.rand(2, 2)}
    for budget in (
        Budget(0.5, ("a", "hed.*")),
        Budget(0.5, overrides={"a": 0.5, "hed.*": 0.5}),
        Budget(scope=("hed.*",), pattern="1:2"),
        Budget(pattern="1:2", overrides={"hed.*": 1}),
        Budget(0.5, ("hed.*",), pattern="1x2"),
    ):
        with pytest.raises(BudgetError, match=r"'hed\.\*' of the budget's .* names are a, b$"):
            select(scores, budget)
    many = {f"layer{i:02}": torch.rand(1, 1) for i in range(50)}
    with pytest.raises(BudgetError, match=r"layer00, .*layer19 and 30 more"):
        select(many, Budget(0.5, ("z",)))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.sampled_from([0, 0.1, 0.5]),
    st.floats(0, 1),
)
def test_shares_are_those_of_the_definition(sizes: list[int], floor: float, part: float) -> None:
    least = [Budget(1, floor=floor).least(size) for size in sizes]
    k = sum(least) + round(part * (sum(sizes) - sum(least)))
    assert shares(k, sizes, least) == shared_out(k, sizes, least)
