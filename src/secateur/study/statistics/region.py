"""Tests that a level is not worse than its reference, and the operating region they make.

Sources:
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

from secateur.errors import UsageError
from secateur.study.statistics.crossed import estimate
from secateur.study.statistics.intervals import SEEDS, Covers, check_confidence, finite
from secateur.study.statistics.pairs import Differences

MINIMUM_SEEDS = 3
"""Fewest seeds on which a level is certified: with two, the t quantile is 6.3 (at 95 %)."""

Given = Differences | Mapping[int, float] | Iterable[float]
"""Differences from the reference: with their examples or not, by seed, or one a seed."""


@dataclass(frozen=True, slots=True)
class Test:
    """Outcome of one one-sided non-inferiority test.

    `mean` is the mean difference, in the unit of the differences and with their sign. `bound`
    is the end, on the worse side, of its one-sided confidence interval: a lower bound where
    higher is better, an upper bound where lower is better. `passed` says that the bound lies
    strictly inside the margin, which is the same as `p_value` < 1 - confidence. `covers` says
    for what it is claimed.
    """

    mean: float
    bound: float
    p_value: float
    passed: bool
    n: int
    covers: Covers = SEEDS


@dataclass(frozen=True, slots=True)
class Region:
    """The levels (keep ratios, decreasing) certified to be non-inferior to the reference.

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


def noninferior(
    differences: Given,
    margin: float,
    confidence: float = 0.95,
    *,
    higher_is_better: bool = True,
) -> Test:
    """One-sided paired test that the candidate is worse than the reference by less than `margin`.

    `differences` are candidate - reference, in the unit of `margin`. Where they are one figure a
    seed and higher is better, the null hypothesis is mean <= -margin, rejected when

        mean - t(n - 1; confidence) sd / sqrt(n) > -margin

    and p = P(T >= (mean + margin) / (sd / sqrt(n))) with n - 1 degrees of freedom. Where their
    examples are known, error and degrees of freedom are those of seeds x examples (see
    `secateur.study.statistics.crossed`), and what is claimed holds for new examples too. Where
    lower is better, every sign is mirrored: the null hypothesis is mean >= margin. Differences
    that are all equal have no spread: the bound is their value, p is 0 or 1. Source: Blackwelder
    (1982), with the paired t statistic of Student (1908).

    Raises:
        UsageError: there are fewer than two differences, one is NaN or infinite (says which),
            the margin is negative or not finite, or the confidence lies outside (0, 1).
    """
    check_confidence(confidence)
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin must be a finite number >= 0, in the metric's unit; got {margin}")
    found = estimate(_as_differences(differences))
    if found.error is None:
        raise UsageError("one difference has no spread to test against: give at least two seeds")
    side = -1.0 if higher_is_better else 1.0
    bound = found.bound(confidence, side)
    return Test(
        mean=found.mean,
        bound=bound,
        p_value=found.p_value(margin, side),
        passed=-side * bound > -margin,
        n=found.n,
        covers=found.covers,
    )


def corrected(confidence: float, choices: int) -> float:
    """Return the confidence of each test where one of several sequences is chosen and tested.

    1 - (1 - confidence) / choices, after Bonferroni: then the chance that any of the sequences
    would certify an inferior level is at most 1 - confidence, and so that of the chosen one,
    however it is chosen.

    Validation data of other examples are no independent ground for the choice: a seed that does
    well does so on validation and test data alike, and the best of four sequences on validation
    data was certified at the margin in up to 14 % of simulated studies instead of 5 %. A choice
    made on other seeds, which are not tested, needs no correction.

    Raises:
        UsageError: the confidence lies outside (0, 1), or there is no choice.
    """
    check_confidence(confidence)
    if choices < 1:
        raise UsageError(f"choices must be at least 1, the sequence that is tested; got {choices}")
    return 1.0 - (1.0 - confidence) / choices if choices > 1 else confidence


def operating_region(
    differences_by_keep: Mapping[float, Given],
    margin: float,
    confidence: float = 0.95,
    *,
    minimum_seeds: int = MINIMUM_SEEDS,
    choices: int = 1,
    higher_is_better: bool = True,
) -> Region:
    """Certify levels from low to high sparsity, and stop at the first that fails.

    `differences_by_keep` maps a keep ratio to its differences from the reference (see
    `noninferior`); a level without data is given as empty. Every test has the full error rate
    1 - confidence: because the order is fixed in advance and nothing is tested after a failure,
    the probability to certify *any* inferior level is at most 1 - confidence, however the levels
    depend on each other. Source: fixed-sequence testing, Maurer, Hothorn & Lehmacher (1995);
    Westfall & Krishen (2001).

    A level with fewer than `minimum_seeds` differences is refused, which ends the sequence
    too: skipping it would leave a hole in the region.

    Where the sequence is one of several, chosen by looking at these seeds (on whatever data), say
    how many as `choices`: every test then has the confidence of `corrected`. One is chosen for all
    levels; a choice anew at each level is not covered.

    Raises:
        UsageError: there are no levels, a keep ratio lies outside (0, 1], `minimum_seeds` is
            below 2, `choices` below 1, or `noninferior` raises it for a level that is reached.
    """
    if not differences_by_keep:
        raise UsageError("no levels: an operating region needs at least one keep ratio")
    if minimum_seeds < 2:
        raise UsageError(f"minimum_seeds must be at least 2, got {minimum_seeds}")
    confidence = corrected(confidence, choices)
    levels = sorted(differences_by_keep, reverse=True)
    tests: dict[float, Test | None] = dict.fromkeys(levels)
    certified: list[float] = []
    stopped_at: float | None = None
    refusal: str | None = None
    for keep in levels:
        if not 0.0 < keep <= 1.0:
            raise UsageError(f"a keep ratio lies in (0, 1], got {keep}")
        given = differences_by_keep[keep]
        differences = given if isinstance(given, Differences | Mapping) else list(given)
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


def _as_differences(given: Given) -> Differences:
    if isinstance(given, Differences):
        return given
    if isinstance(given, Mapping):
        return Differences(given)
    return Differences(dict(enumerate(finite(given))))


def _refusal(keep: float, found: int, needed: int) -> str:
    seeds = "1 seed" if found == 1 else f"{found} seeds"
    return (
        f"no certificate at keep ratio {keep:g}: {seeds} can be compared with the reference and "
        f"{needed} are needed; finish the study, or run it with more --seeds"
    )
