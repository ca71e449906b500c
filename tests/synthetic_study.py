"""Records of a study that never ran: what the report is tested with."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

HASH = "5ec47e00" * 8
LAYERS = {"stem.conv": 864, "body.1.conv": 36_864, "body.2.conv": 147_456, "head.linear": 1_280}
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
FALL = {"gate": 0.05, "magnitude": 0.10, "random": 0.45}  # how early a criterion breaks down
REPAIR = {"none": 1.0, "batchnorm": 0.45, "finetune": 0.2}

Record = dict[str, Any]


def make_spec(
    *,
    seeds: int = 3,
    criteria: Sequence[str] = ("gate", "magnitude", "random"),
    recovery: Sequence[str] = ("none", "batchnorm"),
    levels: Sequence[float] = LEVELS,
    name: str = "cifar10/convnet",
    metric: Record | None = None,
    margin: float = 0.5,
) -> Record:
    """The JSON of a spec, with the fields that a report reads."""
    return {
        "format": 1,
        "task": {"name": name, "data": "cifar10", "net": "convnet", "classes": 10},
        "metric": metric or {"name": "accuracy", "unit": "%", "higher_is_better": True},
        "levels": list(levels),
        "seeds": list(range(seeds)),
        "criteria": list(criteria),
        "recovery": list(recovery),
        "margin": margin,
        "confidence": 0.95,
        "options": {"epochs": 8, "gate_epochs": 5, "batch_size": 128, "floor": 0.002},
    }


def make_trials(spec: Record, *, layers: dict[str, int] | None = None) -> list[Record]:
    """Every trial of a spec, dense first; figures fall with sparsity as real ones do."""
    layers = layers or LAYERS
    trials = [
        _trial(spec, layers, (seed, "dense", 1.0, recovery))
        for recovery in spec["recovery"]
        for seed in spec["seeds"]
    ]
    return trials + [
        _trial(spec, layers, (seed, criterion, keep, recovery))
        for criterion in spec["criteria"]
        for keep in spec["levels"]
        for recovery in spec["recovery"]
        for seed in spec["seeds"]
    ]


def make_stages(spec: Record, *, layers: dict[str, int] | None = None) -> list[Record]:
    """The three training stages of every seed."""
    return [
        _stage(spec, name, seed, layers or LAYERS)
        for seed in spec["seeds"]
        for name in ("train", "gates", "control")
    ]


def _figure(spec: Record, seed: int, criterion: str, keep: float, recovery: str) -> float:
    noise = random.Random(f"{seed}/{criterion}/{keep}/{recovery}").gauss(0, 0.06)
    lost = 0.0
    if criterion != "dense":
        fall = FALL.get(criterion, 0.2) * REPAIR[recovery]
        lost = 78.0 / (1 + math.exp((keep - fall) / (0.035 if criterion == "gate" else 0.05)))
    accuracy = round(88.3 + 0.2 * math.sin(3.0 * seed) - lost + noise, 2)
    return accuracy if spec["metric"]["higher_is_better"] else round((100 - accuracy) / 25, 4)


def _trial(spec: Record, layers: dict[str, int], trial: tuple[int, str, float, str]) -> Record:
    seed, criterion, keep, recovery = trial
    kept = {}
    for depth, (name, total) in enumerate(layers.items()):
        share = keep if criterion in ("random", "dense") else keep ** (0.35 + 0.3 * depth)
        kept[name] = {"kept": max(1, round(total * min(share, 1.0))), "total": total}
    test = _figure(spec, seed, criterion, keep, recovery)
    return {
        "trial": {"seed": seed, "criterion": criterion, "keep": keep, "recovery": recovery},
        "spec": HASH,
        "metrics": {"validation": round(test + 0.3, 4), "test": test},
        "weights": {
            "parameters": sum(layers.values()) + 1_200,
            "prunable": sum(layers.values()),
            "kept": round(sum(layers.values()) * keep),
            "layers": kept,
        },
        "seconds": 1.25,
        **_machine(minute=30 + seed),
    }


def _stage(spec: Record, name: str, seed: int, layers: dict[str, int]) -> Record:
    draw = random.Random(f"{name}/{seed}")
    epochs = 8 if name == "train" else 5
    start, end = (1.9, 0.75) if name == "train" else (0.95 if name == "gates" else 0.8, 0.6)
    log = []
    for epoch in range(1, epochs + 1):
        loss = end + (start - end) * math.exp(-3 * epoch / epochs) + draw.gauss(0, 0.01)
        log.append({"epoch": epoch, "loss": round(loss, 4), "rate": 0.1, "seconds": 13.0})
    record: Record = {
        "stage": name,
        "seed": seed,
        "spec": HASH,
        "log": log,
        "excluded": {"first.weight": "first layer"},
        "seconds": 13.0 * epochs,
        **_machine(minute=seed),
    }
    if name == "gates":
        record["gates"] = {layer: _histogram(draw, i) for i, layer in enumerate(layers)}
    return record


def _histogram(draw: random.Random, depth: int) -> Record:
    width = 0.02 + 0.2 / (1 + depth)
    edges = [i * width / 16 for i in range(65)]
    counts = [round(4000 * math.exp(-i / 9) + draw.random() * 40) for i in range(64)]
    return {"edges": edges, "counts": counts}


def _machine(minute: int) -> Record:
    return {
        "precision": "bf16 autocast",
        "versions": {"secateur": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        "started": f"2026-11-22T23:{minute:02d}:00Z",
    }
