"""A chart as data: the page's script draws it, and `secateur.study.report.printed` prints it.

Texts may come from records: both escape them. Only `hover` is markup, and so are the texts around a
chart, in which the words of `secateur.study.report.page` may stand, as `{{metric}}` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from secateur.study.report.palette import Style
from secateur.study.rows import Row
from secateur.study.statistics import Interval

Record = Mapping[str, Any]
State = Mapping[str, object]
"""What is chosen on the page: criterion, recovery, seed. What has a state in `when` is drawn only
where all of that is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points joined by a line.

    `x` are keep ratios where the chart has `levels`; `shift` moves them to the right, by
    hundredths of the axis, so that none hides another. `hollow` says which marks are; where
    `shaded`, so is the space between the intervals' ends. `label` stands at the end of the line:
    for a screen, and for a phone where that is another; `text` beside each point. A click on a
    point chooses `pick`, beside the level; the series stands out where that is chosen.
    """

    name: str
    style: Style
    x: Sequence[float]
    y: Sequence[Interval | float | None]
    hover: Sequence[str]
    hollow: Sequence[bool] = ()
    shaded: bool = False
    label: Sequence[str] = ()
    text: Sequence[str] = ()
    shift: float = 0.0
    panel: int = 0
    pick: State = field(default_factory=dict)
    when: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A shaded range of keep ratios (axis x), or of values (y), which has a line at its end.

    `printed` is its label in print. A chart opens with the values `near` alone, the lowest and the
    highest; what lies beyond is marked at the edge.
    """

    axis: Literal["x", "y"]
    start: float
    end: float
    style: Style
    label: Sequence[str] = ()
    printed: str = ""
    near: Sequence[float] = ()
    when: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A section of the page, with series and bands, or cells, or histograms.

    `cells` are objects with `columns`, their names; `values`, percentages or None, a list for each
    of the chart's `rows`; `hover`, a text for each; and `when`. `histograms` are objects with
    `name`, `label`, `style`, `counts`, the `edges` between those, and `when`.

    `beside` is markup at the end of the title's line, `below` under the figure, which is `height`
    pixels high. `x` and `y` name the axes: each y has a panel, beside the one before or, on a
    phone, under it. With `levels` the x axis shows keep ratios as sparsity, even or logarithmic;
    without, it is `logarithmic` itself or starts at 0. Where values are percentages of a whole
    (`share`) no interval need be shown beyond. `cursor` marks the level that is chosen.
    """

    title: str
    about: str
    caption: str
    beside: str = ""
    below: str = ""
    height: int = 0
    series: Sequence[Series] = ()
    bands: Sequence[Band] = ()
    cells: Sequence[Record] = ()
    histograms: Sequence[Record] = ()
    x: str = ""
    y: Sequence[str] = ()
    levels: Sequence[float] = ()
    rows: Sequence[str] = ()
    logarithmic: bool = False
    share: bool = False
    cursor: bool = False


def runs(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield the levels between which a line leads: those of one recovery, if any."""
    if rows:
        yield rows


def number(value: object) -> float | None:
    """Return a finite number, or None: JSON has no NaN."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def mean(value: Interval | float | None) -> float | None:
    """Return the value itself, or the mean of an interval."""
    return value.mean if isinstance(value, Interval) else value


def short(names: Sequence[str]) -> list[str]:
    """Return parameters' names without what all of them have: the first modules, and `.weight`."""
    weights = all(name.endswith(".weight") for name in names)
    paths = [(name.removesuffix(".weight") if weights else name).split(".") for name in names]
    deep = min(map(len, paths), default=0) - 1 if len(paths) > 1 else 0
    shared = next((i for i in range(deep) if len({path[i] for path in paths}) > 1), max(deep, 0))
    return [".".join(path[shared:]) for path in paths]
