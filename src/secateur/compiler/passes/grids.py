"""Weights that lie on a grid: whole numbers of 8 bits, times a step of each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.ops.cast import ELEMENT_TYPES

FIRST = 16
"""Weights of a channel that a step must fit before it is tried on all."""

_OFF = (0, 1, -1, 2, -2)
"""Units in the last place by which a step that is found by division may be off."""


@dataclass(frozen=True)
class Grid:
    """What levels of a value stand for: (level - zero) * scale; levels are counted from 0.

    Attributes:
        scale: a float32.
        zero: in [0, 255]; 128 more than in the file where that has int8.
    """

    scale: float
    zero: int

    @staticmethod
    def of(node: Node, dtype: np.dtype[np.generic]) -> Grid:
        """Return that of a Quantize or a Dequantize, whose levels are of a type."""
        return Grid(node.get("scale"), node.get("zero") + (128 if dtype == np.int8 else 0))

    def level(self, number: float) -> int:
        """Return the level of a number, within the ends."""
        steps = np.rint(np.float32(number) / np.float32(self.scale))
        return int(np.clip(self.zero + np.clip(steps, -(2**20), 2**20), 0, 255))


def quantized_type(node: Node) -> np.dtype[np.generic]:
    """Return the type of the levels that a Quantize gives."""
    return ELEMENT_TYPES[node.get("to")]


def of_layer(node: Node, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a layer's weights as whole numbers and steps, if there is a kernel for them.

    Args:
        node: a FusedConv or FusedLinear. weight: of it, float32 [outputs, ...].

    Returns:
        As `of_weights`; None also for no weights, and groups whose channels do not come in fours.
    """
    if not weight.size:
        return None
    group, shape = node.get("group", 1), weight.shape
    depthwise = shape[1] == 1 and shape[0] == group and len(shape) < 5
    fits = group % 4 == 0 if depthwise else shape[1] % 4 == shape[0] // group % 4 == 0
    return of_weights(weight) if group == 1 or fits else None


def of_weights(
    weight: np.ndarray, low: int = -128, high: int = 127
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return weights as whole numbers and steps, to the bit, if they are that.

    A step is looked for by dividing the largest weight of a channel by 127, 128, 126, ...; where
    several fit, any is right. It need not be what the file had.

    Args:
        weight: float32 [outputs, ...].
        low, high: ends of the whole numbers.

    Returns:
        int8, or int16 where they do not fit, of the same shape, and float32 [outputs]; None where
        some channel has no step.
    """
    rows = weight.reshape(len(weight), -1)
    if not rows.size or not np.isfinite(rows).all():
        return None
    if len(np.unique(rows[0])) > high - low + 1:  # no rule of its own, but soon found
        return None
    most = np.abs(rows).max(axis=1)
    whole = np.zeros(rows.shape, np.int8 if low >= -128 and high <= 127 else np.int16)
    steps = np.ones(len(rows), np.float32)
    left = np.flatnonzero(most)
    with np.errstate(all="ignore"):
        for count, units in product((high, -low, *range(high - 1, 0, -1)), _OFF):
            if not len(left):
                break
            step = _moved((most[left] / np.float32(count)).astype(np.float32), units)
            near = np.flatnonzero(
                _fits(rows[left, :FIRST], step, low, high)
            )  # nearly none: the rest is cheap
            near = near[_fits(rows[left[near]], step[near], low, high)]
            whole[left[near]] = _multiples(rows[left[near]], step[near], low, high)
            steps[left[near]] = step[near]
            left = np.delete(left, near)
    return None if len(left) else (whole.reshape(weight.shape), steps)


def _moved(step: np.ndarray, units: int) -> np.ndarray:
    """Return floats so many units in the last place further from 0."""
    for _ in range(abs(units)):
        step = np.nextafter(step, np.float32(np.inf if units > 0 else 0))
    return step


def _multiples(rows: np.ndarray, step: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(rows / step[:, None]), low, high))


def _fits(rows: np.ndarray, step: np.ndarray, low: int, high: int) -> np.ndarray:
    normal = np.isfinite(step) & (step >= np.finfo(np.float32).tiny)
    whole = _multiples(rows, step, low, high).astype(np.float32)
    return np.asarray(normal & (whole * step[:, None] == rows).all(axis=1))
