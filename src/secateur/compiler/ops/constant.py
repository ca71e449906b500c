"""Values that are known when a network is compiled: shapes, fillings, ranges."""

from __future__ import annotations

from math import ceil, isfinite
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, UndecidedError, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import Operands

INT64 = np.dtype(np.int64)


def _filling(node: Node) -> np.ndarray:
    """Return what ConstantOfShape fills with, as an array of one element."""
    value = np.asarray(node.get("value", np.zeros(1, np.float32)))
    if value.size != 1 or value.dtype not in rules.ANY:
        raise unsupported(node, f"its value has the shape {value.shape} and dtype {value.dtype}")
    return value


def _infer_filled(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    shape = rules.operand(node, operands, 0, "input", rules.INDICES)
    return (Tensor(_filling(node).dtype, rules.integers(node, shape, "shape")),)


def _filled(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    value = _filling(node)
    return (np.full(rules.array(arrays, 0).tolist(), value.reshape(()), value.dtype),)


def _infer_range(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    if node.get("stash_type", 1) not in (1, 10):
        raise unsupported(node, f"stash_type={node.get('stash_type')}")
    allowed = rules.FLOATS | rules.dtypes("int16", "int32", "int64")
    names = ("start", "limit", "delta")
    found = [rules.operand(node, operands, i, name, allowed) for i, name in enumerate(names)]
    values = [rules.scalar(node, o, name) for o, name in zip(found, names, strict=True)]
    return (Tensor(rules.same_dtype(node, *found), (_steps(node, *values),)),)


def _steps(node: Node, start: Any, limit: Any, delta: Any) -> int:
    """Return how many numbers a range holds."""
    if not all(map(isfinite, (start, limit, delta))) or not delta:
        raise unsupported(node, f"the range from {start} to {limit} in steps of {delta}")
    if isinstance(start, np.integer):
        return max(-((int(start) - int(limit)) // int(delta)), 0)
    return max(ceil(float(limit - start) / float(delta)), 0)


def _range(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    start, limit, delta = (rules.array(arrays, i).reshape(-1)[0] for i in range(3))
    dtype = start.dtype
    exact = np.float64 if dtype.kind == "f" else np.int64
    places = np.arange(_steps(node, start, limit, delta)).astype(exact)
    return ((exact(start) + places * exact(delta)).astype(dtype),)


def _infer_nonzero(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "X")
    if x.value is None:
        raise UndecidedError(node, "how many positions it gives", x.name, "cut the model before it")
    return (Tensor(INT64, (max(len(x.shape), 1), int(np.count_nonzero(x.value)))),)


def _nonzero(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = np.atleast_1d(rules.array(arrays, 0))
    return (np.stack(np.nonzero(x)).astype(INT64),)


def _infer_shape(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    rank = len(rules.operand(node, operands, 0, "data").shape)
    return (Tensor(INT64, (len(range(rank)[_part(node)]),)),)


def _part(node: Node) -> slice:
    """Return which axes a Shape node tells; slices clamp as ONNX asks."""
    return slice(node.get("start", 0), node.get("end"))


def _shape(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    return (np.asarray(rules.array(arrays, 0).shape[_part(node)], INT64),)


def _infer_size(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    rules.operand(node, operands, 0, "data")
    return (Tensor(INT64, ()),)


OPERATORS = (
    Operator("ConstantOfShape", _infer_filled, _filled, frozenset({"value"})),
    Operator("NonZero", _infer_nonzero, _nonzero),
    Operator("Range", _infer_range, _range, frozenset({"stash_type"})),
    Operator("Shape", _infer_shape, _shape, frozenset({"start", "end"})),
    Operator(
        "Size", _infer_size, lambda node, arrays: (np.asarray(rules.array(arrays, 0).size, INT64),)
    ),
)
