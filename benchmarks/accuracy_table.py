"""The table, CSV and figure of what benchmarks/accuracy.py has recorded."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from secateur import files
from secateur.study.report.palette import styles
from secateur.study.statistics import Interval, paired_interval, t_interval

Goals = Mapping[str, Mapping[float, float]]
"""condition → keep ratio → test accuracy to reach; 0 and less: the loss against dense allowed."""

# What trains or repairs is drawn solid, controls dashed, criteria alone dotted as in a report.
LOOKS = {
    "joint": ("#0067a8", "o", "-"),
    "finetuned": ("#003a5d", "*", "-"),
    "descended": ("#00a0c6", "v", "-"),
    "frozen-descended": ("#4aa88a", "X", "-"),
    "frozen": ("#007d5b", "P", "-"),
    "reconstruct": ("#5c44a0", "d", "-"),
    "fixed": ("#c95200", "o", "--"),
    "descended-fixed": ("#e08a3c", "v", "--"),
    "control": ("#8c2f39", "x", "--"),
    "self-pruning": ("#b0478d", "<", "--"),
}

PAIRS = (("joint", "fixed"), ("descended", "descended-fixed"))
"""What learns its order, and the same training without that."""


@dataclass(frozen=True)
class Row:
    """One net and condition: test accuracy by keep ratio, and against what it is set."""

    net: str
    condition: str
    keep: float
    test: Interval
    validation: float | None
    """None: what is held out of training has been seen by the given weights."""
    dense: float | None
    """Mean test accuracy of the uncut dense network over the same seeds."""
    goal: float | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or dense is not known."""
        if self.goal is None:
            return None
        if self.goal > 0:
            return self.test.mean >= self.goal
        return None if self.dense is None else self.test.mean - self.dense >= self.goal


def rows(records: Sequence[Mapping[str, Any]], goals: Mapping[str, Goals]) -> list[Row]:
    """Return a row for each net, condition and keep ratio, as the records come."""
    found: list[Row] = []
    for (net, condition), of in _groups(records).items():
        dense = _groups(records).get((net, "magnitude"), [])
        for keep in of[0]["accuracy"]:
            whole = _by_seed(dense, "1", "test")
            common = [whole[r["seed"]] for r in of if r["seed"] in whole]
            found.append(
                Row(
                    net,
                    condition,
                    float(keep),
                    t_interval(_by_seed(of, keep, "test")),
                    t_interval(seen).mean if (seen := _by_seed(of, keep, "validation")) else None,
                    sum(common) / len(common) if len(common) == len(of) else None,
                    goals.get(net, {}).get(condition, {}).get(float(keep)),
                )
            )
    return found


def differences(
    records: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, float, Interval]]:
    """Return (net, "a - b", keep ratio, interval) for PAIRS: test accuracies, paired by seed."""
    groups = _groups(records)
    found = []
    for net, condition in groups:
        for ours, control in PAIRS:
            if condition != ours or (net, control) not in groups:
                continue
            of, minus = groups[net, ours], groups[net, control]
            for keep in of[0]["accuracy"]:
                a, b = _by_seed(of, keep, "test"), _by_seed(minus, keep, "test")
                if a.keys() & b.keys():
                    found.append((net, f"{ours} - {control}", float(keep), paired_interval(a, b)))
    return found


def write(folder: Path, records: Sequence[Mapping[str, Any]], goals: Mapping[str, Goals]) -> None:
    """Print the tables, and write accuracy.csv and accuracy.svg into the folder."""
    found = rows(records, goals)
    console = Console(width=150)
    for net in dict.fromkeys(row.net for row in found):
        _print(console, net, [row for row in found if row.net == net])
    table = Table(title="learned minus fixed order, test accuracy in points, paired by seed")
    for heading in ("net", "conditions", "sparsity", "difference", "95 % interval", "n"):
        table.add_column(heading)
    for net, pair, keep, d in differences(records):
        between = "" if d.low is None else f"{d.low:+.2f} to {d.high:+.2f}"
        table.add_row(net, pair, f"{100 * (1 - keep):g} %", f"{d.mean:+.2f}", between, str(d.n))
    if table.row_count:
        console.print(table)
    files.write(folder / "accuracy.csv", _csv(found, differences(records), records))
    files.write(folder / "accuracy.svg", _figure(found))
    console.print(f"written: {folder / 'accuracy.csv'}, {folder / 'accuracy.svg'}")


def read(
    folder: Path, nets: Sequence[str], current: Callable[[str, str], str]
) -> list[dict[str, Any]]:
    """Return the records of a folder.

    Args:
        folder: what accuracy.py filled.
        nets: those to read.
        current: of net and condition, the digest of today's settings; records of others are
            left out.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        net, condition = record["net"], record["condition"]
        if net in nets and path.stem.endswith(current(net, condition)):
            found.append(record)
    return found


def _print(console: Console, net: str, found: Sequence[Row]) -> None:
    keeps = sorted({row.keep for row in found}, reverse=True)
    table = Table(title=f"{net}: test accuracy in %, mean ± half of the 95 % interval")
    for heading in ("condition", "n", *(f"{100 * (1 - keep):g} %" for keep in keeps)):
        side = "left" if heading == "condition" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    for condition in dict.fromkeys(row.condition for row in found):
        own = {row.keep: row for row in found if row.condition == condition}
        cells = [_cell(own[keep]) if keep in own else "" for keep in keeps]
        table.add_row(condition, str(next(iter(own.values())).test.n), *cells)
    console.print(table)


def _cell(row: Row) -> str:
    half = "" if row.test.high is None else f" ±{row.test.high - row.test.mean:.2f}"
    goal = ""
    if row.goal is not None:
        verdict = {True: "met", False: "MISSED", None: "goal"}[row.met]
        goal = f"\n{verdict} {row.goal:g}"
    return f"{row.test.mean:.2f}{half}{goal}"


def _csv(
    found: Sequence[Row],
    against: Sequence[tuple[str, str, float, Interval]],
    records: Sequence[Mapping[str, Any]],
) -> str:
    text = io.StringIO()
    dates = sorted({record["date"] for record in records})
    hardware = [record["hardware"] for record in records]
    where = sorted({str(machine["gpu"] or machine["cpu"]) for machine in hardware})
    text.write(f"# benchmarks/accuracy.py; {', '.join(where)}; {dates[0]} to {dates[-1]}\n")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["net", "condition", "sparsity", "n", "test", "low", "high", "validation", "goal"])
    for row in found:
        test = [_number(value) for value in (row.test.mean, row.test.low, row.test.high)]
        goal = "" if row.goal is None else f"{row.goal:g}"
        line = [row.net, row.condition, f"{1 - row.keep:g}", row.test.n, *test]
        out.writerow([*line, _number(row.validation), goal])
    for net, pair, keep, d in against:
        line = [_number(value) for value in (d.mean, d.low, d.high)]
        out.writerow([net, pair, f"{1 - keep:g}", d.n, *line, "", ""])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _figure(found: Sequence[Row]) -> bytes:
    shown = list(dict.fromkeys(row.net for row in found))
    style = {"svg.hashsalt": "secateur", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context({**style, "axes.spines.right": False}):
        figure = Figure(figsize=(5.2 * len(shown), 4.2), layout="constrained")
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for axis, net in zip(axes, shown, strict=True):
            of = [row for row in found if row.net == net and row.keep < 1]
            conditions = list(dict.fromkeys(row.condition for row in of))
            for condition in conditions:
                line = [row for row in of if row.condition == condition]
                colour, marker, dashes = _look(condition)
                axis.plot(
                    [_place(row.keep) for row in line],
                    [row.test.mean for row in line],
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linestyle=dashes,
                    linewidth=1.2,
                    label=condition,
                )
            keeps = sorted({row.keep for row in of})
            axis.set_xticks([_place(k) for k in keeps], [f"{100 * (1 - k):g}" for k in keeps])
            axis.set_xlabel("sparsity, %")
            axis.set_ylabel("test accuracy, %")
            axis.set_title(net, loc="left")
            dense = next((row.dense for row in of if row.dense), None)
            if dense is not None:
                axis.axhline(dense, color="#8a9299", linewidth=0.8)
                figures = [row.test.mean for row in of]
                axis.set_ylim(max(40.0, min(figures) - 2), max(dense, *figures) + 1)
            axis.legend(
                frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=4
            )
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def _look(condition: str) -> tuple[str, str, str]:
    """Return colour, marker and line; a variant looks as what it is a variant of, but dotted."""
    base = condition.split(maxsplit=1)[0]
    if base in LOOKS:
        colour, marker, dashes = LOOKS[base]
    else:
        style = styles([base])[base]
        colour, marker, dashes = style.light, style.matplotlib, ":"
    return colour, marker, dashes if base == condition else ":"


def _place(keep: float) -> float:
    """Return where a keep ratio stands: every halving of what is kept takes as much room."""
    return -math.log2(keep)


def _by_seed(records: Sequence[Mapping[str, Any]], keep: str, split: str) -> dict[int, float]:
    """Return seed → accuracy, of the records that have it."""
    found = {record["seed"]: record["accuracy"].get(keep, {}).get(split) for record in records}
    return {seed: value for seed, value in found.items() if value is not None}


def _groups(
    records: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["net"], record["condition"]].append(record)
    return groups
