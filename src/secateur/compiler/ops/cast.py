"""Changes of dtype, and values passed on as they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import Operands

ELEMENT_TYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        1: np.dtype(np.float32),
        2: np.dtype(np.uint8),
        3: np.dtype(np.int8),
        4: np.dtype(np.uint16),
        5: np.dtype(np.int16),
        6: np.dtype(np.int32),
        7: np.dtype(np.int64),
        9: np.dtype(np.bool_),
        10: np.dtype(np.float16),
        11: np.dtype(np.float64),
        12: np.dtype(np.uint32),
        13: np.dtype(np.uint64),
    }
)
"""Numpy's dtypes by ONNX's numbers (TensorProto.DataType); other numbers are not supported."""


def element_type(node: Node, number: Any) -> np.dtype[Any]:
    """Return the dtype that an attribute names by ONNX's number."""
    if number not in ELEMENT_TYPES:
        raise unsupported(node, f"element type number {number} of ONNX is not supported")
    return ELEMENT_TYPES[number]


def _infer_cast(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    dtype = element_type(node, node.get("to"))
    return (Tensor(dtype, rules.operand(node, operands, 0, "input").shape),)


def _infer_identity(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "input")
    return (Tensor(x.dtype, x.shape),)


def _cast(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Convert as C does: towards zero; what does not fit an integer gives no defined value."""
    with np.errstate(all="ignore"):
        return (rules.array(arrays, 0).astype(element_type(node, node.get("to"))),)


OPERATORS = (
    Operator("Cast", _infer_cast, _cast, frozenset({"to"})),
    Operator("Identity", _infer_identity, lambda node, arrays: (rules.array(arrays, 0),)),
)
