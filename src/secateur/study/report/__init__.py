"""The report of a study: a page, a figure to print and a table, rebuilt from records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import files
from secateur.errors import FileError, UsageError
from secateur.study.report import page
from secateur.study.report.charts import CHARTS, PRINTED
from secateur.study.report.findings import headline
from secateur.study.report.printed import ENDINGS, printed
from secateur.study.report.units import recovery_name
from secateur.study.rows import csv_rows
from secateur.study.summary import summarise

__all__ = ["ReportFiles", "refuse_loss", "write"]

_STAGES = {"train": 0, "gates": 1, "control": 2}


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the parts of a report are."""

    html: Path
    svg: Path
    png: Path
    csv: Path


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
    names = ["report.html", "results.csv", *(f"{c}.{kind}" for c in PRINTED for kind in ENDINGS)]
    for path in (directory / name for name in names):
        if path.exists():
            raise UsageError(
                f"{path} is there already and of no study, and the report would replace it; give "
                "the study another directory (--out)"
            )


def write(
    directory: Path,
    spec: Mapping[str, Any],
    spec_hash: str,
    trials: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    *,
    command: str,
    failures: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write report.html, curve.svg, curve.png and results.csv into a directory that exists.

    The study may be unfinished: the report says so. The same records give the same bytes.
    Nothing is written before all four are made, and each is replaced whole.

    Args:
        directory: an existing directory.
        spec: the study's JSON.
        spec_hash: its address, SHA-256 in hex.
        trials: its trial records, in any order.
        stages: its stage records, in any order.
        command: the command line that ran the study, shown as its provenance.
        failures: item → why it could not be done.

    Returns:
        The paths of the four files.

    Raises:
        StudyError: a record lacks a field (names both).
        FileError: a file cannot be written, for example because the disk is full.
    """
    summary = summarise(spec, trials)  # which refuses a record without a trial
    trials = sorted(trials, key=lambda record: sorted(map(str, record["trial"].items())))
    stages = sorted(stages, key=lambda s: (s["seed"], _STAGES.get(s["stage"], 3), s["stage"]))
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
            charts[name], panels, higher_is_better=summary.higher_is_better
        ).items()
    }
    html = page.render(
        summary,
        spec,
        trials,
        stages,
        charts=charts,
        headline=found,
        spec_hash=spec_hash,
        command=command,
        failures=failures or {},
    )
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(csv_rows(summary.lines))
    names = ("report.html", "curve.svg", "curve.png", "results.csv")
    made = ReportFiles(*(directory / name for name in names))
    # a lone surrogate, of which JSON has an escape, is no text for a file
    files.write(made.csv, table.getvalue().encode(errors="backslashreplace"))
    for name, picture in pictures.items():
        files.write(directory / name, picture)
    files.write(made.html, html.encode(errors="backslashreplace"))
    return made
