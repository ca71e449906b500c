"""The study's table, for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.console import Words
from secateur.errors import printable
from secateur.study.report.columns import COLUMNS, Chips, headings
from secateur.study.report.units import Units
from secateur.study.rows import grouped
from secateur.study.statistics import Interval
from secateur.study.summary import GATE, Summary


def table(summary: Summary) -> RenderableType:
    """Return a table of every row with its interval, and a line per operating region."""
    units, words = Units.of(summary), headings(summary)
    margin = f"margin {summary.margin:g} {units.difference_unit}".rstrip()
    title = Text(printable(f"{margin}, confidence {words['confidence']}"), style="italic")
    view = Table(title=title, header_style="bold")
    columns = [(column, column.terminal) for column in COLUMNS if column.terminal]
    for _, name in columns:
        view.add_column(Words(name.format(**words), "bold"))
    for column in view.columns[2:5]:
        column.justify = "right"
    for _, rows in groupby(summary.lines, lambda row: (row.criterion, row.recovery)):
        for row in rows:
            view.add_row(*(_cell(column.value(row), units) for column, _ in columns))
        view.add_section()
    return Group(view, *_lines(summary, units))


def _lines(summary: Summary, units: Units) -> list[Words]:
    """What stands below: operating regions, why others are refused, controls, what is missing."""
    refused = grouped(
        (region.refusal, f"{criterion} ({recovery})")
        for (criterion, recovery), region in summary.regions.items()
        if region.refusal
    )
    lines = [
        Words(f"operating region of {criterion}, recovery {recovery}: no level certified")
        if (least := region.lowest_keep) is None
        else Words(
            f"operating region of {criterion}, recovery {recovery}: up to {100 * (1 - least):g} % "
            "sparsity",
            "green",
        )
        for (criterion, recovery), region in summary.regions.items()
        if not region.refusal
    ]
    lines += [Words(f"{why}: {', '.join(names)}", "yellow") for why, names in refused.items()]
    uncut = [row for row in summary.rows if row.keep == 1 and row.criterion != GATE]
    controls = {row.recovery: row for row in reversed(uncut) if row.difference}
    lines += [
        Words(
            f"control, dense trained on as long as the gates, recovery {row.recovery}: "
            f"{_interval(row.test, units)} {summary.unit}".rstrip()
            + f", {units.judged(row.difference.mean)} against dense"
        )
        for dense in summary.dense
        if (row := controls.get(dense.recovery)) and row.difference
    ]
    if summary.missing:
        lines.append(Words(f"unfinished: {len(summary.missing)} trials are missing", "yellow"))
    return lines


def _cell(value: str | Interval | Chips | None, units: Units) -> Words:
    if isinstance(value, Interval):
        return Words(_interval(value, units))
    if isinstance(value, str):
        return Words(value.replace("\u00a0", " "))
    kinds, texts = zip(*value, strict=True) if value else ((), ())
    return Words(", ".join(texts), "green" if "yes" in kinds else "")


def _interval(interval: Interval, units: Units) -> str:
    if interval.low is None or interval.high is None:
        return units.number(interval.mean)
    half = (interval.high - interval.low) / 2
    return f"{units.number(interval.mean)} ± {units.number(half)}"
