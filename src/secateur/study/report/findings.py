"""What a study found and what is wrong with it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secateur.errors import whole
from secateur.study.options import LADDER
from secateur.study.report.as_fast import note
from secateur.study.report.units import Units, counted, curve_name, percent, recovery_name
from secateur.study.rows import Row, grouped
from secateur.study.statistics import MINIMUM_SEEDS, SEEDS_AND_EXAMPLES, Region, seeds_needed
from secateur.study.summary import Summary


@dataclass(frozen=True, slots=True)
class Headline:
    """The finding of a study: that of its primary sequence of tests, and of nothing else.

    `row` is the lowest certified level, None where none is. `sentence` says how far the network
    may be cut, or that nothing is certified; `details` where the sequence ended, or why nothing
    can be said and what to do.
    """

    criterion: str
    recovery: str
    row: Row | None
    sentence: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a reader must know before believing the figures. Plain text."""

    severity: Literal["error", "warning", "note"]
    title: str
    text: str
    items: tuple[str, ...] = ()


def headline(summary: Summary, spec: Mapping[str, Any]) -> Headline:
    """Say how far the network may be cut at what cost, or why nothing can be said."""
    criterion, recovery = summary.primary
    task, region = str(spec["task"]["name"]), summary.regions[criterion, recovery]
    rows = {row.keep: row for row in summary.of(criterion, recovery)}
    row = rows.get(region.lowest_keep or 0.0)
    if row is None or row.difference is None:
        nothing = f"Nothing of {task} is certified by {curve_name(criterion, recovery)}."
        said = nothing if summary.rows else f"Nothing of {task} has been cut so far."
        return Headline(criterion, recovery, None, said, _why(summary, spec, rows))
    units, gap = Units.of(summary), row.difference.mean
    lost = units.number(abs(gap))
    side = "below" if gap < 0 else "above"
    against = (
        f"{units.amount(abs(gap))} {side}" if float(lost.replace("−", "-")) else "no different from"
    )
    cost = (
        f"Its {summary.metric}, {units.value(row.test.mean)}, is {against} that of an uncut "
        f"network with as much training, and not worse by {units.margin(summary.margin)} with "
        f"{percent(summary.confidence)} confidence ({row.covers}; n\u00a0=\u00a0{row.n})."
    )
    sentence = f"{task} can lose {percent(row.sparsity)} of its prunable weights."
    ended = _ended(summary, region, rows)
    return Headline(criterion, recovery, row, sentence, (cost, ended) if ended else (cost,))


def _why(summary: Summary, spec: Mapping[str, Any], rows: Mapping[float, Row]) -> tuple[str, ...]:
    """Say why no level is certified: too few seeds, too much noise, or a true loss."""
    region, units = summary.regions[summary.primary], Units.of(summary)
    if region.refusal or region.stopped_at is None:
        return (f"{region.refusal[0].upper()}{region.refusal[1:]}.",) if region.refusal else ()
    row = rows[region.stopped_at]
    assert row.difference is not None
    worse = -row.difference.mean if summary.higher_is_better else row.difference.mean
    at = f"At {percent(row.sparsity)} sparsity"
    if worse >= summary.margin:
        trained = summary.primary[1] == LADDER
        longer = "Train longer on the ladder (--gate-epochs), or declare" if trained else "Declare"
        return (
            f"{at} it is worse by {units.amount(worse)} than an uncut network with as much "
            f"training, and the margin is {units.margin(summary.margin)}: it costs that much. "
            f"{longer} a margin that its use can bear.",
        )
    images = spec["task"].get("test_images")
    of = f" of {images:,} test examples" if whole(images) else ""
    said = (
        f"{at} the mean difference is inside the margin, but {counted(row.n, 'seed')}{of} are too "
        "noisy to be sure."
    )
    covered = images if row.covers == SEEDS_AND_EXAMPLES and whole(images) else None
    needed = summary.noise and seeds_needed(
        1, covered, summary.margin, summary.confidence, summary.noise
    )
    if needed and needed > row.n:
        return (f"{said} Run it with --seeds {needed}.",)
    return (f"{said} Run it with more --seeds, more test examples, or a wider --margin.",)


def _ended(summary: Summary, region: Region, rows: Mapping[float, Row]) -> str:
    """Say why the sequence of tests ended where it did; nothing where all levels passed."""
    keep, units = region.stopped_at, Units.of(summary)
    test = None if keep is None else region.tests.get(keep)
    if test is None or keep is None:
        return f"Further: {region.refusal}." if region.refusal else ""
    worse = -test.bound if summary.higher_is_better else test.bound
    mean = units.judged(test.mean)
    return (
        f"Further it is not certified: at {percent(1 - keep)} sparsity the difference is {mean}, "
        f"and it may be worse by up to {units.amount(worse)}."
    )


def warnings(
    summary: Summary, spec: Mapping[str, Any], failures: Mapping[str, str]
) -> list[Notice]:
    """List what makes the figures weaker than they look, gravest first."""
    seeds, units = len(spec["seeds"]), Units.of(summary)
    lost = [row for row in (summary.start,) if row and row.at_chance]
    collapsed, chance = _collapsed(summary), _at_chance(summary)
    start = ", ".join(units.value(row.test.mean) for row in lost)
    found = (
        (
            lost,
            Notice(
                "error",
                "The uncut network does no better than chance",
                f"Its {summary.metric} is {start}. It has not learned, so no difference from it "
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
            summary.mixed,
            Notice(
                "warning",
                "Computed by unlike versions or machines",
                "Their numbers differ in ways that no interval covers. For one to rely on, run "
                "the study in another directory, with one version of everything and every seed "
                "on one kind of machine.",
                summary.mixed,
            ),
        ),
        (
            summary.grown,
            Notice("warning", "The number of seeds was grown", grown(summary, spec)),
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
        (
            summary.shipping,
            Notice("note", "On the compiled networks", "", summary.shipping),
        ),
        (
            dense := note(summary),
            Notice("note", "The smaller dense network that is as fast", dense),
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


def grown(summary: Summary, spec: Mapping[str, Any]) -> str:
    """Say what it means that a study got more seeds; nothing where it did not.

    Each look certifies wrongly with the error rate at the most, so all of them together with no
    more than their sum (the union bound).
    """
    if not summary.grown:
        return ""
    counts = [*map(str, summary.grown), str(len(spec["seeds"]))]
    error, looks = 1 - summary.confidence, len(counts)
    first = spec["seeds"][-1] + 1
    return (
        f"It had {', then '.join(counts)} seeds. Intervals and certificates hold for a number of "
        "seeds that was fixed before any result was seen. Where it was raised because of what was "
        f"seen, a level that is too bad is certified in up to {percent(min(1.0, looks * error))} "
        f"of studies, not {percent(error)} ({looks} looks), and intervals cover less often than "
        f"{percent(summary.confidence)}. For a claim, run seeds that nobody has looked at: "
        f"--first-seed {first}."
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
