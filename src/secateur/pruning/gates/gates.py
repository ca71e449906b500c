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

The gates are buffers beside their weights (`conv.weight` has `conv.weight_gate`), so they are
moved, copied and saved with the model, its own keys do not change, its optimizer does not see
them, and `Gates.remove` leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.arguments import TEXTS, a, checked
from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.parameters import axes_of
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.pruning.unprunable import refuse_sharded

SUFFIX = "_gate"

MODULE = a(nn.Module, "a torch module")


class Gates:
    """The gates of a model, read and written where they live: in the model's buffers."""

    @checked(model=MODULE, names=TEXTS)
    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = unwrapped(model)
        self._weights = parameters(self._model, names)
        self._axes = axes_of(self._model, names)

    @classmethod
    @checked(model=MODULE, names=TEXTS)
    def attach(cls, model: nn.Module, names: Sequence[str]) -> Gates:
        """Give every weight of the named parameters a gate, at zero: importance is magnitude yet.

        Args:
            model: changed in place: gains one float32 buffer `<name>_gate` per parameter.
            names: parameter names, as in `model.named_parameters()`; any shape.

        Raises:
            UsageError: a name is no parameter of the model, has a gate already, or is not
                initialised; or the model is sharded.
        """
        model = unwrapped(model)
        refuse_sharded(model)
        weights = parameters(model, names)
        for name, weight in weights.items():
            if isinstance(weight, nn.UninitializedParameter):
                raise UsageError(f"{name!r} is not initialised yet: run the model once")
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
            owner.register_buffer(leaf + SUFFIX, gate)
        return cls(model, names)

    @classmethod
    @checked(model=MODULE)
    def of(cls, model: nn.Module) -> Gates:
        """Return the gates that a model carries, for example after `deepcopy`.

        Raises:
            UsageError: the model has no gates.
        """
        model = unwrapped(model)
        buffers = dict(model.named_buffers())
        names = [name for name, _ in model.named_parameters() if name + SUFFIX in buffers]
        if not names:
            raise UsageError("the model has no gates; attach them with Gates.attach(model, names)")
        return cls(model, names)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have gates."""
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

    def bury(self, masks: Masks) -> None:
        """Rank everything that these masks cut below everything that they keep.

        The order among those that are cut stays, and so does that among those that are kept. So
        when a row of nested masks is buried, from the largest on, the gates give all of them.

        Args:
            masks: of the gated parameters.
        """
        scores = self.scores()
        kept = [scores[name][masks[name]] for name in scores]
        cut = [scores[name][~masks[name]] for name in scores]
        lowest = min((float(part.min()) for part in kept if part.numel()), default=0.0)
        highest = max((float(part.max()) for part in cut if part.numel()), default=0.0)
        if highest >= lowest:
            span = highest - lowest
            for name, gate in self.values().items():
                gate[~masks[name]] -= span + max(span, 1.0) / 64  # far above float32's rounding

    @contextmanager
    def cut(
        self,
        budget: Budget,
        *,
        order: Mapping[str, Tensor] | None = None,
        among: Masks | None = None,
        frozen: bool = False,
        spare: float = 0.0,
    ) -> Iterator[Masks]:
        """Run forward and backward through the cut: inside, only the top-K weights are there.

        On leaving, the full weights are back, `weight.grad` holds ∂L/∂v * mask, and the gates'
        `.grad` holds ∂L/∂v * w; both add to what was there before, so that gradients can be
        accumulated over several cuts. Parameters without gates are not touched. When the block
        raises, the weights are put back and the gates get no gradient.

        Args:
            budget: how many weights this step keeps, and where.
            order: scores to cut by in place of the gates'; the gates then get no gradient.
            among: what was cut before and stays so, whatever its score; keep no more than these.
            frozen: the gated weights get no gradient, only their gates do.
            spare: the weight decay that the optimizer is going to add, λ w: cut weights get the
                gradient -λ w, so that only the network that ran decays. Give it in one of the
                cuts of an optimizer's step.
        """
        scores = self.scores() if order is None else order
        masks = select(scores if among is None else only(scores, among), budget, axes=self._axes)
        full = {name: weight.detach().clone() for name, weight in self._weights.items()}
        earlier = {name: weight.grad for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.data.mul_(masks[name])
            weight.grad = None
        try:
            yield masks
        except BaseException:
            self._restore(full, earlier)
            raise
        with torch.no_grad():
            for name, gate in self.values().items():
                weight = self._weights[name]
                if weight.grad is not None:
                    if order is None:
                        gate.grad = _add(gate.grad, (weight.grad * full[name]).to(gate.dtype))
                    weight.grad.mul_(masks[name])
                    if spare:  # the weight holds w * mask yet
                        weight.grad.add_(weight - full[name], alpha=spare)
                through, weight.grad = weight.grad, earlier[name]
                if through is not None and not frozen:
                    weight.grad = _add(earlier[name], through)
                weight.data.copy_(full[name])

    def _restore(self, full: dict[str, Tensor], earlier: dict[str, Tensor | None]) -> None:
        for name, weight in self._weights.items():
            weight.data.copy_(full[name])
            weight.grad = earlier[name]

    def remove(self) -> None:
        """Take the gates away; the model is as it was before `attach`."""
        for name in self._weights:
            owner, leaf = _owner(self._model, name)
            delattr(owner, leaf + SUFFIX)
        self._weights = {}


def only(scores: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """Return the scores with all that the masks cut at one value below all that they keep.

    Args:
        scores: name → finite tensor; the masks are of the same names and shapes.
    """
    lowest = min(float(tensor.min()) for tensor in scores.values() if tensor.numel())
    below = lowest - max(1.0, abs(lowest)) / 64  # representable below in half precision too
    return {name: torch.where(masks[name], tensor, below) for name, tensor in scores.items()}


def _add(earlier: Tensor | None, new: Tensor) -> Tensor:
    return new if earlier is None else earlier.add_(new)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
