"""The one rule by which gates learn: a cut around forward and backward, hooks around the step.

Inside a cut only the top-K weights are there, and backward leaves ∂L/∂v in `weight.grad`, for kept
and cut weights alike. It stays there, and may be accumulated over several micro-batches, averaged
over processes, unscaled and clipped like any gradient, until the optimizer steps: only then is it
split into ∂L/∂w = ∂L/∂v * mask and ∂L/∂gate = ∂L/∂v * w. So whatever was done to the gradients was
done to those of the gates too, and a step that a gradient scaler leaves out is left out here, and
its cut is run again. Splitting is done by hooks of the optimizer, which need nothing of the loop.

Every process of a distributed training draws the same ratio, since that is a function of the
step's number, and splits the same averaged gradient: gates and masks are equal everywhere without
any further communication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.arguments import Wanted, checked, is_real, plain
from secateur.errors import UsageError, whole
from secateur.pruning.adapters import adapted
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.optimizers import (
    first_mismatch,
    found_infinite,
    group_of,
    normalises,
    plain_optimizer,
    refuse_optimizer,
    scale_left,
    undo_decay,
)
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.parameters import NORMS
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select

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


class GateRule:
    """Gates that learn beside an optimizer, for as long as its hooks are there; see the module."""

    def __init__(
        self,
        gates: Gates,
        optimizer: Any,
        phase: GatePhase,
        *,
        axes: Mapping[str, int | None],
        drawn: Callable[[int], Budget] | None = None,
        among: Masks | None = None,
    ) -> None:
        """Put hooks on the optimizer and on the gated weights.

        Args:
            gates: attached to a model.
            optimizer: of the model's parameters; wrappers are looked through.
            phase: how the gates learn, and what moves beside them.
            axes: as in `select`, of the gated parameters.
            drawn: number of the optimizer's step, from 0 → what it keeps; by default as the phase
                draws it.
            among: what was cut before and stays so, whatever its score; keep no more than these.

        Raises:
            UsageError: see `GateTraining`. Nothing was changed.
        """
        self.phase = phase
        self._gates, self._model = gates, gates.model
        self._weights = gates.weights
        self._optimizer = self._fitting(optimizer)
        self._axes, self._drawn, self._among = axes, drawn or phase.drawn, among
        self._still = _still(self._model) if phase.weights == "frozen" else []
        groups = [{"params": [gate]} for gate in gates.values().values()]
        self._sgd = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
        self._order = gates.scores() if phase.order == "fixed" else None
        self._number = 0
        self._masks: Masks | None = None  # of this optimizer step, from its first cut on
        self._full: dict[str, Tensor] | None = None  # the weights, while they are cut
        self._divided = False
        self._normalised = phase.gate_rate is None and normalises(self._optimizer)
        self._square = torch.zeros((), dtype=torch.float64)  # the sum of a decaying average
        self._averaged = 0  # of how many steps
        self._hooks: list[Any] = []
        self._join()
        self._outside = False  # whether a gradient came while the weights were whole
        self._hooks += [
            weight.register_post_accumulate_grad_hook(self._look)  # type: ignore[no-untyped-call]
            for weight in self._weights.values()
            if weight.requires_grad
        ]

    def follow(self, optimizer: Any) -> None:
        """Go on beside another optimizer, such as one that a loop makes for every epoch.

        Raises:
            UsageError: see `GateTraining`. Nothing was changed.
        """
        if plain_optimizer(optimizer) is not self._optimizer:
            self._optimizer = self._fitting(optimizer)
            for hook in self._hooks[:2]:
                hook.remove()
            del self._hooks[:2]
            self._join()

    def _fitting(self, optimizer: Any) -> Optimizer:
        found, phase = plain_optimizer(optimizer), self.phase
        joint, undoes = phase.weights == "joint", phase.decay == "kept"
        refuse_optimizer(
            found, self._weights, moves=joint, undoes=undoes, adapted=adapted(self._model)
        )
        return found

    def _join(self) -> None:
        """Put hooks on the optimizer's steps, before those on the weights."""
        self._hooks[:0] = [
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
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
            budget = self._drawn(self._number)
            self._masks = select(self.scores(), budget, axes=self._axes, among=self._among)
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

    def detach(self) -> None:
        """Take the hooks away; the weights stay whole and the gates attached, as they were trained.

        With an order that is fixed the gates then say that order.
        """
        self.leave()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._order is not None:
            self._gates.become(self._order)

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside model and optimizer: numbers and tensors, copied.

        `number`; `square` and `averaged`, the decaying sum of gradients' mean squares and how many
        steps are in it; and name → float32 tensors: `gates`, their `momentum`, the fixed `order`.
        """
        gates = self._current()
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
        gates = self._current()
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
        for name, gate in self._current().items():
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
                undo_decay(weight, mask, self._optimizer, groups[id(weight)], scale)
        for parameter in self._still:
            parameter.grad = None  # which optimizers leave alone
        self._divided = True

    def _current(self) -> dict[str, Tensor]:
        """Return the gates, once their optimizer has those of now: `model.to` replaces buffers."""
        gates = self._gates.values()
        for group, gate in zip(self._sgd.param_groups, gates.values(), strict=True):
            (old,) = group["params"]
            if old is not gate:
                group["params"] = [gate]
                if (momentum := self._sgd.state.pop(old, {}).get("momentum_buffer")) is not None:
                    buffer = torch.empty_like(gate).copy_(momentum)
                    self._sgd.state[gate]["momentum_buffer"] = buffer
        return gates

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


def _still(model: nn.Module) -> list[Tensor]:
    """Return what does not move where weights are frozen: all but scales and shifts of norms."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in norms]
