"""How figures are written: one rule for the page, its script and the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secateur.study.statistics import Interval
from secateur.study.summary import Summary

RECOVERIES = {
    "ladder": "down the ladder",
    "none": "cut only",
    "batchnorm": "+ batch-norm recalibration",
    "reconstruct": "+ reconstruction",
}
VERDICTS = {"": "", "yes": "certified", "no": "not certified", "not tested": "not tested"}
_MOST_DIGITS = 12
_SPACE = "\u00a0"  # a number and its unit stay on one line


@dataclass(frozen=True, slots=True)
class Units:
    """The metric's unit, that of its differences, and how many decimals both are given."""

    unit: str
    difference_unit: str
    digits: int
    higher_is_better: bool

    @classmethod
    def of(cls, summary: Summary) -> Units:
        """Return the units of a study's metric."""
        return cls.chosen(summary.unit, summary.margin, summary.higher_is_better)

    @classmethod
    def chosen(cls, unit: str, margin: float, higher_is_better: bool) -> Units:
        """Choose decimals by the margin: one more than its first figure has."""
        first = math.floor(math.log10(margin)) if margin > 0 else 0
        digits = min(max(1 - first, 0), _MOST_DIGITS)
        return cls(unit, "points" if unit == "%" else unit, digits, higher_is_better)

    @property
    def worse_sign(self) -> str:
        """The sign of a difference to the worse: a real minus, or a plus."""
        return "−" if self.higher_is_better else "+"

    def number(self, value: float, *, signed: bool = False) -> str:
        """Return the bare number, with a real minus sign; `signed` shows a plus as well."""
        text = f"{value:{'+' if signed else ''}.{self.digits}f}"
        if float(text) == 0:
            text = text.lstrip("+-")
        return text.replace("-", "−")

    def value(self, value: float) -> str:
        """Return the number with the metric's unit."""
        return _joined(self.number(value), self.unit)

    def judged(self, value: float) -> str:
        """Return a signed difference with its unit, and whether it is better or worse."""
        shown = self.number(value, signed=True)
        verdict = " (worse)" if shown.startswith(self.worse_sign) else " (better)"
        return _joined(shown, self.difference_unit) + verdict * (shown[0] in "+−")

    def amount(self, value: float) -> str:
        """Return the size of a difference with its unit, as exact as the metric is given."""
        return _joined(self.number(value), self.difference_unit)

    def margin(self, value: float) -> str:
        """Return a margin as it was declared, with its unit."""
        return _joined(f"{value:g}", self.difference_unit)

    def limits(self, interval: Interval, *, signed: bool = False) -> str:
        """Return `[low, high]`, or `n = 1` where a single value has no interval."""
        if interval.low is None or interval.high is None:
            return f"n = {interval.n}"
        ends = (self.number(end, signed=signed) for end in (interval.low, interval.high))
        return f"[{', '.join(ends)}]"


def measure(summary: Summary) -> str:
    """Return the metric with its unit, as an axis names it, and with its direction if lower."""
    direction = "" if summary.higher_is_better else "lower is better"
    notes = [note for note in (summary.unit, direction) if note]
    return f"{summary.metric} ({', '.join(notes)})" if notes else summary.metric


def percent(fraction: float) -> str:
    """Return a fraction as a percentage without needless figures: 80 % for 0.8."""
    return f"{round(100 * fraction, 8):g}{_SPACE}%"


def size(count: float) -> str:
    """Return a number of bytes in B, kB, MB or GB (powers of 1000), three figures."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g}{_SPACE}{unit}"
        count /= 1000
    return f"{count:.3g}{_SPACE}GB" if count < 999.5 else f"{count:,.0f}{_SPACE}GB"


def duration(seconds: float) -> str:
    """Return seconds as `1 h 02 min`, `3 min 05 s` or `4.2 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, noun: str) -> str:
    """Return a number of things, as 1 seed or 3 seeds."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def curve_name(criterion: str, recovery: str) -> str:
    """Return the name of a curve in a sentence."""
    return f"{criterion}, {recovery_name(recovery)}"


def recovery_name(recovery: str) -> str:
    """Return the name by which a recovery's curve goes."""
    return RECOVERIES.get(recovery, f"+ {recovery}")


def _joined(number: str, unit: str) -> str:
    return f"{number}{_SPACE}{unit}" if unit else number
