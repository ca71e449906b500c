"""Sparse layers at a single position, y = W x: the form that their weights are prepared in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from secateur.compiler.kernels import Machine

LANES = 16
"""Outputs that are computed together."""

SPAN = 128
"""Inputs that `single.h` looks up at once."""

LEAST = 4
"""Outputs that a group must have on average: empty lanes are stored too."""

PLAIN = 1.8
"""Cycles a non-zero of a layer that has no form, one by one."""


@dataclass(frozen=True)
class Form:
    """How the non-zeros of a layer lie, as `c/single.h` and `c/blocked.h` describe."""

    name: str
    """blocked: the outputs of a group read the same inputs. single: each reads its own."""
    steps: int
    """In which up to sixteen outputs each meet one non-zero."""
    cycles: float
    """What they all cost."""
    begin: np.ndarray
    """uint32, the first output of each group, and one behind the last."""
    spans: int
    """Of inputs, which single looks up."""

    @property
    def bytes(self) -> int:
        """How many bytes the prepared form takes."""
        parts = [4 * len(self.begin), 4 * LANES * self.steps]
        if self.name == "blocked":
            parts.append(4 * self.steps)
        else:
            parts += [(len(self.begin) - 1) * self.spans, LANES * self.steps]
        return sum(-(-part // 64) * 64 for part in parts)


def form(weight: np.ndarray, machine: Machine) -> Form | None:
    """Return the cheapest form for a weight [outputs, inputs, 1], or None where there is none."""
    outputs, inputs = weight.shape[:2]
    spans = -(-inputs // SPAN)
    non_zeros = int(np.count_nonzero(weight))
    forms = []
    begin, steps = alike(weight, LANES)
    if LEAST * steps <= non_zeros:
        forms.append(Form("blocked", steps, 2.9 * steps, begin, spans))
    if machine.lanes == LANES:  # lookups need its permutations
        begin = np.append(np.arange(0, outputs, LANES), outputs).astype(np.uint32)
        steps, cycles = padded_steps(weight, LANES, SPAN), 0.42 * non_zeros
        forms.append(Form("single", steps, cycles, begin, spans))
    return min(forms, key=lambda form: form.cycles, default=None) if non_zeros else None


def alike(weight: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    """Return groups of at most `lanes` outputs side by side that have the same non-zeros.

    Args:
        weight: [outputs, inputs, 1].
        lanes: most outputs of a group.

    Returns:
        uint32, the first output of each group and one behind the last; and the non-zeros of one
        output of each, summed.
    """
    there = weight[:, :, 0] != 0
    changes = np.flatnonzero((there[1:] != there[:-1]).any(axis=1)) + 1
    runs = [0, *changes.tolist(), len(there)]
    begin = [at for run, after in pairwise(runs) for at in range(run, after, lanes)]
    steps = int(np.count_nonzero(there[begin]))
    return np.array([*begin, len(there)], np.uint32), steps


def padded_steps(weight: np.ndarray, lanes: int, span: int) -> int:
    """Return how many steps `lanes` outputs at a time need for a weight [outputs, inputs, 1].

    In every span of inputs, a group takes as many steps as its fullest output has non-zeros.
    """
    outputs, inputs = weight.shape[:2]
    padded = np.zeros((-(-outputs // lanes) * lanes, -(-inputs // span) * span), dtype=bool)
    padded[:outputs, :inputs] = weight[:, :, 0] != 0
    counts = padded.reshape(-1, lanes, padded.shape[1] // span, span).sum(axis=3)
    return int(counts.max(axis=1).sum())
