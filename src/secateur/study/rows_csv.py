"""The rows of a summary as lines for a CSV file."""

from __future__ import annotations

from itertools import product

from secateur.errors import printable
from secateur.study.summary import Summary

_FORMULA = ("=", "+", "-", "@")
_PARTS = ("mean", "sd", "low", "high")


def csv_rows(summary: Summary) -> list[list[str]]:
    """Header, then one line per row of `summary.dense` and `summary.rows`, for `csv.writer`.

    A text that a spreadsheet would run as a formula is led by an apostrophe, as they show it.

    Floats are written so that reading them back gives the same float, None as an empty field,
    truth as true/false, several layers separated by spaces. Dense is not tested against itself:
    its `certified` is false.
    """
    table: list[list[str]] = [_columns()]
    for row in (*summary.dense, *summary.rows):
        values: list[object] = [row.criterion, row.recovery, row.keep, row.sparsity, row.n]
        for interval in (row.test, row.validation, row.difference):
            values += [getattr(interval, part, None) for part in _PARTS]
        values += [row.dense_recovery, summary.margin, summary.confidence]
        values += [getattr(row.noninferiority, part, None) for part in ("bound", "p_value")]
        values += [row.certified, row.kept, row.prunable, row.parameters, row.estimated_bytes]
        values += [" ".join(row.collapsed), row.at_chance]
        table.append([_written(value) for value in values])
    return table


def _columns() -> list[str]:
    intervals = product(("test", "validation", "difference"), _PARTS)
    return [
        *("criterion", "recovery", "keep", "sparsity", "n"),
        *(f"{interval}_{part}" for interval, part in intervals),
        *("dense_recovery", "margin", "confidence", "bound", "p_value"),
        *("certified", "kept", "prunable", "parameters", "estimated_bytes"),
        *("collapsed_layers", "at_chance"),
    ]


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value) if isinstance(value, float) else str(value)
