"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.convolution import filled, wide
from secateur.compiler.ops.rules import WIDE, Operands


def _infer_matmul(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    a = rules.operand(node, operands, 0, "A", WIDE)
    b = rules.operand(node, operands, 1, "B", WIDE)
    rules.same_dtype(node, a, b)
    left, right = a.shape, b.shape
    # A vector is a row on the left and a column on the right; the output then lacks that axis.
    depth = right[-2] if len(right) > 1 else right[-1] if right else -1
    if not left or left[-1] != depth:
        raise unsupported(node, f"shapes {left} and {right} do not fit")
    batch = rules.broadcast(node, left[:-2], right[:-2])
    return (Tensor(a.dtype, (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))),)


@np.errstate(all="ignore")
def _matmul(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    a, b = rules.array(arrays, 0), rules.array(arrays, 1)
    dtype = _wide(a.dtype)
    y = np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
    return (np.asarray(y, a.dtype),)


def _infer_gemm(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 3)
    a = rules.operand(node, operands, 0, "A", WIDE)
    b = rules.operand(node, operands, 1, "B", WIDE)
    c = rules.optional(node, operands, 2, "C", WIDE)
    rules.same_dtype(node, a, b, c)
    left, right = a.shape, b.shape
    if node.get("transA", 0):
        left = left[::-1]
    if node.get("transB", 0):
        right = right[::-1]
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        raise unsupported(node, f"matrices of shape {left} and {right} do not fit")
    shape = (left[0], right[1])
    if c is not None and rules.broadcast(node, shape, c.shape) != shape:
        raise unsupported(node, f"C of shape {c.shape} for an output of {shape}")
    return (Tensor(a.dtype, shape),)


@np.errstate(all="ignore")
def _gemm(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    a, b, c = filled(arrays, 3)
    dtype = _wide(a.dtype)
    left, right = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    y = np.matmul(
        left.T if node.get("transA", 0) else left, right.T if node.get("transB", 0) else right
    )
    y = _scaled(y, node.get("alpha", 1.0))
    if c is not None:
        y = y + _scaled(c.astype(dtype, copy=False), node.get("beta", 1.0))
    return (y.astype(a.dtype, copy=False),)


def _scaled(x: np.ndarray, factor: float) -> np.ndarray:
    """Multiply; 1 leaves integers integers."""
    return x if factor == 1 else np.asarray(x * factor)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return wide(dtype) if dtype.kind == "f" else dtype


OPERATORS = (
    Operator("MatMul", _infer_matmul, _matmul),
    Operator("Gemm", _infer_gemm, _gemm, frozenset({"alpha", "beta", "transA", "transB"})),
)
