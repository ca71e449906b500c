"""What a study can show, before it starts: the chance that a level that costs nothing passes.

Power is simulated from the normal model of `secateur.study.statistics.crossed` and tested as
`noninferior` tests: the spread between seeds is drawn, since three seeds know it badly; that
between examples is taken as known, since there are hundreds of them at least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from secateur.errors import UsageError, refuse_wrong, whole
from secateur.study.statistics.crossed import mean_squares
from secateur.study.statistics.intervals import check_confidence, finite, moments
from secateur.study.statistics.pairs import Differences
from secateur.study.statistics.region import MINIMUM_SEEDS

_REPETITIONS = 4000  # a chance of 0.5 then has a standard error of 0.008
_MOST_SEEDS = 1000
_MOST_LEVELS = 100


@dataclass(frozen=True, slots=True)
class Noise:
    """How much the difference between a cut network and its reference varies.

    Raises:
        UsageError: a field is out of its range.
    """

    seed_sd: float = 0.28
    """Standard deviation, between seeds on one test set, of the mean difference, in the metric's
    unit. 0.28 points is that of two networks of 0.2 points each, as on CIFAR-10."""
    example_sd: float = 100 * math.sqrt(0.05)
    """Standard deviation of the difference on one example, between examples, in the metric's unit.
    In per cent, networks that disagree on the fraction q of examples have 100 sqrt(q)."""
    shared: float = 0.1
    """Fraction of that variance that all seeds have in common: examples that the cut itself makes
    harder. The rest is drawn anew by every seed, and is part of `seed_sd`. Cuts that cost nothing
    have little of it."""
    between_levels: float = 0.5
    """Correlation of the differences of two levels, which have the reference in common."""
    step: float | None = 100.0
    """As in `Differences`: 100 for correct or incorrect in per cent."""
    origin: str = "assumed"
    """Where it comes from: assumed, or observed."""

    def __post_init__(self) -> None:
        fraction = "from 0 to 1"
        refuse_wrong(
            self,
            ("seed_sd", lambda v: 0 <= v < math.inf, "finite and not negative"),
            ("example_sd", lambda v: 0 <= v < math.inf, "finite and not negative"),
            ("shared", lambda v: 0 <= v <= 1, fraction),
            ("between_levels", lambda v: 0 <= v <= 1, fraction),
            ("step", lambda v: v is None or 0 < v < math.inf, "positive, or None"),
        )


ASSUMED = Noise()
"""Accuracy in per cent of networks such as those on CIFAR-10: 0.28 points between seeds, and
predictions that differ in whether they are right on 5 % of the examples."""


@dataclass(frozen=True, slots=True)
class Power:
    """The chance that one level that costs nothing is certified, and that all of a sequence are."""

    level: float
    sequence: float


def observed(differences: Differences, *, between_levels: float = 0.5) -> Noise:
    """Return the noise that differences of at least two seeds show.

    Without examples their variance counts as nothing, and power is then that of a test which
    covers new seeds alone: give `power` no examples either.

    Raises:
        UsageError: there is a single seed.
    """
    _, sd = moments(finite(differences.by_seed))
    if sd is None:
        raise UsageError("one seed shows no spread; give the differences of at least two")
    if differences.examples is None:
        return Noise(sd, 0.0, 0.0, between_levels, None, "observed")
    squares = mean_squares(differences)
    shared = squares.between_examples / squares.seed_count
    whole_variance = shared + squares.rest
    return Noise(
        sd,
        math.sqrt(whole_variance),
        shared / whole_variance if whole_variance else 0.0,
        between_levels,
        differences.step,
        "observed",
    )


@lru_cache(maxsize=256)
def power(
    seeds: int,
    levels: int,
    examples: int | None,
    margin: float,
    confidence: float = 0.95,
    noise: Noise = ASSUMED,
) -> Power:
    """Return the chance to certify levels that truly cost nothing, by simulation.

    It is the same at every call: the numbers are drawn from one fixed stream. Their standard error
    is at most 0.008.

    Args:
        seeds: of the study.
        levels: in its sequence of tests.
        examples: in the test set; None for a test that covers new seeds alone.
        margin: in the metric's unit.
        confidence: of each one-sided test.
        noise: of the differences.

    Raises:
        UsageError: there are fewer than two seeds, no level or fewer than two examples, the
            margin is negative or not finite, or the confidence lies outside (0, 1).
    """
    _check(seeds, levels, examples, margin, confidence)
    passed = _passed(seeds, levels, examples, margin, confidence, noise)
    return Power(float(passed.mean()), float(passed.all(axis=1).mean()))


def seeds_needed(
    levels: int,
    examples: int | None,
    margin: float,
    confidence: float = 0.95,
    noise: Noise = ASSUMED,
    *,
    chance: float = 0.8,
    most: int = 20,
) -> int | None:
    """Return the fewest seeds, three at least, with which a whole sequence passes so often.

    None where `most` are too few. Arguments and errors are those of `power`.
    """
    least = MINIMUM_SEEDS
    if most < least:
        return None

    def enough(seeds: int) -> bool:
        return power(seeds, levels, examples, margin, confidence, noise).sequence >= chance

    if not enough(most):
        return None
    while least < most:  # more seeds never have less power
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return least


def prospects(
    seeds: int,
    levels: int,
    examples: int | None,
    margin: float,
    confidence: float = 0.95,
    noise: Noise = ASSUMED,
    *,
    most: int = 20,
) -> str:
    """Say in a sentence what a study can show, and how many seeds would do.

    Arguments and errors are those of `power`; fewer than three seeds certify nothing, and `most`
    is how many are thought of.
    """
    counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
    if seeds < MINIMUM_SEEDS:
        _check(2, levels, examples, margin, confidence)
        said, enough = f"{counted}: nothing is certified with fewer than {MINIMUM_SEEDS}", False
    else:
        now = power(seeds, levels, examples, margin, confidence, noise)
        said = (
            f"{counted}: a level that costs nothing is certified with a chance of "
            f"{_percent(now.level)}"
        )
        said += f", {levels} in a row with {_percent(now.sequence)}" if levels > 1 else ""
        enough = now.sequence >= 0.8
    if enough:
        return said
    needed = seeds_needed(levels, examples, margin, confidence, noise, most=max(most, seeds))
    if needed is not None:
        then = power(needed, levels, examples, margin, confidence, noise)
        both = [then.level, then.sequence][: min(levels, 2)]
        return f"{said}; {needed} seeds would have {', '.join(map(_percent, both))}"
    more = "a wider margin" if examples is None else "more test examples or a wider margin"
    return f"{said}; {max(most, seeds)} seeds would not bring it to 80 %, only {more} would"


def basis(noise: Noise, unit: str) -> str:
    """Say what noise a plan counts on.

    Args:
        noise: that `prospects` was given.
        unit: of a difference, as it stands behind a number: "points" for one in per cent.
    """
    examples = (
        f"right or wrong otherwise on {100 * (noise.example_sd / noise.step) ** 2:.2g} % of the "
        "test examples"
        if noise.step
        else f"{noise.example_sd:.3g} {unit} between test examples"
    )
    return (
        f"{noise.origin}: a standard deviation of {noise.seed_sd:.2g} {unit} between seeds, "
        f"{examples}, {100 * noise.shared:.2g} % of that alike for all seeds"
    )


def _passed(
    seeds: int, levels: int, examples: int | None, margin: float, confidence: float, noise: Noise
) -> NDArray[np.bool_]:
    """Return which levels pass their test, [repetitions, levels]."""
    rng = np.random.default_rng(0)
    variance = noise.example_sd**2 / examples if examples else 0.0
    shared, own = noise.shared * variance, (1.0 - noise.shared) * variance
    # Every seed draws its own part of the examples' error, so it cannot spread less than that.
    sd = max(noise.seed_sd, math.sqrt(own))
    by_seed = sd * _levels(rng, levels, seeds, noise)
    mean = by_seed.mean(1) + math.sqrt(shared) * _levels(rng, levels, 1, noise)[:, 0]
    between = np.maximum(by_seed.var(1, ddof=1), own)
    error = np.sqrt(between / seeds + shared)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = (seeds - 1) * (1.0 + seeds * shared / between) ** 2
        most = examples - 1.0 if examples else math.inf
        passed = stdtr(np.fmin(degrees, most), (mean + margin) / error) > confidence
    passed = np.where(error > 0.0, passed, mean + margin > 0.0)
    if examples and noise.step:
        share = min(margin / noise.step, 1.0)
        least = noise.step * math.sqrt(share * (1.0 - share) / examples)
        passed &= mean + margin > float(ndtri(confidence)) * least
    return np.asarray(passed, dtype=np.bool_)


def _levels(rng: np.random.Generator, levels: int, seeds: int, noise: Noise) -> NDArray[np.float64]:
    """Return standard normal numbers [repetitions, seeds, levels], correlated between levels."""
    common = rng.standard_normal((_REPETITIONS, seeds, 1))
    own = rng.standard_normal((_REPETITIONS, seeds, levels))
    return math.sqrt(noise.between_levels) * common + math.sqrt(1.0 - noise.between_levels) * own


def _check(seeds: int, levels: int, examples: int | None, margin: float, confidence: float) -> None:
    check_confidence(confidence)
    for name, value, least, most in (
        ("seeds", seeds, 2, _MOST_SEEDS),
        ("levels", levels, 1, _MOST_LEVELS),
        ("examples", 2 if examples is None else examples, 2, math.inf),
    ):
        if not (whole(value) and least <= value <= most):
            upper = "" if most == math.inf else f" to {most}"
            raise UsageError(f"{name} is {value}, but must be a whole number from {least}{upper}")
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin must be a finite number >= 0, in the metric's unit; got {margin}")


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f} %"
