"""Overrides of a budget beside tensors that have several names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.errors import BudgetError
from secateur.model.parameters import aliases
from secateur.pruning.selecting.budget import Budget


def refuse_conflicts(model: nn.Module, names: Sequence[str], budget: Budget) -> None:
    """Refuse overrides that do not agree about a tensor that has several names.

    Selection sees a shared tensor under its first name only, so what an override says of another
    of its names would be lost.

    Args:
        model: not changed.
        names: those that are to be cut, as `prunable(model).names`.
        budget: its overrides are looked at.

    Raises:
        BudgetError: two names of one tensor have different keep ratios, or an override matches
            another name of a tensor and none its first one; says the names and the ratios.
    """
    if not budget.overrides:
        return
    every = aliases(model)
    for name in names:
        ratio = budget.override(name)
        for other in every.get(name, ())[1:]:
            asked = budget.override(other)
            if asked is not None and asked != ratio:
                first = f"keep {ratio:g} of {name!r}" if ratio else f"say nothing of {name!r}"
                raise BudgetError(
                    f"{name!r} and {other!r} are one shared parameter, but the budget's overrides "
                    f"{first} and keep {asked:g} of {other!r}; give both names the same keep ratio"
                )
