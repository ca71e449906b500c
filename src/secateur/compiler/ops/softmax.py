"""Softmax and its logarithm, along one axis."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.convolution import wide
from secateur.compiler.ops.rules import FLOATS, Operands


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "input", FLOATS)
    rules.axis(node, node.get("axis", -1), len(x.shape))
    return (Tensor(x.dtype, x.shape),)


def _shifted(node: Node, arrays: Arrays) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the input, the input less its largest element, and the axis."""
    x, axis = rules.array(arrays, 0), node.get("axis", -1)
    shifted = x.astype(wide(x.dtype), copy=False)
    with np.errstate(invalid="ignore"):  # a row of infinities gives NaN, as it should
        return x, shifted - shifted.max(axis=axis, keepdims=True), axis


@np.errstate(all="ignore")
def _softmax(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, shifted, axis = _shifted(node, arrays)
    with np.errstate(under="ignore"):
        y = np.exp(shifted)
        return (np.asarray(y / y.sum(axis=axis, keepdims=True), x.dtype),)


@np.errstate(all="ignore")
def _log_softmax(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, shifted, axis = _shifted(node, arrays)
    with np.errstate(under="ignore"):
        y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
        return (np.asarray(y, x.dtype),)


OPERATORS = (
    Operator("Softmax", _infer, _softmax, frozenset({"axis"})),
    Operator("LogSoftmax", _infer, _log_softmax, frozenset({"axis"})),
)
