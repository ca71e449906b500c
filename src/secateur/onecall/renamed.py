"""The arguments that `prune` had in 0.1.0, put into their groups; all of this goes with 0.3.0."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from secateur.errors import UsageError
from secateur.model.parameters import device_of
from secateur.onecall.goal import LIMITS, Goal, budget_of
from secateur.pruning.calibration import Calibration, first_sample
from secateur.pruning.parameters import Prunable, prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.unprunable import refuse_unprunable

Called = TypeVar("Called", bound=Callable[..., Any])

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "goal": ("Goal(", (*LIMITS, "evaluate", "higher_is_better")),
    "keep": ("Budget(keep, ", ("scope", "floor", "overrides")),
    "data": ("Calibration.of(data, loss, ", ("samples", "autocast")),
    "plan": ("prunable(model, ", ("exclude", "include", "include_first")),
}
"""Argument → how its value is written, and the arguments that it took the place of."""


def renamed(prune: Called) -> Called:
    """Let `prune` take its arguments of 0.1.0 too, with a DeprecationWarning for each group."""

    @wraps(prune)
    def wrapped(*given: Any, **named: Any) -> Any:
        old: dict[str, dict[str, Any]] = {}
        for group, (call, names) in GROUPS.items():
            found = {name: named.pop(name) for name in names if name in named}
            if found:
                old[group] = found
                what = "=, ".join(found)
                form = f"{group}=secateur.{call}{'=..., '.join(found)}=...)"
                warnings.warn(
                    f"{what}= of prune goes with 0.3.0; write {form}",
                    DeprecationWarning,
                    stacklevel=2,
                )
        if not old:
            return prune(*given, **named)
        named |= dict(zip(("model", "keep"), given, strict=False))
        _regroup(named, old)
        return prune(*given[2:], **named)

    return cast(Called, wrapped)


def _regroup(call: dict[str, Any], old: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the old arguments of a call into their groups, in place.

    Raises:
        UsageError: a group is given beside one of its arguments; or as the groups.
    """
    for group, found in old.items():
        if isinstance(call.get(group), (Goal, Budget, Prunable)):
            raise UsageError(f"{group}= and {next(iter(found))}= are given; give one of them")
    model = refuse_unprunable(call.get("model"))
    limits = {name: value for name, value in old.get("goal", {}).items() if value is not None}
    if limits.keys() - {"higher_is_better"}:
        call["goal"] = Goal(**limits)
    budget = budget_of(call.get("keep"), call.get("pattern", "weight"), call.get("goal"))
    if "keep" in old:
        given = {name: value for name, value in old["keep"].items() if value is not None}
        call["keep"] = replace(budget, **given)
    if "data" in old and call.get("data") is not None:
        data, loss = call["data"], call.get("loss")
        call["data"] = Calibration.of(data, loss, device=device_of(model), **old["data"])
    if "plan" in old:
        example = None
        if budget.pattern.directed:
            sample = first_sample(call.get("data"), device_of(model))
            example = sample if call.get("example") is None else call["example"]
        call["plan"] = prunable(model, pattern=budget.pattern, example=example, **old["plan"])
