"""Records of a study that never ran: what the report is tested with.

Spec and plan are those of a real study with these options, so that they cannot differ from it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.study import plan
from secateur.study.metrics import Metric
from secateur.study.options import Options
from secateur.study.plan import GATE, SMALLER, START, UNCUT, WHOLE, Stage, Trial
from secateur.study.samples import packed
from secateur.study.shipped import Shipped
from secateur.study.spec import Spec, options_of
from secateur.study.summary import Summary
from secateur.study.task import Task

HASH = "5ec47e00" * 8
LAYERS = {"stem.conv": 864, "body.1.conv": 36_864, "body.2.conv": 147_456, "head.linear": 1_280}
FIXED = 1_200  # weights that are never cut
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CLASSES, TEST_IMAGES = 10, 2_000
FALL = {"gate": 0.05, "magnitude": 0.10, "random": 0.45}  # how early a criterion breaks down
REPAIR = {"none": 1.0, "batchnorm": 0.45, "reconstruct": 0.35, "ladder": 0.2}

Record = dict[str, Any]


def _absent(*_: object) -> Any:
    raise AssertionError("no study of this task is run")


def make_spec(
    *,
    seeds: int = 3,
    criteria: Sequence[str] = ("gate", "magnitude", "random"),
    levels: Sequence[float] = LEVELS,
    name: str = "cifar10/convnet",
    metric: Record | None = None,
    margin: float = 0.5,
    task: Record | None = None,
    **options: Any,
) -> Record:
    """The JSON of a spec.

    Args:
        seeds, criteria, levels, margin: of the options.
        name: of the task.
        metric: its name, unit and direction; by default accuracy in per cent.
        task: fields of its description to change, None to leave one out.
        options: others, such as `unrepaired=True` or `gates="trunk"`.
    """
    told = metric or {"name": "accuracy", "unit": "%", "higher_is_better": True}
    described = {
        "data": "cifar10",
        "net": "convnet",
        "classes": CLASSES,
        "test_images": TEST_IMAGES,
        **(task or {}),
    }
    of = Task(
        name,
        model=_absent,
        data=_absent,
        loss=_absent,
        metric=Metric(told["name"], told["unit"], _absent, told["higher_is_better"]),
        description={key: value for key, value in described.items() if value is not None},
        imitation=_absent,
        smaller=_absent,
    )
    chosen = Options(
        keep=tuple(levels), seeds=seeds, criteria=tuple(criteria), margin=margin, **options
    )
    return Spec.of(of, chosen).as_json()


def make_trials(
    spec: Record, *, layers: dict[str, int] | None = None, scores: bool = True
) -> list[Record]:
    """Every trial of a spec; figures fall with sparsity as real ones do.

    Args:
        spec: of `make_spec`.
        layers: prunable weights of each layer.
        scores: record what each test example scored.
    """
    planned = plan.trials(options_of(spec), tuple(spec["seeds"]))
    return [_trial(spec, layers or LAYERS, trial, scores) for trial in planned]


def make_stages(spec: Record, *, layers: dict[str, int] | None = None) -> list[Record]:
    """The training stages of every seed."""
    items = plan.items(options_of(spec), tuple(spec["seeds"]))
    return [_stage(spec, item, layers or LAYERS) for item in items if isinstance(item, Stage)]


def measured(summary: Summary, networks: Sequence[Shipped]) -> Summary:
    """The same summary with measured networks."""
    return replace(summary, shipped=tuple(networks))


def make_shipped(**changes: Any) -> list[Shipped]:
    """Networks of this package at four levels, and of two peers at one."""
    ours = [
        ("secateur", "gate" if keep < 1 else "uncut", keep, accuracy, 2.4 * keep**0.6)
        for keep, accuracy in ((1.0, 88.3), (0.5, 88.3), (0.2, 87.9), (0.05, 70.1))
    ]
    peers = [("onnxruntime", "uncut", 1.0, 88.3, 1.4), ("openvino-int8", "uncut", 1.0, 88.0, 0.5)]
    return [
        Shipped(
            **{
                "engine": engine,
                "criterion": criterion,
                "keep": keep,
                "accuracy": accuracy,
                "latency_ms": {1: time, 64: 40 * time},
                "precision": "int8" if "int8" in engine else "fp32",
                "bytes": round(750_000 * keep),
                "peak_memory": 40_000_000,
                "certified": criterion == "gate" and accuracy > 87.8,
            }
            | changes
        )
        for engine, criterion, keep, accuracy, time in [*ours, *peers]
    ]


def _figure(spec: Record, trial: Trial) -> float:
    noise = random.Random(trial.id).gauss(0, 0.03)
    lost = 0.0
    if trial.criterion in SMALLER:
        lost = 3.0
    elif trial.criterion == UNCUT:
        lost = -0.1 * (1 - trial.keep)  # it is trained on
    elif trial.criterion != START:
        fall = FALL.get(trial.criterion, 0.2) * REPAIR[trial.recovery]
        steep = 0.035 if trial.criterion == GATE else 0.05
        lost = 78.0 / (1 + math.exp((trial.keep - fall) / steep))
    accuracy = 88.3 + 0.2 * math.sin(3.0 * trial.seed) - lost + noise
    return accuracy if spec["metric"]["higher_is_better"] else (100 - accuracy) / 25


def _scores(spec: Record, trial: Trial) -> NDArray[np.float32]:
    """Which examples are easy is the same for all networks, but for some noise."""
    figure, count = _figure(spec, trial), TEST_IMAGES
    ease = np.random.default_rng(0).normal(size=count)
    noise = np.random.default_rng(sum(trial.id.encode())).normal(scale=0.01, size=count)
    order = np.argsort(ease + noise)
    if spec["metric"]["unit"] == "%":
        scores = np.zeros(count, np.float32)
        right = round(min(max(figure, 0), 100) * count / 100)
        scores[order[count - right :]] = 100
        return scores
    spread = np.linspace(0.5, 1.5, count)[np.argsort(order)]
    return (spread * figure / spread.mean()).astype(np.float32)


def _trial(spec: Record, layers: dict[str, int], trial: Trial, with_scores: bool) -> Record:
    scores, total = _scores(spec, trial), sum(layers.values())
    test, whole = float(scores.mean(dtype=np.float64)), trial.criterion in WHOLE
    classes = [float(scores[c::CLASSES].mean()) for c in range(CLASSES)]
    kept = dict(layers)
    if trial.criterion in SMALLER:
        kept = {name: round(size * trial.keep) for name, size in layers.items()}
        layers, total = kept, sum(kept.values())
    elif not whole:
        kept = _kept(layers, trial)
    record = {
        "trial": {
            "seed": trial.seed,
            "criterion": trial.criterion,
            "keep": trial.keep,
            "recovery": trial.recovery,
        },
        "spec": HASH,
        "metrics": {"validation": test + 0.3, "test": test},
        "weights": {
            "parameters": total + FIXED,
            "prunable": total,
            "kept": sum(kept.values()),
            "layers": {n: {"kept": kept[n], "total": size} for n, size in layers.items()},
        },
        "masks": f"{sum(trial.id.encode()):064x}",
        "work": 0.75,
        "seconds": 1.25,
        "classes": classes,
        "calibration_error": 3.0 + trial.keep,
        **_machine(minute=30 + trial.seed),
    }
    if with_scores:
        record["scores"] = {"count": len(scores), "values": packed(scores)}
    return record


def _kept(layers: dict[str, int], trial: Trial) -> dict[str, int]:
    """Deeper layers lose more; all together keep what the ratio says, exactly."""
    shares = {
        name: trial.keep if trial.criterion == "random" else trial.keep ** (0.35 + 0.3 * depth)
        for depth, name in enumerate(layers)
    }
    kept = {name: max(1, round(size * shares[name])) for name, size in layers.items()}
    missing = round(trial.keep * sum(layers.values())) - sum(kept.values())
    for name in sorted(layers, key=lambda name: -layers[name]):  # the largest give or take
        moved = max(min(missing, layers[name] - kept[name]), 1 - kept[name])
        kept[name] += moved
        missing -= moved
    return kept


def _stage(spec: Record, stage: Stage, layers: dict[str, int]) -> Record:
    draw, options = random.Random(stage.id), options_of(spec)
    epochs = max(1, math.ceil(plan.epochs(options, stage) - 1e-9))
    start, end = (1.9, 0.75) if stage.name == START else (0.95 if stage.name == GATE else 0.8, 0.6)
    log = []
    for epoch in range(1, epochs + 1):
        loss = end + (start - end) * math.exp(-3 * epoch / epochs) + draw.gauss(0, 0.01)
        log.append({"epoch": epoch, "loss": round(loss, 4), "rate": 0.1, "seconds": 13.0})
    record: Record = {
        "stage": stage.name,
        "seed": stage.seed,
        "keep": stage.keep,
        "spec": HASH,
        "checkpoint": f"{sum(stage.id.encode()):064x}",
        "log": log,
        "excluded": {"first.weight": "first layer"},
        "work": 13.0 * epochs,
        "seconds": 13.0 * epochs + 1,
        **_machine(minute=stage.seed),
    }
    if stage.name == GATE:
        record["gates"] = {layer: _histogram(draw, i) for i, layer in enumerate(layers)}
    if stage.name in SMALLER:
        record["width"] = round(math.sqrt(stage.keep), 4)
    return record


def _histogram(draw: random.Random, depth: int) -> Record:
    width = 0.02 + 0.2 / (1 + depth)
    edges = [i * width / 16 for i in range(65)]
    counts = [round(4000 * math.exp(-i / 9) + draw.random() * 40) for i in range(64)]
    return {"edges": edges, "counts": counts}


def _machine(minute: int) -> Record:
    return {
        "precision": "bf16 autocast",
        "threads": 1,
        "versions": {"secateur": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        "started": f"2026-11-22T23:{minute % 60:02d}:00Z",
    }
