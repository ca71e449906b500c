"""The metric over sparsity, against the uncut networks and the margin below them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from secateur.study.report.charts.chart import Band, Chart, Record, Series, runs
from secateur.study.report.charts.zoom import around
from secateur.study.report.palette import INK, styles
from secateur.study.report.units import VERDICTS, Units, measure, percent
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import Summary

PRINTED = True


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart:
    """Draw each criterion's means and intervals, the uncut ones, margin and regions."""
    units = Units.of(summary)
    style = styles(spec["criteria"])
    worse = -summary.margin if summary.higher_is_better else summary.margin

    def hover(row: Row) -> str:
        lines = [
            f"{units.value(row.test.mean)} {units.limits(row.test)}",
            f"{units.judged(row.difference.mean)} against uncut" if row.difference else "",
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
    references = {recovery: _references(summary, recovery) for recovery in spec["recovery"]}
    bands += [
        Band(
            axis="y",
            start=mean + worse,
            end=mean,
            style=INK,
            label=[f"uncut {units.value(mean)}", "uncut"],
            printed="uncut, trained as long, and its margin",
            near=around([each.mean for each in found.values()], summary),
            when={"recovery": recovery},
        )
        for recovery, found in references.items()
        if found
        for mean in [fmean(each.mean for each in found.values())]
    ]
    lines = [
        (run, style[criterion])
        for criterion in spec["criteria"]
        for recovery in spec["recovery"]
        for run in runs(summary.of(criterion, recovery))
    ]
    uncut = [
        Series(
            name="uncut, trained as long",
            style=INK,
            x=list(found),
            y=list(found.values()),
            hover=[
                f"<b>uncut</b>, trained as long as what is {percent(1 - keep)} sparse<br>"
                f"{units.value(each.mean)} {units.limits(each)}<br>n = {each.n}"
                for keep, each in found.items()
            ],
            when={"recovery": recovery},
        )
        for recovery, found in references.items()
        if found
    ]
    return Chart(
        title="How far can it be cut?",
        about="Curve of test {{metric}} against sparsity; its figures are in the table of all "
        "levels",
        caption="{{pattern}}Test {{metric}}, mean over seeds, with two-sided {{confidence}} "
        "intervals. {{direction}} is better. Filled marks are certified levels, hollow ones are "
        "not. Ticks mark the uncut network that had as much training as each level; the grey band "
        "is the margin, {{margin}} {{side}} their mean: what is less worse than that counts as no "
        "worse. The shaded range is the operating region of the curve chosen in the panel; that of "
        "{{claim}} is the study's claim, all others are exploratory.",
        series=[
            Series(
                name=rows[0].criterion,
                style=tint,
                x=[row.keep for row in rows],
                y=[row.test for row in rows],
                hover=[hover(row) for row in rows],
                hollow=[not row.certified for row in rows],
                shaded=True,
                label=[rows[0].criterion],
                pick={"criterion": rows[0].criterion},
                when={"recovery": rows[0].recovery},
            )
            for rows, tint in lines
        ]
        + uncut,
        bands=bands,
        x="sparsity: prunable weights removed (%)",
        y=[f"test {measure(summary)}"],
        levels=spec["levels"],
        share=summary.unit == "%" and all(0 <= row.test.mean <= 100 for row in summary.lines),
        cursor=True,
    )


def _references(summary: Summary, recovery: str) -> dict[float, Interval]:
    """Return what the levels of a recovery are compared with, by keep ratio, falling."""
    rows = [row for row in summary.rows if row.recovery == recovery and row.reference]
    found = {row.keep: row.reference for row in rows if row.reference}
    return {keep: found[keep] for keep in sorted(found, reverse=True)}
