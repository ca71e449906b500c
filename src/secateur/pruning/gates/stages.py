"""Training in three stages: plainly, then through the cut, then under held masks.

The core of the callbacks for other trainers: it knows models, optimizers and a position, and of
whoever trains nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn

from secateur.arguments import BOOL, GLOBS, NUMBER, Wanted, a, checked, refuse
from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.gates.optimizers import first_mismatch
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.parameters import prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks

Unit = Literal["epochs", "steps"]
Stage = Literal["plain", "gates", "held"]

UNPRUNED = "the training ended before gate_start: no gates were learned, and nothing was cut"
"""The warning of callbacks; an error would lose the training."""


SCHEDULE = {
    "gate_start": NUMBER,
    "prune_at": NUMBER,
    "phase": a(GatePhase, "a GatePhase"),
    "exclude": GLOBS,
    "include": GLOBS,
    "include_first": BOOL,
}
"""What the fields of a schedule must be, where a callback is given them."""


_STATE = Wanted(
    lambda v: (
        v["stage"] in get_args(Stage)
        and isinstance(v["gates"], Mapping)
        and isinstance(v["masks"], Mapping)
        and all(isinstance(mask, Tensor) for mask in v["masks"].values())
    ),
    "what state_dict returned",
)


@checked(**SCHEDULE)
@dataclass(frozen=True, slots=True)
class Schedule:
    """When gates are learned, when and how far the model is cut.

    Raises:
        UsageError: a field is out of its range; says which and what it may be.
    """

    keep: float | Budget
    """Keep ratio, or a whole budget; a ratio takes scope, floor and pattern from the phase."""
    gate_start: float
    """How many epochs, or optimizer steps, train plainly."""
    prune_at: float
    """After how many the masks are selected; from then on they are held. With as many as the
    training has, it ends with the cut."""
    unit: Unit = "epochs"
    """epochs, or steps: what the two numbers count; steps are those of the optimizer."""
    phase: GatePhase = field(default_factory=GatePhase)
    exclude: Sequence[str] = ()
    """As in `prunable`."""
    include_first: bool = False
    """As in `prunable`."""
    include: Sequence[str] = ()
    """As in `prunable`."""

    def __post_init__(self) -> None:
        self.budget()
        if self.unit not in get_args(Unit):
            raise UsageError(f"unit is {self.unit!r}, but must be 'epochs' or 'steps'")
        if not 0 <= self.gate_start < self.prune_at:
            raise UsageError(
                f"gate_start is {self.gate_start} and prune_at {self.prune_at} {self.unit}, but "
                "gates are learned in between: 0 <= gate_start < prune_at"
            )

    def budget(self) -> Budget:
        """Return the budget of the cut."""
        if isinstance(self.keep, Budget):
            return self.keep
        return self.phase.budget(self.keep)

    def check_length(self, length: float) -> None:
        """Refuse a training that ends before the cut.

        Args:
            length: of the training, in units of the schedule.

        Raises:
            UsageError: it is shorter than `prune_at`.
        """
        if length < self.prune_at:
            raise UsageError(
                f"prune_at is {self.prune_at:g}, but the training has {length:g} {self.unit}; "
                "prune earlier, or train longer"
            )


class StagedPruning:
    """Takes a model through the stages of a schedule, while someone else trains it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.masks: Masks | None = None
        """What was selected; None before."""
        self._model: nn.Module | None = None
        self._optimizer: Any = None
        self._gating: GateTraining | None = None
        self._hold: MaskHold | None = None
        self._saved: Mapping[str, Any] | None = None  # to go on from
        self._stopped = False  # that was not loaded, but left by `stop`
        self._left: weakref.ref[nn.Module] | None = None  # whose it is then

    @property
    def stage(self) -> Stage:
        """Where the training is."""
        if self._model is None and self._saved is not None:
            stage: Stage = self._saved["stage"]
            return stage
        return "held" if self.masks is not None else "gates" if self._gating else "plain"

    def start(self, model: nn.Module, optimizer: Any) -> None:
        """Begin, or go on from a loaded state, with a model whose weights are those of then.

        After `stop`, the same model goes on with its gates, and one that has the zeros of the
        masks goes on with these. Any other model begins anew.

        Args:
            model: on its device.
            optimizer: that is going to train it.

        Raises:
            UsageError: as of `GateTraining`, or the state is of another model.
        """
        self.stop()
        if self._stopped and not self._goes_on(model):
            self._saved = self.masks = None
        saved = self._saved or {"stage": "plain", "gates": {}, "masks": {}}
        if saved["stage"] == "gates":
            gating = self._gates(model, optimizer)
            try:
                gating.load_state_dict(saved["gates"])
            except BaseException:
                gating.remove()
                raise
            self._gating = gating
        elif saved["stage"] == "held":
            weights = parameters(model, list(saved["masks"]))
            if (name := first_mismatch(saved["masks"], weights)) is not None:
                raise UsageError(f"the mask of {name!r} is of another model: its shape differs")
            masks = {name: saved["masks"][name].to(w.device) for name, w in weights.items()}
            self.masks = Masks(masks)
            self._hold = MaskHold(model, optimizer, self.masks)
        self._model, self._optimizer, self._saved = model, optimizer, None
        self._stopped, self._left = False, None

    def reach(self, position: float) -> None:
        """Go over to the stage that a position belongs to; call it before every optimizer step.

        Raises:
            UsageError: as of `GateTraining`; or the position is past the cut, and no gates were
                learned.
            ScoreError: weights or gates are not finite.
        """
        schedule, model = self.schedule, self._started()
        if self.masks is not None:
            return
        if position >= schedule.prune_at:
            self.finish()
        elif self._gating is None and position >= schedule.gate_start:
            self._gating = self._gates(model, self._optimizer)

    def enter(self) -> None:
        """Cut the weights for a forward and backward, in the stage of gates."""
        if self._gating is not None:
            self._gating.enter()

    def leave(self) -> None:
        """Make the weights whole again; where no cut is open, do nothing."""
        if self._gating is not None:
            self._gating.leave()

    def finish(self) -> Masks:
        """Cut the model, if that is still to be done, and return the masks.

        Raises:
            UsageError: no gates were learned.
            BudgetError, ScoreError: as of `select`.
        """
        model = self._started()
        if self.masks is None:
            if self._gating is None:
                raise UsageError(
                    f"no gates were learned before the cut at {self.schedule.prune_at:g} "
                    f"{self.schedule.unit}; the training goes on from a checkpoint that was "
                    "written without this callback: start it anew, or move prune_at"
                )
            self.masks = self._gating.finish(self.schedule.budget())
            self._gating = None
            self._hold = MaskHold(model, self._optimizer, self.masks)
        self.masks.apply(model)
        return self.masks

    def stop(self) -> None:
        """Take gates and hooks away, in any stage; `start` goes on from here."""
        if self._model is None:
            return
        self._saved = self.state_dict()
        self._stopped, self._left = True, weakref.ref(self._model)
        if self._gating is not None:
            self._gating.remove()
        if self._hold is not None:
            self._hold.remove()
        self._model = self._optimizer = self._gating = self._hold = None

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside model and optimizer.

        `stage`, the state of `gates` as `GateTraining` gives it, and `masks`: name → bool tensor.
        """
        if self._model is None and self._saved is not None:
            return dict(self._saved)
        gates = self._gating.state_dict() if self._gating is not None else {}
        return {"stage": self.stage, "gates": gates, "masks": dict(self.masks or {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned; `start` goes on from it.

        Raises:
            UsageError: it is not such a state. Nothing was changed.
        """
        refuse("state", state, _STATE)
        self.stop()
        self.masks = self._left = None
        self._stopped, self._saved = False, dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are of no model that they were started with."""
        return {**self.__dict__, "_left": None}

    def _goes_on(self, model: nn.Module) -> bool:
        """Return whether a model goes on from where `stop` left off."""
        assert self._saved is not None
        if self._saved["stage"] != "held":
            return self._left is not None and self._left() is model
        named = dict(unwrapped(model).named_parameters())
        masks: Mapping[str, Tensor] = self._saved["masks"]
        known = {name: named[name] for name in masks if name in named}
        if first_mismatch(masks, known) is not None:
            return False
        return not any(
            bool(known[name][~m.to(known[name].device)].any()) for name, m in masks.items()
        )

    def _gates(self, model: nn.Module, optimizer: Any) -> GateTraining:
        schedule = self.schedule
        plan = prunable(
            unwrapped(model),
            include_first=schedule.include_first,
            exclude=schedule.exclude,
            include=schedule.include,
            pattern=schedule.budget().pattern,
        )
        return GateTraining(model, optimizer, phase=schedule.phase, plan=plan)

    def _started(self) -> nn.Module:
        if self._model is None:
            raise UsageError("nothing was started; call start(model, optimizer) first")
        return self._model
