"""A keep ratio that meets a goal, found by bisection over nested masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from secateur.arguments import plain
from secateur.errors import BudgetError, UsageError
from secateur.model.copying import copied
from secateur.onecall.channels import Channels
from secateur.onecall.goal import Goal
from secateur.onecall.pruned import Pruned
from secateur.onecall.result import Attempt
from secateur.onecall.weights import Weights

RESOLUTION: Mapping[str, float] = {"max_drop": 0.01, "latency_ms": 0.02, "bytes": 0.001}
"""Of the keep ratio, where measuring takes time; what is only counted is exact to one weight."""


def solve(goal: Goal, way: Weights | Channels) -> tuple[float, tuple[Attempt, ...]]:
    """Return the keep ratio that meets a goal best, and what was tried.

    Raises:
        UsageError: the goal runs the model and there is no example, or `evaluate` gives no finite
            number.
        BudgetError: no cut meets the goal; says the least that was reached.
    """
    return search(goal, _measure(goal, way), way.total)


def search(
    goal: Goal, measure: Callable[[float], float], total: int
) -> tuple[float, tuple[Attempt, ...]]:
    """Return the keep ratio found that meets a goal best, and what was tried.

    Nested masks make a cost fall with the keep ratio, and quality nearly so. Where it does not,
    what is returned was still measured, and meets the goal; only a better one may exist.

    Args:
        goal: what is measured is to be its limit at most.
        measure: keep ratio → what is measured there; raises BudgetError where no mask keeps so
            little, for example because of floors.
        total: how many weights, blocks or channels there are to keep.

    Raises:
        BudgetError: no cut meets the goal; says the least that was reached.
    """
    attempts: list[Attempt] = []
    refusals: list[BudgetError] = []

    def met(keep: float) -> bool | None:
        try:
            value = measure(keep)
        except BudgetError as error:
            refusals.append(error)
            return None
        attempts.append(Attempt(keep, value, value <= goal.limit))
        return attempts[-1].fine

    # quality is met more easily by more weights, a cost by fewer
    cost = goal.name != "max_drop"
    best = 1.0 if met(1.0) else None
    low, high = (1.0, 1.0) if cost and best else (0.0, 1.0)
    while high - low > RESOLUTION.get(goal.name, 0.5 / max(total, 1)):
        keep = (low + high) / 2
        fine = met(keep)
        best = keep if fine else best
        # where floors allow no such cut, look higher, whatever the goal
        low, high = (keep, high) if fine is None or fine == cost else (low, keep)
    if best is None and not attempts:  # nothing can be cut so, whatever the goal
        raise refusals[0]
    if best is None:
        least = min(attempt.value for attempt in attempts)
        raise BudgetError(
            f"no cut meets {goal.name}={goal.limit:g}: the least that was reached is {least:g}; "
            "allow more, lower the floor, or let more parameters be cut"
        )
    return best, tuple(attempts)


def _measure(goal: Goal, way: Weights | Channels) -> Callable[[float], float]:
    """Return keep ratio → what the goal limits."""
    model, example = way.job.model, way.job.example

    def pruned(keep: float) -> Pruned:
        return way.prune(keep, copied(model))

    if goal.name == "params":
        return way.parameters
    if goal.name == "bytes":
        return lambda keep: pruned(keep).bytes
    if goal.evaluate is not None:
        evaluate, sign = goal.evaluate, 1 if goal.higher_is_better else -1
        # a copy, in evaluation mode, as the candidates are: what a pass changes stays there
        dense = _metric(evaluate, copied(model))
        return lambda keep: sign * (dense - _metric(evaluate, pruned(keep).model))
    if example is None:
        raise UsageError(f"{goal.name}= runs the model; give it an example= input, or data")
    if goal.name == "macs":
        return way.macs
    from secateur.measure.latency import compiled_latency  # the compiler: only this goal needs it

    return lambda keep: compiled_latency(pruned(keep).model, example, int8=goal.int8)


def _metric(evaluate: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return what a user's function measures of a model, in evaluation mode.

    Raises:
        UsageError: it is no finite number.
    """
    value: object = evaluate(model.eval())
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    value = plain(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"evaluate gave {value!r}, but must return a finite number")
    return float(value)
