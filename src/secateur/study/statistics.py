"""What may be concluded from a few seeds: intervals, non-inferiority, the operating region.

Everything here treats one seed as one independent observation. A statement made here is thus
about new seeds of the same recipe, measured on the same test images; it does not add the
sampling error of the test set itself.

Sources:
    Student (1908), The probable error of a mean, Biometrika 6, 1-25.
    Blackwelder (1982), "Proving the null hypothesis" in clinical trials,
        Controlled Clinical Trials 3, 345-353.
    Maurer, Hothorn & Lehmacher (1995), Multiple comparisons in drug clinical trials and
        preclinical assays: a-priori ordered hypotheses, in Vollmar (ed.), Biometrie in der
        chemisch-pharmazeutischen Industrie 6, 3-18, Fischer, Stuttgart.
    Westfall & Krishen (2001), Optimally weighted, fixed sequence and gatekeeper multiple
        testing procedures, Journal of Statistical Planning and Inference 99, 25-40.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from scipy.special import stdtr, stdtrit

from secateur.errors import UsageError

MINIMUM_SEEDS = 3
"""Fewest seeds on which a level is certified: with two, the t quantile is 6.3 (at 95 %)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval, all in the unit of the values.

    `sd` is the sample standard deviation (n - 1 in the denominator). `sd`, `low` and `high`
    are None for a single value, which has no spread.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Test:
    """Outcome of one one-sided non-inferiority test.

    `mean` is the mean difference, in the unit of the differences and with their sign. `bound`
    is the end, on the worse side, of its one-sided confidence interval: a lower bound where
    higher is better, an upper bound where lower is better. `passed` says that the bound lies
    strictly inside the margin, which is the same as `p_value` < 1 - confidence.
    """

    mean: float
    bound: float
    p_value: float
    passed: bool
    n: int


@dataclass(frozen=True, slots=True)
class Region:
    """The levels (keep ratios, decreasing) that are certified to be non-inferior to dense.

    `certified` is an unbroken run from the highest keep ratio down and `lowest_keep` its end.
    `tests` has every level; None marks one that was not tested. `stopped_at` is the first
    level that is not certified (None where all are), and `refusal` says why it could not be
    tested; it is None where that level was tested and failed.
    """

    certified: tuple[float, ...]
    lowest_keep: float | None
    tests: Mapping[float, Test | None]
    stopped_at: float | None
    refusal: str | None


def t_interval(values: Iterable[float] | Mapping[int, float], confidence: float = 0.95) -> Interval:
    """Two-sided Student t interval of a mean: mean +- t(n - 1; (1 + confidence) / 2) sd / sqrt(n).

    `values` are one figure per seed, or a mapping from seed to figure. Source: Student (1908).

    Raises:
        UsageError: there are no values, one is NaN or infinite (says which), or the confidence
            lies outside (0, 1).
    """
    _check_confidence(confidence)
    figures = _finite(values)
    n = len(figures)
    mean, sd = _moments(figures)
    if sd is None:
        return Interval(mean, None, None, None, n, confidence)
    half = _quantile(n - 1, (1.0 + confidence) / 2.0) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n, confidence)


def paired(a_by_seed: Mapping[int, float], b_by_seed: Mapping[int, float]) -> dict[int, float]:
    """Differences a - b of the seeds that both have, by seed, in increasing order of seed.

    The figures are subtracted as the decimals they are written as: 88.1 - 87.8 is 0.3, not
    0.29999999999999716, so that a rounding error never decides a test at the margin.

    Raises:
        UsageError: no seed is common, or a figure is NaN or infinite (names its seed).
    """
    common = sorted(a_by_seed.keys() & b_by_seed.keys())
    if not common:
        raise UsageError(
            f"no seed in common: one side has {_listed(a_by_seed)}, the other {_listed(b_by_seed)};"
            " run both with the same seeds"
        )
    a = _finite({seed: a_by_seed[seed] for seed in common})
    b = _finite({seed: b_by_seed[seed] for seed in common})
    return {
        seed: float(Decimal(repr(x)) - Decimal(repr(y)))
        for seed, x, y in zip(common, a, b, strict=True)
    }


def paired_interval(
    a_by_seed: Mapping[int, float], b_by_seed: Mapping[int, float], confidence: float = 0.95
) -> Interval:
    """Two-sided t interval of the mean of `paired(a_by_seed, b_by_seed)`.

    Raises:
        UsageError: as `paired` and `t_interval` do.
    """
    return t_interval(paired(a_by_seed, b_by_seed), confidence)


def noninferior(
    differences: Iterable[float] | Mapping[int, float],
    margin: float,
    confidence: float = 0.95,
    *,
    higher_is_better: bool = True,
) -> Test:
    """One-sided paired t test that the candidate is worse than dense by less than `margin`.

    `differences` are candidate - dense, one per seed, in the unit of `margin`. Where higher is
    better, the null hypothesis is mean <= -margin, rejected when

        mean - t(n - 1; confidence) sd / sqrt(n) > -margin

    and p = P(T >= (mean + margin) / (sd / sqrt(n))) with n - 1 degrees of freedom. Where lower
    is better, every sign is mirrored: the null hypothesis is mean >= margin. Differences that
    are all equal have no spread: the bound is their value, p is 0 or 1. Source: Blackwelder
    (1982), with the paired t statistic of Student (1908).

    Raises:
        UsageError: there are fewer than two differences, one is NaN or infinite (says which),
            the margin is negative or not finite, or the confidence lies outside (0, 1).
    """
    _check_confidence(confidence)
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin must be a finite number >= 0, in the metric's unit; got {margin}")
    figures = _finite(differences)
    n = len(figures)
    mean, sd = _moments(figures)
    if sd is None:
        raise UsageError("one difference has no spread to test against: give at least two seeds")
    sign = 1.0 if higher_is_better else -1.0
    error = sd / math.sqrt(n)
    bound = sign * mean - _quantile(n - 1, confidence) * error
    passed = bound > -margin
    if error > 0.0:
        p_value = float(stdtr(n - 1, -(sign * mean + margin) / error))
    else:
        p_value = 0.0 if passed else 1.0
    return Test(mean=mean, bound=sign * bound, p_value=p_value, passed=passed, n=n)


def operating_region(
    differences_by_keep: Mapping[float, Iterable[float] | Mapping[int, float]],
    margin: float,
    confidence: float = 0.95,
    *,
    minimum_seeds: int = MINIMUM_SEEDS,
    higher_is_better: bool = True,
) -> Region:
    """Certify levels from low to high sparsity, and stop at the first that fails.

    `differences_by_keep` maps a keep ratio to its differences from dense (see `noninferior`);
    a level without data is given as empty. Every test has the full error rate 1 - confidence:
    because the order is fixed in advance and nothing is tested after a failure, the
    probability to certify *any* inferior level is at most 1 - confidence, however the levels
    depend on each other. Source: fixed-sequence testing, Maurer, Hothorn & Lehmacher (1995);
    Westfall & Krishen (2001).

    A level with fewer than `minimum_seeds` differences is refused, which ends the sequence
    too: skipping it would leave a hole in the region.

    Raises:
        UsageError: there are no levels, a keep ratio lies outside (0, 1], `minimum_seeds` is
            below 2, or `noninferior` raises it for a level that is reached.
    """
    if not differences_by_keep:
        raise UsageError("no levels: an operating region needs at least one keep ratio")
    if minimum_seeds < 2:
        raise UsageError(f"minimum_seeds must be at least 2, got {minimum_seeds}")
    levels = sorted(differences_by_keep, reverse=True)
    tests: dict[float, Test | None] = dict.fromkeys(levels)
    certified: list[float] = []
    stopped_at: float | None = None
    refusal: str | None = None
    for keep in levels:
        if not 0.0 < keep <= 1.0:
            raise UsageError(f"a keep ratio lies in (0, 1], got {keep}")
        given = differences_by_keep[keep]
        differences = given if isinstance(given, Mapping) else list(given)
        if len(differences) < minimum_seeds:
            stopped_at = keep
            refusal = _refusal(keep, len(differences), minimum_seeds)
            break
        test = noninferior(differences, margin, confidence, higher_is_better=higher_is_better)
        tests[keep] = test
        if not test.passed:
            stopped_at = keep
            break
        certified.append(keep)
    lowest = certified[-1] if certified else None
    return Region(tuple(certified), lowest, tests, stopped_at, refusal)


def _refusal(keep: float, found: int, needed: int) -> str:
    seeds = "1 seed" if found == 1 else f"{found} seeds"
    return (
        f"no certificate at keep ratio {keep:g}: {seeds} can be compared with dense and {needed}"
        " are needed; finish the study, or run it with more --seeds"
    )


def _moments(figures: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; equal figures give exactly their value and 0."""
    n = len(figures)
    # Rounding must not carry the mean outside the figures: three times 0.1 has the mean 0.1.
    mean = min(max(math.fsum(figures) / n, min(figures)), max(figures))
    if n == 1:
        return mean, None
    return mean, math.hypot(*(x - mean for x in figures)) / math.sqrt(n - 1)


def _finite(values: Iterable[float] | Mapping[int, float]) -> list[float]:
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


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence lies in (0, 1), for example 0.95; got {confidence}")


@lru_cache(maxsize=256)
def _quantile(degrees: int, probability: float) -> float:
    return float(stdtrit(degrees, probability))


def _listed(by_seed: Mapping[int, float]) -> str:
    return "seeds " + ", ".join(map(str, sorted(by_seed))) if by_seed else "none"
