"""Biases that make up for what rounding adds to a layer's outputs on average.

As M. Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction (2019),
measured on data: the expected difference of each output goes into the bias, layer by layer, each
layer seeing what corrected layers before it give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.quantization import running
from secateur.quantization.plan import Plan
from secateur.quantization.running import Arrays


@dataclass(frozen=True)
class Difference:
    """What rounding does to a layer.

    Attributes:
        shift: float64 [outputs], by which its outputs are too small on average; None where it has
            no bias to add that to.
        error: root of the mean square of the difference, relative to that of the outputs.
    """

    shift: np.ndarray | None
    error: float


def differences(plan: Plan, data: Arrays, *, correct: bool = True) -> dict[str, Difference]:
    """Compare every quantised layer with the float one, on samples that are run together.

    Args:
        plan: of the network.
        data: an array for each input.
        correct: add each shift before going on.
    """
    wanted = _outputs(plan, data)
    found: dict[str, Difference] = {}
    ends = {_end(plan, name): name for name in plan.placement.layers}

    def seen(name: str, array: np.ndarray) -> np.ndarray:
        layer = ends.get(name)
        if layer is not None:
            placed = plan.placement.layers[layer]
            axis = 1 if placed.node.op == "Conv" else array.ndim - 1
            others = tuple(a for a in range(array.ndim) if a != axis)
            truth = wanted.pop(name)
            shift = (truth - array).mean(others, dtype=np.float64)
            error = _relative(array, truth)
            if placed.node.op == "MatMul" and placed.adder is None:
                found[layer] = Difference(None, error)
            else:
                found[layer] = Difference(shift, error)
                if correct:
                    shape = [1] * array.ndim
                    shape[axis] = -1
                    array = array + shift.reshape(shape).astype(np.float32)
        scale = plan.scales.get(name)
        return array if scale is None else scale.rounded(array)

    running.run(plan.network, data, nodes=plan.nodes, constants=plan.arrays, seen=seen)
    return found


def mean(parts: Sequence[Difference], counts: Sequence[int]) -> Difference:
    """Return the mean of a layer's differences, each counting as often as it has samples."""
    error = float(np.average([part.error for part in parts], weights=counts))
    shifts = [part.shift for part in parts if part.shift is not None]
    return Difference(np.average(shifts, axis=0, weights=counts) if shifts else None, error)


def _end(plan: Plan, name: str) -> str:
    """Return the value that a layer gives, with its bias."""
    layer = plan.placement.layers[name]
    return (layer.adder or layer.node).outputs[0]


def _outputs(plan: Plan, data: Arrays) -> dict[str, np.ndarray]:
    ends = {_end(plan, name) for name in plan.placement.layers}
    kept: dict[str, np.ndarray] = {}

    def seen(name: str, array: np.ndarray) -> np.ndarray:
        if name in ends:
            kept[name] = array
        return array

    running.run(plan.network, data, seen=seen)
    return kept


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    scale = float(np.square(wanted, dtype=np.float64).sum())
    off = float(np.square(found.astype(np.float64) - wanted).sum())
    return float(np.sqrt(off / scale if scale else off))
