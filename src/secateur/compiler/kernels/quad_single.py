"""Sparse layers on quads at a single position: the words that sixteen outputs read at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANES = 16
"""Outputs that are computed together."""

WORD = 6.0
"""Cycles a word of weights that is not zero, where words are taken one by one."""

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
    def bytes(self) -> int:
        """How many bytes the prepared weights take."""
        return 4 * LANES * len(self.index)


def lines(weight: np.ndarray) -> Lines | None:
    """Return the form of a weight; None where it costs more than words one by one.

    Args:
        weight: of words, [outputs, words, 1].
    """
    found = _read(weight)
    if STEP * np.count_nonzero(found) > WORD * np.count_nonzero(weight):
        return None
    first = np.append(0, np.cumsum(found.sum(axis=1))).astype(np.uint32)
    return Lines(first, np.nonzero(found)[1].astype(np.uint32))


def cost(weight: np.ndarray) -> float:
    """Return the cycles of a weight's non-zero words, in the form that `lines` chooses."""
    steps = int(np.count_nonzero(_read(weight)))
    return min(STEP * steps, WORD * int(np.count_nonzero(weight)))


def _read(weight: np.ndarray) -> np.ndarray:
    """Return which words each group of outputs reads, bool [groups, words]."""
    there = weight[:, :, 0] != 0
    there = np.pad(there, ((0, -len(there) % LANES), (0, 0)))
    return np.asarray(there.reshape(-1, LANES, there.shape[1]).any(axis=1))
