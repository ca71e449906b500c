"""The curve over sparsity as a figure to print: the same content as the page's curve."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from secateur.errors import printable
from secateur.study.report.palette import Style, styles
from secateur.study.report.units import measure, percent, recovery_name
from secateur.study.statistics import Interval
from secateur.study.summary import Row, Summary

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "secateur",  # ids in the SVG are hashes; a fixed salt makes them repeatable
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6a737b",
    "axes.linewidth": 0.8,
    "xtick.color": "#4a535b",
    "ytick.color": "#4a535b",
    "text.parse_math": False,  # a name may hold a dollar sign
}
_INK = "#1d2329"
_PANEL = (4.3, 3.7)
_DPI = 200
_LONG = 36  # letters that stand beside an axis in one line
_LOG_BELOW = 0.05  # keep ratio
_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)


def curve(summary: Summary, spec: Mapping[str, Any], region_of: str) -> tuple[bytes, bytes]:
    """Draw one panel per recovery: means, intervals, dense with its margin, operating region.

    Args:
        summary: of the study.
        spec: the study's JSON.
        region_of: the criterion whose operating region is shaded.

    Returns:
        The figure as SVG and as PNG (200 dots an inch), the same bytes for the same summary.
    """
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of names in scripts the font lacks
        recoveries = list(spec["recovery"])
        width = _PANEL[0] * len(recoveries)
        figure = Figure(figsize=(width, _PANEL[1]), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(recoveries), sharey=True, squeeze=False)[0]
        for axis, recovery in zip(axes, recoveries, strict=True):
            _panel(axis, summary, spec, recovery, region_of)
        lines = dict(_legend(axes))
        if lines:
            figure.legend(
                lines.values(),
                lines.keys(),
                loc="outside upper left",
                ncols=min(len(lines), 3 * len(recoveries)),
                frameon=False,
                fontsize=8.5,
            )
        if _is_share(summary):  # intervals of few seeds are wide, but none lies outside 0 to 100
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(max(low, -2.0), min(high, 102.0))
        name = printable(f"test {measure(summary)}")
        axes[0].set_ylabel(name.replace(" (", "\n(", 1) if len(name) > _LONG else name)
        figure.supxlabel("sparsity: prunable weights removed (%)", fontsize=9)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "secateur"})
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": "secateur"})
    return svg.getvalue(), png.getvalue()


def _is_share(summary: Summary) -> bool:
    """Whether the metric is a percentage of a whole; others in per cent may pass 100."""
    means = [row.test.mean for row in (*summary.dense, *summary.rows)]
    return summary.unit == "%" and all(0 <= mean <= 100 for mean in means)


def _panel(
    axis: Axes, summary: Summary, spec: Mapping[str, Any], recovery: str, region_of: str
) -> None:
    style = styles(spec["criteria"])
    axis.set_title(printable(recovery_name(recovery)), fontsize=10, loc="left", color=_INK)
    axis.grid(axis="y", color="#e3e6e8", linewidth=0.7)
    axis.set_axisbelow(True)
    _scale(axis, spec["levels"])
    _dense(axis, summary, recovery)
    region = summary.regions.get((region_of, recovery))
    if region is not None and region.lowest_keep is not None:
        axis.axvspan(
            0, 100 * (1 - region.lowest_keep), color=style[region_of].light, alpha=0.09, linewidth=0
        )
        higher = summary.higher_is_better  # the curves begin at the other end
        axis.text(
            0.02,
            0.02 if higher else 0.98,
            printable(region_of) + f" certified to {percent(1 - region.lowest_keep)}",
            transform=axis.transAxes,
            va="bottom" if higher else "top",
            fontsize=7.5,
            color=style[region_of].light,
        )
    drawn = False
    for depth, criterion in enumerate(spec["criteria"]):  # the first lies on top
        rows = [r for r in summary.rows if (r.criterion, r.recovery) == (criterion, recovery)]
        for run in _runs(rows):
            _line(axis, run, style[criterion], 5 - depth / len(spec["criteria"]))
            drawn = True
    if not drawn:
        axis.text(0.5, 0.5, "no trial yet", transform=axis.transAxes, ha="center", color="#6a737b")


def _legend(axes: Sequence[Axes]) -> Iterator[tuple[str, Artist]]:
    """Name and line of every criterion that some panel shows."""
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        yield from zip(names, handles, strict=True)


def _scale(axis: Axes, levels: Sequence[float]) -> None:
    """Give each halving of the weights the same width where the study goes beyond 95 %."""
    axis.set_xlim(-3, 101)
    least = min(levels)
    if least < _LOG_BELOW:
        functions = (lambda x: -np.log(_kept(x)), lambda y: 100 * (1 - np.exp(-y)))
        axis.set_xscale("function", functions=functions)
        axis.set_xlim(-3, 100 * (1 - 0.85 * least))
        axis.set_xticks([t for t in _TICKS if 1 - t / 100 >= 0.95 * least])


def _kept(sparsity: np.ndarray) -> np.ndarray:
    """Fraction kept at a sparsity in per cent; never 0, whose logarithm is not finite."""
    return np.maximum(1 - np.asarray(sparsity) / 100, 1e-12)


def _dense(axis: Axes, summary: Summary, recovery: str) -> None:
    dense = next((d for d in summary.dense if d.recovery == recovery), None)
    if dense is None:
        return
    mean = dense.test.mean
    worst = mean - summary.margin if summary.higher_is_better else mean + summary.margin
    axis.axhspan(min(worst, mean), max(worst, mean), color=_INK, alpha=0.12, linewidth=0)
    axis.axhline(mean, color=_INK, linewidth=0.9)
    axis.errorbar([0], [mean], yerr=_bars([dense.test]), color=_INK, marker="_", capsize=2)
    axis.annotate(
        "dense, and its margin",
        (1, mean),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3 if summary.higher_is_better else -3),
        va="bottom" if summary.higher_is_better else "top",
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=_INK,
    )


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Levels with one recovery: none leads from recalibrated cuts to those fine-tuned as well."""
    run: list[Row] = []
    for row in rows:
        if run and run[-1].keep < 1 and run[-1].dense_recovery != row.dense_recovery:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _line(axis: Axes, rows: Sequence[Row], style: Style, height: float) -> None:
    x = [100 * row.sparsity for row in rows]
    y = [row.test.mean for row in rows]
    axis.errorbar(
        x,
        y,
        yerr=_bars([row.test for row in rows]),
        color=style.light,
        linewidth=1.5,
        elinewidth=1,
        capsize=2.5,
        label=printable(rows[0].criterion),
        marker=style.matplotlib,
        markersize=4.5,
        markerfacecolor="white",
        zorder=height,
    )
    certified = [row for row in rows if row.certified]
    axis.plot(
        [100 * row.sparsity for row in certified],
        [row.test.mean for row in certified],
        linestyle="none",
        color=style.light,
        marker=style.matplotlib,
        markersize=4.5,
        zorder=height + 0.2,  # errorbar lifts its markers by 0.1
    )


def _bars(intervals: Sequence[Interval]) -> list[list[float]]:
    """Half-widths below and above the mean; none where a single value has no interval."""
    below = [0.0 if i.low is None else i.mean - i.low for i in intervals]
    above = [0.0 if i.high is None else i.high - i.mean for i in intervals]
    return [below, above]
