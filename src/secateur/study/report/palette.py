"""One colour and one marker per criterion, the same in every figure.

The colours keep apart for the common colour-blindnesses (after Okabe & Ito, 2008, darkened on
light ground and lightened on dark until they reach a contrast of 3 to 1); the markers tell the
criteria apart without any colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """Colours on light and on dark ground, and a marker as Plotly and Matplotlib call it."""

    light: str
    dark: str
    plotly: str
    matplotlib: str


INK = Style("#1b2126", "#e6eaed", "line-ew-open", "_")
_STYLES = {
    "gate": Style("#0067a8", "#5bb7ee", "circle", "o"),
    "magnitude": Style("#c95200", "#f29150", "square", "s"),
    "random": Style("#6f767d", "#a3abb3", "diamond", "D"),
    "lamp": Style("#007d5b", "#3ecba4", "triangle-up", "^"),
    "taylor": Style("#b0478d", "#e79acb", "triangle-down", "v"),
    "wanda": Style("#8f6a00", "#e3b94c", "pentagon", "p"),
    "smaller": Style("#8c2f39", "#f2a1a8", "x", "x"),
    "obs": Style("#5c44a0", "#b6a5ec", "hexagon", "h"),
    "as-fast": Style("#4d6b00", "#a9cf4f", "star", "*"),
}


_OURS = "secateur"


def engine_styles(engines: Sequence[str]) -> dict[str, Style]:
    """Return a style for each engine, none of which is that of another while there are enough.

    This package's own are the first to choose, whatever their place.
    """
    ours = sorted(dict.fromkeys(engines), key=lambda name: not name.startswith(_OURS))
    every = [style for name, style in _STYLES.items() if name != "random"]
    return {name: every[i % len(every)] for i, name in enumerate(ours)}


def styles(criteria: Sequence[str]) -> dict[str, Style]:
    """Return the style of each criterion; one without a style of its own gets an unused one."""
    unused = [style for name, style in _STYLES.items() if name not in criteria]
    spare = unused or list(_STYLES.values())
    strange = [name for name in criteria if name not in _STYLES]
    own = {name: _STYLES[name] for name in criteria if name in _STYLES}
    lent = {name: spare[i % len(spare)] for i, name in enumerate(strange)}
    return own | lent
