"""Do one item of a study: train a stage, or cut its network and measure that."""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur import machine
from secateur.distillation import distilled
from secateur.errors import StudyError, TrainingError
from secateur.measure.accuracy import evaluate
from secateur.model.copying import copied
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.parameters import Prunable, prunable
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.study.failure import told
from secateur.study.outputs import tensor_only
from secateur.study.own_training import OwnTraining
from secateur.study.plan import DENSE, Stage, Trial, epochs
from secateur.study.preflight import data_of, model_of
from secateur.study.spec import Spec
from secateur.study.store import Record, Store
from secateur.study.task import Task
from secateur.training import Data, Epoch, Pruning, precision_of, train

CALIBRATION_BATCH = 256
HISTOGRAM_BINS = 64


@dataclass(frozen=True, slots=True)
class Event:
    """What a study tells its observer; `omitted` is an item whose stage failed."""

    kind: Literal["found", "begin", "epoch", "done", "failed", "omitted"]
    item: Stage | Trial
    record: Record | None = None
    epoch: Epoch | None = None


Observer = Callable[[Event], object]


def feasible(model: nn.Module, spec: Spec) -> Prunable:
    """Return what may be cut of a model, after trying the smallest keep ratio on it.

    Raises:
        UsageError: the model has no prunable weight.
        BudgetError: the floors make that keep ratio impossible.
    """
    options = spec.options
    found = prunable(model, include_first=options.first_layer, pattern=options.pattern)
    scores = CRITERIA["magnitude"].scores(model, found.names)
    least = [spec.budget(min(options.keep))]
    if "gate" in options.criteria:
        least.append(spec.gate_phase.lowest)
    for budget in least:
        select(scores, budget, axes=found.axes)
    return found


class Runner:
    """Holds what items share: the data, a model to copy, and the last network loaded."""

    def __init__(
        self, task: Task, spec: Spec, store: Store, device: torch.device, observe: Observer
    ) -> None:
        """Build the model and load the data; as `model_of`, `feasible` and `data_of` raise."""
        self._task, self._spec, self._store = task, spec, store
        self._device, self._observe = device, observe
        self._train = train if task.train is None else OwnTraining(task)
        self._model = self._fresh()
        self._prunable = feasible(self._model, spec)
        self._data: Data = data_of(task, device)
        self._precision = precision_of(spec.recipe("train"), device)
        self._loaded: tuple[Stage, dict[str, torch.Tensor]] | None = None
        self._scored: tuple[tuple[int, str], dict[str, torch.Tensor]] | None = None
        self._lost: dict[Stage, str] = {}

    def forget(self) -> None:
        """Let go of the memory that is held to save time."""
        self._loaded = self._scored = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _fresh(self) -> nn.Module:
        model = tensor_only(model_of(self._task).to(self._device), self._task)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return model

    def stage(self, stage: Stage) -> Record:
        """Train the network of a stage, keep it, and record how it went."""
        start, started = time.perf_counter(), datetime.now(UTC)
        seed = _seed(stage.seed, stage.name)
        if stage.after is None:
            torch.manual_seed(seed)
            model = self._fresh()
        else:
            model = self._network(stage.after)
        # gates and control share their batches, so that they differ by the cut alone
        seed = _seed(stage.seed, "train" if stage.after is None else "second")
        recipe = self._spec.recipe(stage.name)
        data, loss = self._data, self._task.loss
        if (dense := stage.after) is not None:
            data, loss = self._taught(self._spec.options.teach, lambda: self._network(dense))

        def watch(epoch: Epoch) -> None:
            self._observe(Event("epoch", stage, epoch=epoch))

        if stage.name == "gates":
            gates = Gates.attach(model, self._prunable.names)
            with self._learning(gates) as pruning:
                log = self._train(
                    model, data, recipe, loss, seed=seed, pruning=pruning, watch=watch
                )
        else:
            log = self._train(model, data, recipe, loss, seed=seed, watch=watch)
        work = time.perf_counter() - start
        _check_finite(model, stage)
        digest = self._store.save_network(stage, model.state_dict())
        record: dict[str, Any] = {
            "stage": stage.name,
            "seed": stage.seed,
            "checkpoint": digest,
            "log": [asdict(epoch) for epoch in log],
            "excluded": dict(self._prunable.excluded),
            "work": round(sum(epoch.seconds for epoch in log) or work, 3),
        }
        if stage.name == "gates":
            scores = Gates.of(model).scores()
            record["gates"] = {name: _histogram(gate) for name, gate in scores.items()}
        return self._keep(stage, record, start, started)

    def _learning(self, gates: Gates) -> AbstractContextManager[Pruning]:
        own = self._task.train is not None
        axes = self._prunable.axes
        return learning(gates, self._spec.gate_phase, axes=axes, any_decay=own)

    def _taught(
        self, weight: float, teacher: Callable[[], nn.Module]
    ) -> tuple[Data, Callable[[Tensor, Any], Tensor]]:
        """Return data and loss; with a weight, those that follow a teacher, made only then."""
        data, loss, imitation = self._data, self._task.loss, self._task.imitation
        if not weight or imitation is None:
            return data, loss
        autocast = self._precision != "fp32"
        return distilled(data, loss, teacher(), imitation, weight, autocast=autocast)

    def trial(self, trial: Trial) -> Record:
        """Cut a stage's network, recover it, measure it, and record that."""
        start, started = time.perf_counter(), datetime.now(UTC)
        model, masks = self._cut_network(trial)
        autocast = self._precision != "fp32"
        measuring = time.perf_counter()
        self._recover(model, masks, trial)
        metrics = {
            split: evaluate(
                model, self._data.evaluation(split), self._task.metric.function, autocast=autocast
            )
            for split in ("validation", "test")
        }
        work = time.perf_counter() - measuring
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingError(
                f"the {self._task.metric.name} of the pruned network is not a number: {metrics}"
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
            "epochs": epochs(self._spec, trial),
            "work": round(work, 3),
        }
        return self._keep(trial, record, start, started)

    def network(self, trial: Trial) -> nn.Module:
        """Return the network that a trial measures: cut, and recovered."""
        model, masks = self._cut_network(trial)
        self._recover(model, masks, trial)
        return model

    def _cut_network(self, trial: Trial) -> tuple[nn.Module, Masks]:
        masks = self._masks(self._network(trial.after), trial)
        model = self._uncut(trial.after)
        masks.apply(model)
        return model, masks

    def _uncut(self, stage: Stage) -> nn.Module:
        model = self._network(stage)
        if stage.name == "gates":
            Gates.of(model).remove()
        return model

    def _recover(self, model: nn.Module, masks: Masks, trial: Trial) -> None:
        if epochs(self._spec, trial):
            self._finetune(model, masks, trial)
        if trial.recovery == "reconstruct":
            generator = torch.Generator().manual_seed(_seed(trial.seed, "reconstruct"))
            count = self._spec.options.reconstruct
            images = tuple(self._data.calibration(count, CALIBRATION_BATCH, generator))
            seen = Calibration(images, autocast=self._precision != "fp32")
            reconstruct(model, self._uncut(trial.after), masks, seen)
        elif trial.recovery != "none":
            self._recalibrate(model, trial)

    def _finetune(self, model: nn.Module, masks: Masks, trial: Trial) -> None:
        """Train under held masks, towards the network that was cut, as it was uncut."""

        def uncut() -> nn.Module:
            teacher = self._uncut(trial.after)
            self._recalibrate(teacher, trial)
            return teacher

        data, loss = self._taught(self._spec.options.follow, uncut)
        with holding(model, masks) as pruning:
            self._train(
                model,
                data,
                self._spec.recipe("finetune"),
                loss,
                seed=_seed(trial.seed, "finetune"),
                pruning=pruning,
                watch=lambda epoch: self._observe(Event("epoch", trial, epoch=epoch)),
            )

    def _recalibrate(self, model: nn.Module, trial: Trial) -> None:
        generator = torch.Generator().manual_seed(_seed(trial.seed, "calibration"))
        count = self._spec.options.calibration
        images = self._data.calibration(count, CALIBRATION_BATCH, generator)
        recalibrate(model, images, autocast=self._precision != "fp32")

    def _looked_at(self, trial: Trial) -> Calibration | None:
        """Return the training examples that a criterion looks at, if it does."""
        if trial.criterion == DENSE or CRITERIA[trial.criterion].needs == "nothing":
            return None
        generator = torch.Generator().manual_seed(_seed(trial.seed, "criterion"))
        count = self._spec.options.criterion_images
        batches = self._data.epoch(min(count, CALIBRATION_BATCH), generator)
        taken = list(itertools.islice(batches, -(-count // CALIBRATION_BATCH)))
        return Calibration(
            tuple(inputs for inputs, _ in taken),
            tuple(targets for _, targets in taken),
            self._task.loss,
            self._precision != "fp32",
        ).first(count)

    def _masks(self, model: nn.Module, trial: Trial) -> Masks:
        key = (trial.seed, trial.criterion)  # all its cuts follow one order, taken once
        if self._scored is None or self._scored[0] != key:
            criterion = CRITERIA["magnitude" if trial.criterion == DENSE else trial.criterion]
            seed, seen = _seed(trial.seed, trial.criterion), self._looked_at(trial)
            names = self._prunable.names
            self._scored = key, criterion.scores(model, names, seed=seed, calibration=seen)
        return select(self._scored[1], self._spec.budget(trial.keep), axes=self._prunable.axes)

    def _network(self, stage: Stage) -> nn.Module:
        """Return a fresh copy of a finished stage's network; trains it again if it was damaged."""
        if self._loaded is None or self._loaded[0] != stage:
            state = self._store.load_network(stage)
            if state is None:
                self._again(stage)
                state = self._store.load_network(stage)
            if state is None:
                raise StudyError(
                    f"the checkpoint of {stage.id} cannot be read back from "
                    f"{self._store.directory}; look at that disk, then start the study again"
                )
            self._loaded = (stage, state)
        model = copied(self._model)
        if stage.name == "gates":
            Gates.attach(model, self._prunable.names)
        model.load_state_dict(self._loaded[1])
        return model

    def _again(self, stage: Stage) -> None:
        """Train a stage whose network was lost; where that fails, it is tried once only."""
        try:
            if stage in self._lost:
                raise TrainingError(self._lost[stage])
            self.stage(stage)
        except Exception as error:
            text = f"the network of {stage.id} was lost, and training it again failed: "
            self._lost.setdefault(stage, text + told(error))
            raise

    def _keep(self, item: Stage | Trial, record: Record, start: float, started: datetime) -> Record:
        record |= {
            "seconds": round(time.perf_counter() - start, 3),
            "started": started.isoformat(timespec="seconds"),
            "precision": self._precision,
            "threads": torch.get_num_threads(),
            "versions": machine.versions(),
            "hardware": machine.describe(),
        }
        self._store.write(item, record)
        return record


def _check_finite(model: nn.Module, stage: Stage) -> None:
    tensors: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if stage.name == "gates":
        tensors |= {f"the gate of {name}": gate for name, gate in Gates.of(model).scores().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"after training, {name} is not finite (NaN or infinite); lower the learning rate, "
                "or look for invalid values in the data"
            )


def _seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for each purpose, equal on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "little")


def _histogram(gate: torch.Tensor) -> dict[str, list[float] | list[int]]:
    values = gate.detach().float().cpu().flatten()
    counts, edges = torch.histogram(values, HISTOGRAM_BINS)
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}
