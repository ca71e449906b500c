"""From the records of a study to what its report shows: pure, and at any moment of the study.

Figures of the test set are reported; nothing is chosen by them. The certificate uses test data,
but the sequence that it tests, its levels, margin and confidence are declared in the spec, and the
error rate is that of the whole sequence. All other sequences are exploratory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from secateur.study import plan
from secateur.study.matched import Matched
from secateur.study.mixture import grown, mixed
from secateur.study.options import LADDER, Options
from secateur.study.plan import AS_FAST, AS_SMALL, START, UNCUT, WHOLE, Trial
from secateur.study.rows import (
    BySeed,
    Outcome,
    Row,
    compared,
    differences,
    made,
    test_differences,
)
from secateur.study.shipped import Shipped
from secateur.study.spec import options_of
from secateur.study.statistics import (
    MINIMUM_SEEDS,
    Interval,
    Noise,
    Region,
    interval,
    observed,
    operating_region,
    t_interval,
)

Pair = tuple[str, str]
"""A criterion and a recovery: what one curve is of."""
_Cell = tuple[str, str, float]
_Cells = Mapping[_Cell, BySeed]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`criterion` minus `other` on test data at one keep ratio, paired by seed.

    Each interval holds on its own: nothing is corrected for looking at many of them.
    """

    criterion: str
    recovery: str
    other: str
    other_recovery: str
    keep: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The smallest keep ratio whose mean validation loss against its reference is in the margin.

    Chosen on validation data only. `validation` is the paired difference it was chosen by;
    `row` carries its test figures and says whether the level is certified as well.
    """

    keep: float
    validation: Interval
    row: Row


@dataclass(frozen=True)
class Summary:
    """Everything a report shows. Rows stand in the order of the spec, keep ratios decreasing.

    `whole` has the networks that are not cut: the start, the uncut one after each rung, dense ones
    of fewer channels. `rows` has everything that was cut. `primary` names the curve whose sequence
    of tests the spec declares, and `noise` is how much its differences vary, at the level where
    that sequence ended, else at its last; None where a single seed shows none. `regions` has every
    curve of the spec, `suggested` those of them where some level stays within the margin. `missing`
    names planned trials without a record, `invalid` trials whose figures are absent or not finite,
    `unplanned` records that the spec does not ask for; the last two are in no figure.
    """

    metric: str
    unit: str
    higher_is_better: bool
    margin: float
    confidence: float
    primary: Pair
    noise: Noise | None
    whole: tuple[Row, ...]
    rows: tuple[Row, ...]
    regions: Mapping[Pair, Region]
    comparisons: tuple[Comparison, ...]
    suggested: Mapping[Pair, Suggestion]
    missing: tuple[str, ...]
    invalid: tuple[str, ...]
    unplanned: tuple[str, ...]
    shipped: tuple[Shipped, ...] = ()
    shipping: tuple[str, ...] = ()
    """What of the shipped networks could not be measured, and what disturbed it."""
    mixed: tuple[str, ...] = ()
    """How records differ in versions, or within a seed in the kind of machine."""
    grown: tuple[int, ...] = ()
    """How many seeds the study had before it had these, rising; nothing where it never grew."""
    level: float = 0.0
    """Keep ratio that smaller dense networks are compared with; 0: none is."""
    matched: Matched | None = None
    """Which of them is as fast as the compiled cut one; None where that was not measured."""

    @property
    def lines(self) -> tuple[Row, ...]:
        """All rows, those that are not cut first: the lines of every table."""
        return (*self.whole, *self.rows)

    @property
    def start(self) -> Row | None:
        """The uncut network before anything was cut, recalibrated where that was measured."""
        found = [row for row in self.whole if row.criterion == START]
        return next((row for row in found if row.recovery == "batchnorm"), next(iter(found), None))

    def of(self, criterion: str, recovery: str) -> tuple[Row, ...]:
        """The rows of one curve."""
        return tuple(r for r in self.lines if (r.criterion, r.recovery) == (criterion, recovery))


def summarise(
    spec: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    shipped: Sequence[Shipped] = (),
    shipping: Sequence[str] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    matched: Matched | None = None,
) -> Summary:
    """Summarise trial records against the spec that planned them, finished or not.

    A level without any usable record has no row. Every level is compared with the uncut network
    that had exactly as much training (`secateur.study.plan.reference`).

    A level is certified only where *all* seeds of the spec (and at least three) can be compared
    with the reference: to test after each new seed, and to stop when the test passes, would
    certify inferior levels more often than 1 - confidence. That error rate is the one of each
    curve; it is claimed of the primary one alone, which was declared before the run.

    Args:
        spec: the study's spec as JSON values.
        trials: its trial records as JSON values, in any order.
        shipped: what was measured of compiled networks.
        shipping: notes on that.
        stages: the study's stage records as JSON values.
        matched: which dense network is as fast as the compiled cut one.

    Raises:
        StudyError: a record lacks a field; names record and field.
        UsageError: the spec's options are not those of a study.
    """
    options = options_of(spec)
    outcomes = {outcome.trial: outcome for outcome in map(Outcome.of, trials)}
    known = matched is not None and matched.width is not None
    trained = known or any(trial.criterion == AS_FAST for trial in outcomes)
    planned = plan.trials(options, tuple(spec["seeds"]), matched=trained)
    cells = _cells(outcomes[trial] for trial in planned if trial in outcomes)
    rows = {cell: _row(cell, cells, options, spec) for cell in cells}
    pairs = options.curves
    curves = {pair: _curve(pair, cells, rows, options, spec) for pair in pairs}
    certified = {cell: row for _, own, _ in curves.values() for cell, row in own.items()}
    cut = [(*pair, keep) for pair in pairs for keep in options.cuts(*pair)]
    return Summary(
        metric=spec["metric"]["name"],
        unit=spec["metric"]["unit"],
        higher_is_better=spec["metric"]["higher_is_better"],
        margin=spec["margin"],
        confidence=spec["confidence"],
        primary=options.claim,
        noise=_noise(options.claim, curves[options.claim][0], cells, options),
        whole=tuple(row for cell, row in rows.items() if cell[0] in WHOLE),
        rows=tuple(certified[cell] for cell in cut if cell in certified),
        regions={pair: region for pair, (region, _, _) in curves.items()},
        comparisons=tuple(_comparisons(options, cells, spec)),
        suggested={pair: found for pair, (_, _, found) in curves.items() if found},
        missing=tuple(trial.id for trial in planned if trial not in outcomes),
        invalid=tuple(t.id for t in planned if t in outcomes and not outcomes[t].finite),
        unplanned=tuple(sorted(trial.id for trial in outcomes.keys() - set(planned))),
        shipped=tuple(shipped),
        shipping=tuple(shipping),
        mixed=mixed([*trials, *stages]),
        grown=grown([*trials, *stages]),
        level=options.smaller or 0.0,
        matched=matched,
    )


def _cells(outcomes: Iterable[Outcome]) -> _Cells:
    """Return the finite outcomes by (criterion, recovery, keep ratio), and by seed.

    Networks that are not cut come first, in the order of the plan.
    """
    cells: dict[_Cell, dict[int, Outcome]] = {}
    for trial, outcome in ((outcome.trial, outcome) for outcome in outcomes if outcome.finite):
        cells.setdefault((trial.criterion, trial.recovery, trial.keep), {})[trial.seed] = outcome
    return cells


def _row(cell: _Cell, cells: _Cells, options: Options, spec: Mapping[str, Any]) -> Row:
    """Return a row with its reference, and the start and the best uncut network beside it."""
    found = cells[cell]
    row = compared(made(found, spec), found, _reference(cell, cells, options), spec)
    if row.whole:
        return row
    return replace(
        row,
        role="primary" if cell[:2] == options.claim else "exploratory",
        over_start=_mean_gap(found, cells.get((START, "batchnorm", 1.0), {})),
        over_best=_mean_gap(found, _best(cells, spec)),
    )


def _mean_gap(a: BySeed, b: BySeed) -> float | None:
    gaps = differences(a, b, "test")
    return fmean(gaps.values()) if gaps else None


def _reference(cell: _Cell, cells: _Cells, options: Options) -> BySeed:
    """Return the outcomes of the uncut network that had as much training."""
    criterion, recovery, keep = cell
    trial = plan.reference(options, Trial(0, criterion, keep, recovery))
    return {} if trial is None else cells.get((trial.criterion, trial.recovery, trial.keep), {})


def _best(cells: _Cells, spec: Mapping[str, Any]) -> BySeed:
    """Return the best uncut network of the study, by its mean over seeds on validation data."""
    sign = 1 if spec["metric"]["higher_is_better"] else -1
    uncut = [found for cell, found in cells.items() if cell[0] in (START, UNCUT)]
    whole = [found for found in uncut if len(found) == max(map(len, uncut))]
    return max(whole, key=lambda f: sign * fmean(o.validation for o in f.values()), default={})


_Curve = tuple[Region, dict[_Cell, Row], Suggestion | None]


def _curve(
    pair: Pair,
    cells: _Cells,
    rows: Mapping[_Cell, Row],
    options: Options,
    spec: Mapping[str, Any],
) -> _Curve:
    """Return the region of a curve, its rows, and what validation data suggest."""
    own = {keep: (*pair, keep) for keep in options.cuts(*pair)}
    references = {keep: _reference(cell, cells, options) for keep, cell in own.items()}
    higher = spec["metric"]["higher_is_better"]
    region = operating_region(
        {
            keep: test_differences(cells.get(cell, {}), references[keep]) or {}
            for keep, cell in own.items()
        },
        spec["margin"],
        spec["confidence"],
        minimum_seeds=max(MINIMUM_SEEDS, len(spec["seeds"])),
        higher_is_better=higher,
    )
    found: dict[_Cell, Row] = {}
    suggested = None
    for keep, cell in own.items():
        if cell not in rows:
            continue
        test = region.tests[keep]
        found[cell] = replace(
            rows[cell],
            bound=test.bound if test else None,
            p_value=test.p_value if test else None,
            certified=keep in region.certified,
        )
        gaps = differences(cells[cell], references[keep], "validation")
        if gaps:
            validation = t_interval(gaps, spec["confidence"])
            worse_by = -validation.mean if higher else validation.mean
            if worse_by < spec["margin"]:
                # Levels decrease, so the last one to get here is the smallest.
                suggested = Suggestion(keep, validation, found[cell])
    return region, found, suggested


def _noise(pair: Pair, region: Region, cells: _Cells, options: Options) -> Noise | None:
    """Return how much the differences vary of the level where a sequence of tests ended."""
    cell = (*pair, region.stopped_at or min(region.tests))
    found = test_differences(cells.get(cell, {}), _reference(cell, cells, options))
    return observed(found) if found is not None and len(found) > 1 else None


def _comparisons(options: Options, cells: _Cells, spec: Mapping[str, Any]) -> Iterator[Comparison]:
    """Yield the primary curve minus every other one that is worth it, level by level."""
    criterion, recovery = options.claim
    others = [
        (c, r)
        for c in options.criteria
        for r in options.recoveries
        if (c, r) != options.claim and c != "random" and r != "none" and options.cuts(c, r)
    ]
    others += [(name, LADDER) for name in (AS_SMALL, AS_FAST) if options.smaller]
    for other, other_recovery in others:
        for keep in options.cuts(criterion, recovery):
            ours = cells.get((criterion, recovery, keep), {})
            theirs = cells.get((other, other_recovery, keep), {})
            pairs = test_differences(ours, theirs)
            if pairs is not None:
                gap = interval(pairs, spec["confidence"])
                yield Comparison(criterion, recovery, other, other_recovery, keep, gap)
