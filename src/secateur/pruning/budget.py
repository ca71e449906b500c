"""How many weights a cut keeps, and where: a frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal, get_args

from secateur.errors import BudgetError

Scope = Literal["global", "layer"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What to keep of all prunable weights.

    Raises:
        BudgetError: a field is out of its range; says which and what it may be.
    """

    keep: float
    """Keep ratio, in (0, 1]: the fraction of the weights that is kept."""
    scope: Scope = "global"
    """global: rank all weights together; layer: keep the same fraction of every tensor."""
    floor: float = 0.002
    """Fraction of every tensor's weights, in [0, 1], that is kept at any keep ratio; where it is
    above 0, every tensor keeps at least one weight."""

    def __post_init__(self) -> None:
        if not _is_number(self.keep) or not 0 < self.keep <= 1:
            raise BudgetError(
                f"keep is {self.keep!r}, but must be a keep ratio in (0, 1]; "
                "0.1 keeps 10 % of the weights (sparsity 90 %)"
            )
        if self.scope not in get_args(Scope):
            raise BudgetError(f"scope is {self.scope!r}, but must be 'global' or 'layer'")
        if not _is_number(self.floor) or not 0 <= self.floor <= 1:
            raise BudgetError(
                f"floor is {self.floor!r}, but must be the fraction of every tensor that is "
                "always kept, in [0, 1]; 0 means no floor"
            )

    def count(self, total: int) -> int:
        """Return K, how many of `total` >= 1 weights are kept.

        K = round(keep * total) with Python's `round`, so halves go to the even number
        (2.5 → 2, 3.5 → 4), but never less than 1. It never falls while `keep` rises.
        """
        return max(1, round(self.keep * total))

    def least(self, size: int) -> int:
        """Return how many of a tensor's `size` weights its floor keeps: ceil(floor * size).

        The product is exact in the floor's decimal digits (0.07 of 100 is 7, not 8). At least 1
        where the floor is above 0 and the tensor is not empty.
        """
        return math.ceil(Fraction(str(self.floor)) * size)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
