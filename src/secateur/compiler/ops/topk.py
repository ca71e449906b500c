"""The largest or smallest elements along an axis, and where they were."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import NUMBERS, Operands


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "X", NUMBERS)
    count = rules.operand(node, operands, 1, "K", rules.INDICES)
    k = int(rules.scalar(node, count, "K"))
    axis = rules.axis(node, node.get("axis", -1), len(x.shape))
    if not 0 <= k <= x.shape[axis]:
        raise unsupported(node, f"{k} elements of an axis of {x.shape[axis]}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return Tensor(x.dtype, shape), Tensor(np.dtype(np.int64), shape)


def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Sort; of equal elements the first comes first, and NaN counts as the largest of all.

    ONNX leaves open where NaN goes, and the order where `sorted` is 0: it is the same here.
    """
    x, k = rules.array(arrays, 0), int(rules.array(arrays, 1).item())
    axis = node.get("axis", -1) % x.ndim
    if node.get("largest", 1):  # a stable sort of what is turned around, turned around
        order = x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        order = np.flip(order, axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = order.take(np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


OPERATORS = (Operator("TopK", _infer, _reference, frozenset({"axis", "largest", "sorted"})),)
