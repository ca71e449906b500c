"""From labels to coupled groups of channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from secateur.arguments import GLOBS, TENSORS, a, checked
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.model.parameters import any_matches, parameters, refuse_unmatched, unwrapped
from secateur.pruning.channels import rules
from secateur.pruning.channels.groups import STAYS, Axis, Bools, Group, Groups, Ints, Role, Size
from secateur.pruning.channels.labels import Grid
from secateur.pruning.channels.tracing import Trace, traced

_NO_LABELS = np.zeros(0, np.int64)

NO_BLOCK = 2**62
"""In place of a reason's index where there is none; larger than all."""


@checked(model=a(nn.Module, "a torch module"), example=TENSORS, exclude=GLOBS)
def channel_groups(model: nn.Module, example: Inputs, *, exclude: Sequence[str] = ()) -> Groups:
    """Find the channels, neurons and heads that can be cut, and what goes with each.

    A copy of the model runs once, in evaluation mode, and a rule for each ATen operator says what
    it does to channels. What happens only in training, or for other inputs, is not seen. Channels
    that reach the outputs, or an operator without a rule, stay.

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
    return coupled(trace, {n: tuple(p.shape) for n, p in parameters(model, names).items()})[0]


def coupled(trace: Trace, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Groups, Ints]:
    """Return the groups that a trace shows, and each label's unit, or STAYS.

    Args:
        trace: of one pass.
        shapes: name → shape of all parameters.
    """
    parts, blocks = _joined_to_boxes(trace)
    written = _marked(trace, trace.written)
    read = _marked(trace, [r.weight for r in trace.readings if r.weight is not None])
    owned = {at: labels.numpy() for at, labels in trace.owned.items()}
    free = np.zeros(len(blocks), bool)
    free[parts[written]] = True
    free &= blocks == NO_BLOCK
    members = _layers([parts[labels[written[labels]]] for labels in owned.values()], free)
    numbers = np.full(len(free), STAYS, np.int64)
    order = np.array([part for member in members for part in member], np.int64)
    numbers[order] = np.arange(len(order))
    units = numbers[parts]
    axes = tuple(
        Axis(name, dim, _role(written[labels], read[labels]), tuple(units[labels].tolist()))
        for (name, dim), labels in owned.items()
        if (units[labels] != STAYS).any()
    )
    ends = [0, *accumulate(len(member) for member in members)]
    groups = Groups(
        tuple(_group(axes, range(start, end)) for start, end in pairwise(ends)),
        axes,
        tuple(_sizes(trace, parts, units)),
        _floors(trace, units),
        {axis.name: shapes[axis.name] for axis in axes if axis.name in shapes},
        _stays(trace, shapes, units, blocks[parts], written),
    )
    return groups, units


def _marked(trace: Trace, grids: Iterable[Grid]) -> Bools:
    """Return which labels are in some grids."""
    found = np.zeros(trace.ledger.count, bool)
    for grid in grids:
        found[grid.reshape(-1).cpu().numpy()] = True
    return found


def _role(written: Bools, read: Bools) -> Role:
    if written.any():
        return "writes"
    return "reads" if read.any() else "along"


def _group(axes: Sequence[Axis], units: range) -> Group:
    """Return the group of some units, named by the first weight that writes them."""
    writers = dict.fromkeys(
        axis.name
        for axis in axes
        if axis.role == "writes" and any(unit in units for unit in axis.units)
    )
    return Group(next(iter(writers)), units, tuple(writers))


def components(edges: Sequence[Ints], count: int) -> Ints:
    """Return each label's component; components are numbered by their first labels."""
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *edges], 1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (count, count))
    raw = connected_components(graph, directed=False)[1]
    _, firsts, inverse = np.unique(raw, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse]


def _joined_to_boxes(trace: Trace) -> tuple[Ints, Ints]:
    """Join labels until whatever is kept of a grid is a box.

    Where labels still differ along several dimensions of a grid, indices are cut only from the
    largest of these.

    Returns:
        Each label's component, and each component's first reason to stay, or NO_BLOCK.
    """
    ledger = trace.ledger
    grids = [grid.cpu() for grid in ledger.shaped]
    while True:
        parts = components(ledger.edges, ledger.count)
        blocks = np.full(int(parts.max(initial=-1)) + 1, NO_BLOCK, np.int64)
        for at, (labels, _) in enumerate(ledger.blocks):
            np.minimum.at(blocks, parts[labels], at)
        free = [grid for grid in grids if (blocks[parts[grid.numpy()]] == NO_BLOCK).any()]
        differing = [(grid, _differing(parts[grid.numpy()])) for grid in free]
        if all(len(dims) < 2 for _, dims in differing):
            return parts, blocks
        for grid, dims in differing:
            ledger.joined_along(grid, sorted(dims, key=lambda d: -grid.shape[d])[1:])


def _differing(ids: Ints) -> list[int]:
    """Return the dimensions along which values differ."""
    return [
        d
        for d, size in enumerate(ids.shape)
        if size > 1 and not bool((ids == np.take(ids, [0], d)).all())
    ]


def _layers(writes: Sequence[Ints], free: Bools) -> list[list[int]]:
    """Group free components that the same weights write; a component of its own is left out."""
    written = [parts[free[parts]] for parts in writes]
    edges = [np.stack([parts, np.full_like(parts, parts[0])]) for parts in written if len(parts)]
    layers = components(edges, len(free))
    members: dict[int, list[int]] = {}
    for part in np.flatnonzero(free):
        members.setdefault(int(layers[part]), []).append(int(part))
    return [member for member in members.values() if len(member) > 1]


def _sizes(trace: Trace, parts: Ints, units: Ints) -> Iterator[Size]:
    seen = set()
    for module, sizes, given in trace.sizes:
        entries = tuple(_size(part, parts, units) for part in sizes)
        found = Size(module, entries, given)
        if found.units and found not in seen:
            seen.add(found)
            yield found


def _size(part: int | tuple[Grid, int], parts: Ints, units: Ints) -> int | tuple[int, ...]:
    """Return the units of a dimension's indices, or its size where none can be cut."""
    if isinstance(part, int):
        return part
    grid, dim = part[0].cpu().numpy(), part[1]
    line = units[np.moveaxis(grid, dim, 0).reshape(grid.shape[dim], -1)[:, 0]]
    cuttable = _differing(parts[grid]) == [dim] and bool((line != STAYS).any())
    return tuple(line.tolist()) if cuttable else len(line)


def _floors(trace: Trace, units: Ints) -> tuple[tuple[int, ...], ...]:
    """Return the units of each tensor of which no channel stays, so that one unit must."""
    sets = {tuple(np.unique(units[grid.cpu().numpy()]).tolist()) for grid in trace.seen}
    return tuple(sorted((s for s in sets if s[0] != STAYS), key=lambda s: (len(s), s)))


def _stays(
    trace: Trace,
    shapes: Mapping[str, tuple[int, ...]],
    units: Ints,
    blocks: Ints,
    written: Bools,
) -> dict[str, str]:
    """Return name → reason of the weights whose outputs, or some of them, cannot be cut.

    Args:
        trace: of one pass.
        shapes: name → shape of all parameters.
        units: each label's unit, or STAYS.
        blocks: each label's first reason to stay, or NO_BLOCK.
        written: whether each label belongs to a weight's outputs.
    """
    reasons = {}
    for name, shape in shapes.items():
        dims = [
            trace.owned[at].numpy() for d in range(len(shape)) if (at := (name, d)) in trace.owned
        ]
        outputs = [labels for labels in dims if written[labels].any()]
        labels = np.concatenate([_NO_LABELS, *(outputs or dims[:1])])
        staying = labels[units[labels] == STAYS]
        # the channels of a table may follow those of another tensor
        follows = any((units[other] != STAYS).any() for other in dims[1:])
        if len(shape) < 2 or (not outputs and follows) or (outputs and not len(staying)):
            continue
        used = outputs or any((blocks[other] != NO_BLOCK).any() for other in dims)
        reason = "not used as a weight for this example"
        if used:
            cause = int(blocks[staying].min(initial=NO_BLOCK))
            reason = "all of its channels go together"
            if cause != NO_BLOCK:
                reason = trace.ledger.blocks[cause][1]
            if len(staying) < len(labels):
                reason = f"{len(staying):,} of {len(labels):,}: {reason}"
        reasons[name] = reason
    return reasons
