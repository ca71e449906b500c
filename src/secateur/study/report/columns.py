"""The columns of the table of all levels, on the page and in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.study.report.units import VERDICTS, Units, percent, recovery_name
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import Summary

Chips = Sequence[tuple[str, str]]
"""Kinds and texts of what is said of a row."""


@dataclass(frozen=True, slots=True)
class Column:
    """A value of a row, and its headings: where one is None, that table does without the column.

    `{metric}`, `{unit}`, `{points}`, `{worse}` and `{confidence}` may stand in a heading.
    """

    value: Callable[[Row], str | Interval | Chips | None]
    page: str | None = None
    terminal: str | None = None
    signed: bool = False
    always: bool = True


def _chips(row: Row) -> Chips:
    """The verdict of a row that was cut, whether it is of the claim, and what is wrong with it."""
    chips = [(row.verdict.replace(" ", "-"), VERDICTS[row.verdict])] if row.verdict else []
    chips += [("role", row.role)] if row.role else []
    if row.collapsed_layers:  # the notice at the top names them
        chips.append(("no", f"{len(row.collapsed_layers)} collapsed"))
    return chips + [("no", "chance")] * row.at_chance


def _recovery(row: Row, name: str) -> str:
    """What was done after a cut; of what is not cut how far down it was trained, if at all."""
    if not row.whole:
        return name
    if row.keep < 1:
        return f"{name}, to {percent(1 - row.keep)}"
    return "as trained" if row.recovery == "none" else name


def _plain(value: float | None, *, signed: bool = False) -> str:
    """A figure of the metric's size that no interval is given for."""
    return "" if value is None else f"{value:{'+' if signed else ''}.2f}".replace("-", "−")


def _p_value(row: Row) -> str:
    return (
        ""
        if row.p_value is None
        else "<\u00a00.0001"
        if row.p_value < 0.0001
        else f"{row.p_value:.4f}"
    )


COLUMNS = (
    Column(lambda row: row.criterion, page="criterion", terminal="criterion"),
    Column(lambda row: _recovery(row, recovery_name(row.recovery)), page="recovery"),
    Column(lambda row: _recovery(row, row.recovery), terminal="recovery"),
    Column(lambda row: percent(row.sparsity), page="sparsity", terminal="sparsity"),
    Column(
        lambda row: row.test,
        page="test {metric}{unit}",
        terminal="test {metric} ± {confidence} interval",
    ),
    Column(
        lambda row: row.reference,
        page="uncut, trained as long{unit}",
        terminal="uncut, as long",
    ),
    Column(
        lambda row: row.difference,
        page="difference ({points}{worse} is worse)",
        terminal="difference ({worse} is worse)",
        signed=True,
    ),
    Column(_chips, page="certificate, sequence"),
    Column(lambda row: [(row.verdict, row.verdict)], terminal="certified"),
    Column(_p_value, page="p"),
    Column(lambda row: _plain(row.over_start, signed=True), page="over start"),
    Column(lambda row: _plain(row.over_best, signed=True), page="over best uncut"),
    Column(lambda row: row.over_float, page="int8 over fp32", signed=True, always=False),
    Column(lambda row: _plain(row.class_drop), page="worst class lost"),
    Column(lambda row: _plain(row.calibration_error), page="calibr. error (%)"),
    Column(lambda row: _plain(row.validation.mean), page="validation{unit}"),
    Column(lambda row: f"{row.kept:,}", page="weights kept"),
    Column(lambda row: str(row.n), page="seeds"),
)
"""In the order of both tables. The first two of each are words, the others figures."""


def headings(summary: Summary) -> dict[str, str]:
    """Return the words that may stand in a heading."""
    units = Units.of(summary)
    return {
        "metric": summary.metric,
        "unit": f" ({summary.unit})" if summary.unit else "",
        "points": f"{units.difference_unit}, " if units.difference_unit else "",
        "worse": units.worse_sign,
        "confidence": f"{100 * summary.confidence:g} %",
    }
