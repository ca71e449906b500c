"""The gate phase (phase 2): train through the cut, so that one order serves every keep ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.arguments import FUNCTION, SEED, TEXTS, a, checked
from secateur.errors import UsageError
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.optimizers import can_undo_decay
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.rule import GateRule
from secateur.pruning.parameters import axes_of
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.training import DATA, Data, Epoch, Recipe, train


class Learning:
    """What a loop opens around its steps while gates learn."""

    def __init__(self, begin: Callable[[Optimizer], GateRule]) -> None:
        self._begin = begin
        self._rule: GateRule | None = None

    @property
    def steps(self) -> int:
        """How many steps of the optimizer the gates have learned from."""
        return 0 if self._rule is None else self._rule.number

    @property
    def opened(self) -> bool:
        """Whether a loop has opened it at all."""
        return self._rule is not None

    def __call__(self, optimizer: Optimizer) -> AbstractContextManager[object]:
        """Return the context of one forward and backward, through a cut."""
        if self._rule is None:
            self._rule = self._begin(optimizer)
        self._rule.follow(optimizer)
        return self._rule.step()

    def end(self) -> None:
        """Take the hooks away; the gates stay attached."""
        if self._rule is not None:
            self._rule.detach()


@contextmanager
def learning(
    gates: Gates,
    phase: GatePhase,
    *,
    axes: Mapping[str, int | None] | None = None,
    drawn: Callable[[int], Budget] | None = None,
    among: Masks | None = None,
    any_decay: bool = False,
) -> Iterator[Learning]:
    """Let gates learn in whatever loop opens what this yields around its steps.

    The rule begins at the first step, beside the optimizer that is given there, and ends with the
    block; the gates stay attached.

    Args:
        gates: attached to the model that the loop trains.
        phase: how they learn, and what moves beside them.
        axes: as in `select`; by default those that the layers say themselves.
        drawn: as in `GateRule`.
        among: as in `GateRule`.
        any_decay: where the optimizer's decay cannot be kept from the weights that a step cuts,
            let them decay, and do not refuse it.

    Raises:
        UsageError: from the step on, as `GateTraining`. Or, when the block ends, the optimizer
            that was given never stepped.
    """
    if axes is None:
        axes = axes_of(gates.model, gates.names)

    def begin(optimizer: Optimizer) -> GateRule:
        kept = not any_decay or can_undo_decay(optimizer, gates.weights)
        own = phase if kept else replace(phase, decay="all")
        return GateRule(gates, optimizer, own, axes=axes, drawn=drawn, among=among)

    pruning = Learning(begin)
    try:
        yield pruning
    finally:
        pruning.end()
    if pruning.opened and not pruning.steps:
        raise UsageError(
            "no gate has learned: the optimizer that was given to `pruning` never stepped; give "
            "it the one whose step() moves the weights"
        )


@checked(
    model=a(nn.Module, "a torch module"),
    names=TEXTS,
    data=DATA,
    recipe=a(Recipe, "a Recipe, such as Recipe(epochs=1)"),
    loss=FUNCTION,
    phase=a(GatePhase, "a GatePhase"),
    seed=SEED,
    watch=FUNCTION,
)
def learn_gates(
    model: nn.Module,
    names: Sequence[str],
    data: Data,
    recipe: Recipe,
    loss: Callable[[Tensor, Any], Tensor],
    *,
    phase: GatePhase | None = None,
    seed: int,
    watch: Callable[[Epoch], object] = lambda epoch: None,
) -> tuple[Epoch, ...]:
    """Attach gates to a trained network and learn them, in place; read them with `Gates.of`.

    With `order="fixed"` the gates left behind say that order too, so that the criterion `gate`
    cuts the control like any other network.

    Args:
        model: trained, on the data's device.
        names: the parameters that may be cut, as `prunable(model)` and its `names` say.
        data: its training batches are used; its loss may be a distilled one (`distilled`).
        recipe: epochs, rates and precision.
        loss: (outputs as float32, targets) → scalar.
        phase: how keep ratios are drawn and what moves; by default `GatePhase()`.
        seed: of shuffling and augmentation.
        watch: told of each finished epoch.

    Raises:
        UsageError: a name is not a parameter of the model, is frozen, or has a gate already.
        BudgetError: the floors make the smallest keep ratio impossible.
        TrainingError: a gradient was not finite. The model is then of no use.
    """
    phase = phase or GatePhase()
    gates = Gates.attach(model, names)
    try:
        with learning(gates, phase) as pruning:
            return train(model, data, recipe, loss, seed=seed, pruning=pruning, watch=watch)
    except BaseException:
        gates.remove()
        raise
