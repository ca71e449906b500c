"""The metric over latency, of networks that were measured in an engine."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.study.report.charts.chart import Chart, Record
from secateur.study.report.charts.measured import bands, points, wide
from secateur.study.report.units import measure
from secateur.study.summary import Summary

PRINTED = True


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw what each engine's networks can do over what they take; None where none was measured."""
    found = summary.shipped
    if not found:
        return None
    batches = sorted({batch for each in found for batch in each.latency_ms})
    times = [time for each in found for time in each.latency_ms.values()]
    return Chart(
        title="How fast is it, and how good?",
        about="Test {{metric}} against measured latency; its figures are in the table below",
        caption="Test {{metric}} over the measured time of one batch, each engine in a process of "
        "its own on the same machine. {{direction}} and further left is better. Numbers are "
        "sparsities; filled marks are certified, hollow ones are not. The grey band is the margin, "
        "{{margin}} {{side}} the uncut networks that the claim is against.",
        beside='<div class="controls"><label>batch size <select data-choose="batch"></select>'
        "</label></div>",
        below="{{shipped}}",
        height=460,
        series=[
            series
            for batch in batches
            for series in points(
                summary,
                [each for each in found if batch in each.latency_ms],
                lambda each, batch=batch: each.latency_ms[batch],  # type: ignore[misc]
                {"batch": batch},
            )
        ],
        bands=bands(summary, spec),
        x="latency of one batch (ms)",
        y=[f"test {measure(summary)}"],
        logarithmic=wide(times),
    )
