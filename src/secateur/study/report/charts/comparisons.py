"""The primary curve minus each other one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.study.report.charts.chart import Band, Chart, Record, Series
from secateur.study.report.charts.zoom import either_side
from secateur.study.report.palette import INK, Style, styles
from secateur.study.report.units import Units, percent, recovery_name
from secateur.study.summary import Comparison, Summary


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw the paired differences, side by side at each level; None where there are none."""
    units = Units.of(summary)
    found: dict[tuple[str, str], list[Comparison]] = {}
    for c in summary.comparisons:
        found.setdefault((c.other, c.other_recovery), []).append(c)
    if not found:
        return None
    style, step = _styles(list(found), spec), min(0.9, 2 / len(found))
    criterion, _ = summary.primary

    def hover(c: Comparison) -> str:
        return (
            f"<b>{escape(_name(c))}</b>, {percent(1 - c.keep)} sparse<br>"
            f"{escape(units.judged(c.difference.mean))} {units.limits(c.difference, signed=True)}"
            f"<br>n = {c.difference.n}"
        )

    return Chart(
        title="Against what else could be done",
        about="Paired differences between the claim's networks and others; its figures are in the "
        "table below",
        caption="Test {{metric}} of {{claim}} minus that of each other network of the same keep "
        "ratio, or of a smaller dense one, that has as many weights (smaller) or is as "
        "fast (as-fast), paired by seed, with "
        "{{confidence}} intervals; {{better}} zero the former is better. Each interval holds on "
        "its own: nothing is corrected for looking at many. “Show everything” above holds for this "
        "chart too.",
        below="<details><summary>The differences as a table</summary>{{comparisons}}</details>",
        height=320,
        series=[
            Series(
                name=f"− {pair[0]}, {recovery_name(pair[1])}",
                style=style[pair],
                x=[c.keep for c in run],
                y=[c.difference for c in run],
                hover=[hover(c) for c in run],
                label=[f"− {pair[0]}, {recovery_name(pair[1])}", f"− {_short(pair, list(found))}"],
                shift=(number - (len(found) - 1) / 2) * step,
            )
            for number, (pair, run) in enumerate(found.items())
        ],
        bands=[
            Band(
                axis="y",
                start=0.0,
                end=0.0,
                style=INK,
                near=either_side(summary),
            )
        ],
        x="sparsity: prunable weights removed (%)",
        y=[f"{criterion} − other ({units.difference_unit})".removesuffix(" ()")],
        levels=spec["levels"],
    )


def _name(c: Comparison) -> str:
    return f"{c.criterion} − {c.other}, {recovery_name(c.other_recovery)}"


def _short(pair: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> str:
    """Return a name for a phone: the criterion's goes to its first curve."""
    first = next(each for each in pairs if each[0] == pair[0])
    return pair[0] if pair == first else pair[1]


def _styles(pairs: Sequence[tuple[str, str]], spec: Record) -> dict[tuple[str, str], Style]:
    """Return a style for each, none of them twice: a criterion's own goes to the first of it."""
    first = dict(reversed(pairs))  # criterion → the first recovery of it
    names = {pair: pair[0] if first[pair[0]] == pair[1] else "/".join(pair) for pair in pairs}
    strange = [name for name in names.values() if name not in spec["criteria"]]
    found = styles([*spec["criteria"], *strange])
    return {pair: found[name] for pair, name in names.items()}
