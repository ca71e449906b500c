"""Pruning inside a Hugging Face `Trainer`: one callback."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.arguments import PATH, checked
from secateur.errors import FileError, UsageError
from secateur.integrations import MissingPackageError
from secateur.pruning.files import stage_file
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.stages import SCHEDULE, UNPRUNED, Schedule, Stage, StagedPruning, Unit
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingPackageError("transformers", "transformers") from error

FILE = "secateur.safetensors"
"""In every checkpoint folder, beside the model: stage, gates and masks."""


class SecateurCallback(TrainerCallback):  # type: ignore[misc]
    """Learn gates through the cut from `gate_start` on, cut at `prune_at`, hold the zeros after.

    Works with gradient accumulation and clipping, fp16 and bf16, and DDP. A checkpoint holds the
    model under its own keys, and stage, gates and masks in a file of their own; a training that
    resumes from one gives the same numbers as one that was never stopped. Checkpoints of before
    the cut are of a dense model: with `load_best_model_at_end`, the masks are applied to it.

    The trainer tells callbacks nothing of an exception. After one, the weights may still be those
    of the cut: they are made whole when the model is next saved, evaluated or trained, or by
    `restore`.
    """

    @checked(**SCHEDULE, resume_from=PATH)
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
        resume_from: str | Path | None = None,
    ) -> None:
        """Say when and how far; nothing happens before `train`.

        Args:
            keep: keep ratio in (0, 1], or a `Budget`.
            gate_start: how many epochs (or steps) train plainly; fractions of epochs are fine.
            prune_at: after how many the model is cut, at most all: then `train` ends with the cut.
            unit: epochs, or steps of the optimizer.
            phase: how gates are learned; by default `GatePhase()`, which suits the optimizer.
            exclude: globs of parameters that are not cut, as in `prunable`.
            include_first: let the first layer be cut too.
            include: globs of parameters that are cut though they are no layers' weights, as in
                `prunable`.
            resume_from: the checkpoint that `train` resumes from, where that is neither in the
                trainer's `output_dir` nor in its arguments.

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
        self._resume_from = resume_from
        self._hooks: list[Any] = []

    @property
    def masks(self) -> Masks | None:
        """The masks, by names of the model's parameters; None before the cut."""
        return self._pruning.masks

    @property
    def stage(self) -> Stage:
        """Where the training is: plain, gates or held."""
        return self._pruning.stage

    def restore(self) -> None:
        """Leave a whole model behind after an exception; does nothing where it is whole."""
        self._pruning.stop()
        self._unhook()

    def on_train_begin(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
        """Begin, or go on from the checkpoint's file."""
        schedule, model = self._pruning.schedule, loop["model"]
        self.restore()
        for name in ("deepspeed", "fsdp"):
            if getattr(args, name, None):
                raise UsageError(
                    f"the trainer's argument {name} shards the training, but gates and masks take "
                    "every weight in every process; train with DDP or in one process"
                )
        schedule.check_length(
            state.max_steps if schedule.unit == "steps" else state.num_train_epochs
        )
        if state.global_step:
            self._pruning.load_state_dict(self._saved(args, state))
        elif self._pruning.stage != "held":  # what an earlier attempt came to is not resumed
            self._pruning = StagedPruning(schedule)
        self._pruning.start(model, loop["optimizer"])
        self._hooks = [
            model.register_state_dict_pre_hook(lambda *_: self._pruning.leave()),
            model.register_forward_pre_hook(
                lambda module, _: None if module.training else self._pruning.leave()
            ),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
        """Go over to the stage that is due, and cut the weights until the optimizer steps."""
        epochs = self._pruning.schedule.unit == "epochs"
        self._pruning.leave()
        self._pruning.reach(state.epoch or 0 if epochs else state.global_step)
        self._pruning.enter()

    def on_save(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
        """Write stage, gates and masks into the checkpoint."""
        if args.should_save:
            folder = _checkpoint(args, state)
            stage_file.write(folder / FILE, self._pruning.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
        """Cut, if that was not done before; a training that ended before `gate_start` is left."""
        if self._pruning.stage == "plain":
            warnings.warn(UNPRUNED, stacklevel=2)
        else:
            self._pruning.finish()
        self.restore()

    def _saved(self, args: Any, state: Any) -> dict[str, Any]:
        given = self._resume_from or args.resume_from_checkpoint
        folder = Path(given) if isinstance(given, (str, Path)) else _checkpoint(args, state)
        schedule = self._pruning.schedule
        if not (folder / FILE).exists():
            position = state.epoch or 0 if schedule.unit == "epochs" else state.global_step
            if position <= schedule.gate_start:
                return StagedPruning(schedule).state_dict()
            raise FileError(
                f"the training goes on at {position:g} {schedule.unit}, after gate_start, but "
                f"{folder} has no {FILE}; give SecateurCallback(resume_from=...) the checkpoint "
                "that train resumes from, if it was written with this callback"
            )
        return stage_file.read(folder / FILE)

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
