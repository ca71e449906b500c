"""Arithmetic, comparison and logic, element by element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import (
    BOOL,
    FLOATS,
    NUMBERS,
    SIGNED,
    UNSIGNED,
    Dtypes,
    Infer,
    Operands,
)

Function = Callable[..., Any]
INTEGERS = SIGNED | UNSIGNED


def elementwise(allowed: Dtypes, count: int | None, gives: str | None = None) -> Infer:
    """Return the inference of operands of one dtype that are broadcast together.

    Args:
        allowed: dtypes of the operands.
        count: how many there are; None for one or more.
        gives: dtype of the output; None for that of the operands.
    """

    def infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
        rules.arity(node, operands, count or max(len(operands), 1), count)
        found = [
            rules.operand(node, operands, index, str(index), allowed)
            for index in range(len(operands))
        ]
        dtype = np.dtype(gives) if gives else found[0].dtype
        rules.same_dtype(node, *found)
        return (Tensor(dtype, rules.broadcast(node, *(o.shape for o in found))),)

    return infer


def _simple(
    name: str, function: Function, allowed: Dtypes, count: int | None, gives: str | None = None
) -> Operator:
    def reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
        first = rules.array(arrays, 0)
        with np.errstate(all="ignore"):
            return (np.asarray(function(*arrays), gives or first.dtype),)

    return Operator(name, elementwise(allowed, count, gives), reference)


def _divide(x: np.ndarray, y: np.ndarray) -> Any:
    """Divide; integers are rounded towards zero."""
    return np.divide(x, y) if x.dtype.kind == "f" else (x - np.fmod(x, y)) // y


def _infer_power(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    base = rules.operand(node, operands, 0, "X", FLOATS | rules.INDICES)
    exponent = rules.operand(node, operands, 1, "Y", NUMBERS)
    return (Tensor(base.dtype, rules.broadcast(node, base.shape, exponent.shape)),)


def _power(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Raise to a power; the output has the dtype of the base, whatever that of the exponent."""
    base, exponent = rules.array(arrays, 0), rules.array(arrays, 1)
    if base.dtype.kind == exponent.dtype.kind == "i" and bool(np.any(exponent < 0)):
        exponent = exponent.astype(np.float64)  # numpy has no integer with a negative exponent
    with np.errstate(all="ignore"):
        result = np.asarray(np.power(base, exponent))
        if result.dtype.kind == "f":  # numpy takes a root, of which -0 and -infinity have others
            result = np.where(exponent == 0.5, np.abs(result), result)
            result = np.where((exponent == 0.5) & (base == -np.inf), np.inf, result)
        return (np.asarray(result).astype(base.dtype),)


def _infer_modulo(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    if node.get("fmod", 0) not in (0, 1):
        raise unsupported(node, f"fmod={node.get('fmod')}")
    return elementwise(NUMBERS, 2)(node, operands)


def _modulo(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, y = rules.array(arrays, 0), rules.array(arrays, 1)
    with np.errstate(all="ignore"):
        return (np.asarray(np.fmod(x, y) if node.get("fmod", 0) else np.mod(x, y), x.dtype),)


def _infer_where(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    condition = rules.operand(node, operands, 0, "condition", BOOL)
    x, y = (rules.operand(node, operands, index, "XY"[index - 1]) for index in (1, 2))
    shape = rules.broadcast(node, condition.shape, x.shape, y.shape)
    return (Tensor(rules.same_dtype(node, x, y), shape),)


def _where(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    return (np.where(*(rules.array(arrays, index) for index in range(3))),)


def _infer_clip(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 3)
    x = rules.operand(node, operands, 0, "input", NUMBERS)
    bounds = [rules.optional(node, operands, i, name) for i, name in ((1, "min"), (2, "max"))]
    rules.same_dtype(node, x, *bounds)
    if any(bound is not None and bound.shape not in ((), (1,)) for bound in bounds):
        raise unsupported(node, "its min or max is not a scalar")
    return (Tensor(x.dtype, x.shape),)


def _clip(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Clip; where min lies above max, everything becomes max. A bound that is NaN bounds nothing.

    So does ONNX Runtime. NaN stays NaN, and without a bound so do infinities.
    """
    x = rules.array(arrays, 0)
    least, most = (*arrays[1:], None, None)[:2]
    return (clipped(x, least, most),)


def clipped(x: np.ndarray, least: Any, most: Any) -> np.ndarray:
    """Return x between two bounds of one element, or None; one that is NaN bounds nothing."""
    for bound, beyond in ((least, np.less), (most, np.greater)):
        if bound is not None:
            limit = np.asarray(bound, x.dtype).reshape(())
            x = np.where(beyond(x, limit), limit, x)
    return np.asarray(x)


def _infinite(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    above = np.isposinf(x) & bool(node.get("detect_positive", 1))
    return (np.asarray(above | np.isneginf(x) & bool(node.get("detect_negative", 1))),)


def _infer_shift(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    if node.get("direction") not in ("LEFT", "RIGHT"):
        raise unsupported(node, f"direction={node.get('direction')}")
    return elementwise(INTEGERS, 2)(node, operands)


def _shift(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Shift; all bits or more, or fewer than none, leave zero, or -1 of a negative number."""
    x, y = rules.array(arrays, 0), rules.array(arrays, 1)
    bits = 8 * x.dtype.itemsize
    within = (y >= 0) & (y < bits)
    most = np.where(within, y, bits - 1).astype(x.dtype)
    if node.get("direction") == "RIGHT":
        moved = np.right_shift(x, most)
        return (np.asarray(np.where(within | (x < 0), moved, x.dtype.type(0)), x.dtype),)
    return (np.asarray(np.where(within, np.left_shift(x, most), x.dtype.type(0)), x.dtype),)


_UNARY: dict[str, tuple[Function, Dtypes]] = {
    "Abs": (np.abs, NUMBERS),
    "Acos": (np.arccos, FLOATS),
    "Acosh": (np.arccosh, FLOATS),
    "Asin": (np.arcsin, FLOATS),
    "Asinh": (np.arcsinh, FLOATS),
    "Atan": (np.arctan, FLOATS),
    "Atanh": (np.arctanh, FLOATS),
    "BitwiseNot": (np.invert, INTEGERS),
    "Ceil": (np.ceil, FLOATS),
    "Cos": (np.cos, FLOATS),
    "Cosh": (np.cosh, FLOATS),
    "Exp": (np.exp, FLOATS),
    "Floor": (np.floor, FLOATS),
    "Log": (np.log, FLOATS),
    "Neg": (np.negative, FLOATS | SIGNED),
    "Not": (np.logical_not, BOOL),
    "Reciprocal": (np.reciprocal, FLOATS),
    "Relu": (lambda x: np.maximum(x, x.dtype.type(0)), FLOATS | SIGNED),
    "Round": (np.rint, FLOATS),
    "Sign": (np.sign, NUMBERS),
    "Sin": (np.sin, FLOATS),
    "Sinh": (np.sinh, FLOATS),
    "Sqrt": (np.sqrt, FLOATS),
    "Tan": (np.tan, FLOATS),
    "Tanh": (np.tanh, FLOATS),
}

_BINARY: dict[str, tuple[Function, Dtypes]] = {
    "Add": (np.add, NUMBERS),
    "And": (np.logical_and, BOOL),
    "BitwiseAnd": (np.bitwise_and, INTEGERS),
    "BitwiseOr": (np.bitwise_or, INTEGERS),
    "BitwiseXor": (np.bitwise_xor, INTEGERS),
    "Div": (_divide, NUMBERS),
    "Mul": (np.multiply, NUMBERS),
    "Or": (np.logical_or, BOOL),
    "Sub": (np.subtract, NUMBERS),
    "Xor": (np.logical_xor, BOOL),
}

_COMPARISON: dict[str, tuple[Function, Dtypes]] = {
    "Equal": (np.equal, NUMBERS | BOOL),
    "Greater": (np.greater, NUMBERS),
    "GreaterOrEqual": (np.greater_equal, NUMBERS),
    "Less": (np.less, NUMBERS),
    "LessOrEqual": (np.less_equal, NUMBERS),
}

_VARIADIC: dict[str, tuple[Function, Dtypes]] = {
    "Max": (lambda *x: reduce(np.maximum, x), NUMBERS),
    "Mean": (lambda *x: reduce(np.add, x) / x[0].dtype.type(len(x)), FLOATS),
    "Min": (lambda *x: reduce(np.minimum, x), NUMBERS),
    "Sum": (lambda *x: reduce(np.add, x), FLOATS),
}

OPERATORS = (
    *(_simple(name, *meaning, 1) for name, meaning in _UNARY.items()),
    *(_simple(name, *meaning, 2) for name, meaning in _BINARY.items()),
    *(_simple(name, *meaning, 2, "bool") for name, meaning in _COMPARISON.items()),
    *(_simple(name, *meaning, None) for name, meaning in _VARIADIC.items()),
    _simple("IsNaN", np.isnan, FLOATS, 1, "bool"),
    Operator(
        "IsInf",
        elementwise(FLOATS, 1, "bool"),
        _infinite,
        frozenset({"detect_negative", "detect_positive"}),
    ),
    Operator("BitShift", _infer_shift, _shift, frozenset({"direction"})),
    Operator("Clip", _infer_clip, _clip),
    Operator("Mod", _infer_modulo, _modulo, frozenset({"fmod"})),
    Operator("Pow", _infer_power, _power),
    Operator("Where", _infer_where, _where),
)
