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
from secateur.study.report.charts.chart import Source
from secateur.study.report.findings import headline
from secateur.study.report.printed import ENDINGS, printed
from secateur.study.report.units import recovery_name
from secateur.study.rows import csv_rows
from secateur.study.summary import summarise

__all__ = ["ReportFiles", "refuse_loss", "write"]

_STAGES = ("train", "gates", "control")


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the parts of a report are."""

    html: Path
    svg: Path
    png: Path
    csv: Path

    @classmethod
    def of(cls, directory: Path) -> ReportFiles:
        """Return where they are in a study directory."""
        names = ("report.html", "curve.svg", "curve.png", "results.csv")
        return cls(*(directory / name for name in names))


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
    trials, stages = sorted(trials, key=_trial_order), sorted(stages, key=_stage_order)
    summary = summarise(spec, trials)
    found = headline(summary, spec)
    source = Source(summary, spec, stages)
    charts = {name: chart for name, draw in CHARTS.items() if (chart := draw(source))}
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
    made = ReportFiles.of(directory)
    # a lone surrogate, of which JSON has an escape, is no text for a file
    files.write(made.csv, table.getvalue().encode(errors="backslashreplace"))
    for name, picture in pictures.items():
        files.write(directory / name, picture)
    files.write(made.html, html.encode(errors="backslashreplace"))
    return made


def _trial_order(record: Mapping[str, Any]) -> tuple[str, str, float, int]:
    trial = record.get("trial", {})  # a record without one is refused by `summarise`
    return (
        str(trial.get("criterion")),
        str(trial.get("recovery")),
        -float(trial.get("keep", 0)),
        int(trial.get("seed", 0)),
    )


def _stage_order(record: Mapping[str, Any]) -> tuple[int, int, str]:
    name = str(record["stage"])
    return int(record["seed"]), _STAGES.index(name) if name in _STAGES else len(_STAGES), name
