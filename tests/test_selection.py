"""Selection is exact, nested and the same by every method."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget, Masks, select
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.model.parameters import DTYPES
from secateur.pruning.selecting.division import shares
from secateur.pruning.selecting.selection import top_k

WAYS: list[dict[str, Any]] = [
    {"method": "sort"},
    {"method": "count"},  # by partition
    {"method": "count", "chunk": 7},  # by histograms
]

# Few distinct values, of both signs and both zeros, so that ties are everywhere.
TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -2.0, 1e-7, 300.0])
ANY = st.floats(-1e4, 1e4, width=16)
SHAPES = st.sampled_from([(), (0,), (1,), (5,), (3, 4), (2, 3, 2), (2, 0, 3), (17,), (2, 3, 2, 3)])


@st.composite
def scores_of(draw: st.DrawFn) -> dict[str, Tensor]:
    dtype = draw(st.sampled_from(DTYPES))
    values = draw(st.sampled_from([TIED, ANY]))
    found = {}
    for name in draw(st.permutations("abcd"))[: draw(st.integers(1, 4))]:
        shape = draw(SHAPES)
        count = torch.Size(shape).numel()
        flat = draw(st.lists(values, min_size=count, max_size=count))
        found[name] = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
    assume(any(tensor.numel() for tensor in found.values()))
    return found


def total_of(scores: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in scores.values())


def reference(scores: Mapping[str, Tensor], budget: Budget) -> dict[str, list[bool]]:
    """The definition, in plain Python: one stable sort of all weights."""
    sizes = {name: scores[name].numel() for name in sorted(scores)}
    k = max(1, round(budget.keep * sum(sizes.values())))
    values = {name: scores[name].double().flatten().tolist() for name in sizes}
    everything = [(name, i) for name in sizes for i in range(sizes[name])]
    order = sorted(everything, key=lambda weight: -values[weight[0]][weight[1]])
    own = {name: [weight for weight in order if weight[0] == name] for name in sizes}
    kept = {w for name in sizes for w in own[name][: budget.least(sizes[name])]}
    if budget.scope == "layer":
        ranks = [(Fraction(2 * i + 1, 2 * sizes[name]), name, i) for name, i in everything]
        rest = [own[name][i] for _, name, i in sorted(ranks)]
    else:
        rest = order
    for weight in rest:
        if len(kept) < k:
            kept.add(weight)
    return {name: [(name, i) in kept for i in range(sizes[name])] for name in sizes}


KEEPS = st.floats(0.001, 1)
FLOORS = st.sampled_from([0, 0, 0.001, 0.05, 0.3, 1])
SCOPES = st.sampled_from(["global", "layer"])


@settings(max_examples=150)
@given(scores_of(), KEEPS, SCOPES, FLOORS)
def test_every_method_gives_the_masks_of_the_definition(
    scores: dict[str, Tensor], keep: float, scope: Any, floor: float
) -> None:
    budget = Budget(keep, scope, floor)
    total = total_of(scores)
    if sum(budget.least(tensor.numel()) for tensor in scores.values()) > budget.count(total):
        for way in WAYS:
            with pytest.raises(BudgetError, match="floor"):
                select(scores, budget, **way)
        return
    expected = reference(scores, budget)
    for way in WAYS:
        masks = select(scores, budget, **way)
        assert list(masks) == sorted(scores)
        assert masks.kept == max(1, round(keep * total))
        for name, mask in masks.items():
            assert mask.shape == scores[name].shape
            assert mask.flatten().tolist() == expected[name]


@settings(max_examples=60)
@given(scores_of(), st.lists(KEEPS, min_size=2, max_size=6), SCOPES, FLOORS)
def test_masks_are_nested(
    scores: dict[str, Tensor], keeps: list[float], scope: Any, floor: float
) -> None:
    total = total_of(scores)
    least = sum(Budget(1, floor=floor).least(tensor.numel()) for tensor in scores.values())
    keeps = sorted(keep for keep in keeps if Budget(keep).count(total) >= least)
    cuts = [select(scores, Budget(keep, scope, floor)) for keep in keeps]
    for fewer, more in itertools.combinations(cuts, 2):
        assert fewer.nested_in(more)


@settings(max_examples=60)
@given(scores_of(), KEEPS, SCOPES, st.sampled_from([0.25, 2.0, 16.0]))
def test_order_of_layers_and_positive_scale_do_not_matter(
    scores: dict[str, Tensor], keep: float, scope: Any, scale: float
) -> None:
    scores = {name: tensor.double() for name, tensor in scores.items()}
    budget = Budget(keep, scope, 0)
    masks = select(scores, budget)
    assert select(dict(reversed(scores.items())), budget) == masks
    assert select({name: scale * tensor for name, tensor in scores.items()}, budget) == masks


@settings(max_examples=60)
@given(scores_of(), st.data())
def test_top_k_is_a_stable_sort_by_every_method(
    scores: dict[str, Tensor], data: st.DataObject
) -> None:
    tensor = next(iter(scores.values()))
    k = data.draw(st.integers(0, tensor.numel()))
    flat = tensor.double().flatten() + 0.0
    expected = torch.zeros(tensor.numel(), dtype=torch.bool)
    expected[flat.sort(descending=True, stable=True).indices[:k]] = True
    for way in WAYS:
        mask = top_k(tensor, k, **way)
        assert mask.shape == tensor.shape
        assert torch.equal(mask.flatten(), expected)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.sampled_from([0, 0.1, 0.5]))
def test_shares_sum_to_k_and_never_fall(sizes: list[int], floor: float) -> None:
    least = [Budget(1, floor=floor).least(size) for size in sizes]
    assume(sum(sizes))
    before = list(least)
    for k in range(sum(least), sum(sizes) + 1):
        now = shares(k, sizes, least)
        assert sum(now) == k
        assert all(a <= b <= size for a, b, size in zip(before, now, sizes, strict=True))
        before = now


def test_shares_are_proportional_where_the_largest_remainder_falls() -> None:
    """The Alabama paradox: from 10 to 11, the largest remainder takes one from the last tensor."""
    assert shares(10, [60, 60, 20], [0, 0, 0]) == [5, 4, 1]  # largest remainder: 4, 4, 2
    assert shares(11, [60, 60, 20], [0, 0, 0]) == [5, 5, 1]  # largest remainder: 5, 5, 1
    assert shares(12, [60, 60, 20], [0, 0, 0]) == [5, 5, 2]
    assert shares(300_000, [1_000_000, 2_000_000], [0, 0]) == [100_000, 200_000]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_realistic_scores_by_every_method(dtype: torch.dtype, way: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv": (16, 8, 3, 3), "linear": (40, 100), "scale": ()}
    scores = {
        name: torch.randn(shape, generator=generator).to(dtype) * 10**i
        for i, (name, shape) in enumerate(shapes.items())
    }
    way = way | {"chunk": 999} if "chunk" in way else way
    for scope, floor in itertools.product(("global", "layer"), (0.0, 0.01)):
        for keep in (0.02, 0.1, 0.5, 0.997, 1):
            budget = Budget(keep, scope, floor)  # type: ignore[arg-type]
            assert select(scores, budget, **way) == select(scores, budget, method="sort")


def test_mixed_dtypes_are_compared_exactly() -> None:
    scores = {
        "a": torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16),
        "b": torch.tensor([1.00000012, 1.0, 1.0078126]),
        "c": torch.tensor([1.0 + 2**-50], dtype=torch.float64),
    }
    for way in WAYS:
        masks = select(scores, Budget(4 / 6, floor=0), **way)
        assert {name: mask.tolist() for name, mask in masks.items()} == {
            "a": [False, True],
            "b": [True, False, True],
            "c": [True],
        }


def test_memory_format_is_kept_and_position_is_row_major() -> None:
    scores = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    expected = torch.arange(96).view(2, 3, 4, 4) < 50
    for way in WAYS:
        mask = top_k(scores, 50, **way)
        assert torch.equal(mask, expected)
        assert mask.stride() == scores.stride()
        assert torch.equal(
            top_k(torch.zeros(1).expand(4, 5), 7, **way).flatten(), torch.arange(20) < 7
        )
        assert top_k(torch.arange(10.0)[::2], 2, **way).tolist() == [False] * 3 + [True] * 2


def test_scores_are_not_changed_and_need_no_graph() -> None:
    scores = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0, 2.0]))
    for way in WAYS:
        assert top_k(scores, 2, **way).tolist() == [True, False, True, False]
    assert scores.tolist() == [3.0, -1.0, 2.0, 2.0]


def test_ties_at_initialisation_keep_exactly_k() -> None:
    scores = {f"layer{i}": torch.full((50, 20), 0.5) for i in range(7)}
    for way in WAYS:
        masks = select(scores, Budget(0.1234, floor=0), **way)
        assert masks.kept == round(0.1234 * 7000) == 864
        assert masks.layers["layer0"] == (864, 1000)
        assert masks["layer0"].flatten()[:864].all()


def test_a_floor_saves_a_layer_that_scores_alone_would_empty() -> None:
    scores = {"big": torch.rand(1000) + 10, "small": torch.rand(100)}
    assert select(scores, Budget(0.1, floor=0)).emptied == ("small",)
    masks = select(scores, Budget(0.1, floor=0.05))
    assert masks.layers == {"big": (105, 1000), "small": (5, 100)}
    assert torch.equal(masks["small"], top_k(scores["small"], 5))
    assert select(scores, Budget(0.1)).layers["small"] == (1, 100)


def test_above_two_to_the_24_counts_are_exact() -> None:
    total = 2**24 + 3
    scores = {
        "a": torch.arange(total, dtype=torch.int32).view(torch.float32)[5:],
        "b": torch.ones(5),
    }
    k = total - 2**20 - 1
    mask = top_k(scores["a"], k - 5)
    assert int(mask.sum()) == k - 5
    assert mask[-(k - 5) :].all()  # these floats ascend
    masks = select(scores, Budget(k / total, floor=0))
    assert masks.kept == k
    assert masks.layers == {"a": (k - 5, total - 5), "b": (5, 5)}
    assert torch.equal(masks["a"], mask)
    assert int(top_k(torch.zeros(total, dtype=torch.bfloat16), k).sum()) == k


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_that_are_not_finite_are_refused(
    way: dict[str, Any], bad: float, dtype: torch.dtype
) -> None:
    scores = {"good": torch.ones(9, dtype=dtype), "worse.weight": torch.ones(4, 5, dtype=dtype)}
    scores["worse.weight"][1, 2:4] = bad
    with pytest.raises(ScoreError, match=r"2 of the 20 scores of 'worse\.weight'"):
        select(scores, Budget(0.5), **way)
    with pytest.raises(ScoreError, match="finite"):
        top_k(scores["worse.weight"], 3, **way)


def test_the_largest_finite_scores_are_fine() -> None:
    for dtype in DTYPES:
        top = torch.finfo(dtype).max
        scores = torch.tensor([-top, top, 0, torch.finfo(dtype).tiny], dtype=dtype)
        for way in WAYS:
            assert top_k(scores, 1, **way).tolist() == [False, True, False, False]
            assert top_k(scores, 3, **way).tolist() == [False, True, True, True]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ScoreError, match=r"'a' are int64"):
        select({"a": torch.arange(3)}, Budget(0.5))
    with pytest.raises(ScoreError, match="meta"):
        top_k(torch.empty(3, device="meta"), 1)
    with pytest.raises(ScoreError, match="sparse"):
        top_k(torch.eye(3).to_sparse(), 1)
    for scores in ({}, {"a": torch.empty(0, 3)}):
        with pytest.raises(UsageError, match="no weights"):
            select(scores, Budget(0.5))
    for k in (-1, 4):
        with pytest.raises(BudgetError, match=f"k is {k}"):
            top_k(torch.ones(3), k)
    with pytest.raises(UsageError, match="method"):
        top_k(torch.ones(3), 1, method="guess")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chunk"):
        top_k(torch.ones(3), 1, chunk=0)


def test_floors_that_cannot_be_met_say_what_can() -> None:
    scores = {"a": torch.rand(1000), "b": torch.rand(37), "c": torch.rand(3)}
    with pytest.raises(BudgetError) as caught:
        select(scores, Budget(0.01, floor=0.02))
    message = str(caught.value)
    assert "keeps 10 of 1,040 weights" in message
    assert "takes 22;" in message
    assert "keep at least 0.02116 (sparsity at most 97.88" in message
    assert select(scores, Budget(0.02116, floor=0.02)).kept == 22


@pytest.mark.parametrize("field", [{"keep": k} for k in (0, -0.1, 1.01, float("nan"), "0.5", True)])
def test_budgets_out_of_range_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match="keep is"):
        Budget(**field)
    with pytest.raises(BudgetError, match="scope is 'neuron'"):
        Budget(0.5, scope="neuron")  # type: ignore[arg-type]
    for floor in (-0.1, 1.1, float("nan"), None):
        with pytest.raises(BudgetError, match="floor is"):
            Budget(0.5, floor=floor)  # type: ignore[arg-type]


def test_counts_are_rounded_as_documented() -> None:
    assert [Budget(0.5).count(n) for n in (1, 3, 5, 7)] == [1, 2, 2, 4]
    assert Budget(1e-9).count(10) == 1
    assert Budget(1).count(10**12 + 7) == 10**12 + 7
    assert [Budget(1, floor=0.07).least(n) for n in (0, 1, 100, 101)] == [0, 1, 7, 8]
    assert Budget(1, floor=0).least(100) == 0


@pytest.mark.gpu
def test_a_gpu_gives_the_masks_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    generator = torch.Generator().manual_seed(0)
    scores = {
        f"layer{i}": torch.randn(30, 100, generator=generator).round(decimals=2) for i in range(9)
    }
    for scope, floor in itertools.product(("global", "layer"), (0.0, 0.01)):
        budget = Budget(0.1, scope, floor)  # type: ignore[arg-type]
        masks: Masks = select({name: s.cuda() for name, s in scores.items()}, budget)
        assert all(mask.is_cuda for mask in masks.values())
        assert masks == select(scores, budget)


def test_what_is_kept_is_among_what_may_be_kept() -> None:
    half = torch.tensor([[1.0, 2, 3, 4]]).half()
    scores = {"a": half, "b": torch.tensor([[-1e6, 1.0, 2, 3]])}
    among = {"a": torch.tensor([[True, True, True, False]]), "b": torch.tensor([[True] * 4])}
    masks = select(scores, Budget(0.5, floor=0), among=among)
    assert masks.kept == 4
    assert masks["a"].tolist() == [[False, True, True, False]]
    assert masks["b"].tolist() == [[False, False, True, True]]
    for wrong, said in (
        ({}, "missing"),
        ({**among, "b": torch.ones(1, 4)}, r"torch\.float32"),
        ({**among, "b": torch.ones(4, dtype=torch.bool)}, r"\(4,\)"),
    ):
        with pytest.raises(UsageError, match=rf"'[ab]'.*{said}"):
            select(scores, Budget(0.5), among=wrong)
    with pytest.raises(UsageError, match="among"):
        select(scores, Budget(0.5), among=[1])  # type: ignore[arg-type]
