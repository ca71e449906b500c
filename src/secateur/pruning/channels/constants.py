"""Channels that do nothing, found in a model's zeros; constants moved into the next bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.pruning.channels import rules
from secateur.pruning.channels.coupling import coupled
from secateur.pruning.channels.groups import STAYS, Axis, Bools, Groups, Ints, Role
from secateur.pruning.channels.tracing import Reading, Trace, traced
from secateur.pruning.layers import is_layer


@dataclass(frozen=True, eq=False)
class Fold:
    """A weight that reads constants."""

    weight: str
    dim: int
    units: Ints
    """For each index of its inputs, dimension `dim`, the unit, or STAYS."""
    values: Tensor
    """What it reads there, float64."""
    outputs: tuple[int, ...] | None
    """For each index of its outputs the unit, or STAYS; None where all of them stay."""


def fold(
    model: nn.Module, folds: Sequence[Fold], units: Set[int]
) -> tuple[frozenset[str], list[Axis]]:
    """Add to biases what weights make of constant channels, in place.

    The weights' columns are left; they go when the units are cut out.

    Returns:
        The layers whose bias is changed or new, and the axes of new biases.
    """
    changed, axes = set(), []
    for each in folds:
        gone = torch.tensor([int(unit) in units for unit in each.units])
        path = each.weight.rpartition(".")[0]
        module = model.get_submodule(path)
        weight = module.get_parameter("weight")
        matrix = weight.detach().double().transpose(0, each.dim)  # inputs first
        matrix = matrix.flatten(2).sum(2) if matrix.dim() > 2 else matrix
        added = torch.where(gone, each.values, 0.0).to(matrix.device) @ matrix
        if not bool(added.any()):
            continue
        changed.add(path)
        bias = module.bias
        with torch.no_grad():
            if isinstance(bias, Tensor):
                bias.copy_(bias.double() + added)
            else:
                module.bias = nn.Parameter(added.to(weight.dtype))
                if each.outputs is not None:
                    axes.append(Axis(f"{path}.bias".lstrip("."), 0, "along", each.outputs))
    return frozenset(changed), axes


def dead_units(
    model: nn.Module, example: Inputs
) -> tuple[Groups, frozenset[int], tuple[Fold, ...]]:
    """Return a model's groups, the units that do nothing in it, and the constants to fold.

    At least one index of every dimension of every tensor is left.
    """
    trace = traced(copied(model), example, rules.find)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    groups, numbers = coupled(trace, shapes)
    live = _live(model, groups)
    readers = [_weight_of(trace, reading) for reading in trace.readings]
    folds = tuple(_folds(model, trace, readers, groups))
    folding = {each.weight for each in folds}
    removable, unread = ~live["writes"], ~live["reads"]
    for name, reading in zip(readers, trace.readings, strict=True):
        units = numbers[reading.channels.cpu().numpy()]
        here = units != STAYS
        units = units[here]
        fine = np.full(len(units), reading.labels.pure)
        if name not in folding:
            fine &= False if reading.values is None else (reading.values.numpy() == 0)[here]
        silent = ~live["writes"][units] & ~live["along"][units] & reading.labels.zero
        removable[units[~fine & ~silent]] = False
        if reading.weight is None:
            unread[units] = False
    gone = removable | unread
    for floor in groups.floors:
        if gone[list(floor)].all():
            gone[floor[0]] = False
    return groups, frozenset(np.flatnonzero(gone).tolist()), folds


def _live(model: nn.Module, groups: Groups) -> dict[Role, Bools]:
    """Return role → which units have a non-zero weight in tensors of that role."""
    live = {role: np.zeros(groups.units, bool) for role in get_args(Role)}
    for axis in groups.axes:
        if axis.name in groups.shapes:
            units = np.asarray(axis.units)
            some = model.get_parameter(axis.name).detach().ne(0).movedim(axis.dim, 0)
            line = some.reshape(len(units), -1).any(1).cpu().numpy()
            live[axis.role][units[line & (units != STAYS)]] = True
    return live


def _weight_of(trace: Trace, reading: Reading) -> str | None:
    """Return the name of the weight that reads, if it does with a whole dimension."""
    if reading.weight is None:
        return None
    labels = reading.weight.cpu()
    own = (name for (name, _), own in trace.owned.items() if torch.equal(own, labels))
    return next(own, None)


def _folds(
    model: nn.Module, trace: Trace, readers: Sequence[str | None], groups: Groups
) -> Iterator[Fold]:
    """Yield the weights whose constants can be folded: those used once, by a plain layer."""
    for name, reading in zip(readers, trace.readings, strict=True):
        if name is None or readers.count(name) > 1 or not name.endswith("weight"):
            continue
        plain = is_layer(model.get_submodule(name.rpartition(".")[0]))
        if plain and reading.foldable and reading.labels.pure and reading.values is not None:
            axes = {axis.role: axis for axis in groups.by_tensor.get(name, ())}
            if reads := axes.get("reads"):
                outputs = axes["writes"].units if "writes" in axes else None
                yield Fold(name, reads.dim, np.asarray(reads.units), reading.values, outputs)
