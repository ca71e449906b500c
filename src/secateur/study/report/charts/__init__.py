"""The charts of a report: each module with a function `chart` is one, and a new one is a new file.

The function makes it of the summary with its rows, the spec, and the records of the stages; None
where there is nothing to draw. It has the module's name. With PRINTED the report has it as
NAME.svg, NAME.png and NAME.pdf too, which takes a chart of series over sparsity, or of networks
that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules

from secateur.study.report.charts.chart import Chart, Record
from secateur.study.summary import Summary

_FIRST = ("curve", "latency", "footprint", "comparisons", "layers", "gates", "training")
_MODULES = {
    name: import_module(f"{__name__}.{name}")
    for name in dict.fromkeys([*_FIRST, *(name for _, name, _ in iter_modules(__path__))])
}

CHARTS: Mapping[str, Callable[[Summary, Record, Sequence[Record]], Chart | None]] = {
    name: module.chart for name, module in _MODULES.items() if hasattr(module, "chart")
}
"""By name, in the order of the page; the first has the panel to choose in beside it."""
PRINTED = tuple(name for name in CHARTS if getattr(_MODULES[name], "PRINTED", False))
"""Those that are printed too."""
