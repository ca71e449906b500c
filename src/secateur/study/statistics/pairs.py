"""Differences from a reference, paired by seed and by test example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from secateur.errors import UsageError
from secateur.study.statistics.intervals import Interval, finite, t_interval

Scored = tuple[float, NDArray[np.float32] | None]
"""The mean score of a network on a test set, and the score of each example, float32 [N]."""

_AGREEMENT = 1e-4  # of the largest difference: means may be written with fewer digits than scores


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Candidate minus reference, in the metric's unit and with its sign.

    Raises:
        UsageError: there is no seed; a value is NaN or infinite; `examples` is not float32
            [seeds, N] with N >= 2; or a row of it has another mean than its seed (names the seed).
    """

    by_seed: Mapping[int, float]
    """The mean difference of each seed."""
    examples: NDArray[np.float32] | None = None
    """float32 [seeds, N], rows in the order of `by_seed`: the difference of each test example, the
    same N for all seeds in the same order. None where they are not known."""
    step: float | None = None
    """Where a score takes one of two values, such as 0 and 100, how far these lie apart; a
    difference is then -step, 0 or step. None for other scores."""

    def __post_init__(self) -> None:
        finite(self.by_seed)
        if self.examples is not None:
            _check_examples(self.by_seed, self.examples)
        if self.step is not None and not 0 < self.step < float("inf"):
            raise UsageError(f"step is {self.step}, but must be positive and finite, or None")

    def __len__(self) -> int:
        """Return the number of seeds."""
        return len(self.by_seed)


def differences(a: Mapping[int, Scored], b: Mapping[int, Scored]) -> Differences:
    """Return a - b of the seeds that both have, in increasing order of seed.

    Means are subtracted as in `paired`. Scores are used only if all common seeds have them on both
    sides, at least two and equally many: otherwise the differences are of seeds alone.

    Args:
        a: by seed, the mean score of the candidate and the scores [N] behind it, or None.
        b: the same of the reference, on the same examples in the same order.

    Raises:
        UsageError: no seed is common, a figure is NaN or infinite, or scores do not have the mean
            that is given with them (names the seed).
    """
    means = paired({s: mean for s, (mean, _) in a.items()}, {s: mean for s, (mean, _) in b.items()})
    scores = [(a[seed][1], b[seed][1]) for seed in means]
    first = [x for x, y in scores if x is not None and y is not None]
    second = [y for x, y in scores if x is not None and y is not None]
    counts = {len(each) for each in (*first, *second)}
    if len(first) < len(means) or len(counts) != 1 or counts.pop() < 2:
        return Differences(means)
    ours, theirs = np.stack(first), np.stack(second)
    both = (ours.astype(np.float64) - theirs).astype(np.float32)
    return Differences(means, both, _step(np.stack((ours, theirs))))


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
    a = finite({seed: a_by_seed[seed] for seed in common})
    b = finite({seed: b_by_seed[seed] for seed in common})
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


def _check_examples(by_seed: Mapping[int, float], examples: NDArray[np.float32]) -> None:
    if examples.dtype != np.float32 or examples.ndim != 2 or len(examples) != len(by_seed):
        raise UsageError(
            f"differences by example are {examples.dtype} {list(examples.shape)}, but must be "
            f"float32 [{len(by_seed)}, N], a row for each seed"
        )
    if examples.shape[1] < 2:
        raise UsageError("differences by example need at least two examples; give None instead")
    means = examples.mean(axis=1, dtype=np.float64)
    slack = _AGREEMENT * float(np.abs(examples).max())
    for (seed, stated), mean in zip(by_seed.items(), means.tolist(), strict=True):
        if not abs(stated - mean) <= slack + 1e-9 * abs(stated):
            raise UsageError(
                f"seed {seed} has the mean difference {stated:g}, but its examples have {mean:g}; "
                "they are not of the same measurement: measure that seed again"
            )


def _step(scores: NDArray[np.float32]) -> float | None:
    """Return how far the two values of scores lie apart; a single value and 0 count as two."""
    low, high = float(scores.min()), float(scores.max())
    if not np.isin(scores, (low, high)).all():
        return None
    return high - low or abs(low) or None


def _listed(by_seed: Mapping[int, float]) -> str:
    return "seeds " + ", ".join(map(str, sorted(by_seed))) if by_seed else "none"
