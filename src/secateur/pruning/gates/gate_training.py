"""The gate phase inside someone else's training loop: three lines, and any optimizer.

The loop opens the cut around forward and backward, and otherwise stays as it is:

    gating = GateTraining(model, optimizer)
    for inputs, targets in loader:
        with gating.step():
            loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    masks = gating.finish(Budget(0.1))
"""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.arguments import a, checked
from secateur.model.parameters import unwrapped
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.gates.rule import GateRule
from secateur.pruning.parameters import Prunable, prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.pruning.unprunable import refuse_sharded


class GateTraining(GateRule):
    """Gates of a model that another loop trains; see the module for how."""

    @checked(
        model=a(nn.Module, "a torch module"),
        phase=a(GatePhase, "a GatePhase"),
        plan=a(Prunable, "what prunable(model) gives"),
    )
    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        phase: GatePhase | None = None,
        plan: Prunable | None = None,
    ) -> None:
        """Attach gates to the model and hooks to the optimizer.

        The gates are buffers that stay out of the model's `state_dict`, so checkpoints of the
        model have its own keys; those of the training are in `GateTraining.state_dict`.

        Args:
            model: trained, on its device; wrappers (DDP, compiled) are looked through.
            optimizer: of the model's parameters, any but LBFGS; Accelerate's and Lightning's
                wrappers are looked through. The gates' learning rate is `phase.gate_rate` times
                that of their weights, whatever a schedule makes of it; 3 times by default.
                Adaptive optimizers such as AdamW take small rates, for gradients that they
                normalise. Beside those the default divides the gates' gradients by the root mean
                square of ∂L/∂v over the last steps, so that gates keep pace with their weights;
                a `gate_rate` that is given is taken as it is, and some hundreds suit AdamW.
            phase: how keep ratios are drawn and what moves; by default `GatePhase()`.
            plan: which weights may be cut; by default `prunable(model)`.

        Raises:
            UsageError: the model is sharded (FSDP, DeepSpeed ZeRO, tensor parallel); it has
                gates already; the optimizer does not hold all weights that may be cut, is LBFGS,
                maximises, or has a weight decay that cannot be kept from the weights that a step
                cuts (any but SGD's and AdamW's, unless the phase says decay="all"). Nothing was
                changed.
        """
        refuse_sharded(model)
        inner, phase = unwrapped(model), phase or GatePhase()
        self.plan = plan or prunable(inner, pattern=phase.pattern)
        gates = Gates.attach(inner, self.plan.names, persistent=False)
        try:
            super().__init__(gates, optimizer, phase, axes=self.plan.axes)
        except BaseException:
            gates.remove()
            raise

    @checked(budget=a(Budget, "a Budget, such as Budget(0.1)"))
    def finish(self, budget: Budget) -> Masks:
        """Cut the model exactly, and take gates and hooks away.

        Train on under `MaskHold`, or call `masks.hold(model)` after every optimizer step.

        Raises:
            UsageError: it was finished before.
            BudgetError: no mask meets the budget. Nothing was changed.
            ScoreError: weights or gates are not finite; names the tensor. Nothing was changed.
        """
        self._refuse_finished()
        self.leave()
        masks = select(self.scores(), budget, axes=self._axes)
        self.remove()
        masks.apply(self._model)
        return masks

    def remove(self) -> None:
        """Take gates and hooks away; the weights stay whole, as they were trained."""
        self.detach()
        self._gates.remove()
