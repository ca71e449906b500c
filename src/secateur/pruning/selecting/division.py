"""K divided among tensors: floors, shares of layers and groups, overrides."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import NamedTuple

from secateur.errors import BudgetError
from secateur.model.parameters import any_matches, refuse_unmatched
from secateur.pruning.selecting.budget import Budget

Names = str | tuple[str, ...]
"""What a tensor is called, or all tensors of a group of channels."""


class Pool(NamedTuple):
    """Tensors that are ranked together."""

    members: Sequence[int]
    """The tensors' places in the list."""
    guaranteed: Sequence[int]
    """How many of its own highest scores each tensor keeps."""
    remaining: int
    """How many more are kept: the highest of all others in the pool."""


def divided(
    budget: Budget,
    names: Sequence[Names],
    sizes: Sequence[int],
    *,
    certain: Sequence[int] = (),
    unit: str = "",
) -> list[Pool]:
    """Divide K = `budget.count(sum(sizes))` among tensors, or among groups of channels.

    Args:
        budget: its keep ratio, scope, floor and overrides.
        names: of the tensors; for a group of channels, of all weights that write them.
        sizes: how many units of the budget's pattern (weights, blocks) each has; at least one in
            total.
        certain: how many units each group keeps at any keep ratio; left out for tensors, for
            which the budget says it.
        unit: what messages call the units, if not what the pattern calls them.

    Returns:
        Pools, every tensor in one of them: the counts of all add up to K.

    Raises:
        BudgetError: floors and overrides make K impossible, or a glob matches no name.
    """
    # globs first: a misspelt one is the likelier cause of anything else that is wrong
    scopes = matches(names, budget.scope, "scope") if isinstance(budget.scope, tuple) else None
    fixed = _overridden(budget, names, sizes, certain or [min(1, size) for size in sizes])
    least = dict(enumerate(certain or map(budget.least, sizes)))
    most = _most(names, least | fixed) if certain else ""
    free = {at: low for at, low in least.items() if at not in fixed}
    _refuse_impossible(budget, sizes, fixed, free, unit or budget.pattern.unit, most)
    k = budget.count(sum(sizes)) - sum(fixed.values())
    if budget.scope in ("layer", "row"):
        layers = shares(k, [sizes[at] for at in free], list(free.values()))
        free = dict(zip(free, layers, strict=True))
    parts = _parts(free, scopes)
    lows = [[free[at] for at in part] for part in parts]
    totals = [sum(sizes[at] for at in part) for part in parts]
    counts = shares(k, totals, [sum(low) for low in lows])
    pools = [Pool(list(fixed), list(fixed.values()), 0)] if fixed else []
    return pools + [
        Pool(part, low, count - sum(low))
        for part, low, count in zip(parts, lows, counts, strict=True)
    ]


def _parts(free: Iterable[int], scopes: Sequence[int] | None) -> list[list[int]]:
    """Group the places of tensors by scope; each group keeps its share of K."""
    parts: dict[int, list[int]] = {}
    for at in free:
        parts.setdefault(scopes[at] if scopes else 0, []).append(at)
    return [parts[scope] for scope in sorted(parts)]


def _overridden(
    budget: Budget, names: Sequence[Names], sizes: Sequence[int], least: Sequence[int]
) -> dict[int, int]:
    """Return how many units the tensors keep that overrides match: place → count."""
    globs = [glob for glob, _ in budget.overrides]
    return {
        at: min(sizes[at], max(least[at], round(budget.overrides[place][1] * sizes[at])))
        for at, place in enumerate(matches(names, globs, "overrides"))
        if place < len(globs)
    }


def matches(names: Sequence[Names], globs: Sequence[str], field: str) -> list[int]:
    """Return for every tensor the place of the first glob that matches it, or len(globs).

    Raises:
        BudgetError: a glob matches none of the names; lists them.
    """
    owned = [(own,) if isinstance(own, str) else own for own in names]
    every = [name for own in owned for name in own]
    refuse_unmatched(globs, every, f"the budget's {field}", BudgetError)
    return [
        next((at for at, glob in enumerate(globs) if any_matches(own, [glob])), len(globs))
        for own in owned
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


def _refuse_impossible(
    budget: Budget,
    sizes: Sequence[int],
    fixed: Mapping[int, int],
    free: Mapping[int, int],
    unit: str,
    most: str,
) -> None:
    """Refuse a K that floors and overrides make impossible.

    Args:
        budget: gives K.
        sizes: of all tensors.
        fixed: how many units the tensors keep that overrides match: place → count.
        free: how many units the others keep at least: place → count.
        unit: what the units are called.
        most: for groups of channels, a hint which of them take most; empty for tensors.

    Raises:
        BudgetError: says what takes too many, and which keep ratios are possible.
    """
    k, total, taken = budget.count(sum(sizes)), sum(sizes), sum(fixed.values())
    floors, room = sum(free.values()), sum(sizes[at] for at in free)
    low, high = taken + floors, taken + room
    if low <= k <= high:
        return
    smallest = _feasible(low, high, total, ROUND_CEILING)
    largest = _feasible(low, high, total, ROUND_FLOOR)
    why = f"the floor of {budget.floor:g} in every tensor takes {floors:,}"
    if most:
        why = f"minimum widths and floors take {floors:,}"
    if fixed:
        others = f", and {why}" if k < low and floors else ""
        if k > high and room:
            others = f", and the others have only {room:,}"
        possible = f"only {smallest}" if low == high else f"from {smallest} to {largest}"
        why = f"the overrides take {taken:,}{others}; with them a keep ratio can be {possible}"
    else:
        sparsity = 100 - 100 * smallest
        why += f"; keep at least {smallest} (sparsity at most {sparsity} %) or lower the floor"
    raise BudgetError(
        f"keep ratio {budget.keep:g} keeps {k:,} of {total:,} {unit}, but {why}{most}"
    )


def _most(names: Sequence[Names], counts: Mapping[int, int]) -> str:
    """Return a hint which groups of channels keep most units at least."""
    order = sorted(counts, key=lambda at: -counts[at])[:3]
    return "; most are taken by " + ", ".join(f"{names[at][0]!r} ({counts[at]})" for at in order)


def _feasible(low: int, high: int, total: int, rounding: str) -> Decimal:
    """Return the smallest (rounding up) or largest (down) keep ratio that keeps low to high."""
    end = low if rounding == ROUND_CEILING else high
    for digits in range(4, 18):
        ratio = Context(prec=digits, rounding=rounding).create_decimal(end / total)
        if low <= Budget(float(ratio)).count(total) <= high:
            break
    return ratio
