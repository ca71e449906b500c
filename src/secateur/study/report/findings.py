"""What a study found and what is wrong with it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secateur.study.report.units import Units, counted, percent, recovery_name
from secateur.study.rows import Row, grouped
from secateur.study.statistics import MINIMUM_SEEDS, Region
from secateur.study.summary import CONTROL, Summary


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
    task, units = str(spec["task"]["name"]), Units.of(summary)
    region = summary.regions[criterion, recovery]
    how = f"Cut by {criterion}, {recovery_name(recovery)}"
    rows = {row.keep: row for row in summary.of(criterion, recovery)}
    row = rows.get(region.lowest_keep or 0.0)
    if not summary.rows:
        return Headline(criterion, recovery, None, f"Nothing of {task} has been cut yet.", "")
    if row is None:
        detail, sentence = (
            f"{how}: {_stop(summary, region)}",
            f"No keep ratio of {task} is certified.",
        )
        others = [
            f"{other}, {recovery_name(way)}, to {percent(1 - its.lowest_keep)} sparsity"
            for (other, way), its in summary.regions.items()
            if its.lowest_keep is not None
        ]
        if others:
            sentence = f"{task} has no certified keep ratio with what validation data suggest."
            detail += f" Certified are {'; '.join(others)}."
        return Headline(criterion, recovery, None, sentence, detail)
    side = "below" if summary.higher_is_better else "above"
    sentence = (
        f"{task} can lose {percent(row.sparsity)} of its prunable weights: {summary.metric} "
        f"stays less than {units.margin(summary.margin)} {side} dense "
        f"({percent(summary.confidence)} confidence, {row.n} seeds)."
    )
    details = [
        f"{how}: {units.value(row.test.mean)} {units.limits(row.test)} on test data"
        + (f", {units.judged(row.difference.mean)} against dense" if row.difference else "")
        + f", with {row.kept:,} of {row.prunable:,} prunable weights kept.",
        *(
            "Against dense trained on for as long as the gates: "
            f"{units.judged(c.difference.mean)} {units.limits(c.difference)}."
            for c in summary.comparisons
            if (c.criterion, c.other, c.recovery, c.keep)
            == (criterion, CONTROL, recovery, row.keep)
        ),
        f"Further: {stop}" if (stop := _stop(summary, region)) else "",
    ]
    return Headline(criterion, recovery, row, sentence, " ".join(filter(None, details)))


def warnings(
    summary: Summary, spec: Mapping[str, Any], failures: Mapping[str, str]
) -> list[Notice]:
    """List what makes the figures weaker than they look, gravest first."""
    seeds, units = len(spec["seeds"]), Units.of(summary)
    lost = [row for row in summary.dense if row.at_chance]
    collapsed, chance = _collapsed(summary), _at_chance(summary)
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
                f"{counted(len(failures), 'item')} failed",
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
                f"Unfinished: {counted(len(summary.missing), 'planned trial')} missing",
                "Figures below are of the trials so far and may change. Run the same command "
                "again to go on where the study stopped.",
                summary.missing,
            ),
        ),
        (
            summary.invalid,
            Notice(
                "warning",
                f"{counted(len(summary.invalid), 'trial')} without a usable figure",
                "The metric is absent or not finite; these trials are in no figure below.",
                summary.invalid,
            ),
        ),
        (
            seeds < MINIMUM_SEEDS,
            Notice(
                "warning",
                f"Only {counted(seeds, 'seed')}",
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
                f"{counted(len(summary.unplanned), 'record')} that this study did not plan",
                "They are in no figure below.",
                summary.unplanned,
            ),
        ),
    )
    return [notice for wanted, notice in found if wanted]


def _chosen(summary: Summary, spec: Mapping[str, Any]) -> tuple[str, str]:
    """The smallest keep ratio first, then the smallest loss on validation data."""
    better = 1 if summary.higher_is_better else -1
    found = {pair: (s.keep, -better * s.validation.mean) for pair, s in summary.suggested.items()}
    return min(found, key=found.__getitem__, default=(spec["criteria"][0], spec["recovery"][-1]))


def _stop(summary: Summary, region: Region) -> str:
    """Say why the sequence of tests ended where it did."""
    test, units = region.tests.get(region.stopped_at or 0.0), Units.of(summary)
    if test is None or region.stopped_at is None:
        return f"{region.refusal}." if region.refusal else ""
    worse = -test.bound if summary.higher_is_better else test.bound
    bound, margin = units.margin(round(worse, units.digits)), units.margin(summary.margin)
    return (
        f"at {percent(1 - region.stopped_at)} sparsity it may be worse than dense by up to "
        f"{bound}, and the margin is {margin}."
    )


def _collapsed(summary: Summary) -> tuple[str, ...]:
    """One line per criterion and level: the same masks serve every recovery."""
    layers = (
        ((row.criterion, row.sparsity), name)
        for row in summary.rows
        for name in row.collapsed_layers
    )
    return tuple(
        f"{criterion} at {percent(sparsity)} sparsity: {', '.join(dict.fromkeys(names))}"
        for (criterion, sparsity), names in grouped(layers).items()
    )


def _at_chance(summary: Summary) -> tuple[str, ...]:
    rows = (row for row in summary.rows if row.at_chance)
    levels = grouped(((row.criterion, row.recovery), percent(row.sparsity)) for row in rows)
    return tuple(
        f"{criterion}, {recovery_name(recovery)}, at {', '.join(found)} sparsity"
        for (criterion, recovery), found in levels.items()
    )
