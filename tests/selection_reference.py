"""Scopes, floors and overrides in plain Python, and what the tests of selection draw."""

from __future__ import annotations

from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from secateur import Budget
from secateur.model.parameters import DTYPES

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
