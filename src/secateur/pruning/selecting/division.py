"""K divided among tensors: floors, shares of layers and groups, overrides."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple

from secateur.errors import BudgetError
from secateur.pruning.selecting.budget import Budget

LISTED = 20
"""How many names a message lists."""


class Pool(NamedTuple):
    """Tensors that are ranked together."""

    members: Sequence[int]
    """The tensors' places in the list."""
    guaranteed: Sequence[int]
    """How many of its highest scores each of them keeps in any case."""
    remaining: int
    """How many more are kept: the highest of all others in the pool."""


def divided(budget: Budget, names: Sequence[str], sizes: Sequence[int]) -> list[Pool]:
    """Divide K = `budget.count(sum(sizes))` among tensors.

    Args:
        budget: its keep ratio, scope, floor and overrides.
        names: the tensors' names.
        sizes: how many units of the budget's pattern (weights, blocks) each has; one at least in
            all.

    Returns:
        Pools, every tensor in one of them: the counts of all add up to K.

    Raises:
        BudgetError: K is out of what floors and overrides leave possible, or a glob matches no
            name.
    """
    total, unit = sum(sizes), budget.pattern.unit
    k = budget.count(total)
    # globs first: one that is misspelt is the likelier reason of whatever else is wrong
    groups = matches(names, budget.scope, "scope") if isinstance(budget.scope, tuple) else None
    fixed = _fixed(budget, names, sizes)
    free = [at for at in range(len(sizes)) if at not in fixed]
    least = [budget.least(sizes[at]) for at in free]
    taken, floors, room = sum(fixed.values()), sum(least), sum(sizes[at] for at in free)
    if not taken + floors <= k <= taken + room:
        if not fixed:
            raise BudgetError(_below_the_floors(budget, k, floors, total, unit))
        raise BudgetError(_beside_overrides(budget, k, (taken, floors, room), total, unit))
    pools = [Pool(list(fixed), list(fixed.values()), 0)] if fixed else []
    if budget.scope == "layer":
        least = shares(k - taken, [sizes[at] for at in free], least)
    if groups is None:
        return [*pools, Pool(free, least, k - taken - sum(least))] if free else pools
    lows = dict(zip(free, least, strict=True))
    parts = [[at for at in free if groups[at] == g] for g in range(len(budget.scope) + 1)]
    parts = [part for part in parts if part]
    lows_of = [[lows[at] for at in part] for part in parts]
    counts = shares(
        k - taken, [sum(sizes[at] for at in part) for part in parts], [sum(low) for low in lows_of]
    )
    groupwise = zip(parts, lows_of, counts, strict=True)
    return pools + [Pool(part, low, count - sum(low)) for part, low, count in groupwise]


def _fixed(budget: Budget, names: Sequence[str], sizes: Sequence[int]) -> dict[int, int]:
    """Return how many weights overrides keep of the tensors that they match: place → count."""
    if not budget.overrides:
        return {}
    globs = [glob for glob, _ in budget.overrides]
    return {
        at: min(sizes[at], max(1, round(budget.overrides[match][1] * sizes[at])))
        for at, match in enumerate(matches(names, globs, "overrides"))
        if match < len(globs)
    }


def matches(names: Sequence[str], globs: Sequence[str], field: str) -> list[int]:
    """Return for every name the place of the first glob that matches it, or len(globs).

    Raises:
        BudgetError: a glob matches none of the names; lists them.
    """
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
            raise BudgetError(
                f"the glob {glob!r} of the budget's {field} matches no prunable parameter; "
                f"the names are {', '.join(names[:LISTED])}{more}"
            )
    return [
        next((at for at, glob in enumerate(globs) if fnmatchcase(name, glob)), len(globs))
        for name in names
    ]


def shares(k: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Divide k among tensors in proportion to their sizes; each gets at least its least.

    Webster's (Sainte-Laguë's) divisor method: the i-th weight of a tensor of n, counted from 0,
    has the priority (i + 1/2) / n; the first k of all weights are taken, lowest priority first,
    equal ones by the tensors' order. Unlike the method of the largest remainder, no share ever
    falls when k rises (Balinski and Young, Fair Representation, 1982). Exact, in integers.

    Args:
        k: from `sum(least)` to `sum(sizes)`; `sizes` are the tensors' sizes, and `least` how many
            weights each keeps in any case.

    Returns:
        The tensors' shares; their sum is k.
    """
    total = sum(sizes)
    if not total:
        return [0] * len(sizes)
    # All weights up to priority k / total, which leaves at most two steps a tensor to go.
    counts = [
        max(low, (2 * k * size + total) // (2 * total))
        for size, low in zip(sizes, least, strict=True)
    ]
    missing = k - sum(counts)
    step = 1 if missing > 0 else -1

    def entry(at: int) -> tuple[Fraction, int]:
        i = counts[at] if step > 0 else counts[at] - 1
        return step * Fraction(2 * i + 1, 2 * sizes[at]), step * at

    def may_move(at: int) -> bool:
        return counts[at] < sizes[at] if step > 0 else counts[at] > least[at]

    queue = [entry(at) for at in range(len(sizes)) if may_move(at)]
    heapq.heapify(queue)
    for _ in range(abs(missing)):
        at = abs(heapq.heappop(queue)[1])
        counts[at] += step
        if may_move(at):
            heapq.heappush(queue, entry(at))
    return counts


def _below_the_floors(budget: Budget, k: int, floors: int, total: int, unit: str) -> str:
    smallest = _feasible(floors, total, total, ROUND_CEILING)
    return (
        f"keep ratio {budget.keep:g} keeps {k:,} of {total:,} {unit}, but the floor of "
        f"{budget.floor:g} in every tensor takes {floors:,}; keep at least {smallest} "
        f"(sparsity at most {100 - 100 * smallest} %) or lower the floor"
    )


def _beside_overrides(
    budget: Budget, k: int, counts: tuple[int, int, int], total: int, unit: str
) -> str:
    taken, floors, room = counts
    low, high = taken + floors, taken + room
    smallest = _feasible(low, high, total, ROUND_CEILING)
    largest = _feasible(low, high, total, ROUND_FLOOR)
    others = f", and the other tensors have only {room:,}"
    if k < low:
        others = (
            f", and the floor of {budget.floor:g} in the other tensors {floors:,}" if floors else ""
        )
    possible = f"only {smallest}" if low == high else f"from {smallest} to {largest}"
    return (
        f"keep ratio {budget.keep:g} keeps {k:,} of {total:,} {unit}, but the overrides take "
        f"{taken:,}{others}; with them a keep ratio can be {possible}"
    )


def _feasible(low: int, high: int, total: int, rounding: str) -> Decimal:
    """Return the smallest (rounding up) or largest (down) keep ratio that keeps low to high."""
    end = low if rounding == ROUND_CEILING else high
    for digits in range(4, 18):
        ratio = Context(prec=digits, rounding=rounding).create_decimal(end / total)
        if low <= Budget(float(ratio)).count(total) <= high:
            break
    return ratio
