"""The gate phase (phase 2): train through the cut, so that one order serves every keep ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from secateur.arguments import FUNCTION, SEED, TEXTS, a, checked, refuse
from secateur.errors import refuse_wrong
from secateur.model.parameters import unwrapped
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.trainer import Trainer
from secateur.pruning.parameters import NORMS
from secateur.pruning.selecting.budget import Budget, Scope
from secateur.pruning.selecting.masks import Masks
from secateur.training import DATA, Data, Epoch, Recipe, train

Weights = Literal["joint", "frozen"]
Order = Literal["learned", "fixed"]
Decay = Literal["kept", "all"]

GATE_RATE = 3.0
"""The gates' learning rate as a multiple of the weights', where none is given."""


@checked()
@dataclass(frozen=True, slots=True)
class GatePhase:
    """How the gates are learned: everything but the epochs and rates of the recipe.

    Raises:
        UsageError: a field is out of its range; says which and what it may be.
    """

    lowest_keep: float = 0.03
    """Smallest keep ratio drawn, in (0, 1]."""
    dense_steps: float = 0.0
    """Fraction of the steps, in [0, 1), that keep every weight and so hold the dense end."""
    gate_rate: float | None = None
    """The gates' learning rate, as a multiple of the weights'. None: 3; and beside an optimizer
    that normalises gradients (AdamW), one that suits it: see `GateTraining`."""
    weights: Weights = "joint"
    """joint: the weights move with the gates. frozen: of the network's own parameters only the
    scales and shifts of its norms move; the rest is as it was, and the gates learn a mask."""
    order: Order = "learned"
    """fixed: the order stays that of the magnitude at the start, and no gate learns: the control
    that tells what learning the order is worth from what training through the cut is worth."""
    decay: Decay = "kept"
    """Which weights a step decays: those that it keeps, which is weight decay of the network that
    ran, or all. Of 100 steps some 20 keep a weight of the lower half: with "all" it has the
    decay of all of them against the gradient of those."""
    scope: Scope = "global"
    floor: float = 0.002
    """As in `Budget`."""

    def __post_init__(self) -> None:
        Budget(1.0, self.scope, self.floor)
        refuse_wrong(
            self,
            ("lowest_keep", lambda v: 0 < v <= 1, "in (0, 1]"),
            ("dense_steps", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("gate_rate", lambda v: v is None or 0 < v < math.inf, "positive"),
            ("weights", lambda v: v in get_args(Weights), "joint or frozen"),
            ("order", lambda v: v in get_args(Order), "learned or fixed"),
            ("decay", lambda v: v in get_args(Decay), "kept or all"),
        )

    @property
    def multiple(self) -> float:
        """`gate_rate`, or what stands for None."""
        return GATE_RATE if self.gate_rate is None else self.gate_rate

    def draw(self, step: int) -> float:
        """Return the keep ratio of one step, in [lowest_keep, 1].

        Log-uniform, so that every octave of sparsity gets equal time; taken from the additive
        recurrence frac(step * golden ratio) (Kronecker sequence) and not from a random
        generator, so that even a short phase covers the whole range evenly.

        Args:
            step: counts from 0.
        """
        u = math.modf((step + 1) * (math.sqrt(5) - 1) / 2)[0]
        if u < self.dense_steps:
            return 1.0
        return float(self.lowest_keep ** ((u - self.dense_steps) / (1 - self.dense_steps)))


@checked(
    model=a(nn.Module, "a torch module"),
    names=TEXTS,
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
    trainer: Trainer = train,
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
        trainer: the loop that trains.

    Raises:
        UsageError: a name is no parameter of the model, or has a gate already.
        BudgetError: the floors make the smallest keep ratio impossible.
        TrainingError: a gradient was not finite. The model is then of no use.
    """
    if trainer is train:  # another one may take other data
        refuse("data", data, DATA)
    phase = phase or GatePhase()
    gates = Gates.attach(model, names)
    fixed = gates.scores() if phase.order == "fixed" else None

    def around_step(step: int) -> AbstractContextManager[Masks]:
        budget = Budget(phase.draw(step), phase.scope, phase.floor)
        spare = recipe.weight_decay if phase.decay == "kept" else 0.0
        return gates.cut(budget, order=fixed, frozen=phase.weights == "frozen", spare=spare)

    with norms_only(model, names) if phase.weights == "frozen" else nullcontext():
        log = trainer(
            model,
            data,
            recipe,
            loss,
            seed=seed,
            around_step=around_step,
            extra=list(gates.values().values()),
            extra_rate=phase.multiple,
            watch=watch,
        )
    if fixed is not None:
        gates.become(fixed)
    return log


@contextmanager
def norms_only(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Let only norms and the named parameters take gradients; the latter's reach their gates."""
    model = unwrapped(model)
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    still = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in names and id(parameter) not in norms
    ]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
