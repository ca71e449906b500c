"""What the page's script reads: the summary and the records as plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.study.report.findings import Headline, verdict
from secateur.study.report.palette import styles
from secateur.study.report.units import DENSE_RECOVERIES, Units, measure, recovery_name
from secateur.study.statistics import Interval
from secateur.study.summary import CONTROL, Row, Summary

Record = Mapping[str, Any]


def payload(
    summary: Summary,
    spec: Record,
    trials: Sequence[Record],
    stages: Sequence[Record],
    headline: Headline,
) -> dict[str, Any]:
    """Return everything that is drawn or looked up in the page. Missing figures are None."""
    units = Units.of(summary)
    layers = _layers(trials)
    start = summary.suggested.get((headline.criterion, headline.recovery))
    keep = headline.row.keep if headline.row else start.keep if start else None
    levels = sorted(spec["levels"], reverse=True)
    control = styles([CONTROL])[CONTROL]
    return {
        "metric": {
            "name": summary.metric,
            "label": measure(summary),
            "unit": units.unit,
            "difference_unit": units.difference_unit,
            "digits": units.digits,
            "higher_is_better": summary.higher_is_better,
        },
        "margin": summary.margin,
        "confidence": summary.confidence,
        "levels": levels,
        "criteria": [
            {"name": name, "light": s.light, "dark": s.dark, "symbol": s.plotly}
            for name, s in styles(spec["criteria"]).items()
        ],
        "control": {
            "name": CONTROL,
            "light": control.light,
            "dark": control.dark,
            "symbol": control.plotly,
        },
        "recoveries": [
            {
                "name": name,
                "label": recovery_name(name),
                "dense": DENSE_RECOVERIES.get(name, f"after {name}"),
            }
            for name in spec["recovery"]
        ],
        "start": {
            "criterion": headline.criterion,
            "recovery": headline.recovery,
            "level": levels.index(keep) if keep in levels else 0,
        },
        "dense": [
            {
                "recovery": d.recovery,
                "test": _interval(d.test),
                "kept": d.prunable,
                "bytes": d.estimated_bytes,
            }
            for d in summary.dense
        ],
        "rows": [_row(row, layers) for row in summary.rows],
        "regions": [
            {"criterion": criterion, "recovery": recovery, "lowest_keep": region.lowest_keep}
            for (criterion, recovery), region in summary.regions.items()
        ],
        "suggested": [
            {"criterion": criterion, "recovery": recovery, "keep": each.keep}
            for (criterion, recovery), each in summary.suggested.items()
        ],
        "comparisons": [
            {
                "criterion": c.criterion,
                "other": c.other,
                "recovery": c.recovery,
                "keep": c.keep,
                "difference": _interval(c.difference),
            }
            for c in summary.comparisons
        ],
        "layers": {"names": list(layers.totals), "totals": list(layers.totals.values())},
        "gates": [
            {
                "seed": stage["seed"],
                "layers": [
                    {
                        "name": name,
                        "edges": _numbers(gates["edges"]),
                        "counts": _numbers(gates["counts"]),
                    }
                    for name, gates in stage["gates"].items()
                ],
            }
            for stage in stages
            if stage.get("gates")
        ],
        "training": [
            {"stage": stage["stage"], "seed": stage["seed"], "log": _log(stage["log"])}
            for stage in stages
            if stage.get("log")
        ],
    }


def embedded(value: object) -> str:
    """Return JSON that is safe inside a script element: it holds no `<`, `>` or `&`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@dataclass(frozen=True, slots=True)
class _Layers:
    """Sizes of the prunable layers, and how much of each the trials of a level kept."""

    totals: Mapping[str, int]
    by_level: Mapping[tuple[str, float], Sequence[Mapping[str, Record]]]

    def kept(self, row: Row) -> list[float | None]:
        """Mean number of weights kept, layer by layer, over the seeds of a row's masks."""
        found = self.by_level.get((row.criterion, row.keep), ())
        means: list[float | None] = []
        for name in self.totals:
            counts = [layers[name]["kept"] for layers in found if name in layers]
            means.append(sum(counts) / len(counts) if counts else None)
        return means


def _layers(trials: Sequence[Record]) -> _Layers:
    totals: dict[str, int] = {}
    by_level: dict[tuple[str, float], list[Mapping[str, Record]]] = {}
    for record in trials:
        trial, layers = record["trial"], record["weights"]["layers"]
        totals.update({name: layer["total"] for name, layer in layers.items()})
        key = (trial["criterion"], trial["keep"])  # the same masks serve every recovery
        by_level.setdefault(key, []).append(layers)
    return _Layers(totals, by_level)


def _row(row: Row, layers: _Layers) -> dict[str, Any]:
    return {
        "criterion": row.criterion,
        "recovery": row.recovery,
        "keep": row.keep,
        "sparsity": row.sparsity,
        "test": _interval(row.test),
        "validation": _interval(row.validation),
        "difference": _interval(row.difference),
        "dense_recovery": row.dense_recovery,
        "certified": verdict(row),
        "p": row.noninferiority and row.noninferiority.p_value,
        "kept": row.kept,
        "prunable": row.prunable,
        "parameters": row.parameters,
        "bytes": row.estimated_bytes,
        "layers": layers.kept(row),
    }


def _interval(interval: Interval | None) -> dict[str, float | int | None] | None:
    if interval is None:
        return None
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "sd": interval.sd,
        "n": interval.n,
    }


def _log(log: Sequence[Record]) -> list[dict[str, float | None]]:
    keys = ("epoch", "loss", "rate", "validation")
    return [{key: _number(epoch.get(key)) for key in keys} for epoch in log]


def _numbers(values: Sequence[object]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: object) -> float | None:
    """A finite number, or None: JSON has no NaN."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
