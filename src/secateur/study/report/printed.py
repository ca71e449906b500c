"""A chart's figure to print: the same content as the page's."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from secateur.console import spelt
from secateur.errors import printable
from secateur.study.report.charts.chart import Band, Chart, Series, State, mean
from secateur.study.report.charts.zoom import between, decimals
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
    "pdf.fonttype": 42,  # outlines as letters, which some publishers ask for
    "text.parse_math": False,  # a name may hold a dollar sign
}
ENDINGS = {
    "svg": {"Date": None, "Creator": "secateur"},
    "png": {"Software": "secateur"},
    "pdf": {"CreationDate": None, "Creator": "secateur", "Producer": None},
}
"""Kinds of a printed figure, and what a file of it says of itself."""
_PANEL = (4.3, 3.3)
_LONG = 36  # letters that stand beside an axis in one line
_LOG_BELOW = 0.05  # keep ratio
_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
_SMALL = 7.5
_ROOM = (0.09, 0.06)  # of a panel, for a text beside a point


def printed(
    chart: Chart, states: Mapping[str, State], *, higher_is_better: bool = True
) -> dict[str, bytes]:
    """Draw a chart of series and bands.

    Over sparsity each state has a line of two panels, the whole and the near; over anything else
    (of networks that were measured) each has one panel, the near.

    Args:
        chart: of series.
        states: title of a panel, or of a line of them → what is chosen there.
        higher_is_better: then the lines begin at the top.

    Returns:
        Ending → the figure as SVG, as PNG (200 dots an inch) and as PDF, the same for the same
        chart.
    """
    views = 1 + any(band.near for band in chart.bands) if chart.levels else len(states)
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of names in scripts the font lacks
        rows = len(states) if chart.levels else 1
        size = (_PANEL[0] * (views if views > 1 else 1.4), _PANEL[1] * rows)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, views, squeeze=False)
        lines: dict[str, Any] = {}
        panels = grid if chart.levels else grid.reshape(-1, 1)
        for axes, (title, state) in zip(panels, states.items(), strict=True):
            near = next((b.near for b in chart.bands if _chosen(b, state) and b.near), None)
            for axis in axes:
                lines |= _panel(axis, chart, state)
            if chart.share:  # intervals of few seeds are wide, but none lies outside 0 to 100
                low, high = axes[0].get_ylim()
                axes[0].set_ylim(max(low, -2.0), min(high, 102.0))
            if views > 1 or not chart.levels:
                _zoom(axes[-1], chart, state, near)
            if chart.levels:
                axes[0].set_title(printable(title), fontsize=9.5, loc="left", color=INK.light)
            else:
                axes[0].set_xlabel(printable(title), fontsize=9)
                _texts(axes[0], chart, state)
        if lines:
            figure.legend(
                lines.values(),
                lines.keys(),
                loc="outside upper left",
                ncols=min(len(lines), 3 * views if chart.levels else 2 * views),
                frameon=False,
                fontsize=8.5,
            )
        for axes in grid:
            name = printable(chart.y[0])
            axes[0].set_ylabel(name.replace(" (", "\n(", 1) if len(name) > _LONG else name)
        if chart.levels:
            figure.supxlabel(chart.x, fontsize=9)
        made = {ending: io.BytesIO() for ending in ENDINGS}
        for ending, metadata in ENDINGS.items():
            figure.savefig(made[ending], format=ending, dpi=200, metadata=metadata)
    return {ending: file.getvalue() for ending, file in made.items()}


def _chosen(part: Band | Series, state: State) -> bool:
    return part.when.items() <= state.items()


def _panel(axis: Axes, chart: Chart, state: State) -> dict[str, Any]:
    """Draw what is chosen; return the legend's names and their marks."""
    axis.grid(axis="y", color="#e3e6e8", linewidth=0.7)
    axis.set_axisbelow(True)
    _across(axis, chart)
    named: dict[str, Any] = {}
    for band in (each for each in chart.bands if _chosen(each, state)):
        named |= _band(axis, band)
    shown = [series for series in chart.series if _chosen(series, state)]
    for depth, series in enumerate(shown):  # the first lies on top
        _line(axis, chart, series, 5 - depth / len(shown))
    if not any(series.label for series in shown) and chart.levels:
        axis.text(0.5, 0.5, "no trial yet", transform=axis.transAxes, ha="center", color="#6a737b")
    handles, names = axis.get_legend_handles_labels()
    return dict(zip(names, handles, strict=True)) | named


def _across(axis: Axes, chart: Chart) -> None:
    """Set up the x axis: sparsity, or what the chart says, where few ticks are enough."""
    if not chart.levels:
        if chart.logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter("{x:g}")
        return
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


def _band(axis: Axes, band: Band) -> dict[str, Any]:
    """Draw a band; its words stand in the title or the legend, where no line can cross them."""
    colour, words = band.style.light, spelt(band.printed, "utf-8")
    if band.axis == "x":
        axis.axvspan(0, 100 * (1 - band.end), color=colour, alpha=0.09, linewidth=0)
        axis.set_title(words, fontsize=_SMALL, loc="right", color=colour)
        return {}
    ends = sorted((band.start, band.end))
    area = axis.axhspan(*ends, color=colour, alpha=0.12, linewidth=0)
    line = axis.axhline(band.end, color=colour, linewidth=0.9)
    return {words: (area, line)} if words else {}


def _zoom(axis: Axes, chart: Chart, state: State, near: Sequence[float] | None) -> None:
    """Show the values `near` alone, and say which lie beyond."""
    if near is None:
        axis.set_title("", loc="right")
        return
    low, high = near
    axis.set_ylim(low, high)
    digits = decimals(low, high)
    found: dict[tuple[str, bool], list[float]] = {}
    taken: Counter[tuple[float, bool]] = Counter()  # arrows at one place are stacked
    for series in (each for each in chart.series if _chosen(each, state)):
        for x, value in zip(_places(chart, series), map(mean, series.y), strict=True):
            if value is None or low <= value <= high:
                continue
            below = value < low
            found.setdefault((series.name, below), []).append(value)
            height = 0.022 + 0.034 * taken[x, below]
            taken[x, below] += 1
            axis.plot(
                x,
                height if below else 1 - height,
                marker="v" if below else "^",
                color=series.style.light,
                markersize=4,
                transform=axis.get_xaxis_transform(),
                clip_on=False,
                zorder=6,
            )
    beyond = [
        # a name and its figures stay on one line
        f"{printable(name)} {'▾' if below else '▴'} {between(values, digits)}".replace(
            " ", "\u00a0"
        )
        for (name, below), values in found.items()
    ]
    axis.set_title("", loc="right")
    lines = textwrap.wrap(f"off the scale: {', '.join(beyond)}", 62) if beyond else []
    axis.set_title("\n".join(lines), fontsize=_SMALL, loc="left", color="#4a535b")


def _places(chart: Chart, series: Series) -> list[float]:
    """Return where the points of a series stand on the x axis."""
    return [100 * (1 - x) + series.shift if chart.levels else x for x in series.x]


def _line(axis: Axes, chart: Chart, series: Series, height: float) -> None:
    x = np.array(_places(chart, series))
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
        label=printable(series.name) if series.label or not chart.levels else None,
        markerfacecolor="white" if series.hollow else None,
        zorder=height,
    )
    solid = [i for i, hollow in enumerate(series.hollow) if not hollow]
    # errorbar lifts its markers by 0.1
    axis.plot(x[solid], y[solid], **looks, linestyle="none", zorder=height + 0.2)


def _texts(axis: Axes, chart: Chart, state: State) -> None:
    """Write what stands beside points, the last first, where there is room for it."""
    to_axes = axis.transData + axis.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    for series in (each for each in chart.series if _chosen(each, state)):
        values = map(mean, series.y)
        points = list(zip(_places(chart, series), values, series.text, strict=False))
        for x, y, words in reversed(points):
            if y is None:
                continue
            across, up = to_axes.transform((x, y))
            if not 0 <= up <= 1 or any(
                abs(across - a) < _ROOM[0] and abs(up - u) < _ROOM[1] for a, u in taken
            ):
                continue
            taken.append((across, up))
            axis.annotate(
                spelt(words, "utf-8"),
                (x, y),
                xytext=(0, -11),
                textcoords="offset points",
                ha="center",
                fontsize=_SMALL,
                color=series.style.light,
            )
