"""The gate phase inside someone else's training loop: three lines, and any optimizer.

The loop opens the cut around forward and backward, and otherwise stays as it is:

    gating = GateTraining(model, optimizer)
    for inputs, targets in loader:
        with gating.step():
            loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    masks = gating.finish(Budget(0.1))

Inside `step` only the top-K weights are there, K being drawn by the phase, and backward leaves
∂L/∂v in `weight.grad`, for kept and cut weights alike. It stays there, and may be accumulated
over several micro-batches, averaged over processes, unscaled and clipped like any gradient, until
the optimizer steps: only then is it split into ∂L/∂w = ∂L/∂v * mask and ∂L/∂gate = ∂L/∂v * w. So
whatever was done to the gradients was done to those of the gates too, and a step that a gradient
scaler leaves out is left out here, and its cut is run again. Splitting is done by hooks of the
optimizer, which need nothing of the loop.

Every process of a distributed training draws the same ratio, since that is a function of the
step's number, and splits the same averaged gradient: gates and masks are equal everywhere without
any further communication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.arguments import Wanted, a, checked, is_real, plain
from secateur.errors import UsageError, whole
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.gates.gates import SUFFIX, Gates
from secateur.pruning.gates.optimizers import (
    first_mismatch,
    found_infinite,
    group_of,
    normalises,
    plain_optimizer,
    refuse_optimizer,
    scale_left,
    spare,
)
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.parameters import NORMS, Prunable, prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.pruning.unprunable import refuse_sharded

MOMENTUM = 0.9
"""Of the gates' own SGD with Nesterov momentum, which is that of `learn_gates`."""

_STATE = Wanted(
    lambda v: (
        all(whole(plain(v.get(name, 0))) and v.get(name, 0) >= 0 for name in ("number", "averaged"))
        and "number" in v
        and is_real(square := plain(v.get("square", 0.0)))
        and 0 <= square < float("inf")
        and all(
            isinstance(tensor, Tensor)
            for part in ("gates", "momentum", "order")
            for tensor in dict(v[part]).values()
        )
    ),
    "what state_dict returned",
)

MEMORY = 0.99
"""Of the mean square of gradients by which those of gates are divided beside AdamW: steps of the
last hundred or so count."""

NORMALISED = 0.3
"""What gradients that were so divided are multiplied by. At 0.1 gates and weights would keep the
pace that they have beside SGD (Adam averages gradients with weights of 0.1 and less, where SGD
with momentum adds them up); on the digits and on a small GPT-2, 0.3 was the better of 0.1, 0.3
and 1 or next to it at every rate that was tried (docs/lab/adam.md)."""


class GateTraining:
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
        inner = unwrapped(model)
        self.phase = phase or GatePhase()
        self.plan = plan or prunable(inner)
        self._optimizer = plain_optimizer(optimizer)
        self._weights = parameters(inner, self.plan.names)
        refuse_optimizer(
            self._optimizer,
            self._weights,
            moves=self.phase.weights == "joint",
            spares=self.phase.decay == "kept",
        )
        self._gates = Gates.attach(inner, self.plan.names)
        _keep_out_of_checkpoints(inner, self._gates)
        self._model = inner
        self._still = _still(inner)
        groups = [{"params": [gate]} for gate in self._gates.values().values()]
        self._sgd = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
        self._order = self._gates.scores() if self.phase.order == "fixed" else None
        self._number = 0
        self._masks: Masks | None = None  # of this optimizer step, from its first cut on
        self._full: dict[str, Tensor] | None = None  # the weights, while they are cut
        self._divided = False
        self._normalised = self.phase.gate_rate is None and normalises(self._optimizer)
        self._square = torch.zeros((), dtype=torch.float64)  # the sum of a decaying average
        self._averaged = 0  # of how many steps
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
        ]
        self._outside = False  # whether a gradient came while the weights were whole
        self._hooks += [
            weight.register_post_accumulate_grad_hook(self._look)  # type: ignore[no-untyped-call]
            for weight in self._weights.values()
            if weight.requires_grad
        ]

    @property
    def number(self) -> int:
        """How many optimizer steps the gates have learned from."""
        return self._number

    @contextmanager
    def step(self) -> Iterator[Masks]:
        """Run one forward and backward through the cut; the weights are whole again afterwards.

        For gradient accumulation, run one per micro-batch: until the optimizer steps they all get
        the same cut. When the block raises, the weights are put back too; drop the gradients of
        such a step (`optimizer.zero_grad()`), as without gates.

        Raises:
            UsageError: another cut is open, or the training was finished. By the optimizer's
                step: backward ran outside of this block.
            BudgetError: the floors make the drawn ratio impossible.
        """
        masks = self.enter()
        try:
            yield masks
        finally:
            self.leave()

    def enter(self) -> Masks:
        """Cut the weights; `step` without the block, for loops that only offer callbacks."""
        self._refuse_finished()
        if self._full is not None:
            raise UsageError("the weights are cut already; leave that cut before the next one")
        if self._masks is None:
            budget = Budget(self.phase.draw(self._number), self.phase.scope, self.phase.floor)
            self._masks = select(self.scores(), budget, axes=self.plan.axes)
        self._full = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.data.mul_(self._masks[name])
        return self._masks

    def leave(self) -> None:
        """Make the weights whole again; where no cut is open, do nothing."""
        if self._full is None:
            return
        for name, weight in self._weights.items():
            weight.data.copy_(self._full[name])
        self._full = None

    def scores(self) -> dict[str, Tensor]:
        """Return name → importance, float32: |w| + gate, or the fixed order of the phase."""
        return self._gates.scores() if self._order is None else self._order

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
        masks = select(self.scores(), budget, axes=self.plan.axes)
        self.remove()
        masks.apply(self._model)
        return masks

    def remove(self) -> None:
        """Take gates and hooks away; the weights stay whole, as they were trained."""
        self.leave()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._gates.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside model and optimizer: numbers and tensors, copied.

        `number`; `square` and `averaged`, the decaying sum of gradients' mean squares and how many
        steps are in it; and name → float32 tensors: `gates`, their `momentum`, the fixed `order`.
        """
        gates = self._gates.values()
        momentum = {name: self._sgd.state[g].get("momentum_buffer") for name, g in gates.items()}
        return {
            "number": self._number,
            "square": float(self._square),
            "averaged": self._averaged,
            "gates": {name: gate.clone() for name, gate in gates.items()},
            "momentum": {name: m.clone() for name, m in momentum.items() if m is not None},
            "order": {name: order.clone() for name, order in (self._order or {}).items()},
        }

    @checked(state=_STATE)
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            UsageError: it is of another model or phase; names the first mismatch. Nothing was
                changed.
        """
        gates = self._gates.values()
        ordered = gates if self._order is not None else {}
        known = {name: gate for name, gate in gates.items() if name in state["momentum"]}
        for part, like in (("gates", gates), ("momentum", known), ("order", ordered)):
            if (name := first_mismatch(state[part], like)) is not None:
                raise UsageError(
                    f"the {part} of {name!r} do not fit: the name or shape differs, so this state "
                    "is of another model, plan or phase; go on with those that it was saved from"
                )
        for name, gate in gates.items():
            gate.copy_(state["gates"][name])
            if name in state["momentum"]:
                buffer = torch.empty_like(gate).copy_(state["momentum"][name])
                self._sgd.state[gate]["momentum_buffer"] = buffer
            if self._order is not None:
                self._order[name] = torch.empty_like(gate).copy_(state["order"][name])
        self._number = int(state["number"])
        # what an earlier version saved has none: the sum begins anew
        self._square = torch.tensor(float(state.get("square", 0.0)), dtype=torch.float64)
        self._averaged = int(state.get("averaged", 0))
        self._masks = None

    def _look(self, _: Tensor) -> None:
        self._outside |= self._full is None

    def _refuse_finished(self) -> None:
        if not self._hooks:
            raise UsageError("the gates of this training are gone: it was finished or removed")

    def _before(self, _: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Split the gradients before the optimizer uses them, which is after its closure."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._divide()
            return None

        def then_divide() -> Any:
            value = closure()
            self._divide()
            return value

        if len(args) > 1:
            return (args[0], then_divide, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_divide}

    @torch.no_grad()
    def _divide(self) -> None:
        self.leave()
        if self._outside:
            self._outside = False
            raise UsageError(
                "backward ran outside of `with gating.step():`, so its gradients are not those of "
                "a cut; put forward and backward inside the block, and only optimizer.step() after"
            )
        if self._masks is None:  # no forward went through a cut
            return
        if found_infinite(self._optimizer):
            return
        scale = scale_left(self._optimizer)
        groups = group_of(self._optimizer)
        size = self._gradient_size(scale) if self._normalised else torch.ones(())
        for name, gate in self._gates.values().items():
            weight, mask = self._weights[name], self._masks[name]
            gate.grad = None
            if weight.grad is None:
                continue
            if self._order is None:
                gate.grad = (weight.grad * weight).to(gate.dtype).div_(scale)
                if self._normalised:
                    gate.grad.mul_((NORMALISED / size).to(gate.grad))
            weight.grad.mul_(mask)
            if self.phase.decay == "kept" and id(weight) in groups:
                spare(weight, mask, self._optimizer, groups[id(weight)], scale)
        if self.phase.weights == "frozen":
            for parameter in self._still:
                parameter.grad = None  # which optimizers leave alone
        self._divided = True

    def _gradient_size(self, scale: float) -> Tensor:
        """Take in a step's ∂L/∂v, and return their root mean square over the last steps."""
        grads = [w.grad for w in self._weights.values() if w.grad is not None]
        if grads:
            home = grads[0].device
            total = torch.stack([g.float().square().sum().to(home, torch.float64) for g in grads])
            square = total.sum() / (scale**2 * sum(g.numel() for g in grads))
            self._square = self._square.to(home) * MEMORY + square * (1 - MEMORY)
            self._averaged += 1
        return (self._square / (1 - MEMORY ** max(1, self._averaged))).sqrt().clamp_min(1e-30)

    def _after(self, _: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Move the gates, where the optimizer has moved the weights."""
        if not self._divided:
            return
        groups = group_of(self._optimizer)
        first = self._optimizer.param_groups[0]
        for weight, gates in zip(self._weights.values(), self._sgd.param_groups, strict=True):
            gates["lr"] = self.phase.multiple * float(groups.get(id(weight), first)["lr"])
        self._sgd.step()
        self._sgd.zero_grad(set_to_none=True)
        self._number += 1
        self._masks = None
        self._divided = False


def _keep_out_of_checkpoints(model: nn.Module, gates: Gates) -> None:
    for name, gate in gates.values().items():
        path, _, leaf = (name + SUFFIX).rpartition(".")
        model.get_submodule(path).register_buffer(leaf, gate, persistent=False)


def _still(model: nn.Module) -> list[Tensor]:
    """Return what does not move where weights are frozen: all but scales and shifts of norms."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in norms]
