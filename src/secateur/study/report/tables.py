"""The tables of the page, as HTML. Every text from a record is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from secateur.study.plan import DENSE
from secateur.study.report.findings import verdict
from secateur.study.report.units import Units, duration, percent, recovery_name, size
from secateur.study.statistics import Interval
from secateur.study.summary import Row, Summary

_FEW = 3  # names that a sentence lists
_VERDICTS = {"yes": "certified", "no": "not certified", "not tested": "not tested"}


def results(summary: Summary) -> str:
    """Return the table of all levels: dense first, then one line per `Row`."""
    units = Units.of(summary)
    unit = f" ({summary.unit})" if summary.unit else ""
    points = f"{units.difference_unit}, " if units.difference_unit else ""
    head = [
        *("criterion", "recovery", "sparsity", f"test {summary.metric}{unit}"),
        *(f"against dense ({points}{units.worse_sign} is worse)", "certificate", "p"),
        *(f"validation{unit}", "weights kept", "size, estimated", "seeds"),
    ]
    body = [_row_cells(row, units) for row in (*summary.dense, *summary.rows)]
    return _table("results", head, body, left=2)


def comparisons(summary: Summary) -> str:
    """Return the paired differences between the gate and each other criterion."""
    units = Units.of(summary)
    points = f"{units.difference_unit}, " if units.difference_unit else ""
    mean = f"mean ({points}{units.worse_sign} is worse)"
    head = ("difference", "recovery", "sparsity", mean, "interval", "seeds")
    body = [
        [
            escape(f"{c.criterion} − {c.other}"),
            escape(recovery_name(c.recovery)),
            percent(1 - c.keep),
            units.number(c.difference.mean, signed=True),
            units.limits(c.difference, signed=True),
            str(c.difference.n),
        ]
        for c in summary.comparisons
    ]
    return _table("comparisons", head, body, left=2)


def provenance(
    spec_hash: str,
    trials: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    command: str,
) -> str:
    """Return where the figures come from: command, address, machines, versions, time."""
    records = [*stages, *trials]
    started = sorted(str(record["started"]) for record in records if record.get("started"))
    lines = [
        ("command", f"<code>{escape(command)}</code>"),
        ("study (SHA-256 of its spec)", f"<code>{escape(spec_hash)}</code>"),
        ("records", f"{len(trials):,} trials, {len(stages):,} stages"),
        ("run", _run(started)),
        ("versions", _distinct(records, "versions")),
        ("hardware", _distinct(records, "hardware")),
        ("arithmetic", _distinct(records, "precision")),
    ]
    return "".join(f"<dt>{name}</dt><dd>{text or 'not recorded'}</dd>" for name, text in lines)


def excluded(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the parameters that are never cut, by reason; many are counted."""
    found = {name: why for stage in stages for name, why in stage.get("excluded", {}).items()}
    by_reason: dict[str, list[str]] = {}
    for name, why in found.items():
        by_reason.setdefault(str(why), []).append(str(name))
    reasons = [
        f"{', '.join(names) if len(names) <= _FEW else f'{len(names)} parameters'} ({why})"
        for why, names in by_reason.items()
    ]
    return f"Never cut: {escape('; '.join(reasons))}." if reasons else ""


def times(trials: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the wall time of every stage and seed, and that of all trials of each seed."""
    spent: dict[tuple[int, str], list[float]] = {}
    for stage in stages:
        spent.setdefault((stage["seed"], str(stage["stage"])), []).append(_seconds(stage))
    for trial in trials:
        spent.setdefault((trial["trial"]["seed"], "trials"), []).append(_seconds(trial))
    body = [
        [f"{escape(stage)}", str(seed), str(len(seconds)), duration(sum(seconds))]
        for (seed, stage), seconds in sorted(spent.items())
    ]
    total = sum(sum(seconds) for seconds in spent.values())
    body.append(["<b>all</b>", "", "", f"<b>{duration(total)}</b>"])
    return _table("times", ("stage", "seed", "records", "wall time"), body, left=1)


def _row_cells(row: Row, units: Units) -> list[str]:
    test, name = row.noninferiority, escape(row.criterion)
    return [
        f"<b>{name}</b>" if row.criterion == DENSE else name,
        escape(recovery_name(row.recovery)),
        percent(row.sparsity),
        _figure(units, row.test),
        "" if row.difference is None else _figure(units, row.difference, signed=True),
        _chips(row),
        "" if test is None else _p_value(test.p_value),
        _figure(units, row.validation),
        f"{row.kept:,}",
        size(row.estimated_bytes),
        str(row.n),
    ]


def _chips(row: Row) -> str:
    """The verdict of a row that was cut, and what is wrong with it."""
    result = verdict(row)
    chips = [] if row.criterion == DENSE else [(result.replace(" ", "-"), _VERDICTS[result])]
    if row.collapsed:
        chips.append(("no", f"collapsed: {', '.join(row.collapsed)}"))
    if row.at_chance:
        chips.append(("no", "chance"))
    return " ".join(f'<span class="chip {kind}">{escape(text)}</span>' for kind, text in chips)


def _figure(units: Units, interval: Interval, *, signed: bool = False) -> str:
    mean = units.number(interval.mean, signed=signed)
    return f'{mean} <span class="limits">{units.limits(interval, signed=signed)}</span>'


def _p_value(p: float) -> str:
    return "&lt; 0.0001" if p < 0.0001 else f"{p:.4f}"


def _table(name: str, head: Sequence[str], body: Iterable[Sequence[str]], *, left: int) -> str:
    """Return a table in a box of its own that scrolls; the first `left` columns are words."""
    classes = ["" if i < left else ' class="n"' for i in range(len(head))]
    columns = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>'
        for text, kind in zip(head, classes, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, classes, strict=True))
        + "</tr>"
        for cells in body
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table id="table-{name}"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _run(started: Sequence[str]) -> str:
    if not started:
        return ""
    first, last = escape(started[0]), escape(started[-1])
    return first if first == last else f"{first} (first record started) to {last} (last)"


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


def _seconds(record: Mapping[str, Any]) -> float:
    return float(record.get("seconds") or 0.0)
