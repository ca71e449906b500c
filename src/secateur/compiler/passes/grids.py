"""Weights that lie on a grid: whole numbers of 8 bits, times a step of each output channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.ops.cast import ELEMENT_TYPES

NEIGHBOURS = 2
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


def of_weights(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return weights as whole numbers and steps, to the bit, if they are that.

    A step is looked for by dividing the largest weight of a channel by 127, 128, 126, ...; where
    several fit, any is right. It need not be what the file had.

    Args:
        weight: float32 [outputs, ...].

    Returns:
        int8 of the same shape, and float32 [outputs]; None where some channel has no step.
    """
    rows = weight.reshape(len(weight), -1)
    if not rows.size or not np.isfinite(rows).all():
        return None
    most = np.abs(rows).max(axis=1)
    whole = np.zeros(rows.shape, np.int8)
    steps = np.ones(len(rows), np.float32)
    left = np.flatnonzero(most)
    with np.errstate(all="ignore"):
        for count in (127, 128, *range(126, 0, -1)):
            for step in _near((most[left] / np.float32(count)).astype(np.float32)):
                found = _multiples(rows[left], step)
                fits = _same(found, step, rows[left])
                if not fits.any():
                    continue
                whole[left[fits]], steps[left[fits]] = found[fits], step[fits]
                left = left[~fits]
                if not len(left):
                    return whole.reshape(weight.shape), steps
                break
    return None if len(left) else (whole.reshape(weight.shape), steps)


def _near(step: np.ndarray) -> Iterator[np.ndarray]:
    yield step
    for direction in (np.float32(np.inf), np.float32(0)):
        moved = step
        for _ in range(NEIGHBOURS):
            moved = np.nextafter(moved, direction)
            yield moved


def _multiples(rows: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(rows / step[:, None]), -128, 127))


def _same(whole: np.ndarray, step: np.ndarray, rows: np.ndarray) -> np.ndarray:
    normal = np.isfinite(step) & (step >= np.finfo(np.float32).tiny)
    return np.asarray(normal & (whole.astype(np.float32) * step[:, None] == rows).all(axis=1))
