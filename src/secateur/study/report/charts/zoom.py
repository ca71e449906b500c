"""How near a chart opens: what is far worse than the reference is off the scale, and marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secateur.study.summary import Summary

_PER_CENT = (5.0, 1.0)  # points to the worse, and to the better
_MARGINS = (10.0, 2.0)


def around(references: Sequence[float], summary: Summary) -> tuple[float, float]:
    """Return the lowest and the highest value shown, in the metric's unit.

    That is from 5 points worse than the worst reference to 1 point better than the best; of a
    metric that is not in per cent, from 10 margins to 2. A wide margin widens it.

    Args:
        references: the metric of what the cuts are compared with, at least one.
        summary: of the study.
    """
    worse, better = _room(summary)
    below, above = (worse, better) if summary.higher_is_better else (better, worse)
    return min(references) - below, max(references) + above


def either_side(summary: Summary) -> tuple[float, float]:
    """Return the lowest and the highest difference shown, as far from 0 as the worst value is."""
    worse, _ = _room(summary)
    return -worse, worse


def decimals(low: float, high: float) -> int:
    """Return how many decimals a value that is off a scale is given: a tenth of it or so."""
    return min(max(1 - math.floor(math.log10(high - low)), 0), 12)


def between(values: Sequence[float], digits: int) -> str:
    """Return the values' range as text: `10–35`, or one number where they are alike."""
    least, most = (f"{each(values):.{digits}f}".replace("-", "\u2212") for each in (min, max))
    return (
        least if least == most else f"{least}–{most}" if min(values) >= 0 else f"{least} to {most}"
    )


def _room(summary: Summary) -> tuple[float, float]:
    if summary.unit != "%":
        return _MARGINS[0] * summary.margin, _MARGINS[1] * summary.margin
    return max(_PER_CENT[0], 2 * summary.margin), max(_PER_CENT[1], 2 * summary.margin)
