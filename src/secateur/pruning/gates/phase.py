"""How the gate phase (phase 2) learns: which ratios its steps keep, and what moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.arguments import checked
from secateur.errors import BudgetError, refuse_wrong
from secateur.pruning.selecting.budget import Budget, Scope
from secateur.pruning.selecting.patterns import parse

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
    pattern: str = "weight"
    """As in `Budget`; one that says its keep ratio itself is kept by every step but the dense
    ones. Channels cannot be learned so."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", parse(self.pattern))
        if refusal := parse(self.pattern).refusal:
            raise BudgetError(refusal)
        self.budget(1.0)
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

    def budget(self, keep: float) -> Budget:
        """Return the budget of a keep ratio.

        Raises:
            BudgetError: the pattern says another one itself.
        """
        whole = keep == 1 and parse(self.pattern).ratio is not None
        return Budget(keep, self.scope, self.floor, "weight" if whole else self.pattern)

    @property
    def lowest(self) -> Budget:
        """The smallest budget that a step may have."""
        ratio = parse(self.pattern).ratio
        return self.budget(self.lowest_keep if ratio is None else ratio)

    def drawn(self, step: int, most: float = 1.0) -> Budget:
        """Return the budget of one step, whose keep ratio is drawn below the most."""
        keep, ratio = most * self.draw(step), parse(self.pattern).ratio
        return self.budget(keep if ratio is None or keep == 1 else ratio)

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
