"""Weights in int8, one scale for each output, and biases in int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.compiler.graph import Graph
from secateur.quantization.placement import Layer
from secateur.quantization.ranges import LARGEST, SMALLEST, Scale

MOST = 127
"""Of a weight: the same on both sides of 0, which is stored as 0."""

ACCUMULATOR = 2**31 - 1

_PARTS = np.linspace(1.0, 0.6, 21)
"""Of the largest weight, where the range may end."""


@dataclass(frozen=True)
class Weights:
    """Weights of a layer, and its bias.

    Attributes:
        integers: int8, of the weight's shape; zeros are 0.
        steps: float32 [outputs].
        bias: int32 [outputs], in steps of `input step * steps`; None where there is none.
        bias_steps: float32 [outputs], that product.
    """

    integers: np.ndarray
    steps: np.ndarray
    bias: np.ndarray | None
    bias_steps: np.ndarray

    def weight(self, axis: int) -> np.ndarray:
        """Return the weights that the integers stand for, float32."""
        shape = [1] * self.integers.ndim
        shape[axis] = -1
        values: np.ndarray = self.integers.astype(np.float32) * self.steps.reshape(shape)
        return values

    def bias_values(self) -> np.ndarray | None:
        """Return the bias that the integers stand for, float32."""
        return None if self.bias is None else self.bias.astype(np.float32) * self.bias_steps


def integers_of(weight: np.ndarray, axis: int, *, clipped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return weights as int8, and the step of each output.

    Args:
        weight: float32, finite.
        axis: that counts outputs.
        clipped: end each output's range where the mean squared error is smallest, not at its
            largest weight.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    largest = np.abs(rows).max(1, initial=0)
    steps = _steps(largest)
    if clipped:
        best = np.full(len(rows), np.inf)
        chosen = steps
        for part in _PARTS:
            tried = _steps(largest * part)
            with np.errstate(over="ignore"):  # of weights near the largest float
                off = _rounded(rows, tried) * tried[:, None] - rows
                error = np.einsum("ij,ij->i", off, off)
            chosen = np.where(error < best, tried, chosen)
            best = np.minimum(best, error)
        steps = chosen
    q = _rounded(rows, steps).astype(np.int8)
    moved = np.moveaxis(weight, axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(q.reshape(moved), 0, axis)), steps


def _steps(largest: np.ndarray) -> np.ndarray:
    steps = np.clip(largest / MOST, SMALLEST, LARGEST)
    return np.where(largest > 0, steps, 1.0).astype(np.float32)


def _rounded(rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    q: np.ndarray = np.clip(np.rint(rows / steps[:, None]), -MOST, MOST)
    return q


class Store:
    """Integers of each layer's weights, made once for each way to choose their steps."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._made: dict[tuple[str, bool], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, layer: Layer, *, clipped: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return what `integers_of` gives for a layer."""
        key = layer.name, clipped
        if key not in self._made:
            weight, _ = layer.values(self.graph)
            self._made[key] = integers_of(weight, layer.axis, clipped=clipped)
        return self._made[key]


def refusal(graph: Graph, layer: Layer) -> str:
    """Return why a layer cannot be quantised whatever its input is; "" where it can."""
    weight, bias = layer.values(graph)
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        return "its weights are not finite"
    return "" if weight.size else "it has no weights"


def weights_of(
    store: Store, layer: Layer, given: Scale, *, clipped: bool, shift: np.ndarray | None = None
) -> Weights | str:
    """Return a layer's weights and bias as integers, or why they do not fit.

    Args:
        store: of the network.
        layer: of it.
        given: the scale of the layer's input.
        clipped: see `integers_of`.
        shift: float64 [outputs], added to the bias.
    """
    _, bias = layer.values(store.graph)
    integers, steps = store.of(layer, clipped=clipped)
    with np.errstate(over="ignore"):
        scales = given.step * steps
    if not np.isfinite(scales).all():
        return "its scales are too large"
    whole = None
    if bias is not None or shift is not None:
        total = np.zeros(len(steps)) if bias is None else bias.astype(np.float64)
        whole = np.rint((total if shift is None else total + shift) / scales)
    farthest = max(int(given.zero), 255 - int(given.zero))
    rows = np.abs(np.moveaxis(integers, layer.axis, 0).reshape(len(steps), -1).astype(np.int64))
    reach = rows.sum(1) * farthest + (0 if whole is None else np.abs(whole))
    if (reach > ACCUMULATOR).any():
        return "its sums or its bias may not fit 32 bits"
    stored = None if whole is None else whole.astype(np.int32)
    return Weights(integers, steps, stored, scales.astype(np.float32))
