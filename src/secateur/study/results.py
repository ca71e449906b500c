"""What a study found, and its report, from what its directory holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import StudyError
from secateur.study import report, shipping
from secateur.study.checking import write_sums
from secateur.study.command import command_of
from secateur.study.reading import (
    read_failures,
    read_matched,
    read_records,
    read_shipped,
    read_spec,
    spec_hash,
)
from secateur.study.report.document import document
from secateur.study.report.verdict import verdict
from secateur.study.summary import Summary, summarise


@dataclass(frozen=True, slots=True)
class Results:
    """What a study found, and where its files are."""

    directory: Path
    spec: Mapping[str, Any]
    summary: Summary
    files: report.ReportFiles

    def verdict(self) -> list[str]:
        """Return what it comes to, in at most five lines."""
        return verdict(self.summary, self.spec, self.directory)

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON values; `secateur.study.report.document` says what is where."""
        return document(self.summary, self.spec, spec_hash(dict(self.spec)), self.directory)


def rebuild(directory: Path) -> Results:
    """Write a study's report anew from its records alone.

    Raises:
        StudyError: there is no study in the directory, or it has no records yet.
        FileError: the report cannot be written there.
    """
    spec = read_spec(directory)
    address = spec_hash(spec)
    trials, stages = read_records(directory, address)
    if not trials:
        raise StudyError(
            f"the study in {directory} has no usable record yet; run it with `secateur study` first"
        )
    content = read_shipped(directory, address)
    shipment = shipping.of_json(content) if content else None
    summary = summarise(
        spec,
        trials,
        shipment.measured if shipment else (),
        shipment.notes if shipment else (),
        stages,
        matched=read_matched(directory, address),
    )
    files = report.write(
        directory,
        summary,
        spec,
        address,
        trials,
        stages,
        command=command_of(spec),
        failures=read_failures(directory, address),
    )
    write_sums(directory, trials, stages)
    return Results(directory, spec, summary, files)
