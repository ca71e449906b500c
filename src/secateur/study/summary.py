"""From the records of a study to the rows of its report: pure, and at any moment of the study.

Figures of the test set are reported; what is chosen (`Suggestion`) is chosen on validation data.
The certificate uses test data, but chooses nothing with it freely: levels, margin, confidence
and order are declared in the spec, and the error rate is that of the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from secateur.errors import StudyError, whole
from secateur.pruning.selecting.budget import Budget
from secateur.study.plan import DENSE, Trial, finetuned
from secateur.study.statistics import (
    MINIMUM_SEEDS,
    Interval,
    Region,
    Test,
    operating_region,
    paired,
    t_interval,
)

GATE = "gate"
CONTROL = "control"
_OWN_DENSE_ONLY = ("none", "batchnorm")
_CHANCE_ERRORS = 3.0
_CHANCE_IMAGES = 1000
_Split = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Row:
    """One (criterion, recovery, keep ratio) over its seeds; dense is criterion `dense`, keep 1.

    `n` counts the seeds with finite figures. `difference` is test minus dense test, paired by
    seed; `dense_recovery` names the recovery of the dense records it is taken from. Both are
    None for dense itself, and where no seed has both. `noninferiority` is None for a level
    that the fixed sequence did not reach or could not test. `kept`, `prunable` and `parameters`
    count weights; `collapsed` names the layers that in at least one seed lost every
    weight, or kept no more than the floor where a tenth of their share would be more. For
    `estimated_bytes` and `at_chance` see the functions `estimated_bytes` and `chance_limit`.
    """

    criterion: str
    recovery: str
    keep: float
    sparsity: float
    n: int
    test: Interval
    validation: Interval
    difference: Interval | None
    dense_recovery: str | None
    noninferiority: Test | None
    certified: bool
    kept: int
    prunable: int
    parameters: int
    estimated_bytes: int
    collapsed: tuple[str, ...]
    at_chance: bool


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


@dataclass(frozen=True, slots=True)
class _Outcome:
    trial: Trial
    validation: float
    test: float
    kept: int
    prunable: int
    parameters: int
    collapsed: tuple[str, ...]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.validation) and math.isfinite(self.test)


_BySeed = Mapping[int, _Outcome]
_Cells = Mapping[tuple[str, str, float], _BySeed]


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
    criteria, recoveries, seeds = spec["criteria"], spec["recovery"], spec["seeds"]
    levels: list[float] = sorted(spec["levels"], reverse=True)
    plan = [Trial(seed, DENSE, 1.0, recovery) for recovery, seed in product(recoveries, seeds)]
    plan += [
        Trial(seed, criterion, keep, recovery)
        for criterion, recovery, keep, seed in product(criteria, recoveries, levels, seeds)
        if _source(recovery, keep, spec) == recovery
    ]
    floor = spec["options"].get("floor", 0)
    outcomes = {outcome.trial: outcome for outcome in (_read(each, floor) for each in trials)}
    cells: dict[tuple[str, str, float], dict[int, _Outcome]] = {}
    for trial in plan:
        if trial in outcomes and outcomes[trial].finite:
            cell = cells.setdefault((trial.criterion, trial.recovery, trial.keep), {})
            cell[trial.seed] = outcomes[trial]

    rows: list[Row] = []
    regions: dict[tuple[str, str], Region] = {}
    suggested: dict[tuple[str, str], Suggestion] = {}
    for criterion, recovery in product(criteria, recoveries):
        reference = _dense_recovery(recovery, cells)
        dense = cells.get((DENSE, reference, 1.0), {})
        own = [keep for keep in levels if _source(recovery, keep, spec) == recovery]
        by_level = {keep: cells.get((criterion, recovery, keep), {}) for keep in own}
        region = _region(by_level, dense, spec)
        regions[criterion, recovery] = region
        for keep in levels:
            if keep not in by_level:
                rows += [
                    replace(row, recovery=recovery)
                    for row in rows
                    if (row.criterion, row.recovery, row.keep)
                    == (criterion, _source(recovery, keep, spec), keep)
                ]
                continue
            if not (found := by_level[keep]):
                continue
            row = replace(
                _row(found, spec),
                difference=_interval(found, dense, "test", spec),
                dense_recovery=reference if found.keys() & dense.keys() else None,
                noninferiority=region.tests[keep],
                certified=keep in region.certified,
            )
            rows.append(row)
            validation = _interval(found, dense, "validation", spec)
            if validation is not None and _is_within_margin(validation, spec):
                # Levels decrease, so the last one to get here is the smallest.
                suggested[criterion, recovery] = Suggestion(keep, validation, row)

    dense_cells = [cells.get((DENSE, recovery, 1.0)) for recovery in recoveries]
    return Summary(
        metric=spec["metric"]["name"],
        unit=spec["metric"]["unit"],
        higher_is_better=spec["metric"]["higher_is_better"],
        margin=spec["margin"],
        confidence=spec["confidence"],
        dense=tuple(_row(found, spec) for found in dense_cells if found),
        rows=tuple(rows),
        regions=regions,
        comparisons=tuple(_comparisons(spec, levels, cells)),
        suggested=suggested,
        missing=tuple(trial.id for trial in plan if trial not in outcomes),
        invalid=tuple(t.id for t in plan if t in outcomes and not outcomes[t].finite),
        unplanned=tuple(sorted(trial.id for trial in outcomes.keys() - set(plan))),
    )


def estimated_bytes(parameters: int, prunable: int, kept: int) -> int:
    """Estimate of the bytes of the weights alone, in fp32: computed, not a measured file.

    The smaller of the dense form, 4 * parameters, and the sparse form, a bit per prunable
    weight + 4 bytes per kept weight + 4 bytes per weight that is never cut:
    ceil(prunable / 8) + 4 * kept + 4 * (parameters - prunable).
    """
    sparse = (prunable + 7) // 8 + 4 * kept + 4 * (parameters - prunable)
    return min(4 * parameters, sparse)


def chance_limit(spec: Mapping[str, Any]) -> float | None:
    """Accuracy up to which a network may be guessing, in the metric's unit.

    1/classes plus three binomial standard errors of one test set, p + 3 sqrt(p (1 - p) / N),
    with `classes` and N = `test_images` (both whole numbers) from the spec's task; N is taken
    as 1,000 where the task does not say. None where the metric is not accuracy (higher is better)
    or `classes` is not given.
    """
    task, metric = spec["task"], spec["metric"]
    classes, images = task.get("classes"), task.get("test_images")
    if metric["name"] != "accuracy" or not metric["higher_is_better"]:
        return None
    if not whole(classes) or classes < 2:
        return None
    if not whole(images) or images < 1:
        images = _CHANCE_IMAGES
    p: float = 1.0 / classes
    limit = p + _CHANCE_ERRORS * math.sqrt(p * (1.0 - p) / images)
    return 100.0 * limit if metric["unit"] == "%" else limit


def _read(record: Mapping[str, Any], floor: float) -> _Outcome:
    try:
        trial, metrics, weights = record["trial"], record["metrics"], record["weights"]
        return _Outcome(
            trial=Trial(trial["seed"], trial["criterion"], trial["keep"], trial["recovery"]),
            validation=_figure(metrics, "validation"),
            test=_figure(metrics, "test"),
            kept=weights["kept"],
            prunable=weights["prunable"],
            parameters=weights["parameters"],
            collapsed=tuple(
                name
                for name, it in weights["layers"].items()
                if _collapsed(it["kept"], it["total"], trial["keep"], floor)
            ),
        )
    except KeyError as error:
        raise StudyError(
            f"the record of trial {record.get('trial', '(unknown)')} has no field {error};"
            " delete that record and run the study again"
        ) from error


def _collapsed(kept: int, total: int, keep: float, floor: float) -> bool:
    """Whether a layer lost everything, or would have but for the floor."""
    if kept == 0:
        return True
    return kept <= Budget(keep, floor=floor).least(total) and kept < keep * total / 10


def _figure(metrics: Mapping[str, Any], split: str) -> float:
    value = metrics.get(split)
    return math.nan if value is None else float(value)


def _source(recovery: str, keep: float, spec: Mapping[str, Any]) -> str:
    """Return whose trials a recovery's level consists of.

    Its own, but for fine-tuning where a cut keeps more than `finetune_from`: those are
    recalibrated only, and their rows are those of `batchnorm`.
    """
    least = spec["options"].get("finetune_from", 1.0)
    return "batchnorm" if recovery == "finetune" and not finetuned(keep, least) else recovery


def _dense_recovery(recovery: str, cells: _Cells) -> str:
    if recovery in _OWN_DENSE_ONLY:
        return recovery
    candidates = (recovery, "batchnorm", "none")
    return next((each for each in candidates if (DENSE, each, 1.0) in cells), recovery)


def _region(by_level: Mapping[float, _BySeed], dense: _BySeed, spec: Mapping[str, Any]) -> Region:
    return operating_region(
        {keep: _differences(found, dense, "test") for keep, found in by_level.items()},
        spec["margin"],
        spec["confidence"],
        minimum_seeds=max(MINIMUM_SEEDS, len(spec["seeds"])),
        higher_is_better=spec["metric"]["higher_is_better"],
    )


def _row(found: _BySeed, spec: Mapping[str, Any]) -> Row:
    """The part of a row that needs no dense records."""
    one = next(iter(found.values()))  # counts are exact, so those of every seed are the same
    limit = chance_limit(spec)
    test = t_interval(_by_seed(found, "test"), spec["confidence"])
    return Row(
        criterion=one.trial.criterion,
        recovery=one.trial.recovery,
        keep=one.trial.keep,
        sparsity=round(1.0 - one.trial.keep, 12),
        n=len(found),
        test=test,
        validation=t_interval(_by_seed(found, "validation"), spec["confidence"]),
        difference=None,
        dense_recovery=None,
        noninferiority=None,
        certified=False,
        kept=one.kept,
        prunable=one.prunable,
        parameters=one.parameters,
        estimated_bytes=estimated_bytes(one.parameters, one.prunable, one.kept),
        collapsed=tuple(dict.fromkeys(name for each in found.values() for name in each.collapsed)),
        at_chance=limit is not None and test.mean <= limit,
    )


def _comparisons(
    spec: Mapping[str, Any], levels: Sequence[float], cells: _Cells
) -> Iterator[Comparison]:
    others = [criterion for criterion in spec["criteria"] if criterion != GATE]
    for other, recovery, keep in product(others, spec["recovery"], levels):
        source = _source(recovery, keep, spec)
        gate = cells.get((GATE, source, keep), {})
        against = cells.get((other, source, keep), {})
        difference = _interval(gate, against, "test", spec)
        if difference is not None:
            yield Comparison(GATE, other, recovery, keep, difference)
    for recovery, keep in product(spec["recovery"], levels):
        source = _source(recovery, keep, spec)
        gate = cells.get((GATE, source, keep), {})
        uncut = (cells.get((other, source, 1.0), {}) for other in others)
        difference = _interval(gate, next(filter(None, uncut), {}), "test", spec)
        if difference is not None:
            yield Comparison(GATE, CONTROL, recovery, keep, difference)


def _is_within_margin(difference: Interval, spec: Mapping[str, Any]) -> bool:
    worse_by = -difference.mean if spec["metric"]["higher_is_better"] else difference.mean
    return bool(worse_by < spec["margin"])


def _interval(a: _BySeed, b: _BySeed, split: _Split, spec: Mapping[str, Any]) -> Interval | None:
    differences = _differences(a, b, split)
    return t_interval(differences, spec["confidence"]) if differences else None


def _differences(a: _BySeed, b: _BySeed, split: _Split) -> dict[int, float]:
    """Paired by seed; empty where no seed is common."""
    return paired(_by_seed(a, split), _by_seed(b, split)) if a.keys() & b.keys() else {}


def _by_seed(found: _BySeed, split: _Split) -> dict[int, float]:
    return {seed: getattr(outcome, split) for seed, outcome in found.items()}
