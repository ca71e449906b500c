"""Pruning inside a Lightning `Trainer`: one callback, and the LightningModule stays as it is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from secateur.arguments import checked
from secateur.errors import UsageError
from secateur.integrations import MissingPackageError
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.stages import SCHEDULE, UNPRUNED, Schedule, Stage, StagedPruning, Unit
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks

try:
    # The older name, where that is what the caller has loaded.
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
        from pytorch_lightning.callbacks import Callback
    else:
        from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError as error:
        raise MissingPackageError("lightning", "lightning") from error


class SecateurCallback(Callback):  # type: ignore[misc]
    """Learn gates through the cut from `gate_start` on, cut at `prune_at`, hold the zeros after.

    Works with automatic optimisation of one optimizer, gradient accumulation and clipping,
    precision 16 and bf16, and DDP. Checkpoints hold the model under its own keys, and the stage,
    gates and masks as the callback's state; a training that resumes from one gives the same
    numbers as one that was never stopped. Checkpoints of before the cut are of a dense model.
    """

    @checked(**SCHEDULE)
    def __init__(
        self,
        keep: float | Budget,
        *,
        gate_start: float,
        prune_at: float,
        unit: Unit = "epochs",
        phase: GatePhase | None = None,
        exclude: Sequence[str] = (),
        include_first: bool = False,
        include: Sequence[str] = (),
    ) -> None:
        """Say when and how far; nothing happens before `fit`.

        Args:
            keep: keep ratio in (0, 1], or a `Budget`.
            gate_start: how many epochs (or steps) train plainly.
            prune_at: after how many the model is cut, at most all: then `fit` ends with the cut.
            unit: epochs, or steps of the optimizer.
            phase: how gates are learned; by default `GatePhase()`.
            exclude: globs of parameters that are not cut, as in `prunable`.
            include_first: let the first layer be cut too.
            include: globs of parameters that are cut though they are no layers' weights, as in
                `prunable`.

        Raises:
            UsageError: a value is out of its range.
        """
        schedule = Schedule(
            keep,
            gate_start,
            prune_at,
            unit,
            phase or GatePhase(),
            exclude,
            include_first,
            include,
        )
        self._pruning = StagedPruning(schedule)

    @property
    def masks(self) -> Masks | None:
        """The masks, by names of the LightningModule's parameters; None before the cut."""
        return self._pruning.masks

    @property
    def stage(self) -> Stage:
        """Where the training is: plain, gates or held."""
        return self._pruning.stage

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work, before anything is trained."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise UsageError(
                "the callback needs automatic optimisation; in manual optimisation use "
                "secateur.GateTraining around your own steps"
            )
        kind = type(trainer.strategy).__name__
        if any(word in kind for word in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise UsageError(
                f"the strategy {kind} shards the model, but gates and masks take every weight in "
                "every process; choose strategy='ddp' or 'auto'"
            )
        if trainer.fast_dev_run:  # a trial of the loop, which no schedule fits
            return
        schedule = self._pruning.schedule
        length = trainer.max_epochs if schedule.unit == "epochs" else trainer.max_steps
        if length is not None and length >= 0:
            schedule.check_length(length)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on from what a checkpoint held."""
        if len(trainer.optimizers) != 1:
            raise UsageError(f"the callback takes one optimizer, not {len(trainer.optimizers)}")
        self._pruning.start(pl_module, trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go over to the stage that is due, and cut the weights for this batch."""
        epochs = self._pruning.schedule.unit == "epochs"
        self._pruning.reach(trainer.current_epoch if epochs else trainer.global_step)
        self._pruning.enter()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Make the weights whole again."""
        self._pruning.leave()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do so too where `training_step` had nothing to learn from, and no backward was run."""
        self._pruning.leave()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Cut, if that was not done before; a training that ended before `gate_start` is left."""
        if self._pruning.stage == "plain":
            warnings.warn(UNPRUNED, stacklevel=2)
        else:
            self._pruning.finish()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take gates and hooks away."""
        if stage == "fit":
            self._pruning.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave a whole model behind; the same callback can go on with it."""
        self._pruning.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return stage, gates and masks, for the checkpoint."""
        return self._pruning.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        self._pruning.load_state_dict(state_dict)
