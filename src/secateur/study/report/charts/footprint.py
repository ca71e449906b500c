"""The metric over the size of the files, of networks that were measured in an engine."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.study.report.charts.chart import Chart, Record
from secateur.study.report.charts.measured import bands, points, wide
from secateur.study.report.units import measure
from secateur.study.summary import Summary

_MEGABYTE = 1e6


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw what each engine's networks can do over their files; None where none was measured."""
    found = summary.shipped
    if not found:
        return None
    return Chart(
        title="How small is its file, and how good?",
        about="Test {{metric}} against measured size; its figures are in the table above",
        caption="Test {{metric}} over the bytes of the files that are shipped, as they are on "
        "disk. Marks, numbers and the band are those of the chart above.",
        height=460,
        series=points(summary, found, lambda each: each.bytes / _MEGABYTE, {}),
        bands=bands(summary, spec),
        x="size of the files (MB)",
        y=[f"test {measure(summary)}"],
        logarithmic=wide([each.bytes for each in found]),
    )
