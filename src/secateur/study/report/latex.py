"""The rows of one curve as a LaTeX table, that a paper takes in with `\\input`.

It needs no package. Every text from a record or a spec is escaped: it is data, never a command.
"""

from __future__ import annotations

from secateur.errors import printable
from secateur.study.report.units import VERDICTS, Units, curve_name, measure, percent
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import Summary

_ESCAPED = {
    **{c: f"\\{c}" for c in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u00a0": "~",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "×": r"$\times$",
    "²": "$^2$",
}
_HEAD = (
    "% The rows of one criterion and recovery, by secateur; each level of all is in results.csv.\n"
)


def table(summary: Summary, criterion: str, recovery: str) -> str:
    r"""Return a `tabular` of each level: sparsity, metric, reference, difference, certificate.

    Args:
        summary: of the study; its metric is given as mean ± half of its interval, or with both
            ends where these are not alike.
        criterion: of the levels.
        recovery: of the levels.

    Returns:
        LaTeX, in UTF-8 where a name has letters beyond ASCII.
    """
    units = Units.of(summary)
    head = [
        "sparsity",
        f"test {measure(summary)}",
        "uncut, trained as long",
        f"difference ({units.difference_unit})".removesuffix(" ()"),
        "certificate",
    ]
    rows = summary.of(criterion, recovery)
    named = f"{curve_name(criterion, recovery)}, {percent(summary.confidence)} intervals, "
    recovered = escaped(named)
    margin = escaped(f"margin {units.margin(summary.margin)}")
    lines = [
        rf"\multicolumn{{5}}{{l}}{{{recovered}{margin}}} \\",
        r"\hline",
        " & ".join(escaped(text) for text in head) + r" \\",
        r"\hline",
        *(" & ".join(_cells(row, units)) + r" \\" for row in rows),
        r"\hline",
    ]
    return _HEAD + "\n".join([r"\begin{tabular}{rrrrl}", *lines, r"\end{tabular}"]) + "\n"


def escaped(text: str) -> str:
    """Return a text as LaTeX prints it letter by letter, on one line."""
    shown = (c if c == "\u00a0" else printable(c) for c in text)
    return "".join(_ESCAPED.get(c, c) for c in "".join(shown))


def _cells(row: Row, units: Units) -> list[str]:
    return [
        escaped(percent(row.sparsity)),
        _interval(row.test, units, signed=False),
        _interval(row.reference, units, signed=False) if row.reference else "",
        _interval(row.difference, units, signed=True) if row.difference else "",
        escaped(VERDICTS[row.verdict]),
    ]


def _interval(value: Interval, units: Units, *, signed: bool) -> str:
    mean = units.number(value.mean, signed=signed)
    if value.low is None or value.high is None:
        return escaped(mean)
    above, below = (units.number(abs(end - value.mean)) for end in (value.high, value.low))
    if above == below:
        return escaped(f"{mean} ± {above}")
    return escaped(f"{mean} {units.limits(value, signed=signed)}")
