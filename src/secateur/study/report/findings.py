"""What a study found and what is wrong with it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.study.report.units import Units, percent, recovery_name
from secateur.study.statistics import MINIMUM_SEEDS, Region
from secateur.study.summary import Row, Summary


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
class Warning:
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
    row = _row(summary, criterion, recovery, region.lowest_keep)
    if row is None:
        sentence = f"No keep ratio of {task} is certified."
        return Headline(criterion, recovery, None, sentence, _why_not(summary, how, region))
    side = "below" if summary.higher_is_better else "above"
    sentence = (
        f"{task} can lose {percent(row.sparsity)} of its prunable weights: {summary.metric} "
        f"stays less than {units.margin(summary.margin)} {side} dense "
        f"({percent(summary.confidence)} confidence, {row.n} seeds)."
    )
    detail = f"{how}: {units.value(row.test.mean)} {units.limits(row.test)} on test data"
    if row.difference is not None:
        detail += f", {units.difference(row.difference.mean)} against dense"
    detail += f", with {row.kept:,} of {row.prunable:,} prunable weights kept."
    if region.stopped_at is not None:
        detail += f" {_stop(summary, region)}"
    return Headline(criterion, recovery, row, sentence, detail)


def warnings(summary: Summary, spec: Mapping[str, Any]) -> list[Warning]:
    """List what makes the figures weaker than they look, gravest first."""
    found: list[Warning] = []
    seeds = len(spec["seeds"])
    lost = [row for row in summary.dense if row.at_chance]
    if lost:
        names = ", ".join(recovery_name(row.recovery) for row in lost)
        found.append(
            Warning(
                "error",
                "The dense network does no better than chance",
                f"Its {summary.metric} is {Units.of(summary).value(lost[0].test.mean)} ({names}). "
                "It has not learned, so no difference from it means anything. Look at the "
                "training curves; lower the learning rate or train for longer.",
            )
        )
    if summary.missing:
        found.append(
            Warning(
                "warning",
                f"Unfinished: {_count(len(summary.missing), 'planned trial')} missing",
                "Figures below are of the trials so far and may change. Run the same command "
                "again to go on where the study stopped.",
                summary.missing,
            )
        )
    if summary.invalid:
        found.append(
            Warning(
                "warning",
                f"{_count(len(summary.invalid), 'trial')} without a usable figure",
                "The metric is absent or not finite; these trials are in no figure below.",
                summary.invalid,
            )
        )
    if seeds < MINIMUM_SEEDS:
        found.append(
            Warning(
                "warning",
                f"Only {_count(seeds, 'seed')}",
                f"Nothing is certified with fewer than {MINIMUM_SEEDS} seeds; "
                + ("one seed has no interval either. " if seeds == 1 else "intervals are wide. ")
                + "Run with more seeds (five for a result to publish).",
            )
        )
    emptied = tuple(_emptied(summary))
    if emptied:
        found.append(
            Warning(
                "warning",
                "Layers were emptied",
                "A layer without any weight passes on nothing of its input. Raise the floor or "
                "rank within each layer.",
                emptied,
            )
        )
    chance = tuple(_at_chance(summary))
    if chance:
        found.append(Warning("note", "Some cut networks do no better than chance", "", chance))
    if summary.unplanned:
        found.append(
            Warning(
                "note",
                f"{_count(len(summary.unplanned), 'record')} that this study did not plan",
                "They are in no figure below.",
                summary.unplanned,
            )
        )
    return found


def verdict(row: Row) -> Literal["yes", "no", "not tested"]:
    """Return whether a level is certified; `not tested` where the sequence had ended before."""
    if row.certified:
        return "yes"
    return "no" if row.noninferiority is not None else "not tested"


def _chosen(summary: Summary, spec: Mapping[str, Any]) -> tuple[str, str]:
    if summary.suggested:
        return min(summary.suggested, key=lambda pair: summary.suggested[pair].keep)
    criteria: Sequence[str] = spec["criteria"]
    return criteria[0], spec["recovery"][-1]


def _row(summary: Summary, criterion: str, recovery: str, keep: float | None) -> Row | None:
    wanted = (criterion, recovery, keep)
    return next((r for r in summary.rows if (r.criterion, r.recovery, r.keep) == wanted), None)


def _why_not(summary: Summary, how: str, region: Region) -> str:
    if not summary.rows:
        return "No trial has been recorded yet."
    return f"{how}: {_stop(summary, region)}"


def _stop(summary: Summary, region: Region) -> str:
    """Say why the sequence of tests ended where it did."""
    if region.refusal is not None:
        text = region.refusal
        return text[:1].upper() + text[1:] + "."
    if region.stopped_at is None:
        return ""
    test, units = region.tests[region.stopped_at], Units.of(summary)
    if test is None:
        return ""
    worse = -test.bound if summary.higher_is_better else test.bound
    return (
        f"At {percent(1 - region.stopped_at)} sparsity it is not certified: it may be worse than "
        f"dense by {units.number(worse)}, and the margin is {units.margin(summary.margin)}."
    )


def _emptied(summary: Summary) -> list[str]:
    """One line per criterion and level: the same masks serve every recovery."""
    found: dict[tuple[str, float], dict[str, None]] = {}
    for row in summary.rows:
        if row.emptied:
            layers = found.setdefault((row.criterion, row.sparsity), {})
            layers.update(dict.fromkeys(row.emptied))
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
