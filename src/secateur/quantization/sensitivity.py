"""Layers that cost too much go back to float32, the most sensitive first, until a drop holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from secateur.quantization.plan import Choice, Plan
from secateur.quantization.search import Search

Drop = Callable[[Plan], float]
"""How much worse a plan is than the float network."""


@dataclass(frozen=True)
class Held:
    """What came of a largest drop.

    Attributes:
        plan: whose drop holds, or in which every layer is float32.
        drop: of it.
        alone: by layer, the error of the outputs where it alone is quantised; empty where the
            drop held at once.
        kept: the layers that went back.
    """

    plan: Plan
    drop: float
    alone: dict[str, float]
    kept: tuple[str, ...]


def hold(
    search: Search,
    plan: Plan,
    choice: Choice,
    drop: Drop,
    most: float,
    kept: Collection[str] = (),
) -> Held:
    """Return the plan with the fewest layers in float32 whose drop is no more than `most`.

    How many go back is found by bisection, since more of them cost less as a rule; the drop of
    the plan that is returned was measured.

    Args:
        search: the data.
        plan: with all layers but `kept` quantised.
        choice: how its scales were chosen.
        drop: measures a plan.
        most: the largest drop.
        kept: layers that stay in float32 in any case.
    """
    first = drop(plan)
    if first <= most:
        return Held(plan, first, {}, ())
    alone: dict[str, float] = {}
    for name in plan.placement.layers:
        search.progress(f"measuring what {name} costs")
        alone[name] = search.alone(plan, name)
    order = sorted(alone, key=lambda name: -alone[name])
    low, high = 0, len(order)  # `low` go back: it is too much; `high`: nothing is quantised
    best = (search.plan(choice, {*kept, *order}, final=True), 0.0)
    while high - low > 1:
        middle = (low + high) // 2
        search.progress(f"trying {middle} layers in float32")
        tried = search.plan(choice, {*kept, *order[:middle]}, final=True)
        found = drop(tried)
        if found <= most:
            high, best = middle, (tried, found)
        else:
            low = middle
    return Held(best[0], best[1], alone, tuple(order[:high]))
