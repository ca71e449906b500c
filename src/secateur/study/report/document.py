"""A study's results as one JSON object, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.study.matched import as_json
from secateur.study.report.findings import headline
from secateur.study.report.verdict import verdict
from secateur.study.summary import Summary


def document(
    summary: Summary, spec: Mapping[str, Any], spec_hash: str, directory: Path
) -> dict[str, Any]:
    """Return what a study found as JSON values.

    Returns:
        `study`: `hash`, `directory`, and `spec` as spec.json has it. `verdict`: its lines.
        `certified`: `keep` and `sparsity` of the lowest certified level of the primary sequence,
        None where none is. `complete`: whether no planned trial is missing. `rows`: the fields of
        `secateur.study.rows.Row` for every row. `comparisons`: those of
        `secateur.study.summary.Comparison`. `regions`: for every curve its criterion, recovery,
        whether it is the primary one, and its certified keep ratios. `shipped`: the fields of
        `secateur.study.shipped.Shipped` for every network that was measured; `shipping`: notes on
        that. `matched`: the fields of `secateur.study.matched.Matched`, None where no dense network
        that is as fast was looked for. `mixed`: how records differ in versions, or within a seed
        in the kind of machine. `grown`: how many seeds it had before it had these, rising.
    """
    found = headline(summary, spec)
    row = found.row
    return {
        "study": {"hash": spec_hash, "directory": str(directory), "spec": dict(spec)},
        "verdict": verdict(summary, spec, directory),
        "certified": None if row is None else {"keep": row.keep, "sparsity": row.sparsity},
        "complete": not summary.missing,
        "rows": [{**asdict(each), "verdict": each.verdict} for each in summary.lines],
        "comparisons": [asdict(each) for each in summary.comparisons],
        "regions": [
            {
                "criterion": criterion,
                "recovery": recovery,
                "primary": (criterion, recovery) == summary.primary,
                "certified": list(region.certified),
            }
            for (criterion, recovery), region in summary.regions.items()
        ],
        "shipped": [asdict(each) for each in summary.shipped],
        "shipping": list(summary.shipping),
        "matched": None if summary.matched is None else as_json(summary.matched),
        "mixed": list(summary.mixed),
        "grown": list(summary.grown),
    }
