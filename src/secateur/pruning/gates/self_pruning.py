"""The usual self-pruning form, kept as a control: v = w * sigmoid(s), both trained in phase 1.

The gate is trained beside its weight by the same optimizer, and a penalty on the open gates may
push them shut (Srinivas et al. 2017, arXiv:1611.06694; Savarese et al. 2020, arXiv:1912.04427,
without annealing). No gate phase follows: what the network has learned is the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.model.parameters import parameters, unwrapped


class SelfPruning:
    """Sigmoid gates over a model's weights, for as long as it trains; then folded into them.

    Give `step` to `train` as `pruning`.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], *, start: float = 2.0, penalty: float = 0.0
    ) -> None:
        """Start every gate at one value.

        Args:
            model: not changed until a step runs.
            names: the parameters that get gates.
            start: s of every gate; sigmoid(2) is 0.88.
            penalty: weight of the sum of all sigmoid(s) in the loss, in the loss's unit a weight.
        """
        self._weights = parameters(unwrapped(model), names)
        self._penalty = penalty
        self.gates = {
            name: torch.full_like(w, start, dtype=torch.float32, requires_grad=False)
            for name, w in self._weights.items()
        }
        """name → s, float32, shaped as the parameter."""

    @contextmanager
    def step(self, optimizer: Optimizer) -> Iterator[None]:
        """Run forward and backward with the products in the weights' place.

        The optimizer gets the gates too, without weight decay, where it does not have them.
        Afterwards `weight.grad` is ∂L/∂v * sigmoid(s), and the gate's `.grad` is
        (∂L/∂v * w + penalty) * sigmoid'(s).
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if new := [gate for gate in self.gates.values() if id(gate) not in held]:
            optimizer.add_param_group({"params": new, "weight_decay": 0.0})
        open_ = {name: s.sigmoid() for name, s in self.gates.items()}
        full = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.data.mul_(open_[name])
        try:
            yield
        finally:
            for name, weight in self._weights.items():
                weight.data.copy_(full[name])
        for name, weight in self._weights.items():
            if weight.grad is not None:
                slope = open_[name] * (1 - open_[name])
                self.gates[name].grad = (weight.grad * full[name] + self._penalty) * slope
                weight.grad.mul_(open_[name])

    def scores(self) -> dict[str, dict[str, Tensor]]:
        """Return three importances, each name → tensor: `product`, `weight` and `gate`.

        |w * sigmoid(s)|, |w| and sigmoid(s). Call it before `fold`.
        """
        weight = {name: w.detach().abs() for name, w in self._weights.items()}
        gate = {name: s.sigmoid() for name, s in self.gates.items()}
        return {
            "product": {name: weight[name] * gate[name] for name in weight},
            "weight": weight,
            "gate": gate,
        }

    def fold(self) -> None:
        """Multiply the gates into the weights; the model is then an ordinary one."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.mul_(self.gates[name].sigmoid())
