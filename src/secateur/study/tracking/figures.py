"""What of a study is logged: names, values and steps, from its spec, its records and its rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from secateur.study.plan import Item, Stage
from secateur.study.summary import Summary
from secateur.study.tracking import Figure

_LONGEST = 500  # characters of a parameter; the shortest limit of MLflow's servers
_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)  # what MLflow takes in no name


def parameters(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the fields of a spec as texts; of nested ones, with dots between their names."""
    found: dict[str, str] = {}
    for key, value in spec.items():
        name = f"{prefix}{_named(str(key))}"
        if isinstance(value, Mapping):
            found |= parameters(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[name] = text[:_LONGEST]
    return found


def of_record(item: Item, record: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of an item that is done.

    Of a trial, its metric on both splits, at the keep ratio in per mille as step: so all trials of
    a criterion, recovery and seed are one curve. Of a stage, the loss of each epoch.
    """
    seed = f"seed {item.seed}"
    if isinstance(item, Stage):
        stage = _named(item.id.partition("_")[2])
        found = [(f"{seed}/{stage}/loss", e.get("loss"), e.get("epoch")) for e in record["log"]]
    else:
        curve = _named(f"{item.criterion} {item.recovery}")
        metrics = record["metrics"]
        found = [
            (f"{seed}/{curve}/{split}", metrics[split], step(item.keep))
            for split in ("validation", "test")
        ]
    return [(name, float(v), int(at)) for name, v, at in found if _finite(v) and _finite(at)]


def of_summary(summary: Summary) -> list[Figure]:
    """Return the figures of every level: its mean, what it loses, and whether it is certified."""
    found = []
    for row in summary.lines:
        curve, at = f"levels/{_named(f'{row.criterion} {row.recovery}')}", step(row.keep)
        difference = row.difference
        values = {
            "test": row.test.mean,
            "difference": difference and difference.mean,
            "low": difference and difference.low,
            "high": difference and difference.high,
            "certified": None if row.whole else float(row.certified),
        }
        found += [(f"{curve}/{key}", value, at) for key, value in values.items()]
    return [(name, float(value), at) for name, value, at in found if _finite(value)]


def step(keep: float) -> int:
    """Return a keep ratio in per mille."""
    return round(1000 * keep)


def batches(figures: list[Figure], most: int) -> Iterator[list[Figure]]:
    """Yield figures, so many at a time."""
    for at in range(0, len(figures), most):
        yield figures[at : at + most]


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _named(text: str) -> str:
    return _NAME.sub("_", text)[:200] or "_"
