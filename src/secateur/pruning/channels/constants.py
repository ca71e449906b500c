"""Channels that do nothing, found in a model's zeros; constants moved into the next bias."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.pruning.channels import rules
from secateur.pruning.channels.coupling import components, coupled
from secateur.pruning.channels.groups import STAYS, Axis, Groups
from secateur.pruning.channels.tracing import Reading, Trace, traced

Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class Fold:
    """A weight that reads constants."""

    weight: str
    dim: int
    units: np.ndarray[Any, np.dtype[np.int64]]
    """For each index of the dimension its unit, or STAYS."""
    values: Tensor
    """What it reads there, float64."""
    outputs: tuple[int, ...] | None
    """The same of the dimension of its outputs; None where all of them stay."""


@dataclass(frozen=True, eq=False)
class Constants:
    """What weights read of channels that are constant."""

    folds: tuple[Fold, ...]

    def fold(self, model: nn.Module, units: Set[int]) -> tuple[frozenset[str], list[Axis]]:
        """Add to biases what weights read of constant channels, in place.

        The weights' own columns stay; they go when the units are cut out.

        Returns:
            The layers whose bias has changed, or is new; and the axes of new biases.
        """
        changed, axes = set(), []
        for fold in self.folds:
            gone = torch.tensor([int(unit) in units for unit in fold.units])
            path = fold.weight.rpartition(".")[0]
            module = model.get_submodule(path)
            weight = module.get_parameter("weight")
            matrix = weight.detach().double().transpose(0, fold.dim)  # inputs first
            matrix = matrix.flatten(2).sum(2) if matrix.dim() > 2 else matrix
            added = torch.where(gone, fold.values, 0.0).to(matrix.device) @ matrix
            if not bool(added.any()):
                continue
            changed.add(path)
            bias = module.bias
            with torch.no_grad():
                if isinstance(bias, Tensor):
                    bias.copy_(bias.double() + added)
                else:
                    module.bias = nn.Parameter(added.to(weight.dtype))
                    if fold.outputs is not None:
                        axes.append(Axis(f"{path}.bias".lstrip("."), 0, "along", fold.outputs))
        return frozenset(changed), axes


def dead(model: nn.Module, example: Inputs) -> tuple[Groups, frozenset[int], Constants]:
    """Return a model's groups, the units that do nothing in it, and constants to be folded.

    At least one index of every dimension of every tensor is left.
    """
    trace = traced(copied(model), example, rules.find)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    groups = coupled(trace, shapes)
    live = {role: _live(model, groups, role) for role in ("writes", "reads", "along")}
    numbers = _units_of_labels(trace, groups)
    folds = tuple(_folds(model, trace, groups))
    folding = {fold.weight for fold in folds}
    removable = ~live["writes"]
    unread = ~live["reads"]
    for reading in trace.readings:
        units = numbers[reading.channels.cpu().numpy()]
        here = units != STAYS
        fine = np.full(len(units), reading.labels.pure)
        if _weight_of(trace, reading) not in folding:
            fine &= False if reading.values is None else reading.values.numpy() == 0
        silent = ~live["writes"][units] & ~live["along"][units] & reading.labels.zero
        removable[units[here & ~fine & ~silent]] = False
        if reading.weight is None:
            unread[units[here]] = False
    gone = removable | unread
    for floor in groups.floors:
        if gone[list(floor)].all():
            gone[floor[0]] = False
    return groups, frozenset(np.flatnonzero(gone).tolist()), Constants(folds)


def _live(model: nn.Module, groups: Groups, role: str) -> Bools:
    """Return which units have a weight that is not zero in tensors of a role."""
    live = np.zeros(groups.units, bool)
    for axis in groups.axes:
        if axis.role == role and axis.name in groups.shapes:
            units = np.asarray(axis.units)
            tensor = model.get_parameter(axis.name).detach()
            rest = [d for d in range(tensor.dim()) if d != axis.dim]
            some = tensor.ne(0)
            line = (some.sum(rest) > 0 if rest else some).cpu().numpy()
            live[units[line & (units != STAYS)]] = True
    return live


def _units_of_labels(trace: Trace, groups: Groups) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for every label the number of its unit, or STAYS."""
    parts = components(trace.ledger.edges, trace.ledger.count)
    by_part = np.full(int(parts.max(initial=-1)) + 1, STAYS, np.int64)
    for axis in groups.axes:
        by_part[parts[trace.owned[axis.name, axis.dim].numpy()]] = axis.units
    return by_part[parts]


def _weight_of(trace: Trace, reading: Reading) -> str | None:
    """Return the name of the weight that reads, where it is one whole dimension of one."""
    if reading.weight is None:
        return None
    labels = reading.weight.cpu()
    for (name, _), own in trace.owned.items():
        if len(own) == len(labels) and torch.equal(own, labels):
            return name
    return None


def _folds(model: nn.Module, trace: Trace, groups: Groups) -> Iterator[Fold]:
    """Yield the weights whose constants can be folded: they are used once, in a plain layer."""
    names = [_weight_of(trace, reading) for reading in trace.readings]
    for name, reading in zip(names, trace.readings, strict=True):
        if name is None or names.count(name) > 1 or not name.endswith("weight"):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        plain = isinstance(module, (nn.Linear, _ConvNd)) or hasattr(module, "nf")
        if not (plain and reading.foldable and reading.labels.pure and reading.values is not None):
            continue
        axes = {axis.role: axis for axis in groups.axes if axis.name == name}
        if reads := axes.get("reads"):
            writes = axes.get("writes")
            outputs = writes.units if writes else None
            yield Fold(name, reads.dim, np.asarray(reads.units), reading.values, outputs)
