"""The report of a study: a page, a figure to print and tables, rebuilt from records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import files
from secateur.errors import FileError, UsageError
from secateur.study.plan import SMALLER, START, UNCUT
from secateur.study.report import latex, page
from secateur.study.report.charts import CHARTS, PRINTED
from secateur.study.report.charts.chart import Chart, State
from secateur.study.report.findings import headline
from secateur.study.report.printed import ENDINGS, printed
from secateur.study.report.units import recovery_name
from secateur.study.rows import csv_rows
from secateur.study.summary import Summary

__all__ = ["NAMES", "ReportFiles", "refuse_loss", "write"]

NAMES = (
    *(f"{chart}.{kind}" for chart in PRINTED for kind in ENDINGS),
    *("results.csv", "table.tex", "report.html"),
)
"""Of all files that a report may have; report.html is written last."""
_STAGES = {START: -2, UNCUT: -1, **dict.fromkeys(SMALLER, 1)}
"""Where a stage stands among those of its seed; criteria are at 0."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the parts of a report are."""

    html: Path
    svg: Path
    png: Path
    pdf: Path
    csv: Path
    tex: Path


def refuse_loss(directory: Path) -> None:
    """Refuse a directory without a study, in which a report would replace files of other origin.

    Raises:
        UsageError: names the first of them.
    """
    try:
        (directory / "spec.json").stat()
        return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(
            f"cannot use {directory} as a study directory: {error.strerror or error}; "
            "choose one that you may write to with --out"
        ) from error
    for path in (directory / name for name in NAMES):
        if path.exists():
            raise UsageError(
                f"{path} is there already and of no study, and the report would replace it; give "
                "the study another directory (--out)"
            )


def write(
    directory: Path,
    summary: Summary,
    spec: Mapping[str, Any],
    spec_hash: str,
    trials: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    *,
    command: str,
    failures: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write report.html, curve.svg, .png and .pdf, results.csv and table.tex into a directory.

    Where networks were measured, latency.svg, .png and .pdf too.

    The study may be unfinished: the report says so. The same records give the same bytes.
    Nothing is written before all of them are made, and each is replaced whole.

    Args:
        directory: an existing directory.
        summary: of the study.
        spec: the study's JSON.
        spec_hash: its address, SHA-256 in hex.
        trials: its trial records, in any order.
        stages: its stage records, in any order.
        command: the command line that ran the study, shown as its provenance.
        failures: item → why it could not be done.

    Returns:
        The paths of the files.

    Raises:
        FileError: a file cannot be written, for example because the disk is full.
    """
    trials = sorted(trials, key=lambda record: sorted(map(str, record["trial"].items())))
    stages = sorted(stages, key=_place)
    found = headline(summary, spec)
    charts = {n: chart for n, draw in CHARTS.items() if (chart := draw(summary, spec, stages))}
    panels = {
        recovery_name(recovery): {"recovery": recovery, "criterion": found.criterion}
        for recovery in spec["recovery"]
    }
    pictures = {
        f"{name}.{kind}": picture
        for name in PRINTED
        if name in charts
        for kind, picture in printed(
            charts[name],
            panels if charts[name].levels else _batches(charts[name]),
            higher_is_better=summary.higher_is_better,
        ).items()
    }
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(csv_rows(summary.lines))
    html = page.render(
        summary,
        spec,
        trials,
        stages,
        charts=charts,
        headline=found,
        table=table.getvalue(),
        spec_hash=spec_hash,
        command=command,
        failures=failures or {},
    )
    tex = latex.table(summary, found.criterion, found.recovery)
    names = ("report.html", "curve.svg", "curve.png", "curve.pdf", "results.csv", "table.tex")
    made = ReportFiles(*(directory / name for name in names))
    # a lone surrogate, of which JSON has an escape, is no text for a file
    files.write(made.csv, table.getvalue().encode(errors="backslashreplace"))
    files.write(made.tex, tex.encode())
    for name, picture in pictures.items():
        files.write(directory / name, picture)
    files.write(made.html, html.encode(errors="backslashreplace"))
    return made


def _batches(chart: Chart) -> dict[str, State]:
    """Return the panels of a chart of measured networks, one for each batch size."""
    found = dict.fromkeys(series.when["batch"] for series in chart.series)
    return {f"{chart.x}, batch size {batch}": {"batch": batch} for batch in found}


def _place(stage: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what stages are sorted by: the seed, what they train, and how far down they are."""
    name = str(stage["stage"])
    return stage["seed"], _STAGES.get(name, 0), name, -float(stage.get("keep", 1.0))
