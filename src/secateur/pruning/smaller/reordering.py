"""Channels put in an order in which importance gathers in blocks, with the same outputs.

A block of the pattern `dot4` is four consecutive input channels. Which channels stand beside each
other is up to whoever writes them, and means nothing to the network: their order may be chosen so
that what is large stands with what is large at the same outputs and places.

For magnitudes w of the weights that read the channels, the order is looked for that makes

    sum over blocks B, outputs and places:  (sum of |w| in B)^2

large. It differs from one order to another by the products of pairs that share a block, so all
that it takes is the Gram matrix of the channels. Blocks are begun with the largest channel that is
left and filled greedily, then the best exchange of two channels is made, until none helps.
The idea of permuting channels before zeros are placed in a fixed pattern is that of J. Pool and
C. Yu, "Channel permutations for N:M sparsity" (2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.arguments import TENSORS, a, checked, whole
from secateur.errors import ScoreError, UsageError
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.model.parameters import unwrapped
from secateur.pruning.channels.coupling import channel_groups
from secateur.pruning.channels.groups import Axis, Group, Groups, Ints, Role
from secateur.pruning.smaller.alike import difference, outputs

Order = Mapping[int, int]
"""Unit -> the unit that takes its place."""

_FEWEST_GAINED = 1e-9
"""Of the whole sum: an exchange that gains less is noise."""


@dataclass(frozen=True, eq=False)
class Reordered:
    """What `reorder` returns."""

    model: nn.Module
    """The same network with its channels in another order."""
    moved: dict[str, int]
    """How many units of each group stand in another place: name -> count."""
    refused: dict[str, str]
    """Groups that were left as they were: name -> reason."""


@checked(
    model=a(nn.Module, "a torch module"),
    example=TENSORS,
    size=whole(2, "at least 2, a whole number"),
    rows=whole(1, "at least 1, a whole number"),
)
def reorder(model: nn.Module, example: Inputs, *, size: int = 4, rows: int = 1) -> Reordered:
    """Put channels in an order in which importance gathers in blocks of consecutive inputs.

    To be done once, before anything is cut, where the pattern is `dot4`: the outputs are the same
    up to the rounding of sums that are taken in another order, and so is the time a network takes.
    Channels that are coupled, by a residual sum for example, move together; those of inputs and
    outputs stay. Every result is compared with the given model, in float32 and in evaluation mode,
    and a group whose channels cannot change places is refused.

    Args:
        model: not changed. Wrappers are looked through; the result has none.
        example: inputs, as for `channel_groups`.
        size: how many inputs a block has.
        rows: how many outputs a block has, a multiple of `size` or 1: 16 for the pattern `16x4` of
            linear layers. The units of a layer are then put into groups of so many by what they
            read, and in each group by what reads them.

    Returns:
        The model in its new order, in the same modes, and a report.

    Raises:
        UsageError: the model does not take the example, or rows is no multiple of size.
        ScoreError: weights are NaN or infinite; names the tensor.
    """
    if rows > 1 and rows % size:
        raise UsageError(f"rows is {rows}, but must be 1 or a multiple of size, which is {size}")
    model = unwrapped(model)
    groups = channel_groups(model, example)
    base, want = copied(model), outputs(model, example)
    orders: dict[str, Order] = {}
    refused: dict[str, str] = {}
    for group in groups:
        # blocks of several rows depend on how other groups stand by now
        now = _placed(base, groups, orders.values()) if rows > 1 else base
        try:
            order = _order(now, groups, group, size, rows)
        except _UnlikeError as error:
            refused[group.name] = str(error)
            continue
        if order:
            orders[group.name] = order
    made = _placed(base, groups, orders.values())
    if difference(made, example, want) is not None:  # one after the other, to find which
        accepted: dict[str, Order] = {}
        for name, order in orders.items():
            tried = _placed(base, groups, [*accepted.values(), order])
            reason = difference(tried, example, want)
            if reason is None:
                accepted[name] = order
            else:
                refused[name] = reason
        orders = accepted
        made = _placed(base, groups, orders.values())
    moved = {name: sum(k != v for k, v in order.items()) for name, order in orders.items()}
    return Reordered(made, moved, refused)


class _UnlikeError(Exception):
    """Units of a group do not have the same indices of every tensor."""


def _order(model: nn.Module, groups: Groups, group: Group, size: int, rows: int) -> Order:
    """Return the places of a group's units; {} where none gains."""
    _check(groups, group)
    read = _side_by_side(_summed(m, rows) for m in _magnitudes(model, groups, group, "reads"))
    own = None
    if rows > 1:
        own = _side_by_side(_summed(m, size) for m in _magnitudes(model, groups, group, "writes"))
    if (read is None and own is None) or len(group) <= size:
        return {}
    sets = [np.arange(len(group))] if own is None else _sets(gathered(own, rows), rows)
    if read is not None:
        sets = [part[gathered(read[part], size)] for part in sets]
    found = np.concatenate(sets)
    units = list(group.units)
    order = {units[place]: units[at] for place, at in enumerate(found)}
    return order if any(k != v for k, v in order.items()) else {}


def _check(groups: Groups, group: Group) -> None:
    for axis in groups.axes:
        counts = np.bincount(_own(axis, group) - group.units.start, minlength=len(group))
        if len(set(counts[counts > 0])) > 1 or (counts.any() and not counts.all()):
            raise _UnlikeError(f"its units have different numbers of indices in {axis.name}")


def _own(axis: Axis, group: Group) -> Ints:
    """Return the units of a group at the indices of an axis that belong to it."""
    units = np.asarray(axis.units, np.int64)
    return units[(units >= group.units.start) & (units < group.units.stop)]


def _sets(order: Ints, size: int) -> list[Ints]:
    return [order[at : at + size] for at in range(0, len(order), size)]


def _summed(magnitudes: np.ndarray, count: int) -> np.ndarray:
    """Return the sums of so many neighbours along the second axis; the last have the rest."""
    return np.add.reduceat(magnitudes, range(0, magnitudes.shape[1], count), axis=1)


def _side_by_side(parts: Iterable[np.ndarray]) -> np.ndarray | None:
    """Return what is known of each unit, [units, n]; None where nothing is."""
    found = [part.reshape(len(part), -1) for part in parts if part.size]
    return np.concatenate(found, axis=1) if found else None


def _magnitudes(model: nn.Module, groups: Groups, group: Group, role: Role) -> Iterator[np.ndarray]:
    """Yield what reads or writes each unit, float64 [units, outputs or inputs, places], by weight.

    A weight that reads several indices of a unit side by side has blocks within it: its order
    does not matter.
    """
    for axis in groups.axes:
        own = _own(axis, group)
        if axis.role != role or len(own) != len(group) or len(set(own.tolist())) != len(own):
            continue
        weight = model.get_parameter(axis.name).detach().double().abs().movedim(axis.dim, 0)
        if not weight.isfinite().all():
            raise ScoreError(
                f"weights of {axis.name!r} are NaN or infinite, and have no order; look for the "
                "step that made them so"
            )
        at = {unit: index for index, unit in enumerate(axis.units)}
        placed = weight[[at[unit] for unit in group.units]]
        yield placed.reshape(*placed.shape[:2], -1).cpu().numpy()


def _placed(model: nn.Module, groups: Groups, orders: Iterable[Order]) -> nn.Module:
    """Return a copy of a model whose units stand in other places."""
    made = copied(model)
    order = {k: v for each in orders for k, v in each.items()}
    tensors = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    with torch.no_grad():
        for axis in groups.axes:
            places: dict[int, list[int]] = {}
            for index, unit in enumerate(axis.units):
                places.setdefault(unit, []).append(index)
            source = list(range(len(axis.units)))
            for unit, indices in places.items():
                if unit in order:
                    for index, old in zip(indices, places[order[unit]], strict=True):
                        source[index] = old
            tensor = tensors[axis.name]
            tensor.copy_(tensor.index_select(axis.dim, torch.tensor(source, device=tensor.device)))
    return made


def gathered(magnitudes: np.ndarray, size: int) -> Ints:
    """Return an order in which large numbers share blocks.

    Args:
        magnitudes: float64 [channels, n], finite, none negative.
        size: of a block; the last one has the rest.

    Returns:
        int64 [channels]: which channel stands at each place.
    """
    # by a power of two, so that nothing is rounded, and no square overflows
    magnitudes = np.ldexp(magnitudes, -int(np.frexp(magnitudes.max(initial=0))[1]))
    gram = magnitudes @ magnitudes.T
    norms = gram.diagonal().copy()
    np.fill_diagonal(gram, 0)
    blocks = _filled(gram, norms, size)
    _exchange(gram, blocks)
    return np.argsort(blocks, kind="stable")


def _exchange(gram: np.ndarray, blocks: Ints) -> None:
    """Make the best exchange of two channels, in place, until none gains.

    An exchange changes only what the channels of its two blocks gain, so that it takes time in
    proportion to the channels, and not to their pairs.
    """
    least = _FEWEST_GAINED * max(float(gram.sum()), np.finfo(float).tiny)
    count = len(gram)
    member = np.zeros((count, blocks.max(initial=0) + 1))
    member[np.arange(count), blocks] = 1
    pull = gram @ member  # of a channel, to each block
    own = pull[np.arange(count), blocks]

    def gains(rows: Ints) -> np.ndarray:
        found: np.ndarray = pull[rows][:, blocks] + pull[:, blocks[rows]].T - 2 * gram[rows] - own
        found -= own[rows, None]
        found[blocks[rows, None] == blocks] = 0
        return found

    gain = np.concatenate([gains(part) for part in np.array_split(np.arange(count), 16)])
    best = gain.argmax(axis=1)
    while count:
        most = gain[np.arange(count), best]
        a = int(most.argmax())
        b = int(best[a])
        if most[a] <= least:
            return
        blocks[a], blocks[b] = blocks[b], blocks[a]
        changed = np.flatnonzero((blocks == blocks[a]) | (blocks == blocks[b]))
        for block in blocks[[a, b]]:
            pull[:, block] = gram[:, blocks == block].sum(axis=1)
        own[changed] = pull[changed, blocks[changed]]
        gain[changed] = gains(changed)
        gain[:, changed] = gain[changed].T
        # of the other channels, those whose best was there look again
        stale = np.isin(best, changed)
        stale[changed] = True
        found = changed[gain[:, changed].argmax(axis=1)]
        rows = np.arange(count)
        better = gain[rows, found] > gain[rows, best]
        best = np.where(better, found, best)
        best[stale] = gain[stale].argmax(axis=1)


def _filled(gram: np.ndarray, norms: np.ndarray, size: int) -> Ints:
    """Return the block of each channel, [channels], filled one after the other."""
    blocks = np.full(len(gram), -1)
    for block in range(-(-len(gram) // size)):
        left = np.flatnonzero(blocks < 0)
        first = left[norms[left].argmax()]
        blocks[first] = block
        pull = gram[first].copy()
        for _ in range(min(size, len(left)) - 1):
            left = np.flatnonzero(blocks < 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                alike = np.nan_to_num(pull[left] / np.sqrt(norms[left]))
            taken = left[alike.argmax()]
            blocks[taken] = block
            pull += gram[taken]
    return blocks
