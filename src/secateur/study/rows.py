"""The rows of a study: what its CSV, its tables, its page and its charts all read.

A new column is a field of `Row` with its value in `made`: the CSV and the page's data then have
it. `secateur.study.report.columns` lists those that people are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, Literal, TypeVar

from secateur.errors import StudyError, printable, whole
from secateur.pruning.selecting.budget import Budget
from secateur.study.plan import DENSE, Trial
from secateur.study.statistics import Interval, paired, t_interval

_CHANCE_ERRORS = 3.0
_CHANCE_IMAGES = 1000
_FORMULA = ("=", "+", "-", "@")
_PARTS = ("mean", "sd", "low", "high")
Split = Literal["validation", "test"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One (criterion, recovery, keep ratio) over its seeds; dense is criterion `dense`, keep 1.

    `n` counts the seeds with finite figures. `difference` is test minus dense test, paired by
    seed; `dense_recovery` names the recovery of the dense records it is taken from. Both are
    None for dense itself, and where no seed has both. `bound` and `p_value` are those of the
    test of non-inferiority, None for a level that the fixed sequence did not reach or could not
    test. `kept`, `prunable` and `parameters` count weights; `collapsed_layers` names those that
    in at least one seed lost every weight, or kept no more than the floor where a tenth of their
    share would be more. For `estimated_bytes` and `at_chance` see the functions `estimated_bytes`
    and `chance_limit`. `layers` has the weights kept in each prunable layer, a mean over seeds,
    and its size.

    The fields stand in the order of results.csv, which has all but `layers`.
    """

    criterion: str
    recovery: str
    keep: float
    sparsity: float
    n: int
    test: Interval
    validation: Interval
    difference: Interval | None = None
    dense_recovery: str | None = None
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
    layers: Mapping[str, tuple[float, int]]

    @property
    def verdict(self) -> Literal["", "yes", "no", "not tested"]:
        """Whether a level is certified; `not tested` where the sequence had ended before.

        Dense, which is not tested against itself, has none.
        """
        if self.criterion == DENSE:
            return ""
        return "yes" if self.certified else "not tested" if self.bound is None else "no"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the record of a trial says: its figures (NaN where they are absent) and weights."""

    trial: Trial
    validation: float
    test: float
    weights: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Outcome:
        """Read a trial's record.

        Raises:
            StudyError: it lacks a field; names record and field.
        """
        try:
            trial, figures, weights = record["trial"], record["metrics"], record["weights"]
            return cls(
                Trial(trial["seed"], trial["criterion"], trial["keep"], trial["recovery"]),
                math.nan if figures.get("validation") is None else figures["validation"],
                math.nan if figures.get("test") is None else figures["test"],
                {name: weights[name] for name in ("kept", "prunable", "parameters", "layers")},
            )
        except KeyError as error:
            raise StudyError(
                f"the record of trial {record.get('trial', '(unknown)')} has no field {error};"
                " delete that record and run the study again"
            ) from error

    @property
    def finite(self) -> bool:
        """Whether there is something to be concluded from it."""
        return math.isfinite(self.validation) and math.isfinite(self.test)


BySeed = Mapping[int, Outcome]


def made(found: BySeed, spec: Mapping[str, Any]) -> Row:
    """Return the part of a row that needs no dense records, from the outcome of each seed."""
    one = next(iter(found.values()))  # counts are exact, so those of every seed are the same
    keep, kept, prunable = one.trial.keep, one.weights["kept"], one.weights["prunable"]
    parameters, limit = one.weights["parameters"], chance_limit(spec)
    test, validation = (
        t_interval(by_seed(found, split), spec["confidence"]) for split in ("test", "validation")
    )
    floor = spec["options"].get("floor", 0)
    layers = [item for each in found.values() for item in each.weights["layers"].items()]
    return Row(
        criterion=one.trial.criterion,
        recovery=one.trial.recovery,
        keep=keep,
        sparsity=round(1.0 - keep, 12),
        n=len(found),
        test=test,
        validation=validation,
        margin=spec["margin"],
        confidence=spec["confidence"],
        kept=kept,
        prunable=prunable,
        parameters=parameters,
        estimated_bytes=estimated_bytes(parameters, prunable, kept),
        collapsed_layers=tuple(
            dict.fromkeys(name for name, layer in layers if _collapsed(layer, keep, floor))
        ),
        at_chance=limit is not None and test.mean <= limit,
        layers={
            name: (fmean(layer["kept"] for layer in seeds), seeds[0]["total"])
            for name, seeds in grouped(layers).items()
        },
    )


def by_seed(found: BySeed, split: Split) -> dict[int, float]:
    """Return the figures of one split."""
    return {seed: getattr(outcome, split) for seed, outcome in found.items()}


def differences(a: BySeed, b: BySeed, split: Split) -> dict[int, float]:
    """Return a - b, paired by seed; empty where no seed is common."""
    return paired(by_seed(a, split), by_seed(b, split)) if a.keys() & b.keys() else {}


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
    truth as true/false, several layers separated by spaces. Dense is not tested against itself:
    its `certified` is false.
    """
    columns = [
        (field.name, part)
        for field in fields(Row)
        if field.name != "layers"
        for part in (_PARTS if "Interval" in str(field.type) else ("",))
    ]
    return [[f"{name}_{part}".rstrip("_") for name, part in columns]] + [
        [
            _written(getattr(getattr(row, name), part, None) if part else getattr(row, name))
            for name, part in columns
        ]
        for row in rows
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
