"""Ranges of values, from what they are on calibration data, and the scales that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from secateur.errors import UsageError

BINS = 8192
"""Of a histogram from -limit to limit, of which at least a quarter is used."""

SMALLEST = 2.0**-60
"""Of a scale: products of two are no denormals."""

LARGEST = float(np.finfo(np.float32).max) / 256
"""Of a scale: 255 steps are finite."""

METHODS = ("minmax", "p99.999", "p99.99", "p99.9", "mse")
"""Ways to choose a range: all that was seen; all but a share at either end; that of the smallest
mean squared error of the rounded value."""


@dataclass(frozen=True)
class Scale:
    """How a value is stored in 8 bit: `(q - zero) * step`, q from 0 to 255.

    Attributes:
        step: positive and finite.
        zero: what 0 is stored as, so that 0 is exact.
    """

    step: np.float32
    zero: np.uint8

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Return float32 values as they are after rounding to 8 bit, ties to even."""
        with np.errstate(over="ignore"):  # beyond the range, and clipped
            q = np.rint(x / self.step)
        zero = np.float32(self.zero)
        q += zero
        np.clip(q, 0, 255, out=q)
        q -= zero
        q *= self.step
        return q


def scale_of(low: float, high: float) -> Scale:
    """Return the scale of a range, which takes in 0; of no width, that of steps of 1."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return Scale(np.float32(1), np.uint8(0))
    step = np.float32(min(max((high - low) / 255, SMALLEST), LARGEST))
    zero = int(np.clip(np.rint(-low / float(step)), 0, 255))
    return Scale(step, np.uint8(zero))


@dataclass
class Histogram:
    """Counts of the numbers of a value; its limit doubles when a number is beyond it."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    limit: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def add(self, name: str, array: np.ndarray) -> None:
        """Count the numbers of an array.

        Args:
            name: of the value, for errors.
            array: float32.

        Raises:
            UsageError: NaN or infinity is among them.
        """
        if not array.size:
            return
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            raise UsageError(
                f"value {name!r} of the network is NaN or infinite on the calibration data; give "
                "data that the network is meant for"
            )
        self._widen(max(-low, high))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.limit:
            self.counts[BINS // 2] += array.size
            return
        wide = np.dtype(np.float64 if self.limit > 1e30 else np.float32)
        places = np.multiply(array, BINS / 2 / self.limit, dtype=wide)
        places += BINS // 2
        indices = places.astype(np.int64).reshape(-1)
        np.clip(indices, 0, BINS - 1, out=indices)
        self.counts += np.bincount(indices, minlength=BINS)

    def merged(self, other: Histogram) -> Histogram:
        """Return the counts of both."""
        mine, its = self._copy(), other._copy()
        mine._widen(its.limit)
        its._widen(mine.limit)
        mine.counts += its.counts
        mine.low, mine.high = min(mine.low, its.low), max(mine.high, its.high)
        return mine

    def _copy(self) -> Histogram:
        return Histogram(self.counts.copy(), self.limit, self.low, self.high)

    def _widen(self, most: float) -> None:
        """Let the limit be a power of two, and at least so much."""
        if most <= self.limit:
            return
        wanted = float(2.0 ** np.ceil(np.log2(max(most, 2.0**-100))))
        if self.limit:
            while self.limit < wanted:
                pairs = self.counts.reshape(-1, 2).sum(1)
                self.counts = np.pad(pairs, BINS // 4)
                self.limit *= 2
        self.limit = max(self.limit, wanted)

    def range(self, method: str) -> tuple[float, float]:
        """Return the ends of the range by one of `METHODS`."""
        if method == "minmax" or self.low == self.high == 0 or not self.limit:
            return self.low, self.high
        if method == "mse":
            return self._least_error()
        share = float(method.removeprefix("p")) / 100
        total = np.cumsum(self.counts)
        edges = (np.arange(BINS + 1) / (BINS / 2) - 1) * self.limit
        first = int(np.searchsorted(total, total[-1] * (1 - share), side="right"))
        last = int(np.searchsorted(total, total[-1] * share))
        return max(self.low, float(edges[first])), min(self.high, float(edges[last + 1]))

    def _least_error(self) -> tuple[float, float]:
        used = np.flatnonzero(self.counts)
        middles = ((used + 0.5) / (BINS / 2) - 1) * self.limit
        middles[used == BINS // 2] = max(self.low, 0.0)  # what a ReLU cuts off is 0, exactly
        weights = self.counts[used].astype(np.float64)

        def error(low: float, high: float) -> float:
            scale = scale_of(low, high)
            step, zero = float(scale.step), float(scale.zero)
            q = np.clip(np.rint(middles / step) + zero, 0, 255)
            return float(np.dot(weights, ((q - zero) * step - middles) ** 2))

        best = (error(self.low, self.high), self.low, self.high)
        for part in np.geomspace(1, 0.1, 60)[1:]:
            low, high = self.low * part, self.high * part
            best = min(best, (error(low, high), low, high))
        if self.low < 0 < self.high:
            _, low, high = best
            for part in np.geomspace(0.5, 2, 41):
                for ends in ((max(self.low, low * part), high), (low, min(self.high, high * part))):
                    best = min(best, (error(*ends), *ends))
        return best[1], best[2]
