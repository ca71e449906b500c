"""Gate minus each other criterion."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.study.report.charts.chart import Band, Chart, Record, Series, runs
from secateur.study.report.palette import INK, styles
from secateur.study.report.units import Units, percent
from secateur.study.summary import CONTROL, GATE, Comparison, Summary


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw the paired differences, side by side at each level; None where there are none."""
    units = Units.of(summary)
    found = {(c.other, c.recovery, c.keep): c for c in summary.comparisons}
    if not found:
        return None
    style = styles(spec["criteria"]) | styles([CONTROL])
    others = list(dict.fromkeys(other for other, _, _ in found))
    step = min(0.9, 2 / len(others))

    def hover(c: Comparison) -> str:
        return (
            f"<b>{escape(f'{c.criterion} − {c.other}')}</b>, {percent(1 - c.keep)} sparse<br>"
            f"{escape(units.judged(c.difference.mean))} {units.limits(c.difference, signed=True)}"
            f"<br>n = {c.difference.n}"
        )

    lines = [
        [found[other, recovery, row.keep] for row in run]
        for other in others
        for recovery in spec["recovery"]
        for run in runs(
            [row for row in summary.of(GATE, recovery) if (other, recovery, row.keep) in found]
        )
    ]
    return Chart(
        title="Does learning the gates pay?",
        about="Paired differences between gate and other criteria; its figures are in the table "
        "below",
        caption="Gate minus each other criterion on test data, and minus the uncut control (dense "
        "trained on for as long as the gates, with all weights), paired by seed, with "
        "{{confidence}} intervals; {{better}} zero the gate is better. Each interval holds on its "
        "own: nothing is corrected for looking at many. “Zoom to the margin” above zooms this "
        "chart too.",
        below="<details><summary>The differences as a table</summary>{{comparisons}}</details>",
        height=320,
        series=[
            Series(
                name=run[0].other,
                style=style[run[0].other],
                x=[c.keep for c in run],
                y=[c.difference for c in run],
                hover=[hover(c) for c in run],
                label=[f"gate − {run[0].other}", f"− {run[0].other}"],
                shift=(others.index(run[0].other) - (len(others) - 1) / 2) * step,
                when={"recovery": run[0].recovery},
            )
            for run in lines
        ],
        bands=[
            Band(
                axis="y",
                start=0.0,
                end=0.0,
                style=INK,
                near=(-9 * summary.margin, 9 * summary.margin),
            )
        ],
        x="sparsity: prunable weights removed (%)",
        y=[f"gate − other ({units.difference_unit})".removesuffix(" ()")],
        levels=spec["levels"],
    )
