"""Which parameters may be cut, and a named reason for each that may not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from secateur.arguments import BOOL, GLOBS, TENSORS, a, checked
from secateur.errors import UsageError
from secateur.model.inputs import Inputs
from secateur.model.parameters import DTYPES, parameters, places_of, unwrapped
from secateur.pruning.contractions import measured
from secateur.pruning.raw_parameters import (
    UNKNOWN,
    declared_axis,
    is_raw,
    is_router,
    known_axis,
    no_weight,
    routing_gates,
)
from secateur.pruning.selecting.patterns import parse

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers that normalise; their parameters are scales and shifts."""
FIRST = "first layer"
NO_DIRECTION = "which dimension counts inputs is not known"
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_FIRST = (nn.Linear, nn.Bilinear, _ConvNd)
_LAYERS = (*_FIRST, *_EMBEDDINGS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True, slots=True)
class Prunable:
    """Which parameters of a model may be cut; every parameter is in exactly one of the two."""

    names: tuple[str, ...]
    """Those that may, in order of registration."""
    excluded: Mapping[str, str]
    """Those that may not, and why: name → reason."""
    axes: Mapping[str, int | None] = field(default_factory=dict)
    """Which dimension of each of those that may counts its layer's inputs: name → 0 for
    transposed convolutions and transformers' Conv1D, 1 for all other layers. Negative for a stack
    of matrices, whose other one of the last two dimensions counts outputs: -1 for experts
    [experts, outputs, inputs], -2 for [experts, inputs, outputs]. None for a raw parameter of
    which that is not known."""

    def total(self, model: nn.Module) -> int:
        """Return how many prunable weights the model has.

        Raises:
            UsageError: a name is no parameter of the model.
        """
        return sum(weight.numel() for weight in parameters(model, self.names).values())

    def including_first(self, model: nn.Module) -> Prunable:
        """Return the same with the first layer among those that may, unless more keeps it whole."""
        first = {name for name, reason in self.excluded.items() if reason == FIRST}
        wanted = first.union(self.names)
        names = tuple(name for name, _ in model.named_parameters() if name in wanted)
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
    parameters (of modules that are no such layer) of two or more dimensions whose name says that
    they are weights, such as `weight`, `gate_up_proj` or `W_q`. Not prunable are biases and norms
    (anything of fewer than two dimensions), vectors of other shapes ([C, 1, 1], [1, 1, D]: scales,
    tokens), embedding and position tables, tokens and queries, state-space constants, routers of
    experts (what its path or class calls router, and gates beside experts that give fewer features
    than they take), raw parameters of other names, frozen parameters, and the first layer: it is
    small, reads the input itself, and loses most when cut. A parameter that several layers share
    appears once, under its first name; what excludes it in one of them excludes it.

    Args:
        model: not changed. Wrappers (data-parallel, averaged, compiled) are looked through.
        include_first: let the first layer be cut too. It is the first linear or convolutional
            layer in order of registration, unless an embedding, a recurrent layer or attention
            comes before it. With pattern "channel" it always may: only its inputs must stay, and
            they do.
        exclude: globs over parameter names (`*` also matches dots), for example `"head.*"`.
        include: globs over names of parameters that are cut although they would be left whole by
            default; not what cannot be cut (frozen, integers), nor what `exclude` matches.
        pattern: as in `Budget`. With n:m and blocks, which go along the inputs, parameters are
            left whole of which it is not known which dimension counts inputs.
        example: inputs of one pass. Where raw parameters do not say which dimension counts inputs,
            the model is run once, in evaluation mode, to see how they are multiplied by
            activations; those that are looked up are tables, and left whole with every pattern.

    Raises:
        UsageError: a glob matches no parameter, or nothing is left to cut; lists the reasons. Or
            the model does not take the example.
        BudgetError: the pattern is none.
    """
    model = unwrapped(model)
    shape = parse(pattern)
    places = places_of(model)
    every = [name for at in places.values() for name, _ in at]
    refuse_unmatched(exclude, every, "exclude")
    refuse_unmatched(include, every, "include")
    first = None if include_first or shape.smaller else _first_layer(model)
    gates = routing_gates(model)
    excluded: dict[str, str] = {}
    axes: dict[str, int | None] = {}
    for name, parameter in model.named_parameters():
        at = places[id(parameter)]
        reason = _reason(parameter, at, first, gates, exclude, include)
        if reason is None:
            axes[name] = _axis(parameter, at)
        else:
            excluded[name] = reason
    unknown = [name for name, axis in axes.items() if axis is None]
    if unknown and example is not None:
        seen = measured(model, unknown, example)
        axes |= seen.axes
        for name in seen.tables:
            if not _matches(places[id(model.get_parameter(name))], include):
                del axes[name]
                excluded[name] = "embedding table"
    if shape.directed:
        hint = "; example= shows it" if example is None else ""
        for name in [name for name in unknown if axes.get(name, 0) is None]:
            del axes[name]
            excluded[name] = f"{NO_DIRECTION}{hint}"
    if not axes:
        raise _nothing_left(excluded)
    return Prunable(tuple(axes), excluded, axes)


def _nothing_left(excluded: Mapping[str, str]) -> UsageError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
    hint = ""
    if FIRST in excluded.values():
        hint = "; include_first=True of prunable (of a study: first_layer) lets it be cut"
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


def _axis(parameter: Tensor, places: Sequence[tuple[str, nn.Module]]) -> int | None:
    """Return which dimension of a parameter counts inputs, as `Prunable.axes`."""
    return known_axis([_axis_at(parameter, name, owner) for name, owner in places])


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


def _reason(
    parameter: nn.Parameter,
    places: Sequence[tuple[str, nn.Module]],
    first: Tensor | None,
    gates: Collection[int],
    exclude: Sequence[str],
    include: Sequence[str],
) -> str | None:
    """Return why a parameter may not be cut, or None."""
    for glob in exclude:
        if any(fnmatchcase(name, glob) for name, _ in places):
            return f"excluded by {glob!r}"
    wanted = _matches(places, include)
    found = _reasons(parameter, places, first, gates)
    return next((why for why, advice in found if not (advice and wanted)), None)


def _matches(places: Sequence[tuple[str, nn.Module]], globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name, _ in places for glob in globs)


def _reasons(
    parameter: nn.Parameter,
    places: Sequence[tuple[str, nn.Module]],
    first: Tensor | None,
    gates: Collection[int],
) -> Iterator[tuple[str, bool]]:
    """Yield (why a parameter may not be cut, whether that is advice and could be done)."""
    owners = [owner for _, owner in places]
    leaves = [name.rpartition(".")[2] for name, _ in places]
    if isinstance(parameter, nn.UninitializedParameter):
        yield "not initialised yet: run the model once", False
        return
    if any(isinstance(owner, _EMBEDDINGS) for owner in owners):
        yield "embedding table", True
    if any(isinstance(owner, NORMS) for owner in owners) or parameter.dim() < 2:
        yield "bias or norm", True
    if any(leaf == "bias" or leaf.startswith("bias_") for leaf in leaves):
        yield "bias or norm", True
    if id(parameter) in gates:
        yield "router", True
    yield from ((why, False) for why in _impossible(parameter, owners))
    if parameter.numel() == max(parameter.shape, default=1) and not any(
        isinstance(owner, _LAYERS) for owner in owners
    ):
        yield "a vector: one scale or token", True
    if not parameter.requires_grad:
        yield "frozen", False
    yield from ((why, True) for why in _no_weight(parameter, places))
    if parameter is first:  # last: nothing else keeps it whole
        yield FIRST, True


def _impossible(parameter: Tensor, owners: Sequence[nn.Module]) -> Iterator[str]:
    if any(isinstance(owner, ParametrizationList) for owner in owners):
        yield "parametrized: cutting it would not cut the weight"
    if parameter.layout != torch.strided:
        yield "sparse layout"
    if parameter.is_meta:
        yield "on the meta device"
    if parameter.dtype not in DTYPES:
        yield f"dtype is {str(parameter.dtype).removeprefix('torch.')}"
    if parameter.numel() == 0:
        yield "has no weights"


def _no_weight(parameter: Tensor, places: Sequence[tuple[str, nn.Module]]) -> Iterator[str]:
    said: list[str | None] = []
    for name, owner in places:
        if not is_raw(name, owner, (*_LAYERS, *NORMS, ParametrizationList)):
            said.append("router" if is_router(name, owner) else None)
        elif parameter.dim() > 1:
            said.append(no_weight(name, owner, parameter))
    yield from (why for why in said if why not in (None, UNKNOWN))
    if said and None not in said:  # known under none of its names
        yield UNKNOWN
