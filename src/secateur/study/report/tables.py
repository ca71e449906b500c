"""The tables of the page, as HTML. Every text from a record is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from secateur.study.report.columns import COLUMNS, Chips, headings
from secateur.study.report.units import Units, curve_name, duration, percent, size
from secateur.study.rows import grouped
from secateur.study.shipped import Shipped
from secateur.study.statistics import Interval
from secateur.study.summary import Summary

_FEW = 3  # names that a sentence lists


def results(summary: Summary) -> str:
    """Return the table of all levels: uncut networks first, then one line per `Row`.

    A column that stands for an option is left out where nothing is in it.
    """
    units, words = Units.of(summary), headings(summary)
    columns = [
        (column, column.page)
        for column in COLUMNS
        if column.page and (column.always or any(column.value(row) for row in summary.lines))
    ]
    body = [
        [_cell(column.value(row), units, signed=column.signed) for column, _ in columns]
        for row in summary.lines
    ]
    for cells in body[: len(summary.whole)]:
        cells[0] = f"<b>{cells[0]}</b>"
    return _table("results", [name.format(**words) for _, name in columns], body, left=2)


def comparisons(summary: Summary) -> str:
    """Return the paired differences between the primary curve and each other."""
    units, mean = Units.of(summary), "mean ({points}{worse} is worse)".format(**headings(summary))
    head = ("network", "minus", "sparsity", mean, "interval", "seeds")
    return _table(
        "comparisons",
        head,
        [
            [
                escape(curve_name(c.criterion, c.recovery)),
                escape(curve_name(c.other, c.other_recovery)),
                percent(1 - c.keep),
                units.number(c.difference.mean, signed=True),
                units.limits(c.difference, signed=True),
                str(c.difference.n),
            ]
            for c in summary.comparisons
        ],
        left=2,
    )


def shipped(found: Sequence[Shipped], summary: Summary) -> str:
    """Return the figures of measured networks; a figure that none of them has is no column."""
    units = Units.of(summary)
    batches = sorted({batch for each in found for batch in each.latency_ms})
    columns: list[tuple[str, Callable[[Shipped], str]]] = [
        ("engine", lambda each: escape(each.engine)),
        ("criterion", lambda each: escape(each.criterion)),
        ("precision", lambda each: escape(each.precision)),
        ("sparsity", lambda each: percent(1 - each.keep)),
        (_headed(summary), lambda each: units.number(each.accuracy)),
        ("certificate", lambda each: _chips([("yes", "certified")] * each.certified)),
        *((f"ms, batch {n}", partial(_latency, batch=n)) for n in batches),
        ("on disk", lambda each: size(each.bytes)),
        ("memory at most", lambda each: size(each.peak_memory)),
        ("$ per million", lambda each: _figures(each.cost_per_million)),
        ("J each", lambda each: _figures(each.energy_j)),
    ]
    texts = [[write(each) for _, write in columns] for each in found]
    filled = [i for i in range(len(columns)) if any(line[i] for line in texts)]
    return _table(
        "shipped", [columns[i][0] for i in filled], [[line[i] for i in filled] for line in texts],
        left=3,
    )  # fmt: skip


def provenance(
    spec_hash: str,
    trials: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    command: str,
) -> str:
    """Return where the figures come from: command, address, machines, versions, time."""
    records = [*stages, *trials]
    started = sorted(escape(str(r["started"])) for r in records if r.get("started"))
    ends = [f"{started[0]} (first record started)", f"{started[-1]} (last)"] if started else []
    run = " to ".join(ends if len(set(started)) > 1 else started[:1])
    lines = [
        ("command", f"<code>{escape(command)}</code>"),
        ("study (SHA-256 of its spec)", f"<code>{escape(spec_hash)}</code>"),
        ("records", f"{len(trials):,} trials, {len(stages):,} stages"),
        ("run", run),
        ("versions", _distinct(records, "versions")),
        ("hardware", _distinct(records, "hardware")),
        ("arithmetic", _distinct(records, "precision")),
    ]
    return "".join(f"<dt>{name}</dt><dd>{text or 'not recorded'}</dd>" for name, text in lines)


def excluded(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the parameters that are never cut, by reason; many are counted."""
    found = {name: why for stage in stages for name, why in stage.get("excluded", {}).items()}
    reasons = [
        f"{', '.join(names) if len(names) <= _FEW else f'{len(names)} parameters'} ({why})"
        for why, names in grouped((why, name) for name, why in found.items()).items()
    ]
    return f"Never cut: {escape('; '.join(reasons))}." if reasons else ""


def times(trials: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the wall time of every stage and seed, and that of all trials of each seed."""
    done = [((stage["seed"], str(stage["stage"])), stage) for stage in stages]
    done += [((trial["trial"]["seed"], "trials"), trial) for trial in trials]
    spent = grouped((key, float(record.get("seconds") or 0.0)) for key, record in done)
    body = [
        [f"{escape(stage)}", str(seed), str(len(seconds)), duration(sum(seconds))]
        for (seed, stage), seconds in sorted(spent.items())
    ]
    total = sum(sum(seconds) for seconds in spent.values())
    body.append(["<b>all</b>", "", "", f"<b>{duration(total)}</b>"])
    return _table("times", ("stage", "seed", "records", "wall time"), body, left=1)


def _cell(value: str | Interval | Chips | None, units: Units, *, signed: bool) -> str:
    if isinstance(value, Interval):
        mean = units.number(value.mean, signed=signed)
        return f'{mean} <span class="limits">{units.limits(value, signed=signed)}</span>'
    if isinstance(value, str):
        return escape(value)
    return _chips(value or ())


def _chips(chips: Chips) -> str:
    return " ".join(f'<span class="chip {kind}">{escape(text)}</span>' for kind, text in chips)


def _headed(summary: Summary) -> str:
    return "test {metric}{unit}".format(**headings(summary))


def _latency(each: Shipped, batch: int) -> str:
    return _figures(each.latency_ms.get(batch))


def _figures(value: float | None) -> str:
    """Return three significant figures; nothing where there are none."""
    return (
        "" if value is None else f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"
    )


def _table(name: str, head: Sequence[str], body: Iterable[Sequence[str]], *, left: int) -> str:
    """Return a table in a box of its own that scrolls; the first `left` columns are words.

    Each cell carries its heading, by which a narrow screen shows it.
    """
    classes = ["" if i < left else ' class="n"' for i in range(len(head))]
    columns = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>'
        for text, kind in zip(head, classes, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{escape(label)}">{f"<span>{cell}</span>" if cell else ""}</td>'
            for cell, kind, label in zip(cells, classes, head, strict=True)
        )
        + "</tr>"
        for cells in body
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table id="table-{name}"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _distinct(records: Sequence[Mapping[str, Any]], field: str) -> str:
    """Every different value of a field, in the order in which they first stand."""
    found = dict.fromkeys(_flat(record[field]) for record in records if record.get(field))
    return "<br>".join(escape(text) for text in found)


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_flat(each) for each in value)
    return "none" if value is None else str(value)
