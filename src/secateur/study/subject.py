"""What all items of a study work on: a network to copy, its weights, the data, the arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur import machine
from secateur.distillation import Remembered, distilled
from secateur.errors import BudgetError, TrainingError, UsageError
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates.gates import SUFFIX
from secateur.pruning.parameters import prunable
from secateur.pruning.selecting.selection import select
from secateur.study.failure import said
from secateur.study.outputs import tensor_only
from secateur.study.own_training import train_own
from secateur.study.plan import Event, Observer, Stage, seed_for
from secateur.study.spec import Spec
from secateur.study.store import Record
from secateur.study.task import Task
from secateur.training import Data, Epoch, Pruning, Recipe, precision_of, train, unpruned

Loss = Callable[[Tensor, Any], Tensor]


class Subject:
    """A task on a device, as a spec has it."""

    def __init__(self, task: Task, spec: Spec, device: torch.device) -> None:
        """Build a network and cut it to the smallest keep ratio, which changes nothing of it.

        Raises:
            UsageError: the task's `model` does not give a module, or raises an exception; or what
                it gives has no prunable weight.
            BudgetError: the floors make that keep ratio impossible.
        """
        self.task, self.spec, self.device = task, spec, device
        self.precision = precision_of(spec.first, device)
        self.autocast = self.precision != "fp32"
        self.model, options = self.fresh(), spec.options
        self.prunable = prunable(
            self.model, include_first=options.first_layer, pattern=options.pattern
        )
        scores = CRITERIA["magnitude"].scores(self.model, self.prunable.names)
        select(scores, spec.budget(min(options.keep)), axes=self.prunable.axes)
        if "gate" in options.criteria and not options.down:  # a rung learns at its own ratio
            try:
                select(scores, spec.gate_phase.lowest, axes=self.prunable.axes)
            except BudgetError as error:
                raise BudgetError(
                    f"gates learn at keep ratios down to lowest_keep={options.lowest_keep:g}, and "
                    f"that is too low: {error}"
                ) from error

    def fresh(self) -> nn.Module:
        """Return a new network on the device, whose output is one tensor."""
        with said(f"the model of task {self.task.name!r} cannot be built"):
            model = self.task.model()
        return self.placed(model)

    def narrow(self, width: float) -> nn.Module:
        """Return a new network of fewer channels, as `Task.smaller` makes it, on the device."""
        assert self.task.smaller is not None
        with said(f"the smaller network of task {self.task.name!r} cannot be built"):
            model = self.task.smaller(width)
        return self.placed(model)

    def placed(self, model: nn.Module) -> nn.Module:
        """Return a network on the device, whose output is one tensor."""
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"the model of task {self.task.name!r} gives a {type(model).__name__}, not a torch "
                "module; let it be a function that builds and returns a fresh nn.Module"
            )
        model = tensor_only(model.to(self.device), self.task)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return model

    @cached_property
    def data(self) -> Data:
        """The task's data, loaded when it is first asked for.

        Raises:
            UsageError: the task's `data` raises an exception that is not secateur's own.
        """
        with said(f"the data of task {self.task.name!r} cannot be loaded"):
            return self.task.data(self.device)

    def taught(
        self, data: Data, teacher: Callable[[], nn.Module], remembered: Remembered
    ) -> tuple[Data, Loss]:
        """Return data and loss; where the study teaches, those that follow a teacher."""
        imitation, weight = self.task.imitation, self.spec.options.teach
        if not weight or imitation is None:
            return data, self.task.loss
        return distilled(
            data,
            self.task.loss,
            teacher(),
            imitation,
            weight,
            autocast=self.autocast,
            remembered=remembered,
        )

    def train(
        self,
        model: nn.Module,
        stage: Stage,
        recipe: Recipe,
        data: Data,
        loss: Loss,
        *,
        seed: str,
        pruning: Pruning = unpruned,
        observe: Observer,
    ) -> tuple[Epoch, ...]:
        """Train a network of a stage in place, by the task's own loop where it has one.

        Args:
            model: on the device.
            stage: whose epochs the observer is told of.
            recipe: as the spec gives it.
            data: as `taught` gives it, and the loss.
            loss: (outputs as float32, targets) → scalar.
            seed: its purpose.
            pruning: as in `secateur.train`.
            observe: told of each epoch.

        Raises:
            TrainingError: what it has trained is not finite; names it.
            Exception: what the task's own code or the observer raises.
        """
        own = train if self.task.train is None else partial(train_own, self.task)
        log = own(
            model,
            data,
            recipe,
            loss,
            seed=seed_for(stage, seed),
            pruning=pruning,
            watch=lambda epoch: observe(Event("epoch", stage, epoch=epoch)),
        )
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            trained = tensor.requires_grad or name.endswith(SUFFIX)
            if trained and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"after training, {name} is not finite (NaN or infinite); lower the learning "
                    "rate, or look for invalid values in the data"
                )
        return log

    def provenance(self, start: float) -> Record:
        """Return how and on what an item was done that began when `time.perf_counter` said so."""
        seconds = time.perf_counter() - start
        return {
            "seconds": round(seconds, 3),
            "started": (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(
                timespec="seconds"
            ),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "versions": machine.versions(),
            "hardware": machine.describe(self.device),
        }
