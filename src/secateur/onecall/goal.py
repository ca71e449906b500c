"""How much a cut is to keep: a keep ratio, a budget, or a goal that the ratio is solved for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.arguments import BOOL, FUNCTION, checked, is_real
from secateur.errors import BudgetError, UsageError
from secateur.pruning.selecting.budget import Budget, Scope
from secateur.pruning.selecting.patterns import parse

LIMITS = ("max_drop", "params", "macs", "bytes", "latency_ms")


@checked(evaluate=FUNCTION, higher_is_better=BOOL, int8=BOOL, by_cost=BOOL)
@dataclass(frozen=True)
class Goal:
    """What a cut is to meet: exactly one limit.

    `Goal(latency_ms=5)`, `Goal(max_drop=0.5, evaluate=f)`. `prune` takes the smallest keep ratio
    found that meets `max_drop`, or the largest that meets any of the others.

    Raises:
        UsageError: not exactly one limit is given, or one of `max_drop` and `evaluate` without
            the other, or int8 without `latency_ms`.
        BudgetError: the limit is not a positive number; `max_drop` may be 0.
    """

    max_drop: float | None = None
    """How much worse the metric may get, in its own units; needs `evaluate`."""
    params: float | None = None
    """How many parameters may be left."""
    macs: float | None = None
    """How many multiply-adds a pass over the example may take; zeros are skipped."""
    bytes: float | None = None
    """How large the file that `save` writes with masks and budget may be, in bytes."""
    latency_ms: float | None = None
    """How long a pass over the example may take, compiled for this machine: the median of many,
    in milliseconds."""
    evaluate: Callable[[nn.Module], float] | None = None
    """For `max_drop`: model → metric on validation data. It gets copies in evaluation mode."""
    higher_is_better: bool = True
    """Whether a higher metric is a better one."""
    int8: bool = False
    """For `latency_ms`: of the network quantised to int8, as `quantize` does it, not in float32."""
    by_cost: bool = True
    """For `latency_ms` and `macs`, where all weights or blocks are ranked together: scores are
    divided by the square root of what a weight of their layer costs, measured or counted, so that
    zeros go where they save most. False ranks by the criterion alone."""

    def __post_init__(self) -> None:
        drop = self.max_drop is not None
        if drop != (self.evaluate is not None):
            raise UsageError(
                "max_drop= and evaluate= go together: give both or neither; evaluate= is a "
                "function from the model to its metric on validation data"
            )
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"a goal has one limit, but {' and '.join(given) or 'none'} were given; give one "
                f"of {', '.join(LIMITS)}"
            )
        if self.int8 and self.latency_ms is None:
            raise UsageError(f"int8=True is for latency_ms, not for {given[0]}; leave it out")
        if not is_real(self.limit) or not (self.limit > 0 or (drop and self.limit == 0)):
            want = "zero or a positive number" if drop else "a positive number"
            raise BudgetError(f"{self.name} is {self.limit!r}, but must be {want}")

    @property
    def name(self) -> str:
        """Which limit it is."""
        return next(name for name in LIMITS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The value of that limit."""
        limit: float = getattr(self, self.name)
        return limit


def budget_of(
    keep: float | Budget | None, pattern: str, goal: Goal | None, among: Scope = "global"
) -> Budget:
    """Return what was asked for as a budget; with a goal its keep ratio is still to be solved for.

    Args:
        keep: as in `prune`.
        pattern: as in `prune`.
        goal: as in `prune`.
        among: the scope where only a ratio or a goal is given: the criterion's.

    Raises:
        UsageError: nothing says how much is kept, or two arguments do.
        BudgetError: as `Budget`.
    """
    shape = keep.pattern if isinstance(keep, Budget) else parse(pattern)
    if pattern not in ("weight", shape):
        raise UsageError(
            f"pattern is {pattern!r}, but the budget's is {shape!r}; leave pattern= out"
        )
    if goal is not None and shape.ratio is not None:
        raise UsageError(f"pattern {shape!r} leaves nothing to solve for; leave out {goal.name}=")
    if isinstance(keep, Budget):
        return keep
    if goal is not None and keep is not None:
        raise UsageError(f"keep and {goal.name} are given; give one of them")
    if goal is None and keep is None and shape.ratio is None:
        raise UsageError(
            "how much is to be kept? give keep=, for example 0.1, or a goal, for example "
            "goal=Goal(params=100_000)"
        )
    # one rank of all channels would empty the widest layers
    scope: Scope = "layer" if shape.smaller else among
    if scope == "row" and shape.unit != "weights":
        scope = "layer"
    return Budget(keep if goal is None else 1.0, scope, pattern=shape)
