"""What a study found, for a terminal: a verdict, and tables of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.console import Words
from secateur.errors import printable
from secateur.study.report.columns import COLUMNS, Chips, Column, headings
from secateur.study.report.units import Units, counted
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import Summary

_OF_ONE_CURVE = ("criterion", "recovery", "sequence")  # columns that the title then says


def primary(summary: Summary) -> RenderableType:
    """Return a table of the levels that the study's claim is about."""
    rows = summary.of(*summary.primary)
    columns = [column for column in COLUMNS if column.terminal not in (None, *_OF_ONE_CURVE)]
    title = f"{' '.join(summary.primary)}, the primary sequence: {_declared(summary)}"
    count = sum(row.role == "exploratory" for row in summary.rows)
    lines = [Words(f"--all shows {counted(count, 'exploratory row')}, too")] if count else []
    return Group(_table(summary, title, columns, [rows]), *lines)


def everything(summary: Summary) -> RenderableType:
    """Return a table of every row, and a line for each curve that was tested."""
    columns = [column for column in COLUMNS if column.terminal]
    curves = [
        list(rows) for _, rows in groupby(summary.lines, lambda row: (row.criterion, row.recovery))
    ]
    view = _table(summary, _declared(summary), columns, curves)
    lines = [
        Words(
            f"operating region of {criterion}, {recovery}"
            + ("" if (criterion, recovery) == summary.primary else " (exploratory)")
            + ": "
            + (
                region.refusal or "no level certified"
                if (least := region.lowest_keep) is None
                else f"up to {100 * (1 - least):g} % sparsity"
            ),
            "green" if region.certified else "",
        )
        for (criterion, recovery), region in summary.regions.items()
    ]
    return Group(view, *lines)


def unfinished(summary: Summary) -> str:
    """Say how much of a study is still to be done; nothing where it is complete."""
    missing = len(summary.missing)
    return f"unfinished: {counted(missing, 'trial')} missing" if missing else ""


def _declared(summary: Summary) -> str:
    margin = f"margin {summary.margin:g} {Units.of(summary).difference_unit}".rstrip()
    return f"{margin}, confidence {headings(summary)['confidence']}"


def _table(
    summary: Summary, title: str, columns: Sequence[Column], curves: Iterable[Sequence[Row]]
) -> Table:
    units, words = Units.of(summary), headings(summary)
    view = Table(title=Text(printable(title), style="italic"), header_style="bold")
    for column in columns:
        assert column.terminal is not None
        name = Words(column.terminal.format(**words), "bold")
        view.add_column(name, justify="left" if column.terminal in _OF_ONE_CURVE else "right")
    for rows in curves:
        for row in rows:
            view.add_row(*(_cell(c.value(row), units, signed=c.signed) for c in columns))
        view.add_section()
    return view


def _cell(value: str | Interval | Chips | None, units: Units, *, signed: bool) -> Words:
    if isinstance(value, Interval):
        return Words(_interval(value, units, signed=signed))
    if isinstance(value, str):
        return Words(value.replace("\u00a0", " "))
    kinds, texts = zip(*value, strict=True) if value else ((), ())
    return Words(", ".join(texts), "green" if "yes" in kinds else "")


def _interval(interval: Interval, units: Units, *, signed: bool) -> str:
    mean = units.number(interval.mean, signed=signed)
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ± {units.number((interval.high - interval.low) / 2)}"
