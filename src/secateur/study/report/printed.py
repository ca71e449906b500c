"""A chart's figure to print: the same content as the page's."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from secateur.console import spelt
from secateur.errors import printable
from secateur.study.report.charts.chart import Band, Chart, Series, State
from secateur.study.report.palette import INK

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
ENDINGS = {"svg": {"Date": None, "Creator": "secateur"}, "png": {"Software": "secateur"}}
"""Kinds of a printed figure, and what a file of it says of itself."""
_PANEL = (4.3, 3.7)
_LONG = 36  # letters that stand beside an axis in one line
_LOG_BELOW = 0.05  # keep ratio
_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)


def printed(
    chart: Chart, states: Mapping[str, State], *, higher_is_better: bool = True
) -> dict[str, bytes]:
    """Draw a chart of series and bands, a panel for each state.

    Args:
        chart: over sparsity, with intervals.
        states: title of a panel → what is chosen there.
        higher_is_better: then the lines begin at the top.

    Returns:
        Ending → the figure as SVG and as PNG (200 dots an inch), the same for the same chart.
    """
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of names in scripts the font lacks
        figure = Figure(figsize=(_PANEL[0] * len(states), _PANEL[1]), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(states), sharey=True, squeeze=False)[0]
        lines: dict[str, Any] = {}
        for axis, (title, state) in zip(axes, states.items(), strict=True):
            axis.set_title(printable(title), fontsize=10, loc="left", color=INK.light)
            _panel(axis, chart, state, higher_is_better)
            handles, names = axis.get_legend_handles_labels()
            lines |= dict(zip(names, handles, strict=True))
        if lines:
            figure.legend(
                lines.values(),
                lines.keys(),
                loc="outside upper left",
                ncols=min(len(lines), 3 * len(states)),
                frameon=False,
                fontsize=8.5,
            )
        if chart.share:  # intervals of few seeds are wide, but none lies outside 0 to 100
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(max(low, -2.0), min(high, 102.0))
        name = printable(chart.y[0])
        axes[0].set_ylabel(name.replace(" (", "\n(", 1) if len(name) > _LONG else name)
        figure.supxlabel(chart.x, fontsize=9)
        made = {ending: io.BytesIO() for ending in ENDINGS}
        for ending, metadata in ENDINGS.items():
            figure.savefig(made[ending], format=ending, dpi=200, metadata=metadata)
    return {ending: file.getvalue() for ending, file in made.items()}


def _panel(axis: Axes, chart: Chart, state: State, higher_is_better: bool) -> None:
    axis.grid(axis="y", color="#e3e6e8", linewidth=0.7)
    axis.set_axisbelow(True)
    least = min(chart.levels)
    axis.set_xlim(-3, 101)
    if least < _LOG_BELOW:  # give each halving of the weights the same width
        # never of 0, whose logarithm is not finite
        functions = (
            lambda x: -np.log(np.maximum(1 - np.asarray(x) / 100, 1e-12)),
            lambda y: 100 * (1 - np.exp(-y)),
        )
        axis.set_xscale("function", functions=functions)
        axis.set_xlim(-3, 100 * (1 - 0.85 * least))
        axis.set_xticks([t for t in _TICKS if 1 - t / 100 >= 0.95 * least])
    for band in chart.bands:
        if band.when.items() <= state.items():
            _band(axis, band, higher_is_better)
    shown = [series for series in chart.series if series.when.items() <= state.items()]
    for depth, series in enumerate(shown):  # the first lies on top
        _line(axis, series, 5 - depth / len(shown))
    if not any(series.label for series in shown):
        axis.text(0.5, 0.5, "no trial yet", transform=axis.transAxes, ha="center", color="#6a737b")


def _band(axis: Axes, band: Band, higher_is_better: bool) -> None:
    colour, va = band.style.light, "bottom" if higher_is_better else "top"
    if band.axis == "x":
        axis.axvspan(0, 100 * (1 - band.end), color=colour, alpha=0.09, linewidth=0)
        xy, offset, ha = (0.02, 0.02 if higher_is_better else 0.98), (0, 0), "left"
    else:
        axis.axhspan(*sorted((band.start, band.end)), color=colour, alpha=0.12, linewidth=0)
        axis.axhline(band.end, color=colour, linewidth=0.9)
        xy, offset, ha = (1, band.end), (-2, 3 if higher_is_better else -3), "right"
    axis.annotate(
        spelt(band.printed, "utf-8"),
        xy,
        xycoords=("axes fraction", "axes fraction" if band.axis == "x" else "data"),
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=7.5,
        color=colour,
    )


def _line(axis: Axes, series: Series, height: float) -> None:
    x = 100 * (1 - np.array(series.x)) + series.shift
    y, low, high = (
        np.array([getattr(each, part, each) for each in series.y], float)
        for part in ("mean", "low", "high")
    )
    looks: dict[str, Any] = {
        "color": series.style.light,
        "marker": series.style.matplotlib,
        "markersize": 4.5,
    }
    axis.errorbar(
        x,
        y,
        yerr=np.nan_to_num([y - low, high - y]),  # a single value has no interval
        **looks,
        linewidth=1.5,
        elinewidth=1,
        capsize=2.5,
        label=printable(series.name) if series.label else None,
        markerfacecolor="white" if series.hollow else None,
        zorder=height,
    )
    solid = [i for i, hollow in enumerate(series.hollow) if not hollow]
    # errorbar lifts its markers by 0.1
    axis.plot(x[solid], y[solid], **looks, linestyle="none", zorder=height + 0.2)
