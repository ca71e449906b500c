"""Which channel every element of a tensor belongs to, and what must be cut together.

A *label* is an integer for one channel of one parameter or buffer: one index of one of its
dimensions. A *grid* holds labels for a tensor's elements: int64, as many dimensions as the
tensor, of size 1 along every dimension on which the label does not depend. An activation
[N, C, H, W] has one grid [1, C, 1, 1]; a weight [O, I] has two, [O, 1] and [1, I]. Splitting C
into heads [H, D] gives one grid [.., H, D], and what follows decides whether heads or the
channels in them can be cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Grid = Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known about one tensor. Without grids, none of it can be cut."""

    shape: tuple[int, ...]
    grids: tuple[Grid, ...] = ()
    zero: bool = False
    """A channel is exactly zero once everything that belongs to it is zero."""
    pure: bool = False
    """A channel is one constant once the weights that write it are zero."""
    weight: bool = False
    """Made of parameters alone, so that what a cut zeroes in them is zero here."""
    buffer: bool = False
    """Made of buffers alone: it follows the channels of other tensors and decides nothing."""


class Tied(NamedTuple):
    """A grid that operands share once they are tied."""

    grid: Grid
    owners: frozenset[int]
    """The places of the operands that had such a grid."""


def joint(operands: Iterable[Labels], met: Iterable[Tied]) -> Labels:
    """Return labels with the shared grids; each flag holds where all labelled operands have it.

    The shape is left out: the tracer knows it.
    """
    known = [labels for labels in operands if labels.grids]
    return Labels(
        (),
        tuple(m.grid for m in met),
        zero=all(labels.zero for labels in known),
        pure=all(labels.pure for labels in known),
        weight=all(labels.weight for labels in known),
        buffer=all(labels.buffer for labels in known),
    )


def over_channels(labels: Labels, ndim: int) -> Labels:
    """Return the labels of a vector [C] as those of a tensor [C, 1, ...].

    Such a tensor broadcasts to an activation [N, C, ...] of `ndim` dimensions.
    """
    view = (-1, *[1] * (ndim - 2))
    grids = tuple(grid.reshape(view) for grid in labels.grids)
    return replace(labels, shape=(*labels.shape, *view[1:]), grids=grids)


def varying(grid: Grid) -> frozenset[int]:
    """Return the dimensions along which labels differ."""
    return frozenset(d for d, size in enumerate(grid.shape) if size > 1)


def compressed(grid: Grid) -> Grid:
    """Return the grid with size 1 along every dimension on which it does not depend."""
    for d, size in enumerate(grid.shape):
        if size > 1:
            first = grid.narrow(d, 0, 1)
            if grid.stride(d) == 0 or bool((grid == first).all()):
                grid = first
    return grid


def with_leading_ones(grid: Grid, ndim: int) -> Grid:
    """Return the grid with the leading dimensions that broadcasting adds."""
    return grid.reshape((1,) * (ndim - grid.dim()) + tuple(grid.shape))


class Ledger:
    """All labels: which are cut together, which must stay, and why."""

    def __init__(self) -> None:
        self.count = 0
        self.edges: list[np.ndarray[Any, Any]] = []
        """[2, E] each: labels that are cut together."""
        self.blocks: list[tuple[np.ndarray[Any, Any], str]] = []
        """Labels that stay, with the reason, in the order in which they were found."""
        self.shaped: list[Grid] = []
        """Grids of several dimensions: what is kept of each must be a box again."""

    def new(self, count: int) -> Tensor:
        """Return new labels, int64 [count]."""
        start = self.count
        self.count += count
        return torch.arange(start, start + count)

    def new_fixed(self, shape: Sequence[int], reason: str) -> Grid:
        """Return new labels that must stay."""
        grid = self.new(int(np.prod(shape))).reshape(tuple(shape))
        self.block(grid, reason)
        return grid

    def join(self, first: Grid, second: Grid) -> None:
        """Cut together what stands at the same place of two grids, which broadcast."""
        shape = torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-untyped-call]
        pairs = torch.stack([first.expand(shape), second.expand(shape)]).reshape(2, -1)
        self.edges.append(pairs.cpu().numpy())

    def block(self, grid: Grid, reason: str) -> None:
        """Record that labels stay, and why."""
        self.blocks.append((grid.reshape(-1).cpu().numpy(), reason))

    def joined_along(self, grid: Grid, dims: Iterable[int]) -> Grid:
        """Cut together what differs only along some dimensions; return the grid without them."""
        first = grid
        for d in dims:
            first = first.narrow(d, 0, 1)
        if first is not grid:
            self.join(grid, first)
        return first

    def _fix_grid(self, grid: Grid, dims: Iterable[int], reason: str) -> Grid | None:
        """Return the grid without dimensions that keep their size.

        Where it varies along no others, its labels stay and None is returned.
        """
        here = varying(grid) & frozenset(dims)
        if not here:
            return grid
        if here == varying(grid):
            self.block(grid, reason)
            return None
        return self.joined_along(grid, sorted(here))

    def fix(self, labels: Labels, dims: Iterable[int], reason: str) -> Labels:
        """Return labels in which some dimensions keep their size; they may count from the end."""
        here = {d % len(labels.shape) for d in dims}
        found = [self._fix_grid(grid, here, reason) for grid in labels.grids]
        return replace(labels, grids=tuple(grid for grid in found if grid is not None))

    def tie(self, operands: Sequence[Labels], ndim: int, reason: str) -> list[Tied]:
        """Tie the channels of tensors that are combined element by element.

        Args:
            operands: of tensors that broadcast to `ndim` dimensions.
            ndim: dimensions of the outcome.
            reason: why channels stay that meet a tensor without labels.

        Returns:
            The grids of the outcome.
        """
        wide = [(1,) * (ndim - len(o.shape)) + tuple(o.shape) for o in operands]
        found = [(at, with_leading_ones(g, ndim)) for at, o in enumerate(operands) for g in o.grids]
        buffers = {at for at, o in enumerate(operands) if o.buffer}
        outcome = []
        for part in linked(found):
            common = _common(part, buffers)
            left = self._fixed([(at, g, _lost(g, common, at in buffers)) for at, g in part], reason)
            owners = frozenset(at for at, _ in left)
            others = [shape for at, shape in enumerate(wide) if at not in owners]
            alone = [d for d in common if any(shape[d] > 1 for shape in others)]
            left = self._fixed([(at, grid, alone) for at, grid in left], reason)
            for _, grid in left[1:]:
                self.join(left[0][1], grid)
            outcome += [Tied(grid, owners) for _, grid in left[:1]]
        return outcome

    def _fixed(
        self, items: Iterable[tuple[int, Grid, Iterable[int]]], reason: str
    ) -> list[tuple[int, Grid]]:
        """Let dimensions of each grid keep their size; return the grids that vary along others."""
        fixed = [(at, self._fix_grid(grid, dims, reason)) for at, grid, dims in items]
        return [(at, grid) for at, grid in fixed if grid is not None]


def _common(part: Sequence[tuple[int, Grid]], buffers: Set[int]) -> frozenset[int]:
    """Return the dimensions along which all grids vary; of buffers, only if there is no other."""
    sets = [varying(g) for at, g in part if at not in buffers] or [varying(g) for _, g in part]
    return frozenset.intersection(*sets) or frozenset([min(frozenset.union(*sets))])


def _lost(grid: Grid, common: frozenset[int], buffer: bool) -> frozenset[int]:
    """Return the dimensions that a grid loses; a buffer's grid fits exactly or is lost."""
    dims = varying(grid)
    return dims if buffer and dims != common else dims - common


def linked(items: Sequence[tuple[int, Grid]]) -> list[list[tuple[int, Grid]]]:
    """Group (place, grid) pairs so that groups have no dimension in common."""
    parts: list[tuple[frozenset[int], list[tuple[int, Grid]]]] = []
    for item in items:
        union, members = varying(item[1]), [item]
        apart = []
        for known, others in parts:
            if known & union:
                union, members = union | known, others + members
            else:
                apart.append((known, others))
        parts = [*apart, (union, members)]
    return [members for _, members in parts]
