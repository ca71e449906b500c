"""From the records of a study to what its report shows: pure, and at any moment of the study.

Figures of the test set are reported; what is chosen (`Suggestion`) is chosen on validation data.
The certificate uses test data, but chooses nothing with it freely: levels, margin, confidence
and order are declared in the spec, and the error rate is that of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from secateur.study.plan import DENSE, Trial, finetuned
from secateur.study.rows import BySeed, Outcome, Row, Split, differences, made
from secateur.study.statistics import (
    MINIMUM_SEEDS,
    Interval,
    Region,
    operating_region,
    t_interval,
)

GATE = "gate"
CONTROL = "control"
_OWN_DENSE_ONLY = ("none", "batchnorm")
_Cells = Mapping[tuple[str, str, float], BySeed]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`criterion` minus `other` on test data, paired by seed, at one recovery and keep ratio.

    `other` is a criterion at the same keep ratio, or `control`: the uncut network of the control
    stage, dense trained on for as long as the gates were. It is known where a criterion that is
    cut from it has keep ratio 1 among its levels.

    Each interval holds on its own: nothing is corrected for looking at many of them.
    """

    criterion: str
    other: str
    recovery: str
    keep: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The smallest keep ratio whose mean validation loss against dense is below the margin.

    Chosen on validation data only. `validation` is the paired difference it was chosen by;
    `row` carries its test figures and says whether the level is certified as well.
    """

    keep: float
    validation: Interval
    row: Row


@dataclass(frozen=True)
class Summary:
    """Everything a report shows. Rows stand in the order of the spec, keep ratios decreasing.

    `dense` has the uncut network after each recovery, `rows` everything that was cut.
    `regions` has every (criterion, recovery) of the spec, `suggested` those of them where some
    level stays within the margin. `missing` names planned trials without a record, `invalid`
    trials whose figures are absent or not finite, `unplanned` records that the spec does not
    ask for; the last two are in no figure.
    """

    metric: str
    unit: str
    higher_is_better: bool
    margin: float
    confidence: float
    dense: tuple[Row, ...]
    rows: tuple[Row, ...]
    regions: Mapping[tuple[str, str], Region]
    comparisons: tuple[Comparison, ...]
    suggested: Mapping[tuple[str, str], Suggestion]
    missing: tuple[str, ...]
    invalid: tuple[str, ...]
    unplanned: tuple[str, ...]

    @property
    def lines(self) -> tuple[Row, ...]:
        """All rows, dense first: the lines of every table."""
        return (*self.dense, *self.rows)

    def of(self, criterion: str, recovery: str) -> tuple[Row, ...]:
        """The rows of one curve."""
        return tuple(r for r in self.rows if (r.criterion, r.recovery) == (criterion, recovery))


_Curve = tuple[Region, dict[float, Row], Suggestion | None]


def summarise(spec: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> Summary:
    """Summarise trial records against the spec that planned them, finished or not.

    A level without any usable record has no row. Every recovery is compared with dense after
    the same recovery; only one that trains or repairs weights, and has no dense records of its
    own, is compared with dense after batch-norm recalibration, or else with dense as trained.

    Cuts that the study does not fine-tune, since they keep too much, have the rows of `batchnorm`
    under `finetune`, verdicts and dense included, so that its curve is whole; its own sequence
    of tests holds the levels that are fine-tuned.

    A level is certified only where *all* seeds of the spec (and at least three) can be
    compared with dense: to test after each new seed, and to stop when the test passes, would
    certify inferior levels more often than 1 - confidence. That error rate is the one of each
    (criterion, recovery); nothing is corrected for there being several of them.

    Args:
        spec: the study's spec as JSON values.
        trials: its trial records as JSON values, in any order.

    Raises:
        StudyError: a record lacks a field; names record and field.
    """
    levels: list[float] = sorted(spec["levels"], reverse=True)
    plan = _planned(spec, levels)
    outcomes = {outcome.trial: outcome for outcome in map(Outcome.of, trials)}
    cells = _cells(outcomes[trial] for trial in plan if trial in outcomes)
    curves = {
        (criterion, recovery): _curve(criterion, recovery, levels, cells, spec)
        for criterion, recovery in product(spec["criteria"], spec["recovery"])
    }
    dense_cells = [cells.get((DENSE, recovery, 1.0)) for recovery in spec["recovery"]]
    return Summary(
        metric=spec["metric"]["name"],
        unit=spec["metric"]["unit"],
        higher_is_better=spec["metric"]["higher_is_better"],
        margin=spec["margin"],
        confidence=spec["confidence"],
        dense=tuple(made(found, spec) for found in dense_cells if found),
        rows=_rows(curves, levels, spec),
        regions={pair: region for pair, (region, _, _) in curves.items()},
        comparisons=tuple(_comparisons(spec, levels, cells)),
        suggested={pair: found for pair, (_, _, found) in curves.items() if found},
        missing=tuple(trial.id for trial in plan if trial not in outcomes),
        invalid=tuple(t.id for t in plan if t in outcomes and not outcomes[t].finite),
        unplanned=tuple(sorted(trial.id for trial in outcomes.keys() - set(plan))),
    )


def _planned(spec: Mapping[str, Any], levels: Sequence[float]) -> list[Trial]:
    recoveries, seeds = spec["recovery"], spec["seeds"]
    plan = [Trial(seed, DENSE, 1.0, recovery) for recovery, seed in product(recoveries, seeds)]
    return plan + [
        Trial(seed, criterion, keep, recovery)
        for criterion, recovery, keep, seed in product(spec["criteria"], recoveries, levels, seeds)
        if _source(recovery, keep, spec) == recovery
    ]


def _cells(outcomes: Iterable[Outcome]) -> _Cells:
    """Return the finite outcomes by (criterion, recovery, keep ratio), and by seed."""
    cells: dict[tuple[str, str, float], dict[int, Outcome]] = {}
    for trial, outcome in ((outcome.trial, outcome) for outcome in outcomes if outcome.finite):
        cell = cells.setdefault((trial.criterion, trial.recovery, trial.keep), {})
        cell[trial.seed] = outcome
    return cells


def _curve(
    criterion: str, recovery: str, levels: Sequence[float], cells: _Cells, spec: Mapping[str, Any]
) -> _Curve:
    """Return the region of a (criterion, recovery), and the rows that have trials of their own."""
    reference = _dense_recovery(recovery, cells)
    dense = cells.get((DENSE, reference, 1.0), {})
    own = [keep for keep in levels if _source(recovery, keep, spec) == recovery]
    by_level = {keep: cells.get((criterion, recovery, keep), {}) for keep in own}
    region = operating_region(
        {keep: differences(found, dense, "test") for keep, found in by_level.items()},
        spec["margin"],
        spec["confidence"],
        minimum_seeds=max(MINIMUM_SEEDS, len(spec["seeds"])),
        higher_is_better=spec["metric"]["higher_is_better"],
    )
    rows: dict[float, Row] = {}
    suggested = None
    for keep, found in by_level.items():
        if found:
            test = region.tests[keep]
            rows[keep] = replace(
                made(found, spec),
                difference=_interval(found, dense, "test", spec),
                dense_recovery=reference if found.keys() & dense.keys() else None,
                bound=test.bound if test else None,
                p_value=test.p_value if test else None,
                certified=keep in region.certified,
            )
            validation = _interval(found, dense, "validation", spec)
            if validation and _is_within_margin(validation, spec):
                # Levels decrease, so the last one to get here is the smallest.
                suggested = Suggestion(keep, validation, rows[keep])
    return region, rows, suggested


def _rows(
    curves: Mapping[tuple[str, str], _Curve], levels: Sequence[float], spec: Mapping[str, Any]
) -> tuple[Row, ...]:
    """Return the rows of every curve, some of which are those of another."""
    rows = {(*pair, keep): row for pair, (_, own, _) in curves.items() for keep, row in own.items()}
    return tuple(
        replace(row, recovery=recovery)
        for (criterion, recovery), keep in product(curves, levels)
        if (row := rows.get((criterion, _source(recovery, keep, spec), keep)))
    )


def _source(recovery: str, keep: float, spec: Mapping[str, Any]) -> str:
    """Return whose trials a recovery's level consists of.

    Its own, but for fine-tuning where a cut keeps more than `finetune_from`: those are
    recalibrated only, and their rows are those of `batchnorm`.
    """
    least = spec["options"].get("finetune_from", 1.0)
    return "batchnorm" if recovery == "finetune" and not finetuned(keep, least) else recovery


def _dense_recovery(recovery: str, cells: _Cells) -> str:
    candidates = () if recovery in _OWN_DENSE_ONLY else (recovery, "batchnorm", "none")
    return next((each for each in candidates if (DENSE, each, 1.0) in cells), recovery)


def _comparisons(
    spec: Mapping[str, Any], levels: Sequence[float], cells: _Cells
) -> Iterator[Comparison]:
    others = [criterion for criterion in spec["criteria"] if criterion != GATE]
    for other, recovery, keep in product((*others, CONTROL), spec["recovery"], levels):
        source = _source(recovery, keep, spec)
        nets = [(each, 1.0) for each in others] if other == CONTROL else [(other, keep)]
        found = (cells.get((criterion, source, at), {}) for criterion, at in nets)
        gate, against = cells.get((GATE, source, keep), {}), next(filter(None, found), {})
        difference = _interval(gate, against, "test", spec)
        if difference is not None:
            yield Comparison(GATE, other, recovery, keep, difference)


def _is_within_margin(difference: Interval, spec: Mapping[str, Any]) -> bool:
    worse_by = -difference.mean if spec["metric"]["higher_is_better"] else difference.mean
    return bool(worse_by < spec["margin"])


def _interval(a: BySeed, b: BySeed, split: Split, spec: Mapping[str, Any]) -> Interval | None:
    found = differences(a, b, split)
    return t_interval(found, spec["confidence"]) if found else None
