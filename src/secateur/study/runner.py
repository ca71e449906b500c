"""Do one item of a study: train a stage, or cut its network, recover and measure that."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import asdict

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError
from secateur.measure.accuracy import Evaluation, evaluate_examples
from secateur.pruning.calibration import Calibration
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.study import artifacts, plan
from secateur.study.examples import images, recalibrate, scores
from secateur.study.options import LADDER
from secateur.study.plan import AS_TRAINED, SMALLER, WHOLE, Item, Observer, Stage, Trial
from secateur.study.samples import MOST_EXAMPLES, packed
from secateur.study.stages import Stages
from secateur.study.store import Record, Store
from secateur.study.subject import Subject


class Runner:
    """Does items and leaves their records in the store; holds the scores that were taken last."""

    def __init__(self, subject: Subject, store: Store, observe: Observer) -> None:
        """Load the data; raises as `Subject.data`."""
        self._subject, self._store = subject, store
        self._stages, self._data = Stages(subject, store, observe), subject.data
        self._scored: tuple[tuple[Stage, str], dict[str, Tensor]] | None = None

    def do(self, item: Item) -> Record:
        """Do an item and return its record; what it comes from is there already."""
        return self._stages.train(item) if isinstance(item, Stage) else self._measure(item)

    def network(self, trial: Trial) -> nn.Module:
        """Return the network that a trial measures: cut, and recovered."""
        model, masks = self._cut(trial)
        self._recover(model, masks, trial)
        return model

    def forget(self) -> None:
        """Let go of the memory that is held to save time."""
        self._stages.forget()
        self._scored = None
        gc.collect()
        if self._subject.device.type == "cuda":
            torch.cuda.empty_cache()

    def _measure(self, trial: Trial) -> Record:
        start, subject = time.perf_counter(), self._subject
        model, masks = self._cut(trial)
        measuring, metric = time.perf_counter(), subject.task.metric
        self._recover(model, masks, trial)
        found, extra = self._evaluated(model, autocast=subject.autocast), Record()
        if subject.spec.options.int8 and trial.criterion not in AS_TRAINED:
            extra["before_int8"] = {split: each.mean for split, each in found.items()}
            made = artifacts.quantised(model, self._data, plan.seed_for(trial, "int8"))
            with artifacts.running(made.content) as (served, size):
                found = self._evaluated(served, autocast=False)
            floats = {row.name: row.why for row in made.rows if row.why}
            extra["int8"] = {"bytes": size, "ranges": made.method, "in_float": floats}
        metrics, test = {split: each.mean for split, each in found.items()}, found["test"]
        work = time.perf_counter() - measuring
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingError(f"the {metric.name} of the network is not a number: {metrics}")
        record = {
            "trial": asdict(trial),
            "metrics": metrics,
            "weights": {
                "parameters": sum(p.numel() for p in model.parameters()),
                "prunable": masks.total,
                "kept": masks.kept,
                "layers": {n: {"kept": k, "total": t} for n, (k, t) in masks.layers.items()},
            },
            "masks": masks.digest(),
            "work": round(work, 3),
            "scores": _scores_of(test),
            "classes": test.by_class,
            "calibration_error": test.calibration_error,
            **extra,
        } | subject.provenance(start)
        self._store.write(trial, record)
        return record

    def _evaluated(self, model: nn.Module, *, autocast: bool) -> dict[str, Evaluation]:
        """Return split → what a network's outputs on it are worth."""
        metric, data = self._subject.task.metric.function, self._data
        return {
            split: evaluate_examples(model, data.evaluation(split), metric, autocast=autocast)
            for split in ("validation", "test")
        }

    def _cut(self, trial: Trial) -> tuple[nn.Module, Masks]:
        """Return a trial's network, cut and not recovered, and what it has kept."""
        model = self._stages.uncut(plan.source(self._subject.spec.options, trial))
        masks = self._kept(trial, model)
        if trial.criterion not in WHOLE:
            masks.apply(model)
        return model, masks

    def _kept(self, trial: Trial, model: nn.Module) -> Masks:
        """Return what a trial keeps of its network."""
        subject, options = self._subject, self._subject.spec.options
        if trial.criterion in SMALLER:
            named = dict(model.named_parameters())
            return _everything({name: named[name] for name in named if named[name].dim() > 1})
        if trial.criterion in WHOLE:
            named = dict(model.named_parameters())
            return _everything({name: named[name] for name in subject.prunable.names})
        budget, axes = subject.spec.budget(trial.keep), subject.prunable.axes
        if trial.recovery != LADDER:
            return select(self._scores(trial), budget, axes=axes)
        order = plan.order(options, trial)
        kept = self._stages.masks(order)
        assert kept is not None
        if trial.keep == order.keep:
            return kept
        if trial.keep < order.keep:  # between two rungs
            return select(self._scores(trial), budget, axes=axes, among=kept)
        return select(_first(kept, scores(subject, model, "magnitude", trial)), budget, axes=axes)

    def _scores(self, trial: Trial) -> dict[str, Tensor]:
        """Return the scores of a trial's criterion; all cuts of a network follow one order."""
        stage = plan.source(self._subject.spec.options, trial)
        key = stage, trial.criterion
        if self._scored is None or self._scored[0] != key:
            model = self._stages.network(stage)
            self._scored = key, scores(self._subject, model, trial.criterion, trial)
        return self._scored[1]

    def _recover(self, model: nn.Module, masks: Masks, trial: Trial) -> None:
        """Repair a trial's network in place, by what the trial says."""
        subject = self._subject
        if trial.recovery == "reconstruct":
            seen = Calibration(
                tuple(images(subject, trial, "reconstruct")), autocast=subject.autocast
            )
            stage = plan.source(subject.spec.options, trial)
            reconstruct(model, self._stages.uncut(stage), masks, seen)
        elif trial.recovery != "none":
            recalibrate(subject, model, trial)


def _scores_of(found: Evaluation) -> Record | None:
    """Return the score of each example for a record; None where they are too many for one."""
    count = len(found.scores)
    return None if count > MOST_EXAMPLES else {"count": count, "values": packed(found.scores)}


def _everything(weights: dict[str, Tensor]) -> Masks:
    return Masks({n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()})


def _first(kept: Masks, order: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scores that rank what is kept first, and keep the order within it and without."""
    beyond = 1 + 2 * max(float(score.abs().max()) for score in order.values())
    return {name: score.double() + beyond * kept[name] for name, score in order.items()}
