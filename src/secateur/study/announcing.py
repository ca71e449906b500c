"""What a study does and what it can show, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.errors import whole
from secateur.study.pace import expected
from secateur.study.plan import Stage, epochs, items
from secateur.study.preflight import try_out
from secateur.study.report.units import duration
from secateur.study.statistics import prospects
from secateur.study.subject import Subject


def announced(
    subject: Subject, directory: Path, workers: int, by: str = "", *, measured: bool = False
) -> list[str]:
    """Return what a study does, how long it will take and what it can show: a line each.

    Args:
        subject: of the study; one batch of its data goes through all of it.
        directory: of the study.
        workers: how many do it side by side.
        by: what they are; by default processes of this machine.
        measured: networks are compiled and measured afterwards.

    Raises:
        UsageError: data, model, loss and metric do not go together.
    """
    task, spec, options = subject.task, subject.spec, subject.spec.options
    planned = list(items(options, spec.seeds, matched=measured))
    stages = [item for item in planned if isinstance(item, Stage)]
    trained = sum(epochs(options, stage) for stage in stages)
    by = by or ("1 process" if workers == 1 else f"{workers} processes")
    images: Any = task.description.get("test_images")
    try_out(subject)
    seconds = expected(subject, workers, measured=measured)
    lines = [
        f"study {spec.hash[:12]} in {directory}",
        f"{trained:,.0f} epochs of training and {len(planned) - len(stages):,} measurements, "
        f"in {by}{', then compiling and timing' if measured else ''}: "
        f"about {duration(seconds)} if all is still to be done",
    ]
    if task.metric.unit == "%":  # of which the usual noise is known
        lines.append(
            prospects(
                options.seeds,
                len(options.cuts(*options.claim)),
                images if whole(images) else None,
                options.margin or 0.0,
                options.confidence,
            )
        )
    return lines
