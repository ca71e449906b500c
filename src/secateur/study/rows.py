"""The rows of a study: what its CSV, its tables, its page and its charts all read.

A new column is a field of `Row` with its value in `made`: the CSV and the page's data then have
it. `secateur.study.report.columns` lists those that people are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur import machine
from secateur.errors import StudyError, UsageError, printable, whole
from secateur.pruning.selecting.budget import Budget
from secateur.study import statistics
from secateur.study.plan import WHOLE, Trial
from secateur.study.samples import unpacked
from secateur.study.statistics import Differences, Interval, interval, paired, t_interval

_CHANCE_ERRORS = 3.0
_CHANCE_IMAGES = 1000
_ANEW = "delete that record and run the study again"
_FORMULA = ("=", "+", "-", "@")
_PARTS = ("mean", "sd", "low", "high")
Split = Literal["validation", "test"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One (criterion, recovery, keep ratio) over its seeds.

    Criteria `start`, `uncut`, `smaller` and `as-fast` are networks that are not cut; the keep ratio
    of all but the first says which rung they were trained down to. `role` says whether the row is
    of the primary sequence of tests, which the spec names, or exploratory. `n` counts the seeds
    with finite figures. `reference` has test figures of the uncut network that had as much
    training, `difference` is test minus that, paired by seed, and `covers` says what its interval,
    bound and p value hold for; `over_start` and `over_best` are mean differences from the start and
    from the best uncut network of the study (by validation data), None where no seed has both.
    `bound` and `p_value` are those of the test of non-inferiority, None for a level that the fixed
    sequence did not reach or could not test. `kept`, `prunable` and `parameters` count weights;
    `collapsed_layers` names those that in at least one seed lost every weight, or kept no more than
    the floor where a tenth of their share would be more. `class_drop` is the largest drop of a
    class's score below the reference's and `calibration_error` the expected one of the
    probabilities, in per cent, a mean over seeds; None where outputs are no classes. Where the
    figures are those of int8 files, `over_float` is test minus that of the same networks before
    they were quantised, paired by seed. For `estimated_bytes` and `at_chance` see the functions
    `estimated_bytes` and `chance_limit`. `layers` has the weights kept in each prunable layer, a
    mean over seeds, and its size. `by_seed` has the test figure of each seed.

    The fields stand in the order of results.csv, which has all but `layers`, and a column for
    each seed.
    """

    criterion: str
    recovery: str
    keep: float
    sparsity: float
    role: Literal["primary", "exploratory", ""] = ""
    n: int
    test: Interval
    validation: Interval
    reference: Interval | None = None
    difference: Interval | None = None
    covers: str = ""
    over_start: float | None = None
    over_best: float | None = None
    over_float: Interval | None = None
    margin: float
    confidence: float
    bound: float | None = None
    p_value: float | None = None
    certified: bool = False
    kept: int
    prunable: int
    parameters: int
    estimated_bytes: int
    collapsed_layers: tuple[str, ...]
    at_chance: bool
    class_drop: float | None = None
    calibration_error: float | None = None
    layers: Mapping[str, tuple[float, int]]
    by_seed: Mapping[int, float]

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        return self.criterion in WHOLE

    @property
    def verdict(self) -> Literal["", "yes", "no", "not tested"]:
        """Whether a level is certified; `not tested` where the sequence had ended before.

        Networks that are not cut have none.
        """
        if self.whole:
            return ""
        return "yes" if self.certified else "not tested" if self.bound is None else "no"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the record of a trial says: its figures (NaN where they are absent) and weights.

    `scores` are those of each test example, float32 [N]; None where they were not kept.
    `before_int8` is the test figure of the network before it was quantised; None where the
    figures are not those of an int8 file.
    """

    trial: Trial
    validation: float
    test: float
    weights: Mapping[str, Any]
    scores: NDArray[np.float32] | None = None
    classes: Sequence[float | None] | None = None
    calibration_error: float | None = None
    before_int8: float | None = None
    kind: str = ""
    """Of the machine; a seed's outcomes of different kinds are not paired."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Outcome:
        """Read a trial's record.

        Raises:
            StudyError: it lacks a field, or its scores are damaged; names record and field.
        """
        name = record.get("trial", "(unknown)")
        try:
            trial, figures, weights = record["trial"], record["metrics"], record["weights"]
            scores = record.get("scores")
            return cls(
                Trial(trial["seed"], trial["criterion"], trial["keep"], trial["recovery"]),
                math.nan if figures.get("validation") is None else figures["validation"],
                math.nan if figures.get("test") is None else figures["test"],
                {name: weights[name] for name in ("kept", "prunable", "parameters", "layers")},
                None if scores is None else unpacked(scores["values"], scores["count"]),
                record.get("classes"),
                record.get("calibration_error"),
                (record.get("before_int8") or {}).get("test"),
                machine.kind(record.get("hardware") or {}),
            )
        except KeyError as error:
            raise StudyError(f"the record of trial {name} has no field {error}; {_ANEW}") from error
        except (UsageError, ValueError) as error:
            raise StudyError(f"the record of trial {name} is damaged: {error}; {_ANEW}") from error

    @property
    def finite(self) -> bool:
        """Whether there is something to be concluded from it."""
        return math.isfinite(self.validation) and math.isfinite(self.test)


BySeed = Mapping[int, Outcome]


def made(found: BySeed, spec: Mapping[str, Any]) -> Row:
    """Return the part of a row that needs no reference, from the outcome of each seed."""
    one = next(iter(found.values()))  # counts are exact, so those of every seed are the same
    keep, kept, prunable = one.trial.keep, one.weights["kept"], one.weights["prunable"]
    parameters, limit = one.weights["parameters"], chance_limit(spec)
    test, validation = (
        t_interval(by_seed(found, split), spec["confidence"]) for split in ("test", "validation")
    )
    floor = spec["options"].get("floor", 0)
    layers = [item for each in found.values() for item in each.weights["layers"].items()]
    errors = [e.calibration_error for e in found.values() if e.calibration_error is not None]
    lost = {s: e.test - e.before_int8 for s, e in found.items() if e.before_int8 is not None}
    return Row(
        criterion=one.trial.criterion,
        recovery=one.trial.recovery,
        keep=keep,
        sparsity=0.0 if one.trial.criterion in WHOLE else round(1.0 - keep, 12),
        n=len(found),
        test=test,
        validation=validation,
        margin=spec["margin"],
        confidence=spec["confidence"],
        over_float=t_interval(lost, spec["confidence"]) if len(lost) == len(found) else None,
        kept=kept,
        prunable=prunable,
        parameters=parameters,
        estimated_bytes=estimated_bytes(parameters, prunable, kept, each=1 if lost else 4),
        collapsed_layers=tuple(
            dict.fromkeys(name for name, layer in layers if _collapsed(layer, keep, floor))
        )
        if one.trial.criterion not in WHOLE
        else (),
        at_chance=limit is not None and test.mean <= limit,
        calibration_error=fmean(errors) if len(errors) == len(found) else None,
        layers={
            name: (fmean(layer["kept"] for layer in seeds), seeds[0]["total"])
            for name, seeds in grouped(layers).items()
        },
        by_seed=by_seed(found, "test"),
    )


def compared(row: Row, found: BySeed, reference: BySeed, spec: Mapping[str, Any]) -> Row:
    """Return a row with what follows from its reference."""
    if not (pairs := test_differences(found, reference)):
        return row
    difference = interval(pairs, spec["confidence"])
    return replace(
        row,
        reference=t_interval(by_seed(reference, "test"), spec["confidence"]),
        difference=difference,
        covers=difference.covers,
        class_drop=_class_drop(found, reference, higher=spec["metric"]["higher_is_better"]),
    )


def by_seed(found: BySeed, split: Split) -> dict[int, float]:
    """Return the figures of one split."""
    return {seed: getattr(outcome, split) for seed, outcome in found.items()}


def differences(a: BySeed, b: BySeed, split: Split) -> dict[int, float]:
    """Return a - b, paired by seed; empty where no seed is common."""
    a, b = _common(a, b)
    return paired(by_seed(a, split), by_seed(b, split)) if a else {}


def test_differences(a: BySeed, b: BySeed) -> Differences | None:
    """Return a - b on test data, by seed and example; None where no seed is common.

    Raises:
        StudyError: scores do not have the mean that is recorded with them; names seed and trials.
    """
    a, b = _common(a, b)
    if not a:
        return None
    ours, theirs = ({s: (o.test, o.scores) for s, o in each.items()} for each in (a, b))
    try:
        return statistics.differences(ours, theirs)
    except UsageError as error:
        names = " and ".join(next(iter(each.values())).trial.id for each in (a, b))
        raise StudyError(f"records like {names} do not hold together: {error}") from error


def _common(a: BySeed, b: BySeed) -> tuple[BySeed, BySeed]:
    """Return the outcomes of the seeds that both have, on machines of one kind."""
    seeds = [seed for seed in a if seed in b and a[seed].kind == b[seed].kind]
    return {seed: a[seed] for seed in seeds}, {seed: b[seed] for seed in seeds}


def _class_drop(a: BySeed, b: BySeed, *, higher: bool) -> float | None:
    """Return by how much the class that lost most lost, a mean over seeds."""
    a, b = _common(a, b)
    pairs = [(a[seed].classes, b[seed].classes) for seed in sorted(a)]
    if len({len(classes or ()) for pair in pairs for classes in pair}) > 1:
        return None  # not all of them are of these classes
    columns = [
        [(theirs - ours) if higher else (ours - theirs) for ours, theirs in scores]
        for scores in zip(*(zip(x or (), y or (), strict=True) for x, y in pairs), strict=True)
        if not any(None in each for each in scores)
    ]
    return max(map(fmean, columns), default=None)


def estimated_bytes(parameters: int, prunable: int, kept: int, *, each: int = 4) -> int:
    """Estimate of the bytes of the weights alone: computed, not a measured file.

    The smaller of the dense form, `each` bytes for every parameter, and the sparse form, a bit per
    prunable weight + the bytes of what is kept and of what is never cut:
    ceil(prunable / 8) + each * (kept + parameters - prunable).
    """
    return min(each * parameters, (prunable + 7) // 8 + each * (kept + parameters - prunable))


def chance_limit(spec: Mapping[str, Any]) -> float | None:
    """Accuracy up to which a network may be guessing, in the metric's unit.

    1/classes plus three binomial standard errors of one test set, p + 3 sqrt(p (1 - p) / N),
    with `classes` and N = `test_images` (both whole numbers) from the spec's task; N is taken
    as 1,000 where the task does not say. None where the metric is not accuracy (higher is better)
    or `classes` is not given.
    """
    task, metric = spec["task"], spec["metric"]
    classes, images = task.get("classes"), task.get("test_images")
    accuracy = metric["name"] == "accuracy" and metric["higher_is_better"]
    if not accuracy or not whole(classes) or classes < 2:
        return None
    counted = images if whole(images) and images >= 1 else _CHANCE_IMAGES
    p: float = 1.0 / classes
    limit = p + _CHANCE_ERRORS * math.sqrt(p * (1.0 - p) / counted)
    return 100.0 * limit if metric["unit"] == "%" else limit


def grouped(pairs: Iterable[tuple[Any, T]]) -> dict[Any, list[T]]:
    """Return the values of each key, in the order in which they come."""
    found: dict[Any, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def csv_rows(rows: Iterable[Row]) -> list[list[str]]:
    """Header, then one line per row, for `csv.writer`.

    A text that a spreadsheet would run as a formula is led by an apostrophe, as they show it.

    Floats are written so that reading them back gives the same float, None as an empty field,
    truth as true/false, several layers separated by spaces. What is not cut is not certified.
    """
    lines = list(rows)
    seeds = sorted({seed for row in lines for seed in row.by_seed})
    columns = [
        (field.name, part)
        for field in fields(Row)
        if field.name not in ("layers", "by_seed")
        for part in (_PARTS if "Interval" in str(field.type) else ("",))
    ]
    head = [f"{name}_{part}".rstrip("_") for name, part in columns]
    return [head + [f"test_seed_{seed}" for seed in seeds]] + [
        [
            *(
                _written(getattr(getattr(row, name), part, None) if part else getattr(row, name))
                for name, part in columns
            ),
            *(_written(row.by_seed.get(seed)) for seed in seeds),
        ]
        for row in lines
    ]


def _collapsed(layer: Mapping[str, int], keep: float, floor: float) -> bool:
    """Whether a layer lost everything, or would have but for the floor."""
    kept, total = layer["kept"], layer["total"]
    few = kept == 0 or kept < keep * total / 10
    return few and kept <= Budget(keep, floor=floor).least(total)


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | tuple):
        text = printable(value if isinstance(value, str) else " ".join(value))
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value) if isinstance(value, float) else str(value)
