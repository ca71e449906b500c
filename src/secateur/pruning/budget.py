"""How much may stay, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Budget:
    """A keep ratio with its scope and floor.

    Raises:
        BudgetError: a field is out of its range.
    """

    keep: float
    """Fraction of the prunable weights that is kept, in (0, 1]."""
    scope: Literal["global", "layer"] = "global"
    """Rank all weights together (global), or each tensor's among themselves (layer)."""
    floor: float = 0.002
    """Fraction of every tensor's weights that is kept at any ratio, in [0, 1]; where it is not
    0, at least one weight of each tensor."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise BudgetError(
                f"the keep ratio is {self.keep!r}, but must be in (0, 1]; "
                "for 90 % sparsity it is 0.1"
            )
        if self.scope not in ("global", "layer"):
            raise BudgetError(f"the scope is {self.scope!r}, but must be global or layer")
        if not 0 <= self.floor <= 1:
            raise BudgetError(f"the floor is {self.floor!r}, but must be in [0, 1]")
