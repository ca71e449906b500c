"""The error of a mean difference over seeds x test examples, where both are samples.

A study measures S seeds on the same N test examples. Whoever reads its mean difference asks about
another training (a new seed) on other data (new examples), so both vary, and they are crossed:
every seed sees every example. The radiology of many readers and many cases has the same question,
and this is its analysis, for one difference.

The difference of seed s on example i is taken as

    d[s, i] = mean + seed[s] + example[i] + rest[s, i]

with independent effects of variance Vs, Ve and Vr. Averaged over all, the error of the mean is

    Var = Vs / S + Ve / N + Vr / (S N).

Three mean squares estimate it; each counts its effect as often as it is repeated:

    MS_seeds    = N sum_s (d[s, .] - d[., .])^2 / (S - 1)        expects N Vs + Vr
    MS_examples = S sum_i (d[., i] - d[., .])^2 / (N - 1)        expects S Ve + Vr
    MS_rest     = sum (d[s, i] - d[s, .] - d[., i] + d[., .])^2 / ((S - 1)(N - 1)),  expects Vr

so that S N Var = MS_seeds + (MS_examples - MS_rest). This is the analysis of Dorfman, Berbaum and
Metz (1992), equal to that of Obuchowski and Rockette (1995) where scores are means over examples.
Hillis (2007) takes max(MS_examples - MS_rest, 0), and gives the sum the degrees of freedom

    (MS_seeds + max(MS_examples - MS_rest, 0))^2 / (MS_seeds^2 / (S - 1)),

Satterthwaite's, in which only MS_seeds counts as uncertain, as it alone has few of its own.

Two things are changed here, both to the safe side: in simulations of right and wrong answers,
levels at the margin were certified in 6 % of studies of three seeds instead of 5 %, and in up to
19 % where disagreements were few (tests/test_crossed_simulation.py holds what is below).

1. No variance is negative, that of seeds neither, so MS_seeds is never taken as smaller than
   MS_rest, in the error or in the degrees of freedom. With it, seeds that agree by chance, or all
   agree, no longer make an interval narrow; its width is zero only where all d are equal. The
   degrees of freedom end at N - 1, those of MS_examples.
2. Where a score takes one of two values that lie `step` apart, a mean of -m needs at least the
   fraction m / step of examples that lose, whether or not these N happen to hold one. If all seeds
   lose the same ones, the mean then has at least the variance m (step - m) / N, so a mean of -m is
   also tested with that one: the score test of a proportion, whose interval is Wilson's (1927).
   On 360 examples without any disagreement the bound is then 0.75 points, not zero. It decides
   only where disagreements are few.

Sources:
    Dorfman, Berbaum & Metz (1992), Receiver operating characteristic rating analysis:
        generalization to the population of readers and patients with the jackknife method,
        Investigative Radiology 27, 723-731.
    Obuchowski & Rockette (1995), Hypothesis testing of diagnostic accuracy for multiple readers
        and multiple tests: an ANOVA approach with dependent observations, Communications in
        Statistics - Simulation and Computation 24, 285-308.
    Hillis (2007), A comparison of denominator degrees of freedom methods for multiple observer ROC
        analysis, Statistics in Medicine 26, 596-619.
    Satterthwaite (1946), An approximate distribution of estimates of variance components,
        Biometrics Bulletin 2, 110-114.
    Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal
        of the American Statistical Association 22, 209-212.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr

from secateur.errors import UsageError
from secateur.study.statistics.intervals import (
    SEEDS,
    SEEDS_AND_EXAMPLES,
    Covers,
    Interval,
    check_confidence,
    finite,
    moments,
    t_quantile,
)
from secateur.study.statistics.pairs import Differences


@dataclass(frozen=True, slots=True)
class MeanSquares:
    """The mean squares of a table of differences [seeds, examples], in the unit's square."""

    seeds: float
    examples: float
    rest: float
    seed_count: int
    example_count: int

    @property
    def between_seeds(self) -> float:
        """The larger of the mean squares of seeds and of the rest: Vs is not negative."""
        return max(self.seeds, self.rest)

    @property
    def between_examples(self) -> float:
        """S times the variance that examples share between seeds, Ve, which is not negative."""
        return max(self.examples - self.rest, 0.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference and how sure it is, as tests and intervals need it.

    `error` is its standard error, None for a single seed, and `degrees` what t it is compared
    with. `examples` and `step` are those of scores with two values, None otherwise.
    """

    mean: float
    sd: float | None
    error: float | None
    degrees: float
    n: int
    covers: Covers
    examples: int | None = None
    step: float | None = None

    def bound(self, confidence: float, side: float) -> float:
        """Return the end of a one-sided interval.

        Args:
            confidence: of that side alone, in (0, 1).
            side: -1 for the lower end, 1 for the upper.

        Raises:
            UsageError: there is a single seed.
        """
        ours = -side * self.mean  # seen from the end that is asked for, more is better
        end = ours - t_quantile(self.degrees, confidence) * self._error
        if self.step and self.examples:
            share = _largest_share(-ours / self.step, float(ndtri(confidence)), self.examples)
            end = min(end, -self.step * share) if share is not None else end
        return -side * end

    def p_value(self, margin: float, side: float) -> float:
        """Return how likely a mean this good is where the truth is worse by the margin.

        Args:
            margin: >= 0, in the unit of the mean.
            side: -1 where a lower mean is worse, 1 where a higher one is.

        Raises:
            UsageError: there is a single seed.
        """
        ours, gap = -side * self.mean, -side * self.mean + margin
        p = _tail(gap, self._error, self.degrees)
        if not (self.step and self.examples):
            return p
        # Of all shares that lose at least the margin, the one that explains the mean best.
        gain = max(ours / self.step, 0.0)
        share = max(margin / self.step, gain / (1.0 + 2.0 * gain))
        spread = math.sqrt(max(share * (1.0 - share), 0.0) / self.examples)
        return max(p, _tail(ours / self.step + share, spread, None))

    @property
    def _error(self) -> float:
        if self.error is None:
            raise UsageError("one seed has no spread to test against: give at least two seeds")
        return self.error


def mean_squares(differences: Differences) -> MeanSquares:
    """Return the mean squares of differences over at least two seeds, whose examples are known.

    Raises:
        UsageError: there is a single seed, or there are no examples.
    """
    table = differences.examples
    if table is None or len(differences) < 2:
        raise UsageError("mean squares need the differences by example of at least two seeds")
    d = table.astype(np.float64)
    of_seeds, of_examples, mean = d.mean(1), d.mean(0), d.mean()
    rest = d - of_seeds[:, None] - of_examples[None, :] + mean
    s, n = d.shape
    return MeanSquares(
        seeds=n * float(np.square(of_seeds - mean).sum()) / (s - 1),
        examples=s * float(np.square(of_examples - mean).sum()) / (n - 1),
        rest=float(np.square(rest).sum()) / ((s - 1) * (n - 1)),
        seed_count=s,
        example_count=n,
    )


def estimate(differences: Differences) -> Estimate:
    """Return the mean of differences and its error, over examples too where they are known."""
    mean, sd = moments(finite(differences.by_seed))
    s = len(differences)
    if sd is None or differences.examples is None:
        return Estimate(mean, sd, sd and sd / math.sqrt(s), s - 1, s, SEEDS)
    squares = mean_squares(differences)
    seeds, n = squares.between_seeds, squares.example_count
    total = seeds + squares.between_examples
    return Estimate(
        mean=mean,
        sd=sd,
        error=math.sqrt(total / (s * n)),
        degrees=degrees_of_freedom(seeds, total, s, n),
        n=s,
        covers=SEEDS_AND_EXAMPLES,
        examples=n,
        step=differences.step,
    )


def degrees_of_freedom(seeds: float, total: float, seed_count: int, example_count: int) -> float:
    """Return Hillis's degrees of freedom, at most N - 1; see the head of this file."""
    most = example_count - 1.0
    # A mean square of seeds that is nothing beside the total leaves that of examples alone.
    return min((seed_count - 1) * (total / seeds) ** 2, most) if seeds > 1e-12 * total else most


def interval(differences: Differences, confidence: float = 0.95) -> Interval:
    """Return the mean difference with its two-sided interval, and what that covers.

    It is about new seeds and new test examples where the examples are known, and otherwise that of
    `t_interval`. The formula stands at the head of this file.

    Raises:
        UsageError: the confidence lies outside (0, 1).
    """
    check_confidence(confidence)
    found = estimate(differences)
    if found.error is None:
        return Interval(found.mean, None, None, None, found.n, confidence, found.covers)
    low, high = (found.bound((1.0 + confidence) / 2.0, side) for side in (-1.0, 1.0))
    return Interval(found.mean, found.sd, low, high, found.n, confidence, found.covers)


def _tail(gap: float, error: float, degrees: float | None) -> float:
    """Return the chance of more than gap / error, under Student's t or, for None, the normal."""
    if error > 0.0:
        return float(ndtr(-gap / error) if degrees is None else stdtr(degrees, -gap / error))
    return 0.0 if gap > 0.0 else 1.0


def _largest_share(seen: float, quantile: float, count: int) -> float | None:
    """Return the largest p with p - seen <= quantile sqrt(p (1 - p) / count), None without any.

    `seen` is negative where more examples win than lose. For 0 <= seen <= 1 this is the upper end
    of Wilson's interval.
    """
    k = quantile * quantile / count
    if quantile < 0.0 or 2.0 * seen + k <= 0.0:
        return None
    root = (2.0 * seen + k) ** 2 - 4.0 * (1.0 + k) * seen * seen
    return (2.0 * seen + k + math.sqrt(root)) / (2.0 * (1.0 + k)) if root >= 0.0 else None
