"""Learned importance: one gate per weight, trained through the cut.

A weight's importance is its magnitude plus what its gate has learned, s = |w| + gate, and the
gates start at zero. A step of the gate phase draws a keep ratio, keeps exactly the top-K of s,
and runs the network with those weights only. With v = w * mask the loss gives ∂L/∂v for kept and
cut weights alike, and the gate learns from both, straight through the selection:

    ∂L/∂gate = ∂L/∂v * w          ∂L/∂w = ∂L/∂v * mask

so a cut weight whose return would lower the loss comes back, and a kept weight that does harm
sinks. The first formula is the straight-through estimator (Bengio et al. 2013,
arXiv:1308.3432) of edge-popup (Ramanujan et al. 2020, arXiv:1911.13299), with signed weights and
no constant fan-in; drawing another ratio at each step makes one order serve every ratio. The
magnitude is that of the moment, so that the order follows weights that move; frozen weights
leave the whole order to the gates.

`GateRule` is that rule, beside any optimizer. The gates are buffers beside their weights
(`conv.weight` has `conv.weight_gate`), so they are moved, copied and saved with the model, its own
keys do not change, its optimizer does not see them, and `Gates.remove` leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.arguments import TEXTS, a, checked
from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.unprunable import refuse_sharded

SUFFIX = "_gate"

MODULE = a(nn.Module, "a torch module")


class Gates:
    """The gates of a model, read and written where they live: in the model's buffers."""

    @checked(model=MODULE, names=TEXTS)
    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = unwrapped(model)
        self._weights = parameters(self._model, names)

    @classmethod
    @checked(model=MODULE, names=TEXTS)
    def attach(cls, model: nn.Module, names: Sequence[str], *, persistent: bool = True) -> Gates:
        """Give every weight of the named parameters a gate, at zero: importance is magnitude.

        Args:
            model: changed in place: gains one float32 buffer `<name>_gate` per parameter.
            names: parameter names, as in `model.named_parameters()`; any shape.
            persistent: whether the gates are part of the model's `state_dict`.

        Raises:
            UsageError: a name is no parameter of the model, has a gate already, or is not
                initialised; or the model is sharded.
        """
        model = unwrapped(model)
        refuse_sharded(model)
        weights = parameters(model, names)
        for name, weight in weights.items():
            if isinstance(weight, nn.UninitializedParameter):
                raise UsageError(f"{name!r} is not initialised: run the model once")
        for name in names:
            owner, leaf = _owner(model, name)
            if hasattr(owner, leaf + SUFFIX):
                raise UsageError(
                    f"{name!r} has a gate already; read it with Gates.of(model), "
                    "or take it away with Gates.of(model).remove()"
                )
        for name in names:
            owner, leaf = _owner(model, name)
            gate = torch.zeros_like(weights[name], dtype=torch.float32, requires_grad=False)
            owner.register_buffer(leaf + SUFFIX, gate, persistent=persistent)
        return cls(model, names)

    @classmethod
    @checked(model=MODULE)
    def of(cls, model: nn.Module) -> Gates:
        """Return the gates that a model carries, for example after `deepcopy`.

        Raises:
            UsageError: the model has no gates.
        """
        model = unwrapped(model)
        names = gated(model)
        if not names:
            raise UsageError("the model has no gates; attach them with Gates.attach(model, names)")
        return cls(model, names)

    @property
    def model(self) -> nn.Module:
        """The model that carries the gates, without wrappers."""
        return self._model

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The parameters that have gates: the model's own tensors."""
        return self._weights

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters that have gates."""
        return tuple(self._weights)

    def values(self) -> dict[str, Tensor]:
        """Return name → gates, float32, shaped as the parameter; live tensors, not copies.

        An optimizer updates them; give it no weight decay for them.
        """
        return {name: self._model.get_buffer(name + SUFFIX) for name in self._weights}

    def scores(self) -> dict[str, Tensor]:
        """Return name → importance |w| + gate, float32, shaped as the parameter; copies."""
        gates = self.values()
        return {n: gates[n] + w.detach().abs().float() for n, w in self._weights.items()}

    def become(self, scores: Mapping[str, Tensor]) -> None:
        """Set the gates so that `scores()` gives these, up to rounding in float32.

        Args:
            scores: name → finite tensor, shaped as the parameter.
        """
        for name, gate in self.values().items():
            gate.copy_(scores[name] - self._weights[name].detach().abs())

    def demote(self, masks: Masks) -> None:
        """Rank everything that these masks cut below everything that they keep.

        The order among those that are cut stays, and so does that among those that are kept. So
        when a row of nested masks is demoted, from the largest on, the gates give all of them.

        Args:
            masks: of the gated parameters.
        """
        scores = self.scores()
        kept = [scores[name][masks[name]] for name in scores]
        cut = [scores[name][~masks[name]] for name in scores]
        lowest = min((float(part.min()) for part in kept if part.numel()), default=0.0)
        highest = max((float(part.max()) for part in cut if part.numel()), default=0.0)
        room = max(abs(lowest), abs(highest), 1.0) / 64  # far above float32's rounding
        if lowest - highest < room / 2:
            for name, gate in self.values().items():
                gate[~masks[name]] -= highest - lowest + room

    def remove(self) -> None:
        """Take the gates away; the model is as it was before `attach`."""
        for name in self._weights:
            owner, leaf = _owner(self._model, name)
            delattr(owner, leaf + SUFFIX)
        self._weights = {}


def gated(model: nn.Module) -> list[str]:
    """Return the names of the parameters that have gates, in the model's order."""
    buffers = dict(model.named_buffers())
    return [name for name, _ in model.named_parameters() if name + SUFFIX in buffers]


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
