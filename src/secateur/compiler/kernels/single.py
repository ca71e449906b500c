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

LOOKUP = 0.42
"""Cycles a non-zero that single looks up."""

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
        steps, cycles = padded_steps(weight, LANES, SPAN), LOOKUP * non_zeros
        forms.append(Form("single", steps, cycles, begin, spans))
    return min(forms, key=lambda form: form.cycles, default=None) if non_zeros else None


def stored(weight: np.ndarray) -> tuple[int, np.ndarray]:
    """Return steps, and the non-zeros as `sec_single_at` of `c/single.h` finds them, uint8.

    Args:
        weight: float32 [outputs, inputs].
    """
    outputs, inputs = weight.shape
    groups, spans = -(-outputs // LANES), -(-inputs // SPAN)
    filled = np.zeros((groups * LANES, spans * SPAN), np.float32)
    filled[:outputs, :inputs] = weight
    parts = filled.reshape(groups, LANES, spans, SPAN).transpose(0, 2, 1, 3)
    there = parts != 0
    count = there.sum(axis=3).max(axis=2)  # [groups, spans]
    # non-zeros of each lane first, in their order
    order = np.argsort(~there, axis=3, kind="stable")[..., : max(1, int(count.max(initial=0)))]
    value = np.take_along_axis(parts, order, axis=3).swapaxes(2, 3)
    used = np.arange(order.shape[3]) < count[..., None]  # [groups, spans, steps of the fullest]
    index = np.where(value != 0, order.swapaxes(2, 3), 0)
    first = np.append(0, np.cumsum(count.sum(axis=1)))
    arrays = (first.astype(np.uint32), count.astype(np.uint8), index[used].astype(np.uint8))
    contents = [array.tobytes() for array in (*arrays, value[used].astype(np.float32))]
    lines = b"".join(content + bytes(-len(content) % 64) for content in contents)
    return int(first[-1]), np.frombuffer(lines, np.uint8)


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
