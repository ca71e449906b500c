"""From labels to coupled groups of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from secateur.arguments import GLOBS, TENSORS, a, checked
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.model.parameters import any_matches, parameters, refuse_unmatched, unwrapped
from secateur.pruning.channels import rules
from secateur.pruning.channels.groups import STAYS, Axis, Group, Groups, Role, Size
from secateur.pruning.channels.tracing import Trace, traced

Ints = np.ndarray[Any, np.dtype[np.int64]]

NONE = 2**62
"""No block: later than all."""


@checked(model=a(nn.Module, "a torch module"), example=TENSORS, exclude=GLOBS)
def channel_groups(model: nn.Module, example: Inputs, *, exclude: Sequence[str] = ()) -> Groups:
    """Find the channels, neurons and heads that can be cut, and what goes with each.

    The model runs once, in evaluation mode, on a copy, and every ATen operator that runs says
    what it does to the channels that it meets. What only happens in training, or for other
    inputs, is not seen. Channels that reach the outputs, or an operator without a rule, stay.

    Args:
        model: not changed. Wrappers (data-parallel, averaged, compiled) are looked through.
        example: its inputs: a tensor, a tuple of arguments, or a dict of arguments by name. All
            activations of this one pass are held in memory, so a batch of 1 or 2 is best.
        exclude: globs over parameter names (`*` also matches dots); channels that those tensors
            write, read or normalise stay.

    Raises:
        UsageError: the model does not take the example, or a glob matches no parameter.
    """
    model = unwrapped(model)
    names = [name for name, _ in model.named_parameters()]
    refuse_unmatched(exclude, names, "exclude")
    trace = traced(copied(model), example, rules.find)
    for (name, _), labels in trace.owned.items():
        for glob in exclude:
            if any_matches([name], [glob]):
                trace.ledger.block(labels, f"excluded by {glob!r}")
    return coupled(trace, {n: tuple(p.shape) for n, p in parameters(model, names).items()})


def coupled(trace: Trace, shapes: dict[str, tuple[int, ...]]) -> Groups:
    """Return the groups that a trace shows.

    Args:
        trace: what one pass has shown.
        shapes: name → shape of all parameters.
    """
    parts = _boxed(trace)
    first = _first_blocks(trace, parts)
    written = np.zeros(trace.ledger.count, bool)
    for grid in trace.written:
        written[grid.reshape(-1).cpu().numpy()] = True
    read = np.zeros(trace.ledger.count, bool)
    for reading in trace.readings:
        if reading.weight is not None:
            read[reading.weight.cpu().numpy()] = True
    free = np.zeros(len(first), bool)
    free[parts[written]] = True
    free &= first == NONE
    owned = {at: labels.numpy() for at, labels in trace.owned.items()}
    members = _layers(
        [parts[labels][free[parts[labels]] & written[labels]] for labels in owned.values()], free
    )
    numbers = np.full(len(free), STAYS, np.int64)
    for count, unit in enumerate(unit for member in members for unit in member):
        numbers[unit] = count
    axes = tuple(_axes(owned, parts, numbers, written, read))
    found, start = [], 0
    for member in members:
        units = range(start, start + len(member))
        start += len(member)
        writers = dict.fromkeys(
            axis.name
            for axis in axes
            if axis.role == "writes" and any(unit in units for unit in axis.units)
        )
        found.append(Group(next(iter(writers)), units, tuple(writers)))
    return Groups(
        tuple(found),
        axes,
        tuple(_sizes(trace, parts, numbers)),
        _floors(trace, parts, numbers),
        {
            name: shapes[name]
            for name in dict.fromkeys(axis.name for axis in axes)
            if name in shapes
        },
        _stays(trace, owned, shapes, (parts, first, numbers, written)),
    )


def components(edges: Sequence[Ints], count: int) -> Ints:
    """Return for each label the number of its component; numbers rise with first labels."""
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *edges], 1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (count, count))
    raw = connected_components(graph, directed=False)[1]
    _, firsts, inverse = np.unique(raw, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse]


def _boxed(trace: Trace) -> Ints:
    """Return each label's component, once what is kept of every grid must be a box.

    Where labels still differ along several dimensions of a grid, the largest of these is the one
    from which indices can be cut.
    """
    ledger = trace.ledger
    grids = [grid.cpu() for grid in ledger.shaped]
    while True:
        parts = components(ledger.edges, ledger.count)
        first = _first_blocks(trace, parts)
        joined = False
        for grid in grids:
            ids = parts[grid.numpy()]
            if bool((first[ids] != NONE).all()):
                continue
            dims = _differing(ids)
            if len(dims) > 1:
                carrier = max(dims, key=lambda d: ids.shape[d])
                ledger.joined_along(grid, [d for d in dims if d != carrier])
                joined = True
        if not joined:
            return parts


def _differing(ids: Ints) -> list[int]:
    return [
        d
        for d, size in enumerate(ids.shape)
        if size > 1 and not bool((ids == np.take(ids, [0], d)).all())
    ]


def _first_blocks(trace: Trace, parts: Ints) -> Ints:
    """Return for each component the place of the first reason to stay, or NONE."""
    first = np.full(int(parts.max(initial=-1)) + 1, NONE, np.int64)
    for at, (labels, _) in enumerate(trace.ledger.blocks):
        np.minimum.at(first, parts[labels], at)
    return first


def _layers(axes: Sequence[Ints], free: np.ndarray[Any, Any]) -> list[list[int]]:
    """Return components in parts that share a weight's outputs; parts of one are left out."""
    edges = [np.stack([units, np.full_like(units, units[0])]) for units in axes if len(units)]
    layers = components(edges, len(free))
    members: dict[int, list[int]] = {}
    for unit in np.flatnonzero(free):
        members.setdefault(int(layers[unit]), []).append(int(unit))
    return [units for units in members.values() if len(units) > 1]


def _axes(
    owned: dict[tuple[str, int], Ints],
    parts: Ints,
    numbers: Ints,
    written: np.ndarray[Any, Any],
    read: np.ndarray[Any, Any],
) -> Iterator[Axis]:
    for (name, dim), labels in owned.items():
        units = numbers[parts[labels]]
        if (units != STAYS).any():
            role: Role = "along"
            if written[labels].any():
                role = "writes"
            elif read[labels].any():
                role = "reads"
            yield Axis(name, dim, role, tuple(units.tolist()))


def _sizes(trace: Trace, parts: Ints, numbers: Ints) -> Iterator[Size]:
    seen = set()
    for module, sizes, given in trace.sizes:
        entries: list[int | tuple[int, ...]] = []
        for part in sizes:
            if isinstance(part, int):
                entries.append(part)
                continue
            grid, dim = part
            ids = parts[grid.cpu().numpy()]
            line = numbers[np.moveaxis(ids, dim, 0).reshape(ids.shape[dim], -1)[:, 0]]
            cuttable = _differing(ids) == [dim] and bool((line != STAYS).any())
            entries.append(tuple(line.tolist()) if cuttable else len(line))
        found = Size(module, tuple(entries), given)
        if found.units and found not in seen:
            seen.add(found)
            yield found


def _floors(trace: Trace, parts: Ints, numbers: Ints) -> tuple[tuple[int, ...], ...]:
    """Return the sets of units that tensors consist of, where none of their channels stay."""
    sets = set()
    for grid in trace.held:
        units = np.unique(numbers[parts[grid.cpu().numpy()]])
        if units[0] != STAYS:
            sets.add(tuple(units.tolist()))
    return tuple(sorted(sets, key=lambda units: (len(units), units)))


def _stays(
    trace: Trace,
    owned: dict[tuple[str, int], Ints],
    shapes: dict[str, tuple[int, ...]],
    known: tuple[Ints, Ints, Ints, np.ndarray[Any, Any]],
) -> dict[str, str]:
    """Return name → reason of the weights whose outputs, or some of them, cannot be cut."""
    parts, first, numbers, written = known
    reasons = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        dims = [owned[name, d] for d in range(len(shape)) if (name, d) in owned]
        outputs = [labels for labels in dims if written[labels].any()]
        labels = np.concatenate([np.zeros(0, np.int64), *(outputs or dims[:1])])
        staying = labels[numbers[parts[labels]] == STAYS]
        if not outputs and any((numbers[parts[ids]] != STAYS).any() for ids in dims[1:]):
            continue  # a table whose channels follow those of others
        if not outputs and not any((first[parts[ids]] != NONE).any() for ids in dims):
            reasons[name] = "not used as a weight for this example"
        elif len(staying) or not outputs:
            causes = first[parts[staying]] if len(staying) else np.array([NONE])
            if (blocks := causes[causes != NONE]).size:
                reason = trace.ledger.blocks[int(blocks.min())][1]
            else:
                reason = "all of its channels go together"
            some = len(staying) < len(labels)
            reasons[name] = f"{len(staying):,} of {len(labels):,}: {reason}" if some else reason
    return reasons
