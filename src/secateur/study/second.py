"""What comes after the start: through a cut, under masks, or with all weights, on equal terms.

All that train after the same start for as long have the same batches, rates and teacher, so that
they differ by the cut alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from secateur.distillation import Remembered
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.ladder.rung import descending
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.study.examples import scores
from secateur.study.part import Part
from secateur.study.plan import GATE, SMALLER, UNCUT, Observer, Stage, down_to, epochs
from secateur.study.subject import Subject
from secateur.training import Epoch, Pruning, Recipe, unpruned

Log = tuple[Epoch, ...]
LADDER_MULTIPLE = 20.0
"""The gates' learning rate on a ladder, as a multiple of the weights', beside `secateur.train`."""


class SecondPhase:
    """Trains on from a start, and holds the teacher's outputs on the batches of now."""

    def __init__(
        self, subject: Subject, observe: Observer, teacher: Callable[[Stage], nn.Module]
    ) -> None:
        """Take what gives the network that teaches a stage."""
        self._subject, self._observe, self._teacher = subject, observe, teacher
        self._remembered: tuple[tuple[int, float], Remembered] | None = None

    def forget(self) -> None:
        """Let go of what is held to save time."""
        self._remembered = None

    def train(
        self, stage: Stage, model: nn.Module, above: Masks | None
    ) -> tuple[Log, Masks | None]:
        """Train a network in place.

        Args:
            stage: after the start, and none of the smaller networks.
            model: that of the stage before; the gate's gains gates on its first rung.
            above: what that stage has kept.

        Returns:
            The epochs, and what is kept now; None where nothing was cut.
        """
        subject, options = self._subject, self._subject.spec.options
        if stage.name == UNCUT and options.gates != "frozen":
            return self.plainly(stage, model), None
        if not options.down:
            return self._trunk(stage, model), None
        if stage.name == GATE:
            return self._learning(stage, model, above)
        found = scores(subject, model, stage.name, stage)
        budget, axes = subject.spec.budget(stage.keep), subject.prunable.axes
        masks = select(found, budget, axes=axes, among=above)
        with holding(model, masks) as pruning:
            return self.plainly(stage, model, pruning), masks

    def plainly(self, stage: Stage, model: nn.Module, pruning: Pruning = unpruned) -> Log:
        """Train a network towards the teacher, on the batches and at the rates of its rung.

        A smaller network trains in one go for as long as all the rungs down to its own.
        """
        subject = self._subject
        recipe, fraction = self._recipe(stage)
        batches = (stage.seed, -stage.keep if stage.name in SMALLER else stage.keep)
        if self._remembered is None or self._remembered[0] != batches:
            self._remembered = batches, Remembered()
        data, loss = subject.taught(
            Part(subject.data, fraction), lambda: self._teacher(stage), self._remembered[1]
        )
        return subject.train(
            model,
            stage,
            recipe,
            data,
            loss,
            seed=f"after the start, {stage.keep!r}",
            pruning=pruning,
            observe=self._observe,
        )

    def _recipe(self, stage: Stage) -> tuple[Recipe, float]:
        options = self._subject.spec.options
        if stage.name in SMALLER:
            return self._subject.spec.second(down_to(options, stage.keep))
        return self._subject.spec.second(epochs(options, stage))

    def _learning(self, stage: Stage, model: nn.Module, above: Masks | None) -> tuple[Log, Masks]:
        """Learn through cuts for some steps of the rung, then hold what is kept."""
        subject = self._subject
        recipe, fraction = self._recipe(stage)
        passes = Part(subject.data, fraction).batches_per_epoch(recipe.batch_size)
        learn = round(subject.spec.options.learn * passes * recipe.epochs)
        phase, own = subject.spec.gate_phase, subject.task.train is not None
        if phase.gate_rate is None and not own:  # beside other optimizers the rule knows better
            phase = replace(phase, gate_rate=LADDER_MULTIPLE)
        gates = Gates.of(model) if above else Gates.attach(model, subject.prunable.names)
        with descending(
            gates,
            phase,
            stage.keep,
            steps=max(1, learn),
            axes=subject.prunable.axes,
            among=above,
            any_decay=own,
        ) as (pruning, made):
            log = self.plainly(stage, model, pruning)
        return log, made[0]

    def _trunk(self, stage: Stage, model: nn.Module) -> Log:
        """Learn one order for all ratios; uncut, train what else moves where weights are frozen."""
        subject, phase = self._subject, self._subject.spec.gate_phase
        gates = Gates.attach(model, subject.prunable.names)
        whole = phase.budget(1.0)
        with learning(
            gates,
            phase,
            axes=subject.prunable.axes,
            drawn=(lambda step: whole) if stage.name == UNCUT else None,
            any_decay=subject.task.train is not None,
        ) as pruning:
            log = self.plainly(stage, model, pruning)
        if stage.name == UNCUT:
            gates.remove()
        return log
