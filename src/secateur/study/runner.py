"""Do one item of a study: train a stage, or cut its network, recover and measure that."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError
from secateur.measure.accuracy import evaluate
from secateur.model.inputs import Inputs
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.study.plan import DENSE, Observer, Stage, Trial, epochs, seed_for
from secateur.study.stages import Stages
from secateur.study.store import Record, Store
from secateur.study.subject import Subject

CALIBRATION_BATCH = 256


class Runner:
    """Does items and leaves their records in the store; holds the scores that were taken last."""

    def __init__(self, subject: Subject, store: Store, observe: Observer) -> None:
        """Load the data; raises as `Subject.data`."""
        self._subject, self._store, self._observe = subject, store, observe
        self._stages, self._data = Stages(subject, store, observe), subject.data
        self._scored: tuple[tuple[int, str], dict[str, Tensor]] | None = None

    def do(self, item: Stage | Trial) -> Record:
        """Do an item and return its record; what it comes from is there already."""
        return self._stages.train(item) if isinstance(item, Stage) else self._measure(item)

    def network(self, trial: Trial) -> nn.Module:
        """Return the network that a trial measures: cut, and recovered."""
        model, masks = self._cut(trial)
        self._recover(model, masks, trial)
        return model

    def forget(self) -> None:
        """Let go of the memory that is held to save time."""
        self._stages.loaded = self._scored = None
        gc.collect()
        if self._subject.device.type == "cuda":
            torch.cuda.empty_cache()

    def _measure(self, trial: Trial) -> Record:
        start, subject = time.perf_counter(), self._subject
        model, masks = self._cut(trial)
        measuring, metric = time.perf_counter(), subject.task.metric
        self._recover(model, masks, trial)
        metrics = {
            split: evaluate(
                model, self._data.evaluation(split), metric.function, autocast=subject.autocast
            )
            for split in ("validation", "test")
        }
        work = time.perf_counter() - measuring
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingError(
                f"the {metric.name} of the pruned network is not a number: {metrics}"
            )
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
            "epochs": epochs(subject.spec, trial),
            "work": round(work, 3),
        } | subject.provenance(start)
        self._store.write(trial, record)
        return record

    def _cut(self, trial: Trial) -> tuple[nn.Module, Masks]:
        """Return a trial's network, cut and not yet recovered, and what it has kept."""
        subject, key = self._subject, (trial.seed, trial.criterion)
        if self._scored is None or self._scored[0] != key:  # all its cuts follow one order
            criterion = CRITERIA["magnitude" if trial.criterion == DENSE else trial.criterion]
            scores = criterion.scores(
                self._stages.network(trial.after),
                subject.prunable.names,
                seed=seed_for(trial, trial.criterion),
                calibration=None if criterion.needs == "nothing" else self._seen(trial),
            )
            self._scored = key, scores
        masks = select(self._scored[1], subject.spec.budget(trial.keep), axes=subject.prunable.axes)
        model = self._stages.uncut(trial.after)
        masks.apply(model)
        return model, masks

    def _recover(self, model: nn.Module, masks: Masks, trial: Trial) -> None:
        """Repair a trial's network in place, by what the trial says."""
        subject = self._subject
        if epochs(subject.spec, trial):
            self._finetune(model, masks, trial)
        if trial.recovery == "reconstruct":
            seen = Calibration(tuple(self._images(trial, "reconstruct")), autocast=subject.autocast)
            reconstruct(model, self._stages.uncut(trial.after), masks, seen)
        elif trial.recovery != "none":
            self._recalibrate(model, trial)

    def _finetune(self, model: nn.Module, masks: Masks, trial: Trial) -> None:
        """Train under held masks, towards the network that was cut, as it was uncut."""
        subject = self._subject

        def uncut() -> nn.Module:
            teacher = self._stages.uncut(trial.after)
            self._recalibrate(teacher, trial)
            return teacher

        data, loss = subject.taught(subject.spec.options.follow, uncut)
        with holding(model, masks) as pruning:
            subject.train(
                model,
                trial,
                "finetune",
                data,
                loss,
                seed="finetune",
                pruning=pruning,
                observe=self._observe,
            )

    def _recalibrate(self, model: nn.Module, trial: Trial) -> None:
        recalibrate(model, self._images(trial, "calibration"), autocast=self._subject.autocast)

    def _images(self, trial: Trial, purpose: str) -> Iterator[Inputs]:
        """Return unlabelled training examples, as many as the option of that name says."""
        generator = torch.Generator().manual_seed(seed_for(trial, purpose))
        count = getattr(self._subject.spec.options, purpose)
        return self._data.calibration(count, CALIBRATION_BATCH, generator)

    def _seen(self, trial: Trial) -> Calibration:
        """Return the training examples that a criterion looks at."""
        subject, count = self._subject, self._subject.spec.options.criterion_images
        generator = torch.Generator().manual_seed(seed_for(trial, "criterion"))
        batches = self._data.epoch(min(count, CALIBRATION_BATCH), generator)
        taken = list(itertools.islice(batches, -(-count // CALIBRATION_BATCH)))
        inputs, targets = map(tuple, zip(*taken, strict=True))
        return Calibration(inputs, targets, subject.task.loss, subject.autocast).first(count)
