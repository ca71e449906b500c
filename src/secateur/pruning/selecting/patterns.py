"""What shapes a mask may have: single weights, n of every m, blocks, whole channels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from secateur.errors import BudgetError


@dataclass(frozen=True, slots=True)
class NofM:
    """Exactly n of every m consecutive weights along the inputs are kept."""

    n: int
    m: int

    @property
    def keep(self) -> float:
        """The keep ratio n / m."""
        return self.n / self.m


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole blocks of the matrix [outputs, inputs * kernel positions] are kept or cut."""

    rows: int
    columns: int


Pattern = Literal["weight", "channel"] | NofM | Blocks

_PAIR = re.compile(r"(\d{1,9})([:x])(\d{1,9})", re.ASCII)


def parse(pattern: str) -> Pattern:
    """Return what a pattern's name says.

    Args:
        pattern: "weight": every weight by itself; "n:m" with 1 <= n <= m, such as "2:4"; "RxC",
            blocks of R rows and C columns, such as "1x4"; "channel": whole channels.

    Raises:
        BudgetError: it is none of these; says what is wrong and what it may be.
    """
    if pattern == "weight":
        return "weight"
    if pattern == "channel":
        return "channel"
    found = _PAIR.fullmatch(pattern) if isinstance(pattern, str) else None
    if not found:
        raise BudgetError(_refusal(pattern, ""))
    first, second = int(found[1]), int(found[3])
    if found[2] == "x":
        if not (first and second):
            raise BudgetError(_refusal(pattern, ", blocks without weights"))
        return Blocks(first, second)
    if not 1 <= first <= second:
        raise BudgetError(_refusal(pattern, f", and {first} of every {second} cannot be kept"))
    return NofM(first, second)


def _refusal(pattern: object, why: str) -> str:
    return (
        f"pattern is {pattern!r}{why}; it must be 'weight', 'n:m' with 1 <= n <= m such as '2:4', "
        "blocks of rows x columns such as '1x4', or 'channel'"
    )
