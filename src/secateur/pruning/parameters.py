"""Which parameters may be cut, and why each of the others may not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from secateur.arguments import BOOL, GLOBS, TENSORS, a, checked
from secateur.errors import UsageError
from secateur.model.inputs import Inputs
from secateur.model.parameters import (
    DTYPES,
    any_matches,
    parameters,
    places_of,
    refuse_unmatched,
    unwrapped,
)
from secateur.pruning.adapters import ADAPTER, COPIED, adapted, beside_the_base
from secateur.pruning.contractions import uses_of
from secateur.pruning.raw_parameters import (
    UNKNOWN,
    declared_axis,
    is_raw,
    is_router,
    not_a_weight,
    routing_gates,
)
from secateur.pruning.selecting.patterns import parse

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers that normalise; their parameters are scales and shifts."""
FIRST = "first layer"
PARAMETRIZED = "parametrized: cutting it would not cut the weight"
NO_DIRECTION = "which dimension counts inputs is not known"
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_FIRST = (nn.Linear, nn.Bilinear, _ConvNd)
_BIAS = re.compile("bias(_.*)?")
_LAYERS = (*_FIRST, *_EMBEDDINGS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True, slots=True)
class Prunable:
    """Which parameters of a model may be cut: each is in `names` or in `excluded`."""

    names: tuple[str, ...]
    """Parameters that may be cut, in order of registration."""
    excluded: Mapping[str, str]
    """Parameters that may not be cut: name → reason."""
    axes: Mapping[str, int | None] = field(default_factory=dict)
    """Which dimension of each parameter in `names` counts its layer's inputs: 0 for transposed
    convolutions and transformers' Conv1D, 1 for all other layers. Negative for a stack of
    matrices, where the other of the last two dimensions counts outputs: -1 for experts
    [experts, outputs, inputs], -2 for [experts, inputs, outputs]. None for a raw parameter where
    that is not known."""

    def total(self, model: nn.Module) -> int:
        """Return how many prunable weights the model has.

        Raises:
            UsageError: a name is not a parameter of the model.
        """
        return sum(weight.numel() for weight in parameters(model, self.names).values())

    def without(self, names: Sequence[str], why: str) -> Prunable:
        """Return the same with some parameters left whole.

        Raises:
            UsageError: nothing is left to cut.
        """
        excluded = {**self.excluded, **dict.fromkeys(names, why)}
        left = tuple(name for name in self.names if name not in excluded)
        if not left:
            raise _nothing_left(excluded)
        return Prunable(left, excluded, {n: axis for n, axis in self.axes.items() if n in left})

    def including_first(self, model: nn.Module) -> Prunable:
        """Return the same with the first layer in `names`, unless another reason excludes it."""
        first = {name for name, reason in self.excluded.items() if reason == FIRST}
        included = first.union(self.names)
        names = tuple(name for name, _ in model.named_parameters() if name in included)
        excluded = {name: why for name, why in self.excluded.items() if name not in first}
        return Prunable(names, excluded, {**axes_of(model, names), **self.axes})


@checked(
    model=a(nn.Module, "a torch module"),
    include_first=BOOL,
    exclude=GLOBS,
    include=GLOBS,
    example=TENSORS,
)
def prunable(
    model: nn.Module,
    *,
    include_first: bool = False,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    pattern: str = "weight",
    example: Inputs | None = None,
) -> Prunable:
    """Say of every parameter whether it may be cut.

    Prunable are the weights of linear, convolutional, recurrent and attention layers, and raw
    parameters (those of other modules) of two or more dimensions whose name says that they are
    weights, such as `weight`, `gate_up_proj` or `W_q`. Not prunable are biases and norms
    (anything of fewer than two dimensions), vectors of other shapes ([C, 1, 1], [1, 1, D]: scales,
    tokens), embedding and position tables, tokens and queries, state-space constants, routers of
    experts (what its path or class calls router, and gates beside experts that give fewer features
    than they take), raw parameters of other names, frozen parameters, and the first layer: it is
    small, reads the input itself, and loses most when cut. In a model with adapters of PEFT the
    base may be cut although it is frozen, and the adapters may not, unless channels are cut, which
    they share. A parameter that several layers share appears once, under its first name; what
    excludes it in one of them excludes it.

    Args:
        model: not changed. Wrappers (data-parallel, averaged, compiled) are looked through.
        include_first: let the first layer be cut too. It is the first linear or convolutional
            layer in order of registration, unless an embedding, a recurrent layer or attention
            comes before it. With pattern "channel" it always may: only its inputs must stay, and
            they do.
        exclude: globs over parameter names (`*` also matches dots), for example `"head.*"`.
        include: globs over names of parameters to cut although they are left whole by default;
            what cannot be cut (frozen, integers) and what `exclude` matches stays whole.
        pattern: as in `Budget`. With n:m and blocks, which run along the inputs, a parameter is
            left whole if it is not known which of its dimensions counts inputs.
        example: inputs of one pass. Where raw parameters do not say which dimension counts inputs,
            the model is run once, in evaluation mode, to see how they are multiplied by
            activations. Those whose rows are looked up are tables, and left whole with any pattern.

    Raises:
        UsageError: a glob matches no parameter, or nothing is left to cut; lists the reasons. Or
            the model does not take the example.
        BudgetError: there is no such pattern.
    """
    model = unwrapped(model)
    parsed = parse(pattern)
    candidates = _candidates(model, parsed.smaller, include_first, exclude, include)
    reasons = {name: _reason(one, exclude) for name, one in candidates.items()}
    axes, tables = _axes(
        model, [one for n, one in candidates.items() if reasons[n] is None], example
    )
    reasons |= {name: "embedding table" for name in tables if not candidates[name].included}
    if parsed.directed:
        why = NO_DIRECTION if example is not None else f"{NO_DIRECTION}; example= shows it"
        reasons |= {n: why for n, axis in axes.items() if axis is None and reasons[n] is None}
    excluded = {name: why for name, why in reasons.items() if why is not None}
    names = tuple(name for name in candidates if name not in excluded)
    if not names:
        raise _nothing_left(excluded)
    return Prunable(names, excluded, {name: axes[name] for name in names})


def _nothing_left(excluded: Mapping[str, str]) -> UsageError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
    hint = ""
    if FIRST in excluded.values():
        hint = "; include_first=True of prunable (of a study: first_layer) lets it be cut"
    if PARAMETRIZED in excluded.values():
        hint += (
            "; weight_norm, spectral_norm and other parametrizations come off with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    if UNKNOWN in excluded.values():
        hint += "; include=[globs] of prunable lets raw parameters be"
    if any(reason.startswith(NO_DIRECTION) for reason in excluded.values()):
        hint += '; pattern="weight" has no direction'
    return UsageError(f"the model has no prunable weight ({reasons or 'no parameters'}){hint}")


def axes_of(model: nn.Module, names: Sequence[str]) -> dict[str, int | None]:
    """Return name → which dimension of the parameter counts inputs, as `Prunable.axes`."""
    model = unwrapped(model)
    places = places_of(model)
    weights = parameters(model, names)
    return {name: _axis(weight, places[id(weight)]) for name, weight in weights.items()}


def _axes(
    model: nn.Module, candidates: Sequence[_Candidate], example: Inputs | None
) -> tuple[dict[str, int | None], frozenset[str]]:
    """Return which dimensions count inputs, as `Prunable.axes`, and the names of tables.

    What parameters and layers do not say, one pass on the example shows.
    """
    axes = {one.places[0][0]: _axis(one.tensor, one.places) for one in candidates}
    unknown = [name for name, axis in axes.items() if axis is None]
    if not unknown or example is None:
        return axes, frozenset()
    seen = uses_of(model, unknown, example)
    return axes | dict(seen.axes), seen.tables


def _axis(parameter: Tensor, places: Sequence[tuple[str, nn.Module]]) -> int | None:
    """Return which dimension of a parameter counts inputs, as `Prunable.axes`."""
    known = {_axis_at(parameter, name, owner) for name, owner in places} - {None}
    return known.pop() if len(known) == 1 else None


def _axis_at(parameter: Tensor, name: str, owner: nn.Module) -> int | None:
    if is_raw(name, owner, _LAYERS):
        return declared_axis(owner, parameter)
    if isinstance(owner, _EMBEDDINGS) or parameter.dim() < 2:
        return None
    # transformers' Conv1D is a linear layer with a transposed weight; known without an import
    transposed = isinstance(owner, _ConvTransposeNd) or not isinstance(owner, _LAYERS)
    return 0 if transposed and name.rpartition(".")[2] == "weight" else 1


def _first_layer(model: nn.Module) -> Tensor | None:
    """Return the weight of the first layer where that is a linear or convolutional one."""
    layer = next((module for module in model.modules() if isinstance(module, _LAYERS)), None)
    return layer.weight if isinstance(layer, _FIRST) else None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A parameter, and what its model says about it."""

    tensor: nn.Parameter
    places: Sequence[tuple[str, nn.Module]]
    first: bool
    """It is the first layer's weight."""
    gate: bool
    """It chooses among experts."""
    included: bool
    """A glob of `include` matches it."""
    beside: str = ""
    """What it is beside the base of a model with adapters; "" where it is the base's."""
    thawed: bool = False
    """Adapters are trained, and the rest is frozen for that alone."""

    @property
    def names(self) -> list[str]:
        """All names that it has."""
        return [name for name, _ in self.places]

    def of(self, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
        """Return whether a module of some kinds owns it."""
        return any(isinstance(owner, kinds) for _, owner in self.places)

    def called_bias(self) -> bool:
        """Return whether one of its names says that it is a bias."""
        return any(_BIAS.fullmatch(name.rpartition(".")[2]) for name in self.names)


def _candidates(
    model: nn.Module,
    smaller: bool,
    include_first: bool,
    exclude: Sequence[str],
    include: Sequence[str],
) -> dict[str, _Candidate]:
    """Return name → parameter, in order of registration."""
    places = places_of(model)
    every = [name for at in places.values() for name, _ in at]
    refuse_unmatched(exclude, every, "exclude")
    refuse_unmatched(include, every, "include")
    first = None if include_first or smaller else _first_layer(model)
    gates = routing_gates(model)
    beside, thawed = beside_the_base(model, adapters=not smaller), adapted(model)
    found = {}
    for name, tensor in model.named_parameters():
        at = places[id(tensor)]
        included = any_matches((each for each, _ in at), include)
        router, other = id(tensor) in gates, beside.get(id(tensor), "")
        found[name] = _Candidate(tensor, at, tensor is first, router, included, other, thawed)
    return found


_REASONS: tuple[tuple[str, bool, Callable[[_Candidate], bool]], ...] = (
    (
        "not initialised yet: run the model once",
        False,
        lambda p: isinstance(p.tensor, nn.UninitializedParameter),
    ),
    ("embedding table", True, lambda p: p.of(_EMBEDDINGS)),
    ("bias or norm", True, lambda p: p.of(NORMS) or p.tensor.dim() < 2 or p.called_bias()),
    (ADAPTER, True, lambda p: p.beside == ADAPTER),
    (COPIED, False, lambda p: p.beside == COPIED),
    ("router", True, lambda p: p.gate),
    (PARAMETRIZED, False, lambda p: p.of(ParametrizationList)),
    ("sparse layout", False, lambda p: p.tensor.layout != torch.strided),
    ("on the meta device", False, lambda p: p.tensor.is_meta),
    ("dtype is {dtype}", False, lambda p: p.tensor.dtype not in DTYPES),
    ("has no weights", False, lambda p: p.tensor.numel() == 0),
    ("a vector: one scale or token", True, lambda p: _is_vector(p.tensor) and not p.of(_LAYERS)),
    ("frozen", False, lambda p: not p.tensor.requires_grad and not p.thawed),
)
"""Why parameters are left whole: the reason, whether `include` overrules it, and the test. The
first that applies is given."""


def _reason(candidate: _Candidate, exclude: Sequence[str]) -> str | None:
    """Return why a parameter may not be cut, or None."""
    for glob in exclude:
        if any_matches(candidate.names, [glob]):
            return f"excluded by {glob!r}"
    for why, advice, holds in _REASONS:
        if not (advice and candidate.included) and holds(candidate):
            return why.format(dtype=str(candidate.tensor.dtype).removeprefix("torch."))
    if candidate.included:
        return None
    # the first layer comes last: nothing else keeps it whole
    return _raw_reason(candidate) or (FIRST if candidate.first else None)


def _is_vector(tensor: Tensor) -> bool:
    return tensor.numel() == max(tensor.shape, default=1)


def _raw_reason(candidate: _Candidate) -> str | None:
    """Return why names and owners leave a raw parameter whole, or None."""
    said: list[str | None] = []
    for name, owner in candidate.places:
        if not is_raw(name, owner, (*_LAYERS, *NORMS, ParametrizationList)):
            said.append("router" if is_router(name, owner) else None)
        elif candidate.tensor.dim() > 1:
            said.append(not_a_weight(name, owner, candidate.tensor))
    known = [why for why in said if why not in (None, UNKNOWN)]
    nowhere = UNKNOWN if said and None not in said else None  # known under none of its names
    return next(iter(known), nowhere)
