"""The charts of a report, one file each: a new one is a file here and a line in `CHARTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateur.study.report.charts.chart import Chart, Source
from secateur.study.report.charts.comparisons import comparisons
from secateur.study.report.charts.curve import curve
from secateur.study.report.charts.gates import gates
from secateur.study.report.charts.layers import layers
from secateur.study.report.charts.training import training

CHARTS: Mapping[str, Callable[[Source], Chart | None]] = {
    "curve": curve,
    "comparisons": comparisons,
    "layers": layers,
    "gates": gates,
    "training": training,
}
"""By name, in the order of the page; the first has the panel to choose in beside it."""
PRINTED = ("curve",)
"""Those of series that the report has as NAME.svg and NAME.png too."""
