"""What the charts of measured networks have in common: their points and their reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from statistics import fmean

from secateur.study.plan import AS_FAST
from secateur.study.report.charts.chart import Band, Record, Series, State
from secateur.study.report.charts.zoom import around
from secateur.study.report.palette import INK, engine_styles
from secateur.study.report.units import Units, percent, size
from secateur.study.rows import grouped
from secateur.study.shipped import Shipped
from secateur.study.summary import Summary

_WIDE = 8  # times the smallest, from which on an even axis would crowd the small


def wide(values: Sequence[float]) -> bool:
    """Return whether positive values need a logarithmic axis."""
    return max(values) > _WIDE * min(values)


def called(each: Shipped, found: Sequence[Shipped]) -> str:
    """Return the name of an engine, with precision and criterion where it has several."""
    if each.criterion == AS_FAST:
        return f"{each.engine}, {AS_FAST}"
    same = [other for other in found if other.engine == each.engine and other.keep < 1]
    name = each.engine
    if len({other.precision for other in found if other.engine == each.engine}) > 1:
        name += f" {each.precision}"
    if each.keep < 1 and len({other.criterion for other in same}) > 1:
        name += f", {each.criterion}"
    return name


def points(
    summary: Summary,
    found: Sequence[Shipped],
    place: Callable[[Shipped], float],
    when: State,
) -> list[Series]:
    """Return a series for each engine, precision and criterion, sparsest last.

    Args:
        summary: of the study, all of whose networks share the styles.
        found: the networks to draw.
        place: what the x axis shows of one.
        when: what must be chosen for them to be drawn.
    """
    every = summary.shipped
    style = engine_styles([called(each, every) for each in every])
    units = Units.of(summary)

    def hover(each: Shipped) -> str:
        times = ", ".join(
            f"{time:.3g} ms (batch {batch})" for batch, time in sorted(each.latency_ms.items())
        )
        lines = [
            f"{units.value(each.accuracy)}, {each.precision}",
            times,
            f"{size(each.bytes)} on disk, {size(each.peak_memory)} of memory at most",
            "certified" if each.certified else "",
        ]
        head = f"<b>{escape(called(each, every))}</b>, {percent(1 - each.keep)} sparse"
        return "<br>".join([head, *(escape(line) for line in lines if line)])

    lines = grouped((called(each, every), each) for each in found)
    return [
        Series(
            name=name,
            style=style[name],
            x=[place(each) for each in ordered],
            y=[each.accuracy for each in ordered],
            hover=[hover(each) for each in ordered],
            hollow=[not each.certified for each in ordered],
            text=[percent(1 - each.keep) for each in ordered] if ordered[-1].keep < 1 else (),
            when=when,
        )
        for name, line in lines.items()
        for ordered in [sorted(line, key=lambda each: -each.keep)]
    ]


def bands(summary: Summary, spec: Record) -> list[Band]:
    """Return the margin below the references of the primary sequence; none without such."""
    means = [row.reference.mean for row in summary.of(*summary.primary) if row.reference]
    if not means:
        return []
    worse = -summary.margin if summary.higher_is_better else summary.margin
    mean = fmean(means)
    written = Units.of(summary).value(mean)
    return [
        Band(
            axis="y",
            start=mean + worse,
            end=mean,
            style=INK,
            label=[f"uncut {written}", "uncut"],
            printed="uncut and the margin; filled: certified",
            near=around(means, summary),
        )
    ]
