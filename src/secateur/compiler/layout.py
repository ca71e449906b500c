"""How a value lies in memory: axes cut over vector lanes, strides, halos.

An axis of extent D may be cut over g lanes into contiguous blocks of b elements, b * g >= D: block
q lies in lane q. Memory is then indexed by the position within the block on each axis, and the
lanes are side by side in the innermost dimension. Three uses of this one idea:

- the batch axis over all lanes: one image a lane, every shift of a window stays aligned;
- height and width of one image over a grid of lanes: each lane has a block of the image;
- the tokens of one sequence over the lanes.

A value that is not cut has one lane and is an ordinary strided array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

LINE = 64
"""Bytes: what vectors, rows of vectors and buffers are aligned to."""

ALIAS = 4096
"""Bytes: addresses this far apart compete for the same set of a first-level cache."""

GAP = 13 * LINE
"""Bytes between rows that would compete: an odd number of lines, so that 64 rows take 64 sets."""


@dataclass(frozen=True)
class Cut:
    """How axes are cut over lanes: {axis: (lanes of it, block of it)}; empty for a plain value."""

    axes: tuple[tuple[int, int, int], ...] = ()  # (axis, lanes, block), by axis

    @staticmethod
    def of(axes: Mapping[int, tuple[int, int]]) -> Cut:
        """Make a cut from {axis: (lanes, block)}; axes over one lane are left out."""
        return Cut(tuple((a, g, b) for a, (g, b) in sorted(axes.items()) if g > 1))

    def as_dict(self) -> dict[int, tuple[int, int]]:
        """Return {axis: (lanes, block)}."""
        return {axis: (lanes, block) for axis, lanes, block in self.axes}

    def moved(self, where: Mapping[int, int]) -> Cut:
        """Return the cut of a value whose axis `where[a]` is this one's axis a; others are lost."""
        return Cut.of({where[a]: (g, b) for a, g, b in self.axes if a in where})

    def within(self, axes: set[int]) -> bool:
        """Return whether only these axes are cut."""
        return all(axis in axes for axis, _, _ in self.axes)


PLAIN = Cut()


@dataclass(frozen=True)
class Layout:
    """Where each element of a value is.

    Attributes:
        shape: logical extents.
        cut: which axes are cut over lanes.
        lanes: floats side by side in the innermost dimension; 1 where nothing is cut.
        strides: by axis, elements from one position within the block to the next.
        before, after: by axis, rows of halo around each block.
    """

    shape: tuple[int, ...]
    cut: Cut
    lanes: int
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Positions within a block, by axis: what a kernel's loops run over."""
        cut = self.cut.as_dict()
        return tuple(cut[a][1] if a in cut else n for a, n in enumerate(self.shape))

    @property
    def grid(self) -> tuple[int, ...]:
        """Lanes that each axis is cut over."""
        cut = self.cut.as_dict()
        return tuple(cut[a][0] if a in cut else 1 for a in range(len(self.shape)))

    @property
    def lane_strides(self) -> tuple[int, ...]:
        """By axis, lanes from one block to the next (the last cut axis varies fastest)."""
        grid = self.grid
        return tuple(prod(grid[a + 1 :]) for a in range(len(grid)))

    @property
    def offset(self) -> int:
        """Elements from the start of the buffer to the first element that is not halo."""
        return sum(b * s for b, s in zip(self.before, self.strides, strict=True))

    @property
    def elements(self) -> int:
        """Elements that the buffer must hold, halos and padding of lanes included."""
        reach = sum(
            (b + n + a - 1) * s
            for b, n, a, s in zip(self.before, self.blocks, self.after, self.strides, strict=True)
        )
        return reach + self.lanes

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from outermost to innermost in memory."""
        axes = range(len(self.shape))
        return tuple(sorted(axes, key=lambda a: (-self.strides[a], a)))

    def same_place(self, other: Layout) -> bool:
        """Return whether two values of equal shape are cut alike, whatever their strides."""
        return self.cut == other.cut and self.lanes == other.lanes

    def positions(self) -> np.ndarray:
        """Return where every element lies: int64 offsets from the first one, of shape `shape`."""
        total = np.zeros((), dtype=np.int64)
        for axis, extent in enumerate(self.shape):
            block = self.blocks[axis]
            i = np.arange(extent, dtype=np.int64)
            lane = i // block * self.lane_strides[axis] if self.grid[axis] > 1 else 0
            total = total[..., None] + i % block * self.strides[axis] + lane
        return total


def packed(
    shape: Sequence[int],
    cut: Cut = PLAIN,
    *,
    lanes: int = 1,
    order: Sequence[int] | None = None,
    before: Sequence[int] | None = None,
    after: Sequence[int] | None = None,
    itemsize: int = 4,
    tight: bool = False,
) -> Layout:
    """Return the layout that packs a value densely, its axes in an order.

    Args:
        shape: logical extents.
        cut: which axes are cut.
        lanes: vector lanes of the target; only used where something is cut.
        order: axes from outermost to innermost; cut axes last by default.
        before, after: halo rows by axis.
        itemsize: bytes of an element.
        tight: leave gaps, which keep rows from colliding in the cache, only between rows of the
            innermost axis.
    """
    axes = range(len(shape))
    none = (0,) * len(shape)
    width = lanes if cut.axes else 1
    layout = Layout(tuple(shape), cut, width, none, tuple(before or none), tuple(after or none))
    if order is None:
        cut_axes = set(cut.as_dict())
        order = sorted(axes, key=lambda a: a in cut_axes)
    strides, step, blocks = [0] * len(shape), width, layout.blocks
    for position, axis in enumerate(reversed(order)):
        strides[axis] = step
        step *= layout.before[axis] + blocks[axis] + layout.after[axis]
        # rows of equal sets collide in the cache: move each on by some lines
        gap = width > 1 and position < len(order) - 1 and (position == 0 or not tight)
        if gap and step * itemsize % (ALIAS // 2) == 0:
            step += GAP // itemsize
    return replace(layout, strides=tuple(strides))
