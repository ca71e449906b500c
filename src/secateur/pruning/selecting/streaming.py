"""Cuts of large models with criteria that look at data: some tensors' scores at a time.

Where every tensor's count is known without its scores (scopes "layer" and "row", n:m), nothing is
gained by holding all scores together. A criterion that is asked for some tensors keeps statistics
of those alone, so a pass over the data for each group of tensors is the price of memory for one
group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.division import divided
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select

TOGETHER = 2**26
"""Weights whose scores are there together, unless one tensor has more: 256 MB of float32."""


def streams(budget: Budget) -> bool:
    """Return whether a budget says every tensor's count without its scores."""
    if budget.pattern.refusal is not None:
        return False
    return budget.pattern.ratio is not None or budget.scope in ("layer", "row")


def select_streaming(
    weights: Mapping[str, Tensor],
    rule: Callable[[Sequence[str]], Mapping[str, Tensor]],
    budget: Budget,
    *,
    axes: Mapping[str, int | None] | None = None,
    together: int = TOGETHER,
) -> Masks:
    """Return the masks that `select` would of all scores, with few of them in memory.

    Args:
        weights: name → parameter; only names and shapes are looked at.
        rule: names → their scores, as `Criterion.scores`; asked for one group after another.
        budget: one that `streams`.
        axes: as in `select`.
        together: weights of a group, at most, unless one tensor has more.

    Raises:
        UsageError: the budget ranks weights of several tensors together.
        ScoreError, BudgetError: as `select` does.
    """
    if not streams(budget):
        raise UsageError(
            "only budgets that say each tensor's count can be selected in a stream: scopes 'layer' "
            f"and 'row', or n:m; this one has scope {budget.scope!r} and pattern {budget.pattern!r}"
        )
    names = sorted(weights)
    ratios: dict[str, float] = {}
    if budget.pattern.ratio is None:
        across = {name: 1 if axis is None else axis for name, axis in (axes or {}).items()}
        units = [budget.pattern.units(weights[n].shape, across.get(n, 1)) for n in names]
        ratios = {
            names[at]: count / max(1, units[at])
            for pool in divided(budget, names, units)
            for at, count in zip(pool.members, pool.guaranteed, strict=True)
        }
    masks: dict[str, Tensor] = {}
    for group in _groups(weights, names, together):
        scores = rule(group)
        if ratios:
            for name in group:
                own = {name: scores[name]}  # errors name the tensor
                masks[name] = _highest(own, ratios[name], budget, axes)[name]
        else:
            masks |= dict(select(scores, budget, axes=axes))
        del scores
    return Masks(masks)


def _highest(
    scores: Mapping[str, Tensor],
    ratio: float,
    budget: Budget,
    axes: Mapping[str, int | None] | None,
) -> Mapping[str, Tensor]:
    """Return the mask of one tensor's highest scores."""
    if not ratio:
        return {name: torch.zeros_like(own, dtype=torch.bool) for name, own in scores.items()}
    alone = Budget(ratio, budget.scope, floor=0.0, pattern=budget.pattern)
    return select(scores, alone, axes=axes)


def _groups(
    weights: Mapping[str, Tensor], names: Sequence[str], together: int
) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name in names:
        if group and size + weights[name].numel() > together:
            yield group
            group, size = [], 0
        group.append(name)
        size += weights[name].numel()
    if group:
        yield group
