"""Patterns: exact, nested, and as plain Python would do them."""

from __future__ import annotations

import itertools
import json
import pickle
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget, select
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.criteria import find, magnitude
from secateur.pruning.parameters import prunable
from secateur.pruning.selecting.patterns import PATTERNS, parse
from secateur.pruning.selecting.ranking import Absolute, tensor_of
from selection_reference import (
    FLOORS,
    KEEPS,
    OVERRIDES,
    SCOPES,
    WAYS,
    expected,
    globs_match,
    scores_of,
)

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
        for axis in (-3, 2):
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


# dot4.


@settings(max_examples=150)
@given(scores_of(), st.data())
def test_dot4_ranks_four_inputs_at_one_position(
    scores: dict[str, Tensor], data: st.DataObject
) -> None:
    scope, floor = data.draw(SCOPES), data.draw(FLOORS)
    overrides = data.draw(OVERRIDES)
    globs = [glob for glob, _ in overrides] + (list(scope) if isinstance(scope, tuple) else [])
    assume(globs_match(scores, *globs))
    axes = {name: data.draw(st.sampled_from([0, 1, -1, -2])) for name in scores}
    groups: dict[str, list[list[tuple[int, ...]]]] = {}
    means: dict[str, list[float]] = {}
    for name, tensor in scores.items():
        axis = axes[name] % tensor.dim()
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        found = groups_of(tensor, 4, axis)
        # in the order of what is ranked: row-major, with a quarter as many places along the axis
        found.sort(key=lambda group, axis=axis: group[0])
        groups[name] = found
        means[name] = []
        for group in found:
            total = torch.zeros((), dtype=dtype)
            for at in group:
                total = total + tensor[at]
            means[name].append(float(total / len(group)))
    budget = Budget(data.draw(KEEPS), scope, floor, "dot4", overrides)
    want = expected(means, budget)
    for way in WAYS:
        if want is None:
            with pytest.raises(BudgetError, match="blocks, but the"):
                select(scores, budget, axes=axes, **way)
            continue
        masks = select(scores, budget, axes=axes, **way)
        for name, mask in masks.items():
            assert mask.stride() == scores[name].stride()
            kept = [{bool(mask[at]) for at in group} for group in groups[name]]
            assert kept == [{flag} for flag in want[name]]


def test_dot4_by_hand() -> None:
    scores = torch.zeros(2, 6, 1, 2)  # two outputs, six inputs, two positions: eight blocks
    scores[0, :4, 0, 1] = torch.tensor([1.0, 5, 2, 4])  # mean 3
    scores[1, 4:, 0, 0] = torch.tensor([3.0, 4])  # the smaller block, mean 3.5
    masks = select({"a": scores}, Budget(0.25, floor=0, pattern="dot4"))
    assert masks["a"].nonzero().tolist() == [[0, i, 0, 1] for i in range(4)] + [
        [1, i, 0, 0] for i in (4, 5)
    ]
    flat = torch.rand(7, 10, generator=torch.Generator().manual_seed(0))
    budget = Budget(0.4, pattern="dot4")
    assert select({"a": flat}, budget) == select({"a": flat}, replace(budget, pattern="1x4"))


# Every pattern, those of tomorrow included.

EXAMPLES = [text for kind in PATTERNS.values() for text in kind.EXAMPLES]


def test_every_kind_reads_its_own_examples() -> None:
    assert [type(parse(text)) for text in EXAMPLES] == [
        kind for kind in PATTERNS.values() for _ in kind.EXAMPLES
    ]
    assert all(kind.EXAMPLES and kind.FORM for kind in PATTERNS.values())


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_pattern_is_its_name(text: str) -> None:
    pattern = parse(text)
    assert pattern == text
    assert parse(pattern) is pattern
    assert type(pickle.loads(pickle.dumps(pattern))) is type(pattern)
    assert json.loads(json.dumps({"pattern": pattern})) == {"pattern": text}


@pytest.mark.parametrize("text", EXAMPLES)
@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=4), data=st.data())
def test_a_pattern_counts_what_it_keeps(text: str, shape: list[int], data: st.DataObject) -> None:
    pattern, axis = parse(text), data.draw(st.sampled_from([0, 1, -1, -2]))
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    budget = Budget(None if pattern.ratio is not None else data.draw(KEEPS), floor=0, pattern=text)
    if pattern.refusal is not None:
        with pytest.raises(BudgetError, match=text):
            select({"a": scores}, budget)
        return
    kept = select({"a": scores}, budget, axes={"a": axis})["a"]
    if pattern.ratio is not None:
        assert int(kept.sum()) == pattern.due(scores.shape, axis)
        return
    total = pattern.units(scores.shape, axis)
    units = tensor_of(pattern.scores(scores, axis, 64))
    assert units.numel() == total
    whole = tensor_of(pattern.scores(kept.float(), axis, 64))
    assert set(whole.unique().tolist()) <= {0.0, 1.0}
    assert int(whole.sum()) == budget.count(total)


# What is refused.


@pytest.mark.parametrize("pattern", ["2:4", "1:3", "2x2", "4x1", "dot4"])
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
    assert (parse("2:4").n, parse("2:4").m, parse("7:7").ratio) == (2, 4, 1.0)
    assert (parse("16x1").rows, parse("16x1").columns) == (16, 1)
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
        with pytest.raises(BudgetError, match=re.escape(f"pattern is {pattern!r}")):
            parse(pattern)  # type: ignore[arg-type]
        with pytest.raises(BudgetError, match="pattern is "):
            Budget(0.5, pattern=pattern)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="4 of every 2 cannot be kept"):
        parse("4:2")


# Scores that are never made.


@settings(max_examples=100)
@given(scores_of(), KEEPS, st.sampled_from(["weight", "2:4", "3x2", "dot4"]))
def test_absolute_scores_are_ranked_as_the_tensors_of_them(
    weights: dict[str, Tensor], keep: float, pattern: str
) -> None:
    budget = Budget(None if ":" in pattern else keep, floor=0, pattern=pattern)
    for way in WAYS:
        masks = select({name: Absolute(w) for name, w in weights.items()}, budget, **way)
        assert masks == select({name: w.abs() for name, w in weights.items()}, budget, **way)
        assert all(mask.stride() == weights[name].stride() for name, mask in masks.items())


@pytest.mark.parametrize("pattern", ["weight", "2:4", "2x2", "dot4"])
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
        {"keep": 0.3, "pattern": "dot4"},
        {"keep": 0.3, "scope": ("*1", "*2"), "overrides": {"*3": 0.1}},
    ):
        budget = Budget(**fields)  # type: ignore[arg-type]
        masks = select(on_gpu, budget, axes=axes)
        assert all(mask.is_cuda for mask in masks.values())
        assert masks == select(scores, budget, axes=axes)
