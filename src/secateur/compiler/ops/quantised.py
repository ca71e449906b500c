"""Numbers as levels of 8 bits, by one scale and zero point for a whole value; and back."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.cast import element_type
from secateur.compiler.ops.rules import FLOATS, Operands

LEVELS = rules.dtypes("int8", "uint8")
"""What a `Quantize` gives and a `Dequantize` takes."""


def level(steps: np.ndarray, zero: int, low: int, high: int) -> np.ndarray:
    """Return numbers, in steps, as levels: rounded to nearest, ties to even, and saturated.

    NaN becomes the lowest level.

    Args:
        steps: float32 or float64. zero: the level of 0. low, high: the ends.

    Returns:
        Integers in [low, high], int64.
    """
    within = np.fmin(np.fmax(steps, low - zero), high - zero)
    return np.asarray(np.rint(within).astype(np.int64) + zero)


def _infer_quantize(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "x", FLOATS)
    dtype = element_type(node, node.get("to"))
    if dtype not in LEVELS:
        raise unsupported(node, f"it gives {dtype}")
    return (Tensor(dtype, x.shape),)


@np.errstate(all="ignore")
def _quantize(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    dtype = element_type(node, node.get("to"))
    info = np.iinfo(dtype)
    steps = x / x.dtype.type(node.get("scale"))
    return (level(steps, node.get("zero"), info.min, info.max).astype(dtype),)


def _infer_dequantize(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    q = rules.operand(node, operands, 0, "q", LEVELS)
    return (Tensor(element_type(node, node.get("to")), q.shape),)


def _dequantize(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    dtype = element_type(node, node.get("to"))
    away = rules.array(arrays, 0).astype(dtype) - dtype.type(node.get("zero"))
    return (away * dtype.type(node.get("scale")),)


_GRID = frozenset({"scale", "to", "zero"})

OPERATORS = (
    Operator("Quantize", _infer_quantize, _quantize, _GRID),
    Operator("Dequantize", _infer_dequantize, _dequantize, _GRID),
)
