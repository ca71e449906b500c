"""What is said of the dense network that is as fast as the compiled cut one, or of its absence."""

from __future__ import annotations

from secateur.study.matched import Matched
from secateur.study.plan import AS_FAST
from secateur.study.report.units import Units, counted, curve_name, percent
from secateur.study.summary import Comparison, Summary

BUSY = 0.05
"""Part of the cores' time that others took, from which on the page says so."""


def compared(summary: Summary) -> Comparison | None:
    """Return the claim's network minus that network; None where they are not compared."""
    return next((c for c in summary.comparisons if c.other == AS_FAST), None)


def gain(summary: Summary) -> str:
    """Say which of the two is better, in a sentence; nothing where that is not certain."""
    found, matched = compared(summary), summary.matched
    if found is None or matched is None:
        return ""
    gap = found.difference
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return ""
    units = Units.of(summary)
    better = (gap.mean > 0) == summary.higher_is_better
    return (
        f"At {percent(1 - found.keep)} sparsity {found.criterion} is {units.amount(abs(gap.mean))} "
        f"{'better' if better else 'worse'} than a smaller dense network that is as fast (batch "
        f"{matched.batch}; {units.limits(gap, signed=True)})."
    )


def note(summary: Summary) -> str:
    """Say how that network was found, or what is missing; nothing where none was asked for."""
    if not summary.level:
        return ""
    matched = summary.matched
    if matched is None:
        return (
            "There is none: its width is found by compiling and timing networks, and this study's "
            "were not measured. Its command with --measure does that, and trains such a network."
        )
    if matched.width is None:
        return f"There is none: {matched.why}. The study's command with --measure tries it again."
    return _found(matched)


def _found(matched: Matched) -> str:
    cut, chosen = matched.cut, matched.chosen
    kind = "int8 files" if matched.int8 else "networks"
    threads = "thread" if matched.threads == 1 else "threads"
    against = (
        f"{curve_name(cut.criterion, cut.recovery)}, at {percent(1 - cut.keep)} sparsity "
        f"(compiled {kind}, batch {matched.batch}, {matched.threads} {threads}, seed {cut.seed}, "
        f"{matched.date})"
    )
    said = f"as-fast has channels times {matched.width:.3g}"
    if chosen is not None:
        said += (
            f" ({chosen.parameters:,} parameters) and takes {chosen.ratio:.2f} times as long as "
            f"{against}"
        )
    if matched.speedup is not None:
        said += f"; the uncut network takes {matched.speedup:.2f} times as long"
    busy = (
        f" Other processes took up to {percent(round(matched.others, 2))} of the cores meanwhile."
        if matched.others is not None and matched.others > BUSY
        else ""
    )
    return (
        f"{said}. {counted(len(matched.tried), 'width')} were timed in turn with the cut network, "
        "and it is the widest that is no slower. That is a measurement on one machine, and no part "
        f"of the study's address.{busy}"
    )
