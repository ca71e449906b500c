"""A keep ratio that meets a goal, found by bisection over nested masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from secateur.arguments import is_real
from secateur.errors import BudgetError, UsageError
from secateur.onecall.result import Attempt

Side = Literal["smallest", "largest"]

GOALS: Mapping[str, Side] = {
    "max_drop": "smallest",
    "params": "largest",
    "macs": "largest",
    "bytes": "largest",
    "latency_ms": "largest",
}
"""What a budget can be solved for, and which of the keep ratios that meet it is wanted."""

RESOLUTION: Mapping[str, float] = {"max_drop": 0.01, "latency_ms": 0.02, "bytes": 0.001}
"""Of the keep ratio, where measuring takes time; what is only counted is exact to one weight."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a cut is to meet."""

    name: str
    limit: float

    def __post_init__(self) -> None:
        if self.name not in GOALS:
            raise UsageError(
                f"there is no goal {self.name!r}; give keep=, or one of {', '.join(GOALS)}"
            )
        if not is_real(self.limit):
            raise BudgetError(f"{self.name} is {self.limit!r}, but must be a number")
        if not (self.limit >= 0 if self.name == "max_drop" else self.limit > 0):
            want = "zero or positive" if self.name == "max_drop" else "positive"
            raise BudgetError(f"{self.name} is {self.limit!r}, but must be {want}")

    def solve(
        self, measure: Callable[[float], float], total: int
    ) -> tuple[float, tuple[Attempt, ...]]:
        """Return the keep ratio that meets the goal best, and what was tried.

        Args:
            measure: keep ratio → drop or cost.
            total: how many weights, blocks or channels there are to keep.

        Raises:
            BudgetError: no cut meets it; says the least that was reached.
        """
        resolution = RESOLUTION.get(self.name, 0.5 / max(total, 1))
        found, attempts = bisect(
            measure, lambda value: value <= self.limit, GOALS[self.name], resolution=resolution
        )
        if found is None:
            least = min((attempt.value for attempt in attempts), default=float("nan"))
            raise BudgetError(
                f"no cut meets {self.name}={self.limit:g}: the least that was reached is "
                f"{least:g}; allow more, lower the floor, or let more parameters be cut"
            )
        return found, attempts


def bisect(
    measure: Callable[[float], float],
    fine: Callable[[float], bool],
    side: Side,
    *,
    resolution: float,
) -> tuple[float | None, tuple[Attempt, ...]]:
    """Return the smallest or the largest keep ratio found that is fine, and what was tried.

    Nested masks make a cost fall with the keep ratio, and quality nearly so. Where it does not,
    what is returned was still measured, and is fine; only a better one may exist.

    Args:
        measure: keep ratio → what is measured there; raises BudgetError where no mask keeps so
            little, for example because of floors.
        fine: whether a measurement meets the goal.
        side: "smallest" for a goal that more weights meet more easily (quality), "largest" for
            one that fewer do (cost).
        resolution: of the keep ratio.

    Returns:
        the keep ratio, or None where none of those tried is fine.
    """
    attempts: list[Attempt] = []

    def meets(keep: float) -> bool | None:
        try:
            value = measure(keep)
        except BudgetError:
            return None
        attempts.append(Attempt(keep, value, fine(value)))
        return attempts[-1].fine

    best = 1.0 if meets(1.0) else None
    low, high = 0.0, 1.0
    if side == "largest" and best:
        return best, tuple(attempts)
    while high - low > resolution:
        keep = (low + high) / 2
        met = meets(keep)
        best = keep if met else best
        # where floors allow no such cut, look higher, whatever the goal
        if met is None or met == (side == "largest"):
            low = keep
        else:
            high = keep
    return best, tuple(attempts)
