"""Scopes, overrides and patterns: exact, nested, and as plain Python would do them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget, select
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.criteria import find, magnitude
from secateur.pruning.division import shares
from secateur.pruning.parameters import DTYPES, prunable
from secateur.pruning.patterns import Blocks, NofM, parse
from secateur.pruning.ranking import Absolute

WAYS: list[dict[str, Any]] = [{"method": "sort"}, {"method": "count"}, {"chunk": 5}]

TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -2.0, 0.5, 300.0])
ANY = st.floats(-1e4, 1e4, width=16)
SHAPES = [(1, 1), (5, 1), (1, 7), (3, 4), (6, 5), (2, 3, 2), (2, 0, 3), (4, 5, 1, 3), (2, 3, 2, 2)]
NAMES = ["a.x", "a.y", "b.x", "b.y", "c"]


@st.composite
def scores_of(draw: st.DrawFn) -> dict[str, Tensor]:
    dtype = draw(st.sampled_from(DTYPES))
    values = draw(st.sampled_from([TIED, ANY]))
    found = {}
    for name in draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]:
        shape = draw(st.sampled_from(SHAPES))
        count = torch.Size(shape).numel()
        flat = draw(st.lists(values, min_size=count, max_size=count))
        tensor = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
        if len(shape) == 4 and draw(st.booleans()):
            tensor = tensor.to(memory_format=torch.channels_last)
        found[name] = tensor
    assume(any(tensor.numel() for tensor in found.values()))
    return found


def first_match(name: str, globs: Any) -> int:
    return next((at for at, glob in enumerate(globs) if fnmatchcase(name, glob)), len(globs))


def shared_out(k: int, sizes: list[int], least: list[int]) -> list[int]:
    """The definition of `shares`: the k best priorities, each part's least among them."""
    ranks = sorted((Fraction(2 * i + 1, 2 * n), at) for at, n in enumerate(sizes) for i in range(n))
    counts = list(least)
    seen = [0] * len(sizes)
    for _, at in ranks:
        seen[at] += 1
        if seen[at] > counts[at] and sum(counts) < k:
            counts[at] += 1
    return counts


def expected(scores: dict[str, list[float]], budget: Budget) -> dict[str, list[bool]] | None:
    """Scopes, floors and overrides in plain Python; None where no mask can meet the budget."""
    names = sorted(scores)
    sizes = {name: len(scores[name]) for name in names}
    k = max(1, round(budget.keep * sum(sizes.values())))
    own = {
        name: sorted(range(sizes[name]), key=lambda i, name=name: -scores[name][i])
        for name in names
    }
    kept: set[tuple[str, int]] = set()
    free = []
    for name in names:
        place = first_match(name, [glob for glob, _ in budget.overrides])
        if place == len(budget.overrides):
            free.append(name)
        elif sizes[name]:
            count = max(1, round(budget.overrides[place][1] * sizes[name]))
            kept |= {(name, i) for i in own[name][:count]}
    left = k - len(kept)
    least = {name: budget.least(sizes[name]) for name in free}
    if not sum(least.values()) <= left <= sum(sizes[name] for name in free):
        return None
    globs = budget.scope if isinstance(budget.scope, tuple) else ()
    groups = [[n for n in free if first_match(n, globs) == g] for g in range(len(globs) + 1)]
    if budget.scope == "layer":
        groups = [[name] for name in free]
    counts = shared_out(
        left,
        [sum(sizes[name] for name in group) for group in groups],
        [sum(least[name] for name in group) for group in groups],
    )
    for group, count in zip(groups, counts, strict=True):
        chosen = {(name, i) for name in group for i in own[name][: least[name]]}
        everything = [(name, i) for name in group for i in range(sizes[name])]
        for weight in sorted(everything, key=lambda weight: -scores[weight[0]][weight[1]]):
            if len(chosen) < count:
                chosen.add(weight)
        kept |= chosen
    assert len(kept) == k
    return {name: [(name, i) in kept for i in range(sizes[name])] for name in names}


KEEPS = st.floats(0.001, 1)
FLOORS = st.sampled_from([0, 0.001, 0.05, 0.3])
GLOBS = st.sampled_from(["a.*", "b.*", "*.x", "*y", "c", "*"])
SCOPES = st.one_of(
    st.sampled_from(["global", "layer"]), st.lists(GLOBS, min_size=1, max_size=3).map(tuple)
)
OVERRIDES = st.lists(st.tuples(GLOBS, st.floats(0.01, 1)), max_size=3)


def globs_match(names: Any, *globs: str) -> bool:
    return all(any(fnmatchcase(name, glob) for name in names) for glob in globs)


# Scopes and overrides.


@settings(max_examples=200)
@given(scores_of(), KEEPS, SCOPES, FLOORS, OVERRIDES)
def test_scopes_and_overrides_give_the_masks_of_the_definition(
    scores: dict[str, Tensor], keep: float, scope: Any, floor: float, overrides: Any
) -> None:
    globs = [glob for glob, _ in overrides] + (list(scope) if isinstance(scope, tuple) else [])
    budget = Budget(keep, scope, floor, overrides=overrides)
    if not globs_match(scores, *globs):
        with pytest.raises(BudgetError, match="matches no prunable parameter"):
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
    with pytest.raises(BudgetError, match="overrides take 500, and the other tensors have only 40"):
        select(scores, Budget(0.9, overrides={"a": 0.5}))
    with pytest.raises(BudgetError, match=r"take 500, and the floor of 0\.002 in the other .* 2;"):
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


# n:m.


def groups_of(tensor: Tensor, m: int, axis: int) -> list[list[tuple[int, ...]]]:
    """The positions of every group, in plain Python."""
    ranges = [range(size) for size in tensor.shape]
    lines = itertools.product(*(r for at, r in enumerate(ranges) if at != axis))
    return [
        [(*line[:axis], i, *line[axis:]) for i in range(start, min(start + m, tensor.shape[axis]))]
        for line in lines
        for start in range(0, tensor.shape[axis], m)
    ]


@settings(max_examples=150)
@given(scores_of(), st.data())
def test_every_group_keeps_exactly_its_n_highest(
    scores: dict[str, Tensor], data: st.DataObject
) -> None:
    m = data.draw(st.integers(1, 9))
    n = data.draw(st.integers(1, m))
    axes = {
        name: data.draw(st.integers(0, tensor.dim() - 1), label=name)
        for name, tensor in scores.items()
        if data.draw(st.booleans())
    }
    for way in ({}, {"chunk": 1}, {"chunk": 13}):
        masks = select(scores, Budget(pattern=f"{n}:{m}"), axes=axes, **way)
        for name, mask in masks.items():
            tensor = scores[name]
            assert mask.stride() == tensor.stride()
            for group in groups_of(tensor, m, axes.get(name, 1)):
                order = sorted(group, key=lambda at, tensor=tensor: -float(tensor[at]))
                assert {at for at in group if mask[at]} == set(order[:n])


def test_two_of_four_by_hand() -> None:
    row = torch.tensor([[4.0, 1, 3, 2, 5, 5, 5, 5, -1, -2, -3]])
    kept = [[1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0]]
    budget = Budget(pattern="2:4")
    assert budget.keep == 0.5
    assert select({"a": row}, budget)["a"].int().tolist() == kept
    assert select({"a": row.T}, budget, axes={"a": 0})["a"].int().T.tolist() == kept
    assert select({"a": row}, Budget(pattern="2:4000000"))["a"].sum() == 2
    assert select({"a": row}, Budget(pattern="100:4000"))["a"].all()
    assert select({"a": row}, Budget(0.5, ("a",), 0.9, "2:4"))["a"].int().tolist() == kept
    masks = select({"a": row, "b": row.repeat(3, 1)}, Budget(pattern="2:4", overrides={"b": 1}))
    assert masks["a"].int().tolist() == kept
    assert masks["b"].all()


def test_an_input_dimension_is_asked_for() -> None:
    for pattern in ("2:4", "1x4"):
        budget = Budget(0.5, pattern=pattern)
        with pytest.raises(UsageError, match=r"'a' have shape \(5,\)"):
            select({"a": torch.rand(5)}, budget)
        for axis in (-1, 2):
            with pytest.raises(UsageError, match=f"no dimension {axis}"):
                select({"a": torch.rand(5, 4)}, budget, axes={"a": axis})


# Blocks.


def matrix_of(tensor: Tensor, axis: int) -> Tensor:
    return tensor.flatten(1) if axis else tensor.transpose(0, 1).flatten(1)


@settings(max_examples=150)
@given(scores_of(), st.data())
def test_blocks_are_ranked_by_their_means(scores: dict[str, Tensor], data: st.DataObject) -> None:
    high, wide = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    scope, floor = data.draw(SCOPES), data.draw(FLOORS)
    overrides = data.draw(OVERRIDES)
    globs = [glob for glob, _ in overrides] + (list(scope) if isinstance(scope, tuple) else [])
    assume(globs_match(scores, *globs))
    axes = {name: data.draw(st.integers(0, 1)) for name in scores}
    means: dict[str, list[float]] = {}
    blocks: dict[str, list[Tensor]] = {}
    for name, tensor in scores.items():
        matrix = matrix_of(tensor, axes[name])
        blocks[name] = [
            matrix[top : top + high, left : left + wide]
            for top in range(0, matrix.shape[0], high)
            for left in range(0, matrix.shape[1], wide)
        ]
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        means[name] = []
        for block in blocks[name]:
            columns = torch.zeros(block.shape[1], dtype=dtype)
            for row in block:
                columns += row.to(dtype)
            total = torch.zeros((), dtype=dtype)
            for column in columns:
                total = total + column
            means[name].append(float(total / block.numel()))
    budget = Budget(data.draw(KEEPS), scope, floor, f"{high}x{wide}", overrides)
    want = expected(means, budget)
    for way in WAYS:
        if want is None:
            with pytest.raises(BudgetError, match="blocks, but the"):
                select(scores, budget, axes=axes, **way)
            continue
        masks = select(scores, budget, axes=axes, **way)
        for name, mask in masks.items():
            assert mask.stride() == scores[name].stride()
            matrix, at = matrix_of(mask, axes[name]), iter(want[name])
            for top in range(0, matrix.shape[0], high):
                for left in range(0, matrix.shape[1], wide):
                    block = matrix[top : top + high, left : left + wide]
                    assert {bool(kept) for kept in block.flatten()} == {next(at)}


def test_blocks_by_hand() -> None:
    scores = torch.tensor([[1.0, 1, 9, 9, 5], [1, 1, 0, 0, 0], [2, 2, 3, 3, 9]])
    masks = select({"a": scores}, Budget(0.5, floor=0, pattern="2x2"))
    # six blocks, of means 1, 4.5, 2.5 and 2, 3, 9
    assert masks["a"].int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert masks.keep == 7 / 15
    across = select({"a": scores.T}, Budget(0.5, floor=0, pattern="2x2"), axes={"a": 0})
    assert torch.equal(across["a"].T, masks["a"])
    one = select({"a": scores}, Budget(1e-9, pattern="1000x1000"))
    assert one["a"].all()
    plain = Budget(0.37, floor=0.1)
    assert select({"a": scores}, replace(plain, pattern="1x1")) == select({"a": scores}, plain)


# What is refused.


@pytest.mark.parametrize("pattern", ["2:4", "1:3", "2x2", "4x1"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(pattern: str, bad: float) -> None:
    scores = {"good": torch.ones(4, 9), "worse.weight": torch.ones(4, 5, dtype=torch.bfloat16)}
    scores["worse.weight"][1, 2:4] = bad
    budget = Budget(None if ":" in pattern else 0.5, pattern=pattern)
    with pytest.raises(ScoreError, match=r"2 of the 20 scores of 'worse\.weight'"):
        select(scores, budget)


def test_blocks_whose_sum_overflows_are_refused() -> None:
    scores = {"a": torch.full((2, 2), torch.finfo(torch.float32).max)}
    with pytest.raises(ScoreError, match="block of 'a'"):
        select(scores, Budget(0.5, pattern="2x2"))
    assert select({"a": torch.full((2, 2), 6e4).half()}, Budget(0.5, pattern="2x2"))["a"].all()


def test_ways_that_there_are_not_are_refused_with_every_pattern() -> None:
    for budget in (Budget(0.5), Budget(pattern="2:4"), Budget(0.5, pattern="1x2")):
        with pytest.raises(UsageError, match="method"):
            select({"a": torch.rand(3, 3)}, budget, method="guess")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="chunk"):
            select({"a": torch.rand(3, 3)}, budget, chunk=0)


def test_channels_are_cut_elsewhere() -> None:
    with pytest.raises(BudgetError, match=r'use secateur.prune\(..., pattern="channel"\)'):
        select({"a": torch.rand(3, 3)}, Budget(0.5, pattern="channel"))


def test_patterns_are_read() -> None:
    assert parse("weight") == "weight"
    assert parse("channel") == "channel"
    assert parse("2:4") == NofM(2, 4)
    assert parse("16x1") == Blocks(16, 1)
    assert parse("7:7") == NofM(7, 7)
    wrong = [
        "4:2",
        "0:4",
        "0:0",
        "x4",
        "4x",
        "2:",
        "0x4",
        "4x0",
        "2:4 ",
        "-1:4",
        "2x4x1",
        "",
        "²:4",
    ]
    for pattern in [*wrong, "1" * 10 + ":4", "block", None, 4]:
        with pytest.raises(BudgetError, match=r"pattern is .*'2:4'.*'1x4', or 'channel'"):
            parse(pattern)  # type: ignore[arg-type]
        with pytest.raises(BudgetError, match="pattern is "):
            Budget(0.5, pattern=pattern)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="4 of every 2 cannot be kept"):
        parse("4:2")


# Budgets.


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


# Scores that are never made.


@settings(max_examples=100)
@given(scores_of(), KEEPS, st.sampled_from(["weight", "2:4", "3x2"]))
def test_absolute_scores_are_ranked_as_the_tensors_of_them(
    weights: dict[str, Tensor], keep: float, pattern: str
) -> None:
    budget = Budget(None if ":" in pattern else keep, floor=0, pattern=pattern)
    for way in WAYS:
        masks = select({name: Absolute(w) for name, w in weights.items()}, budget, **way)
        assert masks == select({name: w.abs() for name, w in weights.items()}, budget, **way)
        assert all(mask.stride() == weights[name].stride() for name, mask in masks.items())


@pytest.mark.parametrize("pattern", ["weight", "2:4", "2x2"])
def test_lazy_magnitudes_are_refused_where_weights_are_not_finite(pattern: str) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(3)))
    names = prunable(model).names
    budget = Budget(0.5, pattern=pattern)
    before = [parameter.clone() for parameter in model.parameters()]
    masks = select(magnitude.lazy(model, names), budget)
    assert masks == select(find("magnitude").scores(model, names), budget)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with torch.no_grad():
        model[1].weight[2, 2:4] = torch.tensor([-float("inf"), float("nan")])
    for way in WAYS:
        with pytest.raises(ScoreError, match=r"2 of the 36 scores of '1\.weight'"):
            select(magnitude.lazy(model, names), budget, **way)
    with pytest.raises(ScoreError, match="'a' are int64"):
        select({"a": Absolute(torch.arange(3))}, budget)


@pytest.mark.gpu
def test_a_gpu_gives_the_masks_of_the_cpu_with_every_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {
        f"layer{i}": torch.randn(30, 10, 3, 3, generator=generator).round(decimals=1)
        for i in range(4)
    }
    on_gpu = {name: tensor.cuda() for name, tensor in scores.items()}
    axes = {"layer1": 0}
    for fields in (
        {"pattern": "2:4"},
        {"keep": 0.3, "pattern": "4x2"},
        {"keep": 0.3, "scope": ("*1", "*2"), "overrides": {"*3": 0.1}},
    ):
        budget = Budget(**fields)  # type: ignore[arg-type]
        masks = select(on_gpu, budget, axes=axes)
        assert all(mask.is_cuda for mask in masks.values())
        assert masks == select(scores, budget, axes=axes)
