"""The study's table, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.console import Words
from secateur.errors import printable
from secateur.study.report.columns import COLUMNS, Chips, headings
from secateur.study.report.units import Units
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import GATE, Summary


def table(summary: Summary) -> RenderableType:
    """Return a table of every row with its interval, and a line per operating region."""
    units = Units.of(summary)
    view = Table(
        title=Text(
            printable(
                f"margin {summary.margin:g} {units.difference_unit}".rstrip()
                + f", confidence {100 * summary.confidence:g} %"
            ),
            style="italic",
        ),
        header_style="bold",
    )
    columns = [(column, column.terminal) for column in COLUMNS if column.terminal]
    for _, name in columns:
        view.add_column(Words(name.format(**headings(summary)), "bold"))
    for column in view.columns[2:5]:
        column.justify = "right"
    last = None
    for row in summary.lines:
        if last not in (None, (row.criterion, row.recovery)):
            view.add_section()
        last = (row.criterion, row.recovery)
        view.add_row(*(_cell(column.value(row), units) for column, _ in columns))
    lines = [
        _region(summary, *key) for key, region in summary.regions.items() if not region.refusal
    ]
    refused: dict[str, list[str]] = {}
    for (criterion, recovery), region in summary.regions.items():
        if region.refusal:
            refused.setdefault(region.refusal, []).append(f"{criterion} ({recovery})")
    lines += [
        Words(f"{refusal}: {', '.join(names)}", "yellow") for refusal, names in refused.items()
    ]
    lines += [line for row in summary.dense for line in _control(summary, row)]
    if summary.missing:
        lines.append(Words(f"unfinished: {len(summary.missing)} trials are missing", "yellow"))
    return Group(view, *lines)


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


def _control(summary: Summary, dense: Row) -> Iterator[Words]:
    """Say how far dense itself gets with the gates' additional training."""
    units = Units.of(summary)
    uncut = [
        row
        for row in summary.rows
        if (row.keep, row.recovery) == (1.0, dense.recovery) and row.criterion != GATE
    ]
    if uncut and uncut[0].difference:
        test = _interval(uncut[0].test, units)
        yield Words(
            f"control, dense trained on as long as the gates, recovery {dense.recovery}: "
            f"{test}{' ' * bool(summary.unit)}{summary.unit}, "
            f"{units.judged(uncut[0].difference.mean)} against dense"
        )


def _region(summary: Summary, criterion: str, recovery: str) -> Words:
    region = summary.regions[criterion, recovery]
    name = f"operating region of {criterion}, recovery {recovery}: "
    if region.lowest_keep is None:
        return Words(name + "no level certified")
    return Words(f"{name}up to {100 * (1 - region.lowest_keep):g} % sparsity", "green")
