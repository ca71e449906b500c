"""Sparse layers on quads at a single position: the words that sixteen outputs read at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANES = 16
"""Outputs that are computed together."""

STEP = 2.9
"""Cycles a word of inputs that sixteen outputs read: little more than memory takes to give it."""


@dataclass(frozen=True)
class Lines:
    """Which words of inputs each sixteen outputs read, as `c/quad_blocked.h` describes."""

    first: np.ndarray
    """uint32 [groups + 1], where each group begins in `index`."""
    index: np.ndarray
    """uint32, words of inputs, ascending in each group."""

    @property
    def cycles(self) -> float:
        """What the layer costs."""
        return STEP * len(self.index)

    @property
    def bytes(self) -> int:
        """How many bytes the prepared weights take."""
        return 4 * LANES * len(self.index)


def lines(weight: np.ndarray) -> Lines:
    """Return the form of a weight of words, [outputs, words, 1]."""
    there = weight[:, :, 0] != 0
    there = np.pad(there, ((0, -len(there) % LANES), (0, 0)))
    read = there.reshape(-1, LANES, there.shape[1]).any(axis=1)
    first = np.append(0, np.cumsum(read.sum(axis=1))).astype(np.uint32)
    return Lines(first, np.nonzero(read)[1].astype(np.uint32))
