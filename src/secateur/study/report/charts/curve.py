"""The metric over sparsity, against dense and its margin."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.study.report.charts.chart import Band, Chart, Record, Series, runs
from secateur.study.report.palette import INK, styles
from secateur.study.report.units import VERDICTS, Units, measure, percent
from secateur.study.rows import Row
from secateur.study.summary import Summary

PRINTED = True


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart:
    """Draw each criterion's means and intervals, dense with its margin, and operating regions."""
    units = Units.of(summary)
    style = styles(spec["criteria"])
    worse = -summary.margin if summary.higher_is_better else summary.margin

    def hover(row: Row) -> str:
        lines = [
            f"{units.value(row.test.mean)} {units.limits(row.test)}",
            f"{units.judged(row.difference.mean)} against dense" if row.difference else "",
            f"n = {row.n}, {row.kept:,} weights kept",
            VERDICTS[row.verdict],
        ]
        head = f"<b>{escape(row.criterion)}</b>, {percent(row.sparsity)} sparse"
        return "<br>".join([head, *(escape(line) for line in lines if line)])

    bands = [
        Band(
            axis="x",
            start=1.0,
            end=region.lowest_keep,
            style=style[criterion],
            label=[f"operating region, to {percent(1 - region.lowest_keep)}"],
            printed=f"{criterion} certified to {percent(1 - region.lowest_keep)}",
            when={"criterion": criterion, "recovery": recovery},
        )
        for (criterion, recovery), region in summary.regions.items()
        if region.lowest_keep is not None
    ]
    bands += [
        Band(
            axis="y",
            start=dense.test.mean + worse,
            end=dense.test.mean,
            style=INK,
            label=[f"dense {units.value(dense.test.mean)}", "dense"],
            printed="dense, and its margin",
            near=sorted((dense.test.mean + 9 * worse, dense.test.mean - 3 * worse)),
            when={"recovery": dense.recovery},
        )
        for dense in summary.dense
    ]
    lines = [
        (run, style[criterion], True)
        for criterion in spec["criteria"]
        for recovery in spec["recovery"]
        for run in runs(summary.of(criterion, recovery))
    ]
    lines += [([dense], INK, False) for dense in summary.dense]
    return Chart(
        title="How far can it be cut?",
        about="Curve of test {{metric}} against sparsity; its figures are in the table of all "
        "levels",
        caption="{{pattern}}Test {{metric}}, mean over seeds, with two-sided {{confidence}} "
        "intervals. {{direction}} is better. Filled marks are certified levels, hollow ones are "
        "not. The grey band is the margin, {{margin}} {{side}} dense: what lies in it counts as no "
        "worse. The shaded range is the operating region of the criterion chosen in the panel. "
        "{{shallow}}",
        series=[
            Series(
                name=rows[0].criterion,
                style=tint,
                x=[row.keep for row in rows],
                y=[row.test for row in rows],
                hover=[hover(row) for row in rows],
                hollow=[not row.certified for row in rows] if cut else (),
                shaded=cut,
                label=[rows[0].criterion] if cut else (),
                pick={"criterion": rows[0].criterion} if cut else {},
                when={"recovery": rows[0].recovery},
            )
            for rows, tint, cut in lines
        ],
        bands=bands,
        x="sparsity: prunable weights removed (%)",
        y=[f"test {measure(summary)}"],
        levels=spec["levels"],
        share=summary.unit == "%" and all(0 <= row.test.mean <= 100 for row in summary.lines),
        cursor=True,
    )
