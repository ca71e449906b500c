"""Figures of a few seeds: their mean, their spread, and Student's interval.

Source: Student (1908), The probable error of a mean, Biometrika 6, 1-25.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scipy.special import stdtrit

from secateur.errors import UsageError

Covers = Literal["new seeds, on these test examples", "new seeds and new test examples"]
"""What an interval or a test speaks about."""
SEEDS: Covers = "new seeds, on these test examples"
SEEDS_AND_EXAMPLES: Covers = "new seeds and new test examples"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval, all in the unit of the values.

    `sd` is the sample standard deviation over the n seeds (n - 1 in the denominator). `sd`, `low`
    and `high` are None for a single value, which has no spread. `covers` says for what the
    interval holds the mean.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    confidence: float
    covers: Covers = SEEDS


def t_interval(values: Iterable[float] | Mapping[int, float], confidence: float = 0.95) -> Interval:
    """Two-sided Student t interval of a mean: mean +- t(n - 1; (1 + confidence) / 2) sd / sqrt(n).

    `values` are one figure per seed, or a mapping from seed to figure. One seed is one independent
    observation, so the interval is about new seeds of the same recipe on the same test examples;
    it does not add the sampling error of the test set itself. Source: Student (1908).

    Raises:
        UsageError: there are no values, one is NaN or infinite (says which), or the confidence
            lies outside (0, 1).
    """
    check_confidence(confidence)
    figures = finite(values)
    n = len(figures)
    mean, sd = moments(figures)
    if sd is None:
        return Interval(mean, None, None, None, n, confidence)
    half = t_quantile(n - 1, (1.0 + confidence) / 2.0) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n, confidence)


def moments(figures: list[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; equal figures give exactly their value and 0."""
    n = len(figures)
    # Rounding must not carry the mean outside the figures: three times 0.1 has the mean 0.1.
    mean = min(max(math.fsum(figures) / n, min(figures)), max(figures))
    if n == 1:
        return mean, None
    return mean, math.hypot(*(x - mean for x in figures)) / math.sqrt(n - 1)


def finite(values: Iterable[float] | Mapping[int, float]) -> list[float]:
    """Return the figures of a mapping or of anything else that has some.

    Raises:
        UsageError: there are none, or one is NaN or infinite (says which).
    """
    if isinstance(values, Mapping):
        named = [(f"seed {seed}", float(value)) for seed, value in values.items()]
    else:
        named = [(f"value {i}", float(value)) for i, value in enumerate(values)]
    if not named:
        raise UsageError("no values: a mean needs at least one")
    for name, value in named:
        if not math.isfinite(value):
            raise UsageError(f"{name} is {value}: only finite figures can be compared")
    return [value for _, value in named]


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is no fraction.

    Raises:
        UsageError: it lies outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence lies in (0, 1), for example 0.95; got {confidence}")


@lru_cache(maxsize=256)
def t_quantile(degrees: float, probability: float) -> float:
    """Return the quantile of Student's t with so many degrees of freedom, whole or not."""
    return float(stdtrit(degrees, probability))
