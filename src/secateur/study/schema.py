"""What a spec and a record must look like to be used: fields, kinds and bounds.

Fields that are not listed may hold anything.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from secateur.files import Size

SEEDS = 10_000
"""Most seeds of a study."""
LEVELS = 1_000
"""Most keep ratios of a study."""
ITEMS = 100_000
"""Most stages and trials of a study, all together."""
_LARGEST = 1e100  # of a figure: sums of squares of such are still finite

_Figure = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
_Amount = Annotated[float, Meta(ge=0, le=_LARGEST)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Ratio = Annotated[float, Meta(gt=0, le=1)]
_Texts = Annotated[list[str], Meta(min_length=1)]


class _Task(Struct):
    name: str


class _Metric(Struct):
    name: str
    unit: str
    higher_is_better: bool


class _Primary(Struct):
    criterion: str
    recovery: str
    levels: Annotated[list[_Ratio], Meta(min_length=1)]


class SpecFile(Struct):
    """spec.json."""

    task: _Task
    metric: _Metric
    levels: Annotated[list[_Ratio], Meta(min_length=1)]
    seeds: Annotated[list[Size], Meta(min_length=1)]
    criteria: _Texts
    recovery: _Texts
    margin: Annotated[float, Meta(gt=0, le=_LARGEST)]
    confidence: Annotated[float, Meta(ge=0.5, lt=1)]
    primary: _Primary
    options: dict[str, Any]

    def __post_init__(self) -> None:
        check_size(len(self.seeds), len(self.levels), len(self.criteria), len(self.recovery))


class _Reused(Struct):
    spec: str
    seeds: Size


class _Run(Struct, kw_only=True):
    """What every record says of how it came about."""

    seconds: _Amount = 0.0
    work: _Amount = 0.0
    started: str = ""
    precision: str = ""
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    reused: list[_Reused] = []


class _Trial(Struct):
    seed: Size
    criterion: str
    keep: _Ratio
    recovery: str


class _Metrics(Struct):
    validation: _Figure
    test: _Figure


class _Layer(Struct):
    kept: Size
    total: Size


class _Weights(Struct):
    parameters: Size
    prunable: Size
    kept: Size
    layers: dict[str, _Layer]


class _Scores(Struct):
    count: Size
    values: str


class _Int8(Struct):
    bytes: Size
    ranges: str
    in_float: dict[str, str]


class TrialRecord(_Run):
    """The record of a trial."""

    trial: _Trial
    metrics: _Metrics
    weights: _Weights
    scores: _Scores | None = None
    classes: list[_Figure | None] | None = None
    calibration_error: _Amount | None = None
    before_int8: _Metrics | None = None
    int8: _Int8 | None = None


class _Tried(Struct):
    width: _Ratio
    parameters: Size
    latency_ms: _Amount
    ratio: _Amount


class MatchedFile(Struct):
    """matched.json; the record of a stage that was trained by it has it too."""

    cut: _Trial
    batch: Size
    threads: Size
    int8: bool
    width: _Ratio | None
    why: str
    tried: list[_Tried]
    cut_ms: _Amount | None
    others: _Amount | None
    machine: dict[str, Any]
    date: str


class _Histogram(Struct):
    edges: list[Any]
    counts: list[Any]


class StageRecord(_Run):
    """The record of a stage."""

    stage: str
    seed: Size
    checkpoint: str
    log: list[dict[str, Any]]
    keep: _Ratio = 1.0
    width: _Ratio = 1.0
    excluded: dict[str, str] = {}
    gates: dict[str, _Histogram] = {}
    matched: MatchedFile | None = None


class _Measured(Struct):
    keep: _Ratio
    criterion: str
    engine: str
    precision: str
    latency_ms: dict[str, _Amount]
    bytes: Size
    peak_memory: Size
    accuracy: _Figure
    cost_per_million: _Amount | None
    energy_j: _Amount | None
    certified: bool


class ShippedFile(Struct):
    """shipped.json."""

    measured: list[_Measured]
    notes: list[str]
    machine: dict[str, Any]
    date: str


class Failure(Struct):
    """What went wrong with an item."""

    spec: str
    failed: str
    why: str


def check_size(seeds: int, levels: int, criteria: int, recoveries: int) -> None:
    """Refuse a study of more items than can be meant.

    Raises:
        ValueError: says of what there is too much.
    """
    for count, most, what in ((seeds, SEEDS, "seeds"), (levels, LEVELS, "keep ratios")):
        if count > most:
            raise ValueError(f"it has {count:,} {what}, and a study has at most {most:,}")
    items = seeds * (3 + (1 + recoveries) * (1 + levels * (1 + criteria)))  # rungs are stages too
    if items > ITEMS:
        raise ValueError(
            f"it has up to {items:,} stages and trials, and a study has at most {ITEMS:,}"
        )
