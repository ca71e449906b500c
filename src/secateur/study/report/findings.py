"""What a study found and what is wrong with it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.study.report.units import Units, percent, recovery_name
from secateur.study.rows import Row
from secateur.study.statistics import MINIMUM_SEEDS, Region
from secateur.study.summary import CONTROL, Suggestion, Summary


@dataclass(frozen=True, slots=True)
class Headline:
    """The finding of a study, for one criterion and recovery.

    They are those with the smallest keep ratio within the margin on *validation* data, so that
    test data choose nothing; without such a level, the first criterion after the last recovery.
    `row` is the lowest certified level, None where none is.
    """

    criterion: str
    recovery: str
    row: Row | None
    sentence: str
    detail: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a reader must know before believing the figures. Plain text."""

    severity: Literal["error", "warning", "note"]
    title: str
    text: str
    items: tuple[str, ...] = ()


def headline(summary: Summary, spec: Mapping[str, Any]) -> Headline:
    """Say in one sentence how far the network may be cut, or that nothing is certified."""
    criterion, recovery = _chosen(summary, spec)
    task = str(spec["task"]["name"])
    region = summary.regions[criterion, recovery]
    units = Units.of(summary)
    how = f"Cut by {criterion}, {recovery_name(recovery)}"
    rows = {row.keep: row for row in summary.of(criterion, recovery)}
    row = rows.get(region.lowest_keep or 0.0)
    if not summary.rows:
        return Headline(criterion, recovery, None, f"Nothing of {task} has been cut yet.", "")
    if row is None:
        detail = f"{how}: {_stop(summary, region)}"
        others = _certified(summary)
        if others:
            sentence = f"{task} has no certified keep ratio with what validation data suggest."
            detail += f" Certified are {others}."
        else:
            sentence = f"No keep ratio of {task} is certified."
        return Headline(criterion, recovery, None, sentence, detail)
    side = "below" if summary.higher_is_better else "above"
    sentence = (
        f"{task} can lose {percent(row.sparsity)} of its prunable weights: {summary.metric} "
        f"stays less than {units.margin(summary.margin)} {side} dense "
        f"({percent(summary.confidence)} confidence, {row.n} seeds)."
    )
    detail = f"{how}: {units.value(row.test.mean)} {units.limits(row.test)} on test data"
    if row.difference is not None:
        detail += f", {units.judged(row.difference.mean)} against dense"
    detail += f", with {row.kept:,} of {row.prunable:,} prunable weights kept."
    for c in summary.comparisons:
        if (c.criterion, c.other, c.recovery, c.keep) == (criterion, CONTROL, recovery, row.keep):
            against = f"{units.judged(c.difference.mean)} {units.limits(c.difference)}"
            detail += f" Against dense trained on for as long as the gates: {against}."
    if region.stopped_at is not None:
        detail += f" Further: {_stop(summary, region)}"
    return Headline(criterion, recovery, row, sentence, detail)


def warnings(
    summary: Summary, spec: Mapping[str, Any], failures: Mapping[str, str]
) -> list[Notice]:
    """List what makes the figures weaker than they look, gravest first."""
    seeds, units = len(spec["seeds"]), Units.of(summary)
    lost = [row for row in summary.dense if row.at_chance]
    collapsed, chance = tuple(_collapsed(summary)), tuple(_at_chance(summary))
    dense = ", ".join(f"{units.value(r.test.mean)} ({recovery_name(r.recovery)})" for r in lost)
    found = (
        (
            lost,
            Notice(
                "error",
                "The dense network does no better than chance",
                f"Its {summary.metric} is {dense}. It has not learned, so no difference from it "
                "means anything. Look at the training curves; lower the learning rate or train "
                "for longer.",
            ),
        ),
        (
            failures,
            Notice(
                "error",
                f"{_count(len(failures), 'item')} failed",
                "They, and all that depends on them, are in no figure below. What went wrong "
                "stands in the study's folder `failures`; running the study again tries them "
                "again.",
                tuple(f"{item}: {why}" for item, why in failures.items()),
            ),
        ),
        (
            summary.missing,
            Notice(
                "warning",
                f"Unfinished: {_count(len(summary.missing), 'planned trial')} missing",
                "Figures below are of the trials so far and may change. Run the same command "
                "again to go on where the study stopped.",
                summary.missing,
            ),
        ),
        (
            summary.invalid,
            Notice(
                "warning",
                f"{_count(len(summary.invalid), 'trial')} without a usable figure",
                "The metric is absent or not finite; these trials are in no figure below.",
                summary.invalid,
            ),
        ),
        (
            seeds < MINIMUM_SEEDS,
            Notice(
                "warning",
                f"Only {_count(seeds, 'seed')}",
                f"Nothing is certified with fewer than {MINIMUM_SEEDS} seeds; "
                + ("one seed has no interval either. " if seeds == 1 else "intervals are wide. ")
                + "Run with more seeds (five for a result to publish).",
            ),
        ),
        (
            collapsed,
            Notice(
                "warning",
                "Layers collapsed",
                "These layers lost every weight, or kept only what the floor holds: little of "
                "their input gets through. Raise the floor, rank within each layer, or use a "
                "criterion that compares layers (lamp, gate).",
                collapsed,
            ),
        ),
        (chance, Notice("note", "Some cut networks do no better than chance", "", chance)),
        (
            summary.unplanned,
            Notice(
                "note",
                f"{_count(len(summary.unplanned), 'record')} that this study did not plan",
                "They are in no figure below.",
                summary.unplanned,
            ),
        ),
    )
    return [notice for wanted, notice in found if wanted]


def _chosen(summary: Summary, spec: Mapping[str, Any]) -> tuple[str, str]:
    if summary.suggested:
        return min(summary.suggested, key=lambda pair: _rank(summary, summary.suggested[pair]))
    criteria: Sequence[str] = spec["criteria"]
    return criteria[0], spec["recovery"][-1]


def _certified(summary: Summary) -> str:
    """Every operating region there is, and how far it goes."""
    return "; ".join(
        f"{criterion}, {recovery_name(recovery)}, to {percent(1 - region.lowest_keep)} sparsity"
        for (criterion, recovery), region in summary.regions.items()
        if region.lowest_keep is not None
    )


def _rank(summary: Summary, suggestion: Suggestion) -> tuple[float, float]:
    """Smallest keep ratio first, then the smallest loss on validation data."""
    gain = suggestion.validation.mean
    return suggestion.keep, -gain if summary.higher_is_better else gain


def _stop(summary: Summary, region: Region) -> str:
    """Say why the sequence of tests ended where it did."""
    if region.refusal is not None:
        return f"{region.refusal}."
    if region.stopped_at is None:
        return ""
    test, units = region.tests[region.stopped_at], Units.of(summary)
    if test is None:
        return ""
    worse = -test.bound if summary.higher_is_better else test.bound
    bound, margin = units.margin(round(worse, units.digits)), units.margin(summary.margin)
    return (
        f"at {percent(1 - region.stopped_at)} sparsity it may be worse than dense by up to "
        f"{bound}, and the margin is {margin}."
    )


def _collapsed(summary: Summary) -> list[str]:
    """One line per criterion and level: the same masks serve every recovery."""
    found: dict[tuple[str, float], dict[str, None]] = {}
    for row in summary.rows:
        if row.collapsed_layers:
            layers = found.setdefault((row.criterion, row.sparsity), {})
            layers.update(dict.fromkeys(row.collapsed_layers))
    return [
        f"{criterion} at {percent(sparsity)} sparsity: {', '.join(layers)}"
        for (criterion, sparsity), layers in found.items()
    ]


def _at_chance(summary: Summary) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for row in summary.rows:
        if row.at_chance:
            found.setdefault((row.criterion, row.recovery), []).append(percent(row.sparsity))
    return [
        f"{criterion}, {recovery_name(recovery)}, at {', '.join(levels)} sparsity"
        for (criterion, recovery), levels in found.items()
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
